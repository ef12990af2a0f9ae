"""The embedded encoder, on a stand-in, and on its own weights where they are there."""

import json
import re
import warnings

import pytest
import torch

from classifier_free_guidance_pytorch.errors import MissingDependencyError
from classifier_free_guidance_pytorch.text import build_encoder, mini

KNOWN = 'a small red circle above a blue square'


def test_a_text_outside_the_vocabulary_warns_once(hub):
    encoder = build_encoder('mini', hub.mini())
    with warnings.catch_warnings():
        warnings.simplefilter('error', UserWarning)
        encoder.encode([KNOWN, 'a red unicorn', ''])  # one word of three is no reason to warn
    with pytest.warns(UserWarning, match="does not know most words of 'quantum unicorn': it was trained on captions"):
        encoder.encode([KNOWN, 'quantum unicorn', 'hyperbolic zebra'])
    with warnings.catch_warnings():
        warnings.simplefilter('error', UserWarning)
        encoder.encode(['quantum unicorn'])


def test_a_warning_shows_the_beginning_of_a_text_as_long_as_a_book(hub):
    with pytest.warns(UserWarning, match=r"most words of 'x{57}\.\.\.': it was trained on captions"):
        build_encoder('mini', hub.mini()).encode(['x' * 100_000])


def test_weights_that_are_not_there(monkeypatch, tmp_path):
    monkeypatch.setattr(mini, '_WEIGHTS', tmp_path / 'absent')
    with pytest.raises(MissingDependencyError, match=re.escape('which this installation lacks: reinstall the package')):
        build_encoder('mini')


def test_half_precision_weights_run_in_the_callers_precision(hub):
    encoder = build_encoder('mini', hub.mini())
    assert encoder.encode([KNOWN]).tokens.dtype == torch.float32


@pytest.mark.skipif(not mini._WEIGHTS.is_dir(), reason='the weights are not in this checkout')
def test_the_shipped_encoder_knows_its_world():
    encoder = build_encoder('mini')
    assert encoder.name == 'mini'
    with warnings.catch_warnings():
        warnings.simplefilter('error', UserWarning)
        pooled = encoder.encode(['a red circle', 'a blue square', 'one red circle']).pooled
    similarity = torch.nn.functional.cosine_similarity(pooled[:1], pooled[1:])
    assert similarity[1] > similarity[0]


@pytest.mark.skipif(not mini._WEIGHTS.is_dir(), reason='the weights are not in this checkout')
def test_the_shipped_tokenizer_loads_in_transformers_4_and_5():
    """Version 5 writes a class name that 4 does not know."""
    written = json.loads((mini._WEIGHTS / 'tokenizer_config.json').read_text())
    assert written['tokenizer_class'] == 'PreTrainedTokenizerFast'
