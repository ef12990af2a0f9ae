"""A hub cache of tiny models, made by the tests themselves, under the names that users load."""

import pytest

from tests.offline import HF_HOME


@pytest.fixture(scope='session')
def hub():
    """The cache; a model is made when a test first asks for it: `hub.t5()` returns its local folder."""
    from tests.tiny_models import TinyHub

    return TinyHub(HF_HOME / 'hub')


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
