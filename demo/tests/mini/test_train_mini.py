"""`cfg-demo train-mini`: it runs, it resumes to the same weights, it learns, it exports what transformers can read."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file

from cfg_demo.cli import build_parser
from cfg_demo.mini import training
from cfg_demo.mini.export import OPTIONS
from cfg_demo.mini.towers import CONTEXT, load_joint_space
from classifier_free_guidance_pytorch.errors import ConfigError
from classifier_free_guidance_pytorch.text.transformers_files import read_tokenizer, read_weights

SETTINGS = {'steps': 2, 'batch': 16, 'seed': 0, 'lr': 0.02}


def train_mini(out, *options, **settings):
    """Run the command with settings by the names that a checkpoint keeps them under."""
    named = [part for name, value in settings.items() for part in (f'--{OPTIONS[name]}', value)]
    parsed = build_parser().parse_args(['train-mini', '--out', str(out), *map(str, [*named, *options])])
    return parsed.run(parsed)


@pytest.fixture(scope='module')
def trained(tmp_path_factory):
    out = tmp_path_factory.mktemp('mini')
    scores = train_mini(out, '--sets', 1, steps=2, batch=16)
    return out, scores


def test_two_steps_leave_every_file(trained):
    out, scores = trained
    names = {path.name for path in (out / 'mini_weights').iterdir()}
    assert names == {'config.json', 'model.safetensors', 'tokenizer.json', 'tokenizer_config.json', 'README.md'}
    assert (out / 'image_tower.safetensors').is_file()
    assert all(0 <= score <= 1 for score in scores.values())
    readme = (out / 'mini_weights' / 'README.md').read_text()
    assert 'cfg-demo train-mini --train-steps 2 --batch-size 16 --seed 0 --learning-rate 0.02\n' in readme
    for name, score in scores.items():
        assert f'| {name} | {100 * score:.1f}% |' in readme


def test_what_is_exported_is_what_was_trained(trained):
    out, _ = trained
    folder = str(out / 'mini_weights')
    run = training.build(0, 0.02, 'cpu')
    training.load_checkpoint(run, out / 'checkpoint.pt', SETTINGS)
    captions = ['a red circle', 'Three yellow triangles on a dark background.']
    tokenizer = read_tokenizer('mini', folder)
    batch = tokenizer(captions, padding=True, return_tensors='pt')
    assert set(batch) == {'input_ids', 'attention_mask'}
    assert tokenizer.model_max_length == CONTEXT
    assert torch.equal(batch['input_ids'], run.tokenizer(captions, padding=True, return_tensors='pt')['input_ids'])
    tower = read_weights('mini', folder, 'clip', torch.float32).eval()
    run.text_tower.eval()
    with torch.no_grad():
        loaded, own = tower(**batch).last_hidden_state, run.text_tower(**batch).last_hidden_state
    torch.testing.assert_close(loaded, own, atol=5e-3, rtol=0)  # half precision
    assert all(value.dtype == torch.float16 for value in load_file(out / 'mini_weights' / 'model.safetensors').values())
    images = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        placed = load_joint_space(out / 'image_tower.safetensors').place_images(images)
        torch.testing.assert_close(placed, run.space.eval().place_images(images), atol=5e-3, rtol=0)
    assert json.loads((out / 'mini_weights' / 'config.json').read_text())['model_type'] == 'clip'


def test_an_interrupted_run_resumes_to_the_same_weights(tmp_path, monkeypatch):
    whole, each_step = tmp_path / 'whole', ('--sets', 0, '--save-every', 1)
    train_mini(whole, *each_step, steps=3, batch=8)
    step = training.train_step

    def interrupted(run, *rest):
        if run.step == 2:
            raise KeyboardInterrupt
        return step(run, *rest)

    monkeypatch.setattr(training, 'train_step', interrupted)
    broken = tmp_path / 'broken'
    with pytest.raises(KeyboardInterrupt):
        train_mini(broken, *each_step, steps=3, batch=8)
    monkeypatch.setattr(training, 'train_step', step)
    train_mini(broken, *each_step, '--resume', steps=3, batch=8)
    for name in ('mini_weights/model.safetensors', 'image_tower.safetensors'):
        one, two = load_file(whole / name), load_file(broken / name)
        assert all(torch.equal(one[key], two[key]) for key in one)


def test_a_few_steps_lower_the_loss():
    run = training.build(0, 0.02, 'cpu')
    losses = [training.train_step(run, 20, 24, 0)[0] for _ in range(20)]
    assert sum(losses[-4:]) < sum(losses[:4]) - 0.5


def test_resuming_what_is_not_there_or_not_the_same_is_refused(trained, tmp_path):
    with pytest.raises(ConfigError, match='nothing to resume'):
        train_mini(tmp_path, '--resume', steps=2)
    out, _ = trained
    with pytest.raises(ConfigError, match='Resume with the same settings'):
        train_mini(out, '--resume', steps=4, batch=16)
