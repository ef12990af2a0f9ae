"""The text-to-image scripts, with few steps: train, go on, sample, evaluate, and what they refuse."""

from __future__ import annotations

import json

import pytest
import torch

from classifier_free_guidance_pytorch.errors import ConfigError
from tests.examples.conftest import load_example

train, sample, evaluate = (load_example(f'text_to_image/{name}') for name in ('train', 'sample', 'evaluate'))

TINY = ['--network-size', 'tiny', '--image-size', '16', '--batch-size', '2', '--warm-up', '1']


@pytest.fixture(scope='module')
def run(tmp_path_factory):
    """A folder with a model of three steps."""
    folder = tmp_path_factory.mktemp('run')
    train.main([*TINY, '--steps', '3', '--draw-every', '2', '--save-every', '2', '--out', str(folder)])
    return folder


def test_training_leaves_a_model_its_state_and_two_pictures(run):
    assert {file.name for file in run.iterdir()} == {'model.safetensors', 'training.safetensors', 'samples.png', 'curve.png'}


def test_a_finished_run_is_not_overwritten(run):
    with pytest.raises(ConfigError, match='holds a run already: pass --resume to go on with it, or another folder as --out'):
        train.main([*TINY, '--steps', '3', '--out', str(run)])


def test_an_interrupted_run_is_saved_and_goes_on_as_it_would_have(tmp_path, monkeypatch):
    whole = train.main([*TINY, '--steps', '4', '--out', str(tmp_path / 'whole')])
    learn = train.Trainer.learn

    def interrupted(trainer, images, captions):
        if trainer.step == 2:
            raise KeyboardInterrupt
        return learn(trainer, images, captions)

    with monkeypatch.context() as patched:
        patched.setattr(train.Trainer, 'learn', interrupted)
        train.main([*TINY, '--steps', '4', '--out', str(tmp_path / 'parts')])
    resumed = train.main([*TINY, '--steps', '4', '--out', str(tmp_path / 'parts'), '--resume'])
    assert resumed.losses == whole.losses
    assert all(torch.equal(a, b) for a, b in zip(resumed.average.parameters(), whole.average.parameters(), strict=True))


def test_a_folder_of_captioned_images(tmp_path):
    from PIL import Image

    for name in 'abc':
        (tmp_path / 'data').mkdir(exist_ok=True)
        Image.new('RGB', (20, 18), 'red').save(tmp_path / 'data' / f'{name}.png')
        (tmp_path / 'data' / f'{name}.txt').write_text('a red square')
    trainer = train.main([*TINY, '--steps', '2', '--data', str(tmp_path / 'data'), '--out', str(tmp_path / 'run')])
    assert trainer.step == 2


@pytest.mark.parametrize(
    'options',
    [
        ['--network', 'transformer', '--condition', 'film', '--prediction', 'v'],
        ['--condition', 'concat', '--prediction', 'epsilon', '--null', 'zeros', '--dropout', 'batch', '--optimizer', 'adamw'],
    ],
)
def test_other_models(options, tmp_path):
    trainer = train.main([*TINY, '--steps', '1', *options, '--out', str(tmp_path)])
    assert trainer.losses[0] > 0


def test_sampling(run, tmp_path):
    file = tmp_path / 'prompts.txt'
    file.write_text('a blue star\n\n')
    images = sample.main(
        ['a red circle', '--prompts', str(file), '--count', '2', '--steps', '2', '--guidance', 'apg', '--negative', 'a ring',
         '--model', str(run / 'model.safetensors'), '--out', str(tmp_path)]
    )  # fmt: skip
    assert images.shape == (4, 3, 16, 16)
    assert {'grid.png', '0000.png', '0003.png'} <= {path.name for path in tmp_path.iterdir()}


def test_nothing_to_draw(run, tmp_path):
    with pytest.raises(ConfigError, match='nothing to draw: pass one or more prompts, or --prompts FILE with one a line'):
        sample.main(['--model', str(run / 'model.safetensors'), '--out', str(tmp_path)])
    with pytest.raises(ConfigError, match='pass a text file with one prompt a line as --prompts'):
        sample.main(['--prompts', str(tmp_path / 'none.txt'), '--model', str(run / 'model.safetensors'), '--out', str(tmp_path)])


def test_evaluation_goes_on_where_it_stopped(run, tmp_path):
    options = ['--model', str(run / 'model.safetensors'), '--share', '0.05', '--steps', '1', '--out', str(tmp_path)]
    first = evaluate.main([*options, '--rules', 'cfg', '--scales', '1'])
    assert [(one['rule'], one['scale']) for one in first] == [('cfg', 1.0)]
    both = evaluate.main([*options, '--rules', 'cfg', 'apg', '--scales', '1', '--other-scales', '3'])
    assert both[0] == first[0]
    assert [(one['rule'], one['scale']) for one in both] == [('cfg', 1.0), ('apg', 3.0)]
    assert json.loads((tmp_path / 'scores.json').read_text())['scores'] == both
    assert (tmp_path / 'tradeoff.png').stat().st_size > 1000
    assert (tmp_path / 'scores.md').read_text().startswith('| rule | scale |')
    with pytest.raises(ConfigError, match='pass another folder as --out'):
        evaluate.main([*options[:-4], '--steps', '2', '--out', str(tmp_path), '--rules', 'cfg'])
