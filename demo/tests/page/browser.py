"""A headless Chromium, where there is one: Playwright's own, or that of the system."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

SIZE = {'width': 1280, 'height': 1000}


class NoBrowserError(Exception):
    """Why no page can be opened."""


@contextmanager
def tab() -> Iterator[Any]:
    """An empty tab of Playwright.

    Raises:
        NoBrowserError: Playwright or Chromium is not installed.
    """
    try:
        from playwright.sync_api import Error, sync_playwright
    except ImportError as error:
        raise NoBrowserError('Playwright is not installed: pip install playwright') from error
    own = next(filter(None, map(shutil.which, ('chromium', 'chromium-browser', 'google-chrome'))), None)
    with sync_playwright() as playwright:
        try:
            browser = playwright.chromium.launch(executable_path=own)
        except Error as error:
            raise NoBrowserError(
                'Chromium is not installed: playwright install chromium, or the package of your system'
            ) from error
        yield browser.new_page(viewport=SIZE, color_scheme='light')
        browser.close()
