"""What the site changes in the pages: the README is its front page, and links out of docs/ lead to the repository."""

from __future__ import annotations

import re
from pathlib import Path, PurePosixPath
from typing import Any

ROOT = Path(__file__).parents[1]


def on_page_markdown(markdown: str, page: Any, config: Any, **_: Any) -> str:
    """Return the text of a page as the site shows it."""
    here = PurePosixPath(page.file.src_uri).parent
    if page.file.src_uri == 'index.md':
        markdown, here = (ROOT / 'README.md').read_text(encoding='utf-8'), PurePosixPath('..')

    def link(found: re.Match[str]) -> str:
        path, _, anchor = found[2].partition('#')
        inside = _normalised(PurePosixPath('docs') / here / path)
        if not (ROOT / inside).exists():  # code that looks like a link
            return found[0]
        to = f'{config.repo_url}/blob/main/{inside}' if not inside.startswith('docs/') else _from(here, inside)
        return f'{found[1]}({to}{"#" + anchor if anchor else ""})'

    markdown = re.sub(r'^```python .*$', '```python', markdown, flags=re.MULTILINE)  # the tests read what stands behind it
    prose = re.split(r'(```.*?```)', markdown, flags=re.DOTALL)
    prose[::2] = [re.sub(r'(!?\[[^\]]*\])\((?!https?:|#)([^)\s]+)\)', link, part) for part in prose[::2]]
    return ''.join(prose)


def _normalised(path: PurePosixPath) -> str:
    """Return a path without `..`."""
    parts: list[str] = []
    for part in path.parts:
        if part == '..':
            parts.pop()
        else:
            parts.append(part)
    return '/'.join(parts)


def _from(here: PurePosixPath, inside: str) -> str:
    """Return the path of a page below docs/, seen from a folder below it."""
    up = 0 if str(here) in ('.', '..') else len(here.parts)
    return '../' * up + inside.removeprefix('docs/')
