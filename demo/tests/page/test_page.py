"""The page without a browser: what its fields ask for, what it shows, and the server, asked by Gradio's own client."""

from __future__ import annotations

import json
import socket
from dataclasses import replace
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from gradio_client import Client
from gradio_client.exceptions import AppError
from PIL import Image

from cfg_demo import cli, folders
from cfg_demo.emoji import STYLE_NAMES
from cfg_demo.emoji import drawing as emoji_module
from cfg_demo.image import drawing as drawing_module
from cfg_demo.image.checkpoint import load_model
from cfg_demo.image.command import NOT_CHECKED, as_rows
from cfg_demo.image.drawing import Request, draw
from cfg_demo.image.grid import save_grid
from cfg_demo.image.rules import RULES
from cfg_demo.page import page as page_module
from cfg_demo.page.page import EXAMPLES, JUDGED, build_page, offered, read_request, serve, shown
from classifier_free_guidance_pytorch.errors import ConfigError
from demo.tests.image.tiny_checkpoint import save_tiny

ASKED = {
    'prompt': 'a red circle', 'negative': '', 'scales': '0 3', 'rule': 'cfg', 'model': 0, 'steps': 2, 'seed': 5, 'seeds': 2,
}  # fmt: skip


@pytest.fixture(scope='module')
def files(tmp_path_factory) -> list[Path]:
    folder = tmp_path_factory.mktemp('models')
    return [save_tiny(folder / condition / 'model.safetensors', condition) for condition in ('attention', 'film')]


@pytest.fixture(scope='module')
def client(files):
    """A client of a page that is served, and the hosts that any of this has looked for."""
    hosts = set()
    with pytest.MonkeyPatch.context() as patch:
        look_up = socket.getaddrinfo
        patch.setattr(socket, 'getaddrinfo', lambda host, *rest, **more: hosts.add(host) or look_up(host, *rest, **more))
        page = build_page(files)
        client = Client(serve(page, block=False), verbose=False, analytics_enabled=False)
        client.hosts = hosts
        yield client
    page.close()


def fields(page, kind: str) -> dict[str, dict]:
    """The properties of the components of a kind, by label."""
    found = [one['props'] for one in page.get_config_file()['components'] if one['type'] == kind]
    return {props['label']: props for props in found}


def draw_directly(file: Path, **changes):
    model, settings = load_model(file)
    return draw(model, settings, read_request(**{**{k: v for k, v in ASKED.items() if k != 'model'}, **changes}))


def test_the_fields_become_a_request():
    asked = read_request(' a star ', ' a circle ', '0, 1.5  7', 'apg', 30, 4, 3)
    assert asked == Request(' a star ', negative='a circle', scales=(0.0, 1.5, 7.0), rule='apg', seeds=(4, 5, 6), steps=30)
    assert read_request('a star', '  ', '1', 'cfg', 1, 0, 1).negative is None


@pytest.mark.parametrize(
    ('changes', 'sentence'),
    [
        ({'prompt': '  '}, 'prompt is empty: say what to draw'),
        ({'scales': '1 two'}, "scales are numbers with spaces between them, such as .* but got '1 two'"),
        ({'scales': ' '}, 'at least one scale and one seed are drawn'),
        ({'scales': '1 nan'}, 'a guidance scale is a finite number'),
        ({'scales': '1 ' * 11}, 'at most 10 scales at once, but got 11'),
        ({'seed': None}, 'the seed is a whole number, but its field is empty'),
        ({'rule': 'none'}, 'guidance is one of cfg'),
    ],
)
def test_what_cannot_be_drawn_is_refused(changes, sentence):
    values = {**ASKED, **changes}
    del values['model']
    with pytest.raises(ConfigError, match=sentence):
        read_request(**values)


def test_what_is_shown_of_a_drawing(files):
    drawing = draw_directly(files[0])
    picture, note, table = shown(drawing, offered(files[0]))
    assert picture.size[0] > picture.size[1] / 2 > 100
    assert 'green frame' in note
    assert [table['headers'], *table['data']] == as_rows(drawing)
    assert [row[0] for row in table['data']] == ['0', '3']


def test_pictures_of_another_world_are_shown_without_a_table(files):
    _, note, table = shown(replace(draw_directly(files[0]), verdicts=None), offered(files[0]))
    assert (note, table['data']) == (NOT_CHECKED, [])


def test_every_rule_and_every_model_can_be_chosen(files):
    two = fields(build_page(files), 'dropdown')
    assert [value for _, value in two['Guidance rule']['choices']] == list(RULES)
    assert two['Model']['choices'] == [('attention/model.safetensors (attention)', 0), ('film/model.safetensors (film)', 1)]
    assert two['Model']['interactive']


