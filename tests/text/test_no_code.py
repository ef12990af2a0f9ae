"""Files that would run code: no way to load a model, a tokenizer or weights runs it, also where the terminal says yes."""

from __future__ import annotations

import io
import json
import sys

import pytest
import torch

from classifier_free_guidance_pytorch import TextConditioner
from classifier_free_guidance_pytorch.errors import CFGError
from classifier_free_guidance_pytorch.text import build_encoder
from classifier_free_guidance_pytorch.text.open_clip import OpenClipAdapter
from classifier_free_guidance_pytorch.text.torchvision_repair import repair_torchvision
from tests.tiny_models import make_bert, make_t5, open_clip_config, write_json


class Bomb:
    """What a pickle can do that holds more than weights."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), 'w')


@pytest.fixture
def ran(tmp_path, monkeypatch):
    """Where code would leave a trace. Every question on the terminal is answered with yes."""
    repair_torchvision()  # for transformers, with which the tests make their models
    monkeypatch.setattr(sys, 'stdin', io.StringIO('y\n' * 20))
    yield tmp_path / 'ran'
    assert not (tmp_path / 'ran').exists()


def pickled(folder, ran, name):
    """The weights of a folder as a pickle that would run code."""
    for file in folder.glob('*.safetensors'):
        file.unlink()
    torch.save({'weights': Bomb(ran)}, folder / name)


def with_code(folder, ran, kinds):
    """Code in a folder, and a configuration that asks for it."""
    folder.mkdir(exist_ok=True)
    (folder / 'code.py').write_text(f"open({str(ran)!r}, 'w')\nclass Own: pass")
    for file, content in kinds.items():
        path = folder / file
        path.write_text(json.dumps({**(json.loads(path.read_text()) if path.exists() else {}), **content}))


@pytest.mark.parametrize('kind', ['t5', 'bge', 'hf'])
def test_a_pickle_of_transformers(tmp_path, ran, kind):
    (make_t5 if kind == 't5' else make_bert)(tmp_path)
    pickled(tmp_path, ran, 'pytorch_model.bin')
    with pytest.raises(CFGError):
        build_encoder(kind, str(tmp_path)).encode(['a red ball'])


def test_a_pickle_in_the_cache_of_the_hub(hub, ran):
    folder = hub.add('tiny/bomb', make_bert)
    pickled(folder, ran, 'pytorch_model.bin')
    with pytest.raises(CFGError):
        build_encoder('hf', 'tiny/bomb').encode(['a red ball'])


@pytest.mark.parametrize('place', ['hf-hub', 'local-dir', 'pretrained', 'conditioner'])
def test_a_pickle_of_open_clip(hub, tiny_clip, ran, place):
    folder = hub.add(f'tiny/bomb-{place}', lambda folder: None)
    write_json(folder / 'open_clip_config.json', {'model_cfg': open_clip_config()})
    pickled(folder, ran, file := 'open_clip_pytorch_model.bin')
    given = {'model_types': 'clip', 'hidden_dims': (4,), 'cond_drop_prob': 0.1}
    load = {
        'hf-hub': lambda: OpenClipAdapter(f'hf-hub:tiny/bomb-{place}').encode(['a red ball']),
        'local-dir': lambda: OpenClipAdapter(f'local-dir:{folder}').encode(['a red ball']),
        'pretrained': lambda: OpenClipAdapter(pretrained=folder / file).encode(['a red ball']),
        'conditioner': lambda: TextConditioner(**given, model_kwargs={'pretrained': str(folder / file)})(
            ['a red ball'], cond_drop_prob=0.0
        ),
    }
    with pytest.raises(CFGError):
        load[place]()


OWN = {'tokenizer_config.json': {'tokenizer_class': 'Own', 'auto_map': {'AutoTokenizer': ['code.Own', None]}}}


@pytest.mark.parametrize('kwargs', [{}, {'trust_remote_code': True}])
@pytest.mark.parametrize('place', ['hf-hub', 'local-dir'])
def test_code_of_a_tokenizer_of_open_clip(hub, tmp_path, ran, place, kwargs):
    """The configuration comes with the model: it may say anything, also that its code is to be trusted."""
    folder = hub.add(f'tiny/own-{place}{len(kwargs)}', lambda folder: None)
    with_code(folder, ran, {**OWN, 'config.json': {'model_type': 'own'}})
    config = open_clip_config(hf_tokenizer_name=str(folder), tokenizer_kwargs=kwargs)
    write_json(folder / 'open_clip_config.json', {'model_cfg': config})
    (folder / 'open_clip_model.safetensors').write_bytes(b'')
    with pytest.raises(CFGError):
        OpenClipAdapter(
            f'hf-hub:tiny/own-{place}{len(kwargs)}' if place == 'hf-hub' else f'local-dir:{folder}'
        ).encode(['a red ball'])  # fmt: skip


def test_a_repository_of_open_clip_whose_configuration_open_clip_does_not_find(hub, ran):
    """It would take the repository's own tokenizer then."""
    folder = hub.add('tiny/own-fallback', lambda folder: None)
    with_code(folder, ran, {**OWN, 'config.json': {'model_type': 'own'}, 'open_clip_config.json': open_clip_config()})
    encoder = OpenClipAdapter('hf-hub:tiny/own-fallback')
    assert type(encoder.tokenizer).__name__ == 'SimpleTokenizer'


@pytest.mark.parametrize('model_type', ['own', 'trocr'])
def test_code_of_a_tower_of_open_clip(hub, tmp_path, ran, model_type):
    """A type that transformers does not know, and one of which it knows the configuration alone."""
    make_bert(tmp_path)
    auto = {'AutoConfig': 'code.Own', 'AutoModel': 'code.Own'}
    with_code(tmp_path, ran, {'config.json': {'model_type': model_type, 'hidden_size': 32, 'auto_map': auto}})
    folder = hub.add(f'tiny/tower-{model_type}', lambda folder: None)
    config = open_clip_config(hf_model_name=str(tmp_path), hf_tokenizer_name=str(tmp_path), hf_proj_type='mlp')
    write_json(folder / 'open_clip_config.json', {'model_cfg': config})
    (folder / 'open_clip_model.safetensors').write_bytes(b'')
    with pytest.raises(CFGError, match=r'without code from its own repository|of which transformers has no text tower'):
        OpenClipAdapter(f'hf-hub:tiny/tower-{model_type}').encode(['a red ball'])
