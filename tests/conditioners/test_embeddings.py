"""Stored encodings and embeddings in place of texts, and how often the encoders run."""

import numpy as np
import pytest
import torch

from classifier_free_guidance_pytorch import TextEncoding
from tests.conditioners.making import KINDS, TEXTS, make, make_raw, noise, two_encoders
from tests.tiny_models import TinyEncoder

kinds = pytest.mark.parametrize('kind', KINDS)


@kinds
def test_encodings_and_embeddings_equal_texts(kind):
    conditioner = make(kind, encoders=two_encoders())
    hiddens = noise(3, 6, 4)
    expected = conditioner(TEXTS)[0](hiddens)
    encodings = conditioner.encode_texts(TEXTS)
    for embeds in (encodings, list(encodings), conditioner.embed_texts(TEXTS)):
        torch.testing.assert_close(conditioner(text_embeds=embeds)[0](hiddens), expected)
    null = conditioner(TEXTS, cond_drop_prob=1.0)[0](hiddens)
    for embeds in (encodings, conditioner.embed_texts(TEXTS)):
        torch.testing.assert_close(conditioner(text_embeds=embeds, cond_drop_prob=1.0)[0](hiddens), null)


@kinds
def test_a_single_encoding_stands_for_one_encoder(kind):
    conditioner = make(kind)
    (encoding,) = conditioner.encode_texts(TEXTS)
    assert isinstance(encoding, TextEncoding)
    torch.testing.assert_close(conditioner(text_embeds=encoding)[0](noise(3, 6)), conditioner(TEXTS)[0](noise(3, 6)))


def test_raw_embeddings_from_encodings_equal_those_from_texts():
    returner = make_raw(two_encoders())
    _, expected = returner(TEXTS)
    for embeds in (returner.encode_texts(TEXTS), returner.embed_texts(TEXTS)):
        _, text_cond = returner(text_embeds=embeds)
        torch.testing.assert_close(text_cond.embed, expected.embed)
        assert torch.equal(text_cond.mask, expected.mask)


def test_film_embeddings_are_the_pooled_features():
    one, two = two_encoders()
    expected = torch.cat((one.encode(TEXTS).pooled, two.encode(TEXTS).pooled), dim=-1)
    torch.testing.assert_close(make('film', encoders=[one, two]).embed_texts(TEXTS), expected)


@kinds
def test_stored_encodings_train_everything(kind):
    """What `encode_texts` returned in inference mode, stored and loaded, still trains every projection."""
    conditioner = make(kind, cond_drop_prob=0.0)
    with torch.inference_mode():
        encodings = conditioner.encode_texts(TEXTS)
    assert not any(t.requires_grad for e in encodings for t in (e.tokens, e.pooled))
    conditioner.train()(text_embeds=encodings)[0](noise(3, 6, 4)).square().sum().backward()
    zero = [n for n, p in conditioner.named_parameters() if n != 'null_text_embed' and (p.grad is None or not p.grad.any())]
    assert zero == []


def test_stored_projections_are_as_frozen_as_they_were():
    """`embed_texts` runs the trainable projection, so what it returned lags behind once the projection has moved."""
    conditioner = make('attention')
    embedded, encoded = conditioner.embed_texts(TEXTS), conditioner.encode_texts(TEXTS)
    with torch.no_grad():
        conditioner.to_latent_dims[0].weight[0].add_(0.5)
    now = conditioner(TEXTS)[0](noise(3, 6))
    torch.testing.assert_close(conditioner(text_embeds=encoded)[0](noise(3, 6)), now)
    assert not torch.allclose(conditioner(text_embeds=embedded)[0](noise(3, 6)), now)


@kinds
def test_encoders_run_once_for_the_same_texts_in_eval_mode(kind):
    encoder = TinyEncoder()
    conditioner = make(kind, encoders=[encoder])
    for _ in range(5):
        conditioner(TEXTS)
        conditioner(['a dog'])
    assert encoder.calls == 2
    conditioner(TEXTS[::-1])
    assert encoder.calls == 3
    conditioner.train()
    conditioner(TEXTS)
    assert encoder.calls == 4, 'training texts are not remembered'


@kinds
def test_lists_tuples_and_arrays_of_texts_are_one(kind):
    conditioner, hiddens = make(kind), noise(3, 6)
    expected = conditioner(TEXTS)[0](hiddens)
    for texts in (tuple(TEXTS), np.array(TEXTS), np.array(TEXTS, dtype=object)):
        torch.testing.assert_close(conditioner(texts)[0](hiddens), expected)


@kinds
def test_encoders_are_no_part_of_the_module(kind, tiny_t5):
    conditioner = KINDS[kind]((6,), 't5')
    conditioner(TEXTS)
    encoder = conditioner.text_models[0]
    inside = {id(p) for p in conditioner.parameters()} | {id(b) for b in conditioner.buffers()}
    assert not inside & {id(p) for p in encoder.model.parameters()}
    assert not any(p.requires_grad for p in encoder.model.parameters())
    assert not encoder.model.training
    assert sum(p.numel() for p in conditioner.train().parameters()) == sum(t.numel() for t in conditioner.state_dict().values())
    assert not encoder.model.training, 'train() reached the encoder'
