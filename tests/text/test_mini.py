"""The embedded encoder, on a stand-in, and on its own weights where they are there."""

import json
import re
import warnings

import pytest
import torch

from classifier_free_guidance_pytorch.errors import MissingDependencyError
from classifier_free_guidance_pytorch.text import build_encoder, embedded
from classifier_free_guidance_pytorch.text.mini import MiniAdapter

KNOWN = 'a small red circle above a blue square'


def test_every_unknown_word_is_named_once(hub):
    encoder = build_encoder('mini', hub.mini())
    with warnings.catch_warnings():
        warnings.simplefilter('error', UserWarning)
        encoder.encode([KNOWN, ''])
    with pytest.warns(
        UserWarning, match="the encoder 'mini' does not know 'unicorn', and cannot tell them apart: it was trained"
    ):
        encoder.encode([KNOWN, 'a red unicorn'])  # one word of three
    with pytest.warns(UserWarning, match="does not know 'quantum', 'zebra', and cannot") as caught:
        encoder.encode(['quantum unicorn', 'a quantum zebra'])
    assert [one.filename for one in caught] == [__file__]
    with warnings.catch_warnings():
        warnings.simplefilter('error', UserWarning)
        encoder.encode(['quantum unicorn', 'zebra'])


def test_a_warning_stays_short(hub):
    encoder = build_encoder('mini', hub.mini())
    with pytest.warns(UserWarning, match=r"does not know 'x{27}\.\.\.', and cannot tell"):
        encoder.encode(['x' * 100_000])
    with pytest.warns(UserWarning, match=r"'z0', .*'z19' and 5 more, and cannot"):
        encoder.encode(['z0 z1 z2 z3 z4 z5 z6 z7 z8 z9', 'z10 z11 z12 z13 z14 z15 z16 z17 z18 z19', 'z20 z21 z22 z23 z24'])


def test_a_stream_of_new_words_is_not_remembered_for_ever(hub, monkeypatch):
    monkeypatch.setattr(embedded, '_MOST_REMEMBERED', 3)
    encoder = build_encoder('mini', hub.mini())
    with pytest.warns(UserWarning, match=r"does not know 'unicorn', .* Every word is named once$"):
        encoder.encode(['a red unicorn'])
    with pytest.warns(
        UserWarning, match=r"does not know 'quantum', 'zebra', .* Every word is named once, and no more are named$"
    ):
        encoder.encode(['quantum zebra mammoth'])
    with warnings.catch_warnings():
        warnings.simplefilter('error', UserWarning)
        encoder.encode(['griffin', 'mammoth'])
    assert len(encoder._named) == 3


def test_what_is_cut_off_is_not_named(hub):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter('always')
        build_encoder('mini', hub.mini(), {'max_length': 4}).encode(['a red circle unicorn'])
    assert [one for one in caught if 'unicorn' in str(one.message) and 'does not know' in str(one.message)] == []


def test_weights_that_are_not_there(monkeypatch, tmp_path):
    monkeypatch.setattr(MiniAdapter, 'weights', tmp_path / 'absent')
    with pytest.raises(MissingDependencyError, match=re.escape('which this installation lacks: reinstall the package')):
        build_encoder('mini')


def test_half_precision_weights_run_in_the_callers_precision(hub):
    encoder = build_encoder('mini', hub.mini())
    assert encoder.encode([KNOWN]).tokens.dtype == torch.float32


@pytest.mark.skipif(not MiniAdapter.weights.is_dir(), reason='the weights are not in this checkout')
def test_the_shipped_encoder_knows_its_world():
    encoder = build_encoder('mini')
    assert encoder.name == 'mini'
    with warnings.catch_warnings():
        warnings.simplefilter('error', UserWarning)
        pooled = encoder.encode(['a red circle', 'a blue square', 'one red circle']).pooled
    similarity = torch.nn.functional.cosine_similarity(pooled[:1], pooled[1:])
    assert similarity[1] > similarity[0]


@pytest.mark.skipif(not MiniAdapter.weights.is_dir(), reason='the weights are not in this checkout')
def test_the_shipped_tokenizer_loads_in_transformers_4_and_5():
    """Version 5 writes a class name that 4 does not know."""
    written = json.loads((MiniAdapter.weights / 'tokenizer_config.json').read_text())
    assert written['tokenizer_class'] == 'PreTrainedTokenizerFast'
