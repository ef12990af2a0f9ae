"""The embedded encoder of English, on the weights that ship."""

from __future__ import annotations

import json
import pickle
import re
import warnings

import pytest
import torch

from classifier_free_guidance_pytorch import TextConditioner
from classifier_free_guidance_pytorch.errors import MissingDependencyError
from classifier_free_guidance_pytorch.text import build_encoder
from classifier_free_guidance_pytorch.text.english import EnglishAdapter

MOST_BYTES = 8_000_000


@pytest.fixture(scope='module')
def encoder():
    return build_encoder('english')


def nearest(encoder, text, others):
    pooled = encoder.encode([text, *others]).pooled
    return others[int(torch.cosine_similarity(pooled[:1], pooled[1:]).argmax())]


@pytest.mark.parametrize(
    ('text', 'others'),
    [
        ('automobile', ('car', 'tree', 'soup', 'prayer')),
        ('feline', ('cat', 'house', 'spoon', 'river')),
        ('a physician', ('a doctor', 'a bicycle', 'a window', 'an apple')),
        ('a photo of a happy dog', ('a picture of a puppy', 'a map of the sea', 'a broken chair', 'three red circles')),
    ],
)
def test_texts_that_mean_the_same_lie_close_together(encoder, text, others):
    assert nearest(encoder, text, others) == others[0]


def test_it_gives_tokens_and_a_pooled_feature(encoder):
    encoding = encoder.encode(['a cat', 'a cat with heart eyes'])
    assert encoding.tokens.shape == (2, 7, encoder.dim_latent)
    assert encoding.mask.sum(dim=1).tolist() == [4, 7]
    kept = encoding.mask.unsqueeze(-1)
    assert torch.allclose(encoding.pooled, (encoding.tokens * kept).sum(1) / kept.sum(1), atol=1e-5)


def test_words_that_fall_into_letters_are_named_once(encoder):
    with pytest.warns(UserWarning, match="the encoder 'english' does not know 'xqzv', which fall into letters: it reads English"):
        encoder.encode(['a red xqzv', 'a cat'])
    with warnings.catch_warnings():
        warnings.simplefilter('error', UserWarning)
        encoder.encode(['xqzv', 'an ordinary cat, 3 apples & a tv-set; heart-eyes', ''])


@pytest.mark.parametrize('text', ['рыжий кот', '赤い猫'])
def test_other_scripts_are_named(text):
    with pytest.warns(UserWarning, match="the encoder 'english' does not know"):
        build_encoder('english').encode([text])


def test_it_conditions(encoder):
    conditioner = TextConditioner(hidden_dims=(8,), model_types='english')
    (condition,) = conditioner(['a cat'])
    assert condition(torch.randn(1, 8, 4, 4)).shape == (1, 8, 4, 4)


def test_a_pickled_encoder_knows_its_weights(encoder):
    again = pickle.loads(pickle.dumps(encoder))
    assert again.name == 'english'
    assert again.identity == encoder.identity
    assert torch.equal(again.encode(['a cat']).pooled, encoder.encode(['a cat']).pooled)


def test_the_package_holds_no_more_than_was_promised():
    assert sum(file.stat().st_size for file in EnglishAdapter.weights.iterdir()) <= MOST_BYTES


def test_the_card_states_its_scores():
    card = (EnglishAdapter.weights / 'README.md').read_text()
    score = {name: float(value) for name, value in re.findall(r'^\| ([a-z ]+) \| ([\d.]+) \|$', card, re.MULTILINE)}
    assert score['spearman'] >= 0.82
    assert score['synonym rank'] <= 1.75 * score['synonym rank of the teacher']
    for licence in ('Apache-2.0', 'WordNet', 'Unicode License'):
        assert licence in card


def test_the_tokenizer_loads_in_transformers_4_and_5():
    """Version 5 writes a class name that 4 does not know."""
    written = json.loads((EnglishAdapter.weights / 'tokenizer_config.json').read_text())
    assert written['tokenizer_class'] == 'PreTrainedTokenizerFast'


def test_weights_that_are_not_there(monkeypatch, tmp_path):
    monkeypatch.setattr(EnglishAdapter, 'weights', tmp_path / 'absent')
    with pytest.raises(MissingDependencyError, match=re.escape("model_types='english' reads its weights from")):
        build_encoder('english')
