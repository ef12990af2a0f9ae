"""`cfg-demo train-on`, `sample` and `evaluate`, with few steps: train, go on, sample, evaluate, and what they refuse."""

from __future__ import annotations

import json

import pytest
import torch

from cfg_demo.cli import build_parser
from cfg_demo.image import checkpoint
from cfg_demo.image.evaluate_command import KINDS
from cfg_demo.image.scores import PROMPTS
from cfg_demo.image.training import Trainer
from classifier_free_guidance_pytorch.errors import ConfigError


def run_command(*arguments):
    """What a command returns, or raises."""
    parsed = build_parser().parse_args([*map(str, arguments)])
    return parsed.run(parsed)


def train_on(*options, data='shapes'):
    return run_command('train-on', data, *TINY, *options)


TINY = ['--network-size', 'tiny', '--image-size', '16', '--batch-size', '2', '--warm-up', '1']


@pytest.fixture(scope='module')
def trained(tmp_path_factory):
    """A folder with a model of three steps."""
    folder = tmp_path_factory.mktemp('run')
    train_on('--train-steps', 3, '--draw-every', 2, '--save-every', 2, '--out', folder)
    return folder


def test_training_leaves_a_model_its_state_and_two_pictures(trained):
    assert {file.name for file in trained.iterdir()} == {'model.safetensors', 'training.safetensors', 'samples.png', 'curve.png'}


def test_a_finished_run_is_not_overwritten(trained):
    with pytest.raises(ConfigError, match='holds a run already: pass --resume to go on with it, or another folder as --out'):
        train_on('--train-steps', 3, '--out', trained)


def test_a_finished_run_is_shipped_in_half_precision(trained, tmp_path):
    """With what it was trained on; a file that cannot be written is refused before the first step."""
    shipped = tmp_path / 'package' / 'model.safetensors'
    train_on('--train-steps', 3, '--out', trained, '--resume', '--ship', shipped)
    weights, about = checkpoint.read(shipped)
    assert {value.dtype for value in weights.values() if value.is_floating_point()} == {torch.float16}
    assert (about['about']['data'], about['about']['training']['steps']) == ('shapes', 3)
    (tmp_path / 'file').touch()
    with pytest.raises(ConfigError, match=r'nothing can be written to .*file.*: pass another folder as --ship'):
        train_on('--train-steps', 3, '--out', tmp_path / 'new', '--ship', tmp_path / 'file' / 'model.safetensors')
    assert not (tmp_path / 'new' / 'model.safetensors').exists()


def test_an_interrupted_run_is_saved_and_goes_on_as_it_would_have(tmp_path, monkeypatch):
    whole = train_on('--train-steps', 4, '--out', tmp_path / 'whole')
    learn = Trainer.learn

    def interrupted(trainer, images, captions):
        if trainer.step == 2:
            raise KeyboardInterrupt
        return learn(trainer, images, captions)

    with monkeypatch.context() as patched:
        patched.setattr(Trainer, 'learn', interrupted)
        train_on('--train-steps', 4, '--out', tmp_path / 'parts')
    resumed = train_on('--train-steps', 4, '--out', tmp_path / 'parts', '--resume')
    assert resumed.losses == whole.losses
    assert all(torch.equal(a, b) for a, b in zip(resumed.average.parameters(), whole.average.parameters(), strict=True))


def test_a_folder_of_captioned_images(tmp_path):
    from PIL import Image

    for name in 'abc':
        (tmp_path / 'data').mkdir(exist_ok=True)
        Image.new('RGB', (20, 18), 'red').save(tmp_path / 'data' / f'{name}.png')
        (tmp_path / 'data' / f'{name}.txt').write_text('a red square')
    trainer = train_on('--train-steps', 2, '--out', tmp_path / 'run', data=tmp_path / 'data')
    assert trainer.step == 2


@pytest.mark.parametrize(
    'options',
    [
        ['--network', 'transformer', '--condition', 'film', '--prediction', 'v'],
        ['--condition', 'concat', '--prediction', 'epsilon', '--null', 'zeros', '--dropout', 'batch', '--optimizer', 'adamw'],
    ],
)
def test_other_models(options, tmp_path):
    trainer = train_on('--train-steps', 1, *options, '--out', tmp_path)
    assert trainer.losses[0] > 0


def test_sampling(trained, tmp_path):
    file = tmp_path / 'prompts.txt'
    file.write_text('a blue star\n\n')
    arguments = (
        'sample', 'a red circle', '--prompts', file, '--count', 2, '--steps', 2, '--guidance', 'apg', '--negative', 'a ring',
        '--model', trained / 'model.safetensors', '--out', tmp_path,
    )  # fmt: skip
    images = run_command(*arguments)
    assert images.shape == (4, 3, 16, 16)
    first = {path: path.read_bytes() for path in tmp_path.glob('*.png')}
    assert {'grid.png', '0000.png', '0003.png'} <= {path.name for path in first}
    run_command(*arguments, '--seed', 9)  # writes beside the first
    assert {path: path.read_bytes() for path in first} == first
    assert {'grid-2.png', '0000-2.png', '0003-2.png'} <= {path.name for path in tmp_path.iterdir()}


def test_nothing_to_draw(trained, tmp_path):
    with pytest.raises(ConfigError, match='nothing to draw: pass one or more prompts, or --prompts FILE with one a line'):
        run_command('sample', '--model', trained / 'model.safetensors', '--out', tmp_path)
    with pytest.raises(ConfigError, match='pass a text file with one prompt a line as --prompts'):
        run_command('sample', '--prompts', tmp_path / 'none.txt', '--out', tmp_path)


def test_evaluation_goes_on_where_it_stopped(trained, tmp_path):
    options = ('evaluate', '--model', trained / 'model.safetensors', '--share', 0.05, '--out', tmp_path)
    first = run_command(*options, '--steps', 1, '--rules', 'cfg', '--scales', 1)
    assert [(one['rule'], one['scale']) for one in first] == [('cfg', 1.0)]
    both = run_command(*options, '--steps', 1, '--rules', 'cfg', 'apg', '--scales', 1, '--other-scales', 3)
    assert both[0] == first[0]
    assert [(one['rule'], one['scale']) for one in both] == [('cfg', 1.0), ('apg', 3.0)]
    assert json.loads((tmp_path / 'scores.json').read_text())['scores'] == both
    assert (tmp_path / 'tradeoff.png').stat().st_size > 1000
    assert (tmp_path / 'scores.md').read_text().startswith('| rule | scale |')
    with pytest.raises(ConfigError, match='pass another folder as --out'):
        run_command(*options, '--steps', 2, '--rules', 'cfg')


def test_the_kinds_of_prompts_are_those_that_are_scored():
    assert tuple(PROMPTS) == KINDS
