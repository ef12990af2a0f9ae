"""A hub cache of tiny models, made by the tests themselves, under the names that users load.

Hub clients read their environment when they are imported, so it is set here, before anything imports them.
"""

import atexit
import os
import shutil
import tempfile
from pathlib import Path

import pytest

_HF_HOME = Path(tempfile.mkdtemp(prefix='tiny-hub-'))
atexit.register(shutil.rmtree, _HF_HOME, ignore_errors=True)
os.environ['HF_HOME'] = str(_HF_HOME)
os.environ['HF_HUB_CACHE'] = str(_HF_HOME / 'hub')
os.environ['HF_HUB_OFFLINE'] = '1'
os.environ['TOKENIZERS_PARALLELISM'] = 'false'


@pytest.fixture(scope='session')
def hub():
    """The cache; a model is made when a test first asks for it: `hub.t5()` returns its local folder."""
    from tests.tiny_models import TinyHub

    return TinyHub(_HF_HOME / 'hub')


@pytest.fixture
def tiny_t5(hub):
    """`model_types='t5'` works in this test: a tiny `google/t5-v1_1-base` is in the cache."""
    return hub.t5()


@pytest.fixture
def tiny_clip(hub):
    """`model_types='clip'` works in this test: a tiny `ViT-B-32` is registered, its default weights are in the cache."""
    return hub.clip()


@pytest.fixture
def tiny_bge(hub):
    """`model_types='bge'` works in this test."""
    return hub.bge()
