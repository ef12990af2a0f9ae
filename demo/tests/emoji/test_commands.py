"""`cfg-demo emoji` and `cfg-demo emoji-evaluate` as users run them."""

from __future__ import annotations

import json

import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from cfg_demo import cli
from cfg_demo.emoji import drawing, scores
from cfg_demo.emoji.drawing import is_foreign
from cfg_demo.emoji.judge import Judge, load_judge, save_judge
from cfg_demo.image import checkpoint
from demo.tests.emoji.packages_of_ours import use_archives, write_archives
from demo.tests.image.tiny import tiny_model, tiny_settings

pytestmark = pytest.mark.filterwarnings("ignore:the encoder 'mini' does not know")


@pytest.fixture(scope='module')
def files(tmp_path_factory):
    """A model and a judge that have learned nothing."""
    folder = tmp_path_factory.mktemp('files')
    checkpoint.save_model(tiny_model(image_size=32), tiny_settings(image_size=32), folder / 'model.safetensors')
    torch.manual_seed(0)
    about = {'concepts': ['red apple', 'owl', 'keycap 1', 'person with red hair'], 'styles': ['noto', 'twemoji', 'fluent']}
    save_judge(Judge(F.normalize(torch.randn(4, 8), dim=-1), 3), folder / 'judge.safetensors', about)
    return folder


@pytest.fixture
def shipped(files, monkeypatch):
    """Let them be what ships."""
    monkeypatch.setattr(drawing, 'SHIPPED', files / 'model.safetensors')
    monkeypatch.setattr(drawing, 'load_judge', lambda: load_judge(files / 'judge.safetensors'))


def emoji(out, *options):
    return cli.main(['emoji', *options, '--out', str(out), '--steps', '1', '--scales', '1', '3', '--seeds', '2'])


def test_a_grid_and_what_the_judge_sees(shipped, tmp_path, capsys):
    assert emoji(tmp_path, 'a red apple', '--style', 'fluent') == 0
    told = capsys.readouterr()
    assert 'scale 3: the judge sees' in told.out
    assert 'does not look like English' not in told.err
    with Image.open(tmp_path / 'emoji.png') as picture:
        assert picture.width > picture.height / 2
    emoji(tmp_path, 'a red apple')
    assert (tmp_path / 'emoji-2.png').exists()  # the first is kept


def test_the_checker_of_shapes_does_not_judge_emoji(shipped, tmp_path, monkeypatch):
    """It can read 'a cat with heart eyes', of which it knows the heart, and would see none of it."""
    drawings = []
    monkeypatch.setattr('cfg_demo.image.grid.save_grid', lambda path, drawing: drawings.append(drawing))
    assert emoji(tmp_path, 'a cat with heart eyes') == 0
    assert drawings[0].verdicts is None


def test_a_style_that_does_not_exist(shipped, tmp_path, capsys):
    assert emoji(tmp_path, 'a cat', '--style', 'apple') == 2
    assert "style is one of noto, twemoji, fluent, or any, but got 'apple'" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_a_model_that_is_not_there(shipped, tmp_path, capsys):
    assert emoji(tmp_path, 'a cat', '--model', str(tmp_path / 'none.safetensors')) == 2
    assert 'there is no checkpoint' in capsys.readouterr().err


def test_an_empty_prompt(shipped, tmp_path, capsys):
    assert emoji(tmp_path, '  ') == 2
    assert 'prompt is empty' in capsys.readouterr().err


def test_another_language_is_said_before_drawing(shipped, tmp_path, capsys):
    assert emoji(tmp_path, 'un chat noir', '--style', 'any') == 0
    assert "'un chat noir' does not look like English, which is all that the encoder reads" in capsys.readouterr().err


@pytest.mark.parametrize('text', ['un chat noir', 'eine rote Katze', 'el gato', 'рыжий кот', '赤い猫', 'il cane'])
def test_other_languages_are_noticed(text):
    assert is_foreign(text)


@pytest.mark.parametrize(
    'text',
    ['a cat with heart eyes', 'cat', 'a van', 'two men in a boat', '3 apples', 'a sign that says no', '', 'a bowl of crème'],
)
def test_english_is_not(text):
    assert not is_foreign(text)


@pytest.fixture
def data(tmp_path, monkeypatch):
    archives = tmp_path / 'archives'
    archives.mkdir()
    write_archives(archives)
    use_archives(archives, monkeypatch)
    options = ['--from', str(archives), '--held-out-styles', '0.5', '--held-out-concepts', '0.3', '--seed', '3']
    cli.main(['emoji-data', '--out', str(tmp_path / 'data'), *options])
    return tmp_path / 'data'


def evaluate(data, files, out, *options):
    line = ['emoji-evaluate', '--data', str(data), '--model', str(files / 'model.safetensors'), '--out', str(out), '--steps', '1']
    return cli.main([*line, '--judge', str(files / 'judge.safetensors'), '--each', '2', *options])


def test_an_evaluation_goes_on_where_it_stopped(data, files, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(scores, 'DIVERSE_PROMPTS', 1)
    monkeypatch.setattr(scores, 'DIVERSE_SEEDS', 2)
    out = tmp_path / 'out'
    assert evaluate(data, files, out, '--rules', 'cfg', '--scales', '1', '3') == 0
    assert {file.name for file in out.iterdir()} == {'scores.json', 'scores.md', 'scores.png', 'rows-1.png', 'rows-3.png'}
    first = json.loads((out / 'scores.json').read_text())
    assert [one['scale'] for one in first['scores']] == [1.0, 3.0]
    (out / 'rows-1.png').unlink()
    assert evaluate(data, files, out, '--rules', 'cfg', 'apg', '--scales', '1', '3', '--other-scales', '2') == 0
    assert not (out / 'rows-1.png').exists()  # not drawn again
    second = json.loads((out / 'scores.json').read_text())
    assert second['scores'][:2] == first['scores']
    assert second['scores'][2]['rule'] == 'apg'
    assert evaluate(data, files, out, '--seed', '5') == 2
    assert 'pass another folder as --out' in capsys.readouterr().err


def test_what_cannot_be_evaluated(files, tmp_path, capsys):
    assert evaluate(tmp_path, files, tmp_path / 'out') == 2
    assert 'is no folder of emoji' in capsys.readouterr().err
    assert evaluate(tmp_path, files, tmp_path / 'out', '--each', '0') == 2
    assert '--each counts prompts from 1, but got 0' in capsys.readouterr().err
