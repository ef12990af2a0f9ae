"""Checkpoints: what comes back, what an interruption leaves, and every file that is none."""

from __future__ import annotations

import json
from dataclasses import asdict

import pytest
import torch
from safetensors.torch import save_file

from cfg_demo.image import checkpoint
from cfg_demo.image.checkpoint import load_model, pack_optimizers, save_model, unpack_optimizers
from cfg_demo.image.settings import NETWORKS
from cfg_demo.muon import muon_and_adam
from classifier_free_guidance_pytorch.errors import ConfigError
from demo.tests.image.tiny import TEXTS, pictures, same_state, tiny_model, tiny_settings


def predicted(model):
    with torch.no_grad():
        return model(pictures(3), torch.tensor([0.1, 0.5, 0.9]), texts=TEXTS, cond_scale=2.0)


@pytest.mark.parametrize('network', NETWORKS)
@pytest.mark.parametrize('condition', ['film', 'attention', 'concat'])
def test_a_model_comes_back_as_it_was(network, condition, tmp_path):
    model, settings = tiny_model(network=network, condition=condition), tiny_settings(network=network, condition=condition)
    save_model(model, settings, tmp_path / 'model.safetensors', about={'step': 3})
    found, found_settings = load_model(tmp_path / 'model.safetensors')
    assert found_settings == settings
    assert not found.training
    assert same_state(model, found)
    assert torch.equal(predicted(model), predicted(found))
    assert checkpoint.read(tmp_path / 'model.safetensors')[1]['about'] == {'step': 3}


def test_half_precision_halves_the_file_and_comes_back_as_float32(tmp_path):
    model = tiny_model()
    for half in (False, True):
        save_model(model, tiny_settings(), tmp_path / f'{half}.safetensors', half=half)
    found, _ = load_model(tmp_path / 'True.safetensors')
    assert {parameter.dtype for parameter in found.parameters()} == {torch.float32}
    assert (tmp_path / 'True.safetensors').stat().st_size < 0.6 * (tmp_path / 'False.safetensors').stat().st_size
    for name, weight in model.state_dict().items():
        assert torch.equal(found.state_dict()[name], weight.half().float())


def test_the_encoder_is_not_in_the_file(tmp_path):
    save_model(tiny_model(), tiny_settings(), tmp_path / 'model.safetensors')
    names, _ = checkpoint.read(tmp_path / 'model.safetensors')
    assert names.keys() == tiny_model().state_dict().keys()
    assert not [name for name in names if 'encoder' in name]


def test_an_interrupted_write_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / 'model.safetensors'
    checkpoint.write(path, {'a': torch.ones(2)}, {'n': 1})

    def stop(tensors, file, metadata):
        file.write_bytes(b'half of it')
        raise KeyboardInterrupt

    monkeypatch.setattr(checkpoint, 'save_file', stop)
    with pytest.raises(KeyboardInterrupt):
        checkpoint.write(path, {'a': torch.zeros(2)}, {'n': 2})
    tensors, notes = checkpoint.read(path)
    assert tensors['a'].tolist() == [1, 1]
    assert notes == {'n': 1}


@pytest.mark.parametrize('kind', ['adam', 'muon'])
def test_the_moments_of_optimizers_come_back(kind):
    def fresh():
        torch.manual_seed(0)
        model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Linear(4, 2))
        adam = [torch.optim.AdamW(model.parameters(), lr=0.1)]
        return model, muon_and_adam(model) if kind == 'muon' else adam

    def learn(model, optimizers, steps):
        for step in steps:
            model(torch.full((1, 3), float(step))).sum().backward()
            for optimizer in optimizers:
                optimizer.step()
                optimizer.zero_grad()

    model, optimizers = fresh()
    learn(model, optimizers, range(3))
    other, others = fresh()
    other.load_state_dict(model.state_dict())
    unpack_optimizers(others, {name: moment.clone() for name, moment in pack_optimizers(optimizers).items()})
    learn(model, optimizers, range(3, 6))
    learn(other, others, range(3, 6))
    assert same_state(model, other)


# --- files that are none ---


def refused(path) -> str:
    with pytest.raises(ConfigError) as error:
        load_model(path)
    assert repr(str(path)) in str(error.value)
    return str(error.value)


def test_a_missing_file(tmp_path):
    said = refused(tmp_path / 'model.safetensors')
    assert said.startswith('there is no checkpoint ')
    assert said.endswith(': pass the model.safetensors that a training run has written')
    assert refused(tmp_path).startswith('there is no checkpoint ')


@pytest.mark.parametrize('content', [b'', b'no checkpoint', b'\xff' * 64, b'\x10\0\0\0\0\0\0\0{"a": 1}        '])
def test_a_corrupt_file(content, tmp_path):
    (tmp_path / 'model.safetensors').write_bytes(content)
    said = refused(tmp_path / 'model.safetensors')
    assert 'cannot be read as a checkpoint (' in said
    assert said.endswith('): pass the file of a training run')


def test_a_truncated_file(tmp_path):
    path = tmp_path / 'model.safetensors'
    save_model(tiny_model(), tiny_settings(), path)
    path.write_bytes(path.read_bytes()[:-100])
    assert 'cannot be read as a checkpoint' in refused(path)


@pytest.mark.parametrize('metadata', [None, {}, {'notes': 'not JSON'}, {'notes': '3'}, {'notes': '[1]'}, {'notes': 'null'}])
def test_tensors_of_another_program(metadata, tmp_path):
    save_file({'weight': torch.ones(2)}, tmp_path / 'model.safetensors', metadata)
    assert 'cannot be read as a checkpoint' in refused(tmp_path / 'model.safetensors')


def test_the_state_of_a_run_is_no_model(tmp_path):
    checkpoint.write(tmp_path / 'training.safetensors', {'a': torch.ones(1)}, {'step': 3})
    said = refused(tmp_path / 'training.safetensors')
    assert said.endswith(' is the state of a training run and not a model: pass the model.safetensors beside it')


@pytest.mark.parametrize('notes', [{'colour': 'red'}, 3, {'network_size': 'huge'}])
def test_settings_of_another_version(notes, tmp_path):
    checkpoint.write(tmp_path / 'model.safetensors', {'a': torch.ones(1)}, {'model': notes})
    assert 'was written with settings that this version does not know: ' in refused(tmp_path / 'model.safetensors')


@pytest.mark.parametrize('other', [{'condition': 'film'}, {'network_size': 'mini'}, {'network': 'transformer'}])
def test_weights_of_another_configuration(other, tmp_path):
    path = tmp_path / 'model.safetensors'
    checkpoint.write(path, tiny_model().state_dict(), {'model': asdict(tiny_settings(**other))})
    assert 'belongs to a model of another configuration: ' in refused(path)
    assert 'weights do not fit, such as ' in refused(path)


@pytest.mark.parametrize('device', ['toaster', 'meta', 'hpu', 'privateuseone'])
def test_a_device_that_is_not_there(tmp_path, device):
    save_model(tiny_model(), tiny_settings(), tmp_path / 'model.safetensors')
    with pytest.raises(ConfigError, match=rf"^device '{device}' cannot be used here"):
        load_model(tmp_path / 'model.safetensors', device)


def test_the_notes_are_json_in_the_header(tmp_path):
    save_model(tiny_model(), tiny_settings(), tmp_path / 'model.safetensors')
    head = (tmp_path / 'model.safetensors').read_bytes()
    length = int.from_bytes(head[:8], 'little')
    notes = json.loads(json.loads(head[8 : 8 + length])['__metadata__']['notes'])
    assert notes['model']['network_size'] == 'tiny'
