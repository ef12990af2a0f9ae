"""The page in headless Chromium: type a prompt, press the button, and a picture appears."""

from __future__ import annotations

from contextlib import ExitStack
from urllib.parse import urlsplit

import pytest

from cfg_demo.page.page import build_page, serve
from demo.tests.image.tiny_checkpoint import save_tiny
from demo.tests.page.browser import NoBrowserError, tab

PATIENCE = 60_000  # milliseconds
PROMPT = '#prompt textarea'


@pytest.fixture(scope='module')
def address(tmp_path_factory):
    folder = tmp_path_factory.mktemp('models')
    page = build_page([save_tiny(folder / condition / 'model.safetensors', condition) for condition in ('attention', 'film')])
    yield serve(page, block=False)
    page.close()


@pytest.fixture
def opened(address):
    """The page in a tab of its own, set to draw quickly, and the hosts that it asks."""
    with ExitStack() as stack:
        try:
            page = stack.enter_context(tab())
        except NoBrowserError as reason:
            pytest.skip(str(reason))
        page.set_default_timeout(PATIENCE)
        page.hosts = set()
        page.on('request', lambda request: page.hosts.add(urlsplit(request.url).hostname))
        page.goto(address)
        page.get_by_label('Scales').fill('0 3')
        page.get_by_label('number input for Steps').fill('2')
        page.get_by_label('number input for Pictures per scale').fill('1')
        yield page


def draw(page) -> None:
    page.get_by_role('button', name='Draw').click()


def cell(page, row: int, column: int) -> str:
    return page.locator(f'#scores [data-testid=cell-{row}-{column}]').inner_text().strip()


def test_type_a_prompt_press_the_button_and_a_picture_appears(opened):
    opened.locator(PROMPT).fill('two blue stars')
    draw(opened)
    picture = opened.locator('#pictures img')
    picture.wait_for()
    opened.wait_for_function('document.querySelector("#pictures img").naturalWidth > 100')
    for row, scale in enumerate(('0', '3')):
        assert cell(opened, row, 0) == scale
        assert cell(opened, row, 1) in ('0/1', '1/1')
    assert opened.hosts == {'127.0.0.1'}


def test_another_model_is_chosen_and_enter_draws(opened):
    opened.get_by_label('Condition').click()
    opened.get_by_role('option', name='film (film/model.safetensors)').click()
    opened.locator(PROMPT).press('Enter')
    opened.locator('#pictures img').wait_for()


def test_an_empty_prompt_is_refused_in_words(opened):
    opened.locator(PROMPT).fill('')
    draw(opened)
    message = opened.get_by_text('prompt is empty: say what to draw')
    message.first.wait_for()
    assert opened.locator('#pictures img').count() == 0
    assert 'Traceback' not in opened.content()


def test_an_example_fills_the_fields(opened):
    row = opened.locator('tr', has_text='three yellow stars on a navy background')
    assert 'attention/model.safetensors (attention)' in row.inner_text()
    opened.get_by_text('three yellow stars on a navy background').click()
    opened.wait_for_function('document.querySelector("#prompt textarea").value.startsWith("three")')
