"""Stored encodings and embeddings in place of texts, and how often the encoders run."""

import numpy as np
import pytest
import torch

from classifier_free_guidance_pytorch import NullConditioner, Precomputed, TextEncoding
from classifier_free_guidance_pytorch.errors import ConfigError, ShapeError
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


# bare tensors


@pytest.mark.parametrize('kind', ['attention', 'raw'])
def test_bare_tokens_of_the_encoder_are_projected_or_refused_and_never_taken_as_projected(kind):
    tokens, mask = noise(2, 4, 12), torch.tensor([[True] * 4, [True, True, False, False]])

    def built(dim_latent, encoder=None):
        encoders = [encoder or TinyEncoder()]
        return (
            make_raw(encoders, dim_latent=dim_latent) if kind == 'raw' else make(kind, encoders=encoders, dim_latent=dim_latent)
        )

    def embed(conditioner, embeds):
        return conditioner(text_embeds=embeds, return_text_cond=True)[1].embed

    whole = torch.ones(2, 4, dtype=torch.bool)
    expected = TextEncoding(tokens, whole, noise(2, 8))
    narrow, same = built(10), built(12)
    torch.testing.assert_close(embed(narrow, tokens), embed(narrow, expected))
    with pytest.raises(
        ShapeError, match=r'text_embeds \(2, 4, 12\) is a bare tensor, which can be the tokens of the encoder or what'
    ):
        same(text_embeds=tokens)
    torch.testing.assert_close(embed(same, TextEncoding.of(tokens)), embed(same, expected))
    # a stand-in for an encoder makes no projected tokens, so whatever comes is the encoder's own
    for dim_latent in (10, 12):
        stand_in = built(dim_latent, Precomputed(dim_latent=12, dim_pooled=8))
        for embeds in (tokens, TextEncoding.of(tokens), (tokens, whole)):
            torch.testing.assert_close(embed(stand_in, embeds), embed(stand_in, expected))
        masked = embed(stand_in, TextEncoding.of(tokens, mask=mask))
        torch.testing.assert_close(embed(stand_in, (tokens, mask)), masked)


def test_widths_that_an_encoder_does_not_have_are_asked_for():
    with pytest.raises(
        ConfigError, match='a TextConditioner reads pooled features, and model_types has none of them: pass dim_pooled='
    ):
        make('film', encoders=[Precomputed(dim_latent=12)])
    with pytest.raises(
        ConfigError, match='a AttentionTextConditioner reads tokens, and model_types has none of them: pass dim_latent='
    ):
        make('attention', encoders=[TinyEncoder(), Precomputed(dim_pooled=12)])
    with pytest.raises(
        ConfigError, match="null='empty' is the encoding of the empty string, and a Precomputed encoder reads no texts"
    ):
        make('film', encoders=[Precomputed(dim_pooled=12)], null='empty')


@pytest.mark.parametrize('hidden_dims', [(), (8,)])
def test_a_null_conditioner_needs_no_text_and_reads_none(hidden_dims):
    cond_fns, text_cond = NullConditioner(hidden_dims=hidden_dims)(
        repeat_batch=(5, 1, 1), cond_drop_prob=0.2, return_text_cond=True
    )
    assert (len(cond_fns), text_cond.embed) == (len(hidden_dims), None)
