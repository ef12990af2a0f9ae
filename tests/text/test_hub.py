"""Models that cannot be read: quickly, with the cause, and with the way out."""

import os
import re
import subprocess
import sys

import pytest

from classifier_free_guidance_pytorch.errors import MissingDependencyError
from classifier_free_guidance_pytorch.text import build_encoder, hub

# Without HF_HUB_OFFLINE, a hub that cannot be reached fails in the same place, at the one question `ask_hub` asks.
WAY_OUT = (
    'Without a network, point to local files, model_names="/path/to/the/model", or copy a filled cache and point HF_HOME to it; '
    'HF_HUB_OFFLINE=1 then skips every request'
)


@pytest.mark.parametrize(('model_type', 'adapter'), [('t5', 'T5Adapter'), ('bge', 'BGEAdapter'), ('hf', 'HFTextAdapter')])
def test_a_name_that_is_nowhere(model_type, adapter):
    with pytest.raises(MissingDependencyError, match=re.escape(WAY_OUT)) as caught:
        build_encoder(model_type, 'nobody/nothing')
    start = f"{adapter} could not read 'nobody/nothing', neither from the cache nor from the Hugging Face hub (cache: "
    assert str(caught.value).startswith(start)
    assert 'hub: OfflineModeIsEnabled' in str(caught.value)


@pytest.mark.parametrize('exists', [False, True])
def test_a_folder_that_holds_no_model(tmp_path, exists):
    folder = tmp_path if exists else tmp_path / 'absent'
    sentence = (
        f"T5Adapter could not read a model from the local path '{folder}', which {'exists' if exists else 'does not exist'} ("
    )
    with pytest.raises(MissingDependencyError, match=re.escape(sentence)):
        build_encoder('t5', folder)


def test_weights_that_are_missing_while_the_configuration_is_there(tiny_t5, tmp_path):
    import shutil

    shutil.copytree(tiny_t5, tmp_path / 'model')
    (tmp_path / 'model' / 'model.safetensors').unlink()
    encoder = build_encoder('t5', tmp_path / 'model')  # enough for training on stored embeddings
    with pytest.raises(MissingDependencyError, match='T5Adapter could not read a model from the local path'):
        encoder.encode(['a dog'])


def test_the_cache_is_used_without_asking_the_hub(tiny_t5, monkeypatch):
    monkeypatch.setattr(hub, 'ask_hub', lambda name: pytest.fail('asked'))
    build_encoder('t5').encode(['a dog'])


def test_a_hub_that_has_the_model_is_read():
    asked = []

    def read(local_files_only):
        asked.append(local_files_only)
        if local_files_only:
            raise OSError('not cached')
        return 'files'

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(hub, 'ask_hub', asked.append)
        assert hub.read_model_files('Adapter', 'org/model', read) == 'files'
    assert asked == [True, 'org/model', False]


def test_a_hub_that_does_not_answer_is_asked_once():
    """In a fresh process without offline mode; each file request would be repeated for about half a minute."""
    program = """
from classifier_free_guidance_pytorch.text import build_encoder
try:
    build_encoder('t5', 'nobody/nothing')
except ImportError as error:
    print(error)
"""
    environment = {**os.environ, 'HF_HUB_OFFLINE': '0', 'HF_ENDPOINT': 'http://127.0.0.1:9'}
    done = subprocess.run(
        [sys.executable, '-c', program], capture_output=True, text=True, timeout=280, check=False, env=environment
    )
    assert "T5Adapter could not read 'nobody/nothing', neither from the cache nor from the Hugging Face hub" in done.stdout, (
        done.stderr
    )
    assert 'hub: Connect' in done.stdout
    assert 'Retrying' not in done.stderr


@pytest.mark.parametrize('name', ['./model', '/model', '~/model', 'models/t5/base', 'C:\\model'])
def test_what_can_only_be_a_path(name):
    assert hub.looks_local(name)


@pytest.mark.parametrize('name', ['gpt2', 'google/t5-v1_1-base'])
def test_what_is_a_name(name):
    assert not hub.looks_local(name)