def test_an_example_names_its_model(files):
    """Gradio shows the names of the values in a list, and of a value by itself where it is not 0."""
    (table,) = [one for one in build_page(files).get_config_file()['components'] if one['type'] == 'dataset']
    assert [cells[-1] for cells in table['props']['samples']] == [[number] for *_, number in EXAMPLES]


def test_one_model_is_shown_and_fixed(files):
    model = fields(build_page(files[1:]), 'dropdown')['Model']
    assert (model['choices'], model['interactive']) == ([('film/model.safetensors (film)', 0)], False)


def test_the_judge_tells_what_it_sees_in_emoji(files, monkeypatch):
    monkeypatch.setattr(emoji_module, 'SHIPPED', files[0])
    by = offered(files[0])
    _, note, table = shown(draw_directly(files[0], scales='1 3'), by)
    assert (by.name, note, table['headers']) == ('emoji', JUDGED, ['scale', 'the judge sees', 'style'])
    assert [row[0] for row in table['data']] == ['1', '3']
    assert {style for *_, style in table['data']} <= set(STYLE_NAMES)


def test_the_models_that_ship_have_names_and_examples(files, monkeypatch):
    monkeypatch.setattr(emoji_module, 'SHIPPED', files[1])
    names = [offered(file).name for file in (drawing_module.SHIPPED, emoji_module.SHIPPED)]
    assert names == ['coloured shapes (attention)', 'emoji']
    assert {number for *_, number in EXAMPLES} == {0, 1}


@pytest.mark.parametrize('number', [0, 1])
def test_the_page_draws_what_the_library_draws(client, files, number):
    picture, _, table = client.predict(**{**ASKED, 'model': number}, api_name='/draw')
    expected = draw_directly(files[number])
    png = BytesIO()
    save_grid(png, expected)
    path = picture if isinstance(picture, str) else picture['path']
    np.testing.assert_array_equal(np.asarray(Image.open(path).convert('RGB')), np.asarray(Image.open(png).convert('RGB')))
    assert [table['headers'], *table['data']] == as_rows(expected)


def test_an_error_is_our_sentence_and_html_in_it_stays_text(client):
    with pytest.raises(AppError) as refused:
        client.predict(**{**ASKED, 'scales': '<b>1</b>'}, api_name='/draw')
    assert "but got '&lt;b&gt;1&lt;/b&gt;'" in str(refused.value)
    assert 'Traceback' not in str(refused.value)


def test_nothing_is_asked_of_the_internet(client):
    client.predict(**ASKED, api_name='/draw')
    assert client.hosts <= {'127.0.0.1', 'localhost', b'127.0.0.1', b'localhost', None}
    assert 'googleapis' not in json.dumps(client.config, default=str)


def test_a_port_that_is_taken_and_one_that_is_none(files):
    page = build_page(files[:1])
    with socket.socket() as taken:
        taken.bind(('127.0.0.1', 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(ConfigError, match=f'cannot listen on 127.0.0.1, port {port}: pass a free --port'):
            serve(page, port=port, block=False)
    with pytest.raises(ConfigError, match='port is a number from 1 to 65535, but got 70000'):
        serve(page, port=70000, block=False)


def test_the_command_serves_the_shipped_models_and_those_given(files, monkeypatch):
    monkeypatch.setattr(emoji_module, 'SHIPPED', files[1])
    calls = []
    monkeypatch.setattr(page_module, 'build_page', lambda files, device: calls.append((files, device)) or 'page')
    monkeypatch.setattr(page_module, 'serve', lambda *where, **how: calls.append((where, how)))
    assert cli.main(['page', '--model', 'a', 'b', '--host', '0.0.0.0', '--port', '8000', '--share', '--device', 'cuda']) == 0
    assert calls == [
        ([drawing_module.SHIPPED, emoji_module.SHIPPED, Path('a'), Path('b')], 'cuda'),
        (('page', '0.0.0.0', 8000), {'share': True}),
    ]
    calls.clear()
    assert cli.main(['page']) == 0
    assert calls == [([drawing_module.SHIPPED, emoji_module.SHIPPED], 'cpu'), (('page', '127.0.0.1', None), {'share': False})]


def test_a_model_that_is_not_there_is_refused_before_the_page_opens(files, monkeypatch, capsys):
    monkeypatch.setattr(drawing_module, 'SHIPPED', files[0])
    monkeypatch.setattr(page_module, 'serve', lambda *where, **how: pytest.fail('the page opened'))
    assert cli.main(['page', '--model', 'nowhere/model.safetensors']) == 2
    assert "there is no checkpoint 'nowhere/model.safetensors'" in capsys.readouterr().err


def test_without_gradio_the_extra_is_named(monkeypatch, capsys):
    monkeypatch.setattr(folders, 'find_spec', lambda name: None if name == 'gradio' else object())
    assert cli.main(['page']) == 2
    assert 'gradio, which is not installed: pip install' in capsys.readouterr().err
