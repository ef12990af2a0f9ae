"""The training script of `mini`: it runs, it resumes to the same weights, it learns, it exports what transformers can read."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from cfg_demo.mini.towers import CONTEXT, load_joint_space
from classifier_free_guidance_pytorch.text.transformers_files import read_tokenizer, read_weights

SCRIPT = Path(__file__).parents[3] / 'examples' / 'text_to_image' / 'train_mini.py'


@pytest.fixture(scope='module')
def script():
    spec = importlib.util.spec_from_file_location('train_mini', SCRIPT)
    module = importlib.util.module_from_spec(spec)
    sys.modules['train_mini'] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    yield module
    del sys.modules['train_mini']


@pytest.fixture(scope='module')
def trained(script, tmp_path_factory):
    out = tmp_path_factory.mktemp('mini')
    scores = script.main(steps=2, batch=16, out=out, sets=1)
    return out, scores


def test_two_steps_leave_every_file(trained):
    out, scores = trained
    names = {path.name for path in (out / 'mini_weights').iterdir()}
    assert names == {'config.json', 'model.safetensors', 'tokenizer.json', 'tokenizer_config.json', 'README.md'}
    assert (out / 'image_tower.safetensors').is_file()
    assert all(0 <= score <= 1 for score in scores.values())
    readme = (out / 'mini_weights' / 'README.md').read_text()
    assert '--steps 2 --batch 16 --seed 0' in readme
    for name, score in scores.items():
        assert f'| {name} | {100 * score:.1f}% |' in readme


def test_what_is_exported_is_what_was_trained(script, trained):
    out, _ = trained
    folder = str(out / 'mini_weights')
    run = script.build(0, 0.02, 'cpu')
    script.load_checkpoint(run, out / 'checkpoint.pt', {'steps': 2, 'batch': 16, 'seed': 0, 'lr': script.DEFAULTS['lr']})
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


def test_an_interrupted_run_resumes_to_the_same_weights(script, tmp_path, monkeypatch):
    whole = tmp_path / 'whole'
    script.main(steps=3, batch=8, out=whole, sets=0, every=1)
    step = script.train_step

    def interrupted(run, *rest):
        if run.step == 2:
            raise KeyboardInterrupt
        return step(run, *rest)

    monkeypatch.setattr(script, 'train_step', interrupted)
    broken = tmp_path / 'broken'
    with pytest.raises(KeyboardInterrupt):
        script.main(steps=3, batch=8, out=broken, sets=0, every=1)
    monkeypatch.setattr(script, 'train_step', step)
    script.main(steps=3, batch=8, out=broken, sets=0, every=1, resume=True)
    for name in ('mini_weights/model.safetensors', 'image_tower.safetensors'):
        one, two = load_file(whole / name), load_file(broken / name)
        assert all(torch.equal(one[key], two[key]) for key in one)


def test_a_few_steps_lower_the_loss(script):
    run = script.build(0, 0.02, 'cpu')
    losses = [script.train_step(run, 20, 24, 0)[0] for _ in range(20)]
    assert sum(losses[-4:]) < sum(losses[:4]) - 0.5


def test_resuming_what_is_not_there_or_not_the_same_is_refused(script, trained, tmp_path):
    with pytest.raises(SystemExit, match='nothing to resume'):
        script.main(steps=2, out=tmp_path, resume=True)
    out, _ = trained
    with pytest.raises(SystemExit, match='Resume with the same settings'):
        script.main(steps=4, batch=16, out=out, resume=True)


def test_help_explains_itself():
    said = subprocess.run([sys.executable, SCRIPT, '--help'], capture_output=True, text=True, check=True).stdout
    assert '--resume' in said
    assert 'continue from the checkpoint' in said
