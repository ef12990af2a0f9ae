"""Every argument of every constructor changes something."""

import inspect

import pytest
import torch

from classifier_free_guidance_pytorch import (
    AttentionTextConditioner,
    ConcatTextConditioner,
    NullConditioner,
    TextConditioner,
    TextEmbeddingReturner,
)
from classifier_free_guidance_pytorch.text.t5 import T5Adapter
from tests.conditioners.making import TEXTS, make, make_raw, noise, two_encoders
from tests.tiny_models import TinyEncoder


def test_the_constructors_take_the_arguments_of_the_contract():
    pooled = ['hidden_dims', 'model_types', 'model_names', 'cond_drop_prob', 'hiddens_channel_first', 'text_embed_stem_dim_mult',
              'text_embed_pad_value', 'model_kwargs', 'null', 'reads_scale']  # fmt: skip
    attention = ['hidden_dims', 'model_types', 'model_names', 'cond_drop_prob', 'hiddens_channel_first', 'dim_latent',
                 'attn_dim_head', 'attn_heads', 'flash', 'text_embed_pad_value', 'model_kwargs', 'null',
                 'reads_scale']  # fmt: skip
    assert list(inspect.signature(TextConditioner).parameters) == pooled
    assert list(inspect.signature(ConcatTextConditioner).parameters) == pooled
    assert list(inspect.signature(AttentionTextConditioner).parameters) == attention
    defaults = {p.name: p.default for p in inspect.signature(AttentionTextConditioner).parameters.values()}
    assert (defaults['model_types'], defaults['attn_dim_head'], defaults['attn_heads'], defaults['flash']) == ('t5', 64, 8, True)
    assert inspect.signature(TextConditioner).parameters['text_embed_stem_dim_mult'].default == 2


def test_attn_heads_and_attn_dim_head():
    attn = make('attention', attn_heads=3, attn_dim_head=5).conditioners[0].attn
    assert attn.to_q.out_features == attn.to_out.in_features == 15
    assert attn.to_kv.out_features == 10
    assert attn.null_kv.shape == (2, 1, 5)
    hiddens = noise(3, 6, 4)
    several = [make('attention', attn_heads=h, attn_dim_head=8 // h)(TEXTS)[0](hiddens) for h in (1, 2, 4)]
    assert not torch.allclose(several[0], several[1])
    assert not torch.allclose(several[1], several[2])


def test_flash_gives_the_same_numbers_by_another_way(monkeypatch):
    fused, written_out = make('attention', flash=True), make('attention', flash=False)
    calls = []
    original = torch.nn.functional.scaled_dot_product_attention
    monkeypatch.setattr(torch.nn.functional, 'scaled_dot_product_attention', lambda *a, **k: calls.append(1) or original(*a, **k))
    expected = fused(TEXTS)[0](noise(3, 6, 4))
    assert calls == [1]
    torch.testing.assert_close(written_out(TEXTS)[0](noise(3, 6, 4)), expected)
    assert calls == [1], 'flash=False uses the fused kernel'


@pytest.mark.parametrize('make_one', [lambda **k: make('attention', **k), make_raw], ids=['attention', 'raw'])
def test_dim_latent(make_one):
    assert make_one(encoders=two_encoders()).dim_latent == 12, 'not the widest of the encoders'
    conditioner = make_one(encoders=two_encoders(), dim_latent=5)
    assert [p.out_features for p in conditioner.to_latent_dims] == [5, 5]
    _, (embed, _) = conditioner(TEXTS, return_text_cond=True)
    assert embed.shape[-1] == 5


@pytest.mark.parametrize('kind', ['film', 'concat'])
def test_text_embed_stem_dim_mult(kind):
    conditioner = make(kind, text_embed_stem_dim_mult=3)
    assert conditioner.text_embed_stem_mlp[0].out_features == 24
    assert conditioner(TEXTS).text_cond.embed.shape == (3, 24)


def test_text_embed_pad_value(tiny_t5):
    """It is written at padding by `embed_texts` and the encoders' `embed_text`, and changes no output of the model."""
    texts, hiddens = ['a dog', 'a small red circle above a triangle'], noise(2, 6)
    for pad in (0, 3.5):
        conditioner = AttentionTextConditioner((6,), 't5', text_embed_pad_value=pad).eval()
        embed, mask = conditioner.embed_texts(texts)
        assert (embed[~mask] == pad).all()
        assert (embed[mask] != pad).any()
        tokens = conditioner.text_models[0].embed_text(texts, return_text_encodings=True)
        assert (tokens[~mask] == pad).all()
        film = TextConditioner((6,), 't5', text_embed_pad_value=pad)
        assert (film.text_models[0].embed_text(texts, return_text_encodings=True)[~mask] == pad).all()
    plain, padded = make('attention'), make('attention', text_embed_pad_value=9.0)
    torch.testing.assert_close(plain(TEXTS[:2])[0](hiddens), padded(TEXTS[:2])[0](hiddens))


def test_an_encoder_handed_in_keeps_its_own_pad_value(tiny_t5):
    encoder = T5Adapter(text_embed_pad_value=2.0)
    TextConditioner((6,), [encoder], text_embed_pad_value=5.0)
    assert encoder.text_embed_pad_value == 2


def test_model_names_and_model_kwargs_reach_the_encoder(tiny_t5, tiny_bge):
    conditioner = TextConditioner(
        (6,), ('t5', 'bge'), model_names=(str(tiny_t5), None), model_kwargs=[{'max_length': 7, 'dtype': torch.float64}, None]
    )
    t5, bge = conditioner.text_models
    assert (t5.name, t5.max_text_len, t5.dtype) == (str(tiny_t5), 7, torch.float64)
    assert bge.name == 'BAAI/bge-base-en-v1.5'
    assert conditioner.max_text_len == 7 + bge.max_text_len


@pytest.mark.parametrize('cls', [TextConditioner, AttentionTextConditioner, ConcatTextConditioner])
def test_hidden_dims_may_be_any_sequence(cls):
    assert len(cls([6, 4], [TinyEncoder()])(TEXTS)) == 2
    assert cls((6, 4, 2), [TinyEncoder()]).num_condition_fns == 3


@pytest.mark.parametrize('cls', [TextConditioner, AttentionTextConditioner, ConcatTextConditioner, NullConditioner])
def test_the_pair_of_the_release_is_one_line_away(cls, monkeypatch):
    conditioner = cls((6, 4), model_types=[TinyEncoder()])
    cond_fns, text_cond = conditioner(TEXTS, return_text_cond=True)
    assert len(cond_fns) == 2
    assert cond_fns.text_cond is text_cond
    assert len(conditioner(TEXTS)) == 2
    monkeypatch.setattr(cls, 'return_text_cond', True)
    cond_fns, text_cond = conditioner(TEXTS)
    assert len(cond_fns) == len(text_cond) == 2
    assert len(conditioner(TEXTS, return_text_cond=False)) == 2


def test_the_returner_always_returns_the_pair():
    returner = TextEmbeddingReturner(model_types=[TinyEncoder()], hidden_dims=(6,))
    (identity,), text_cond = returner(TEXTS)
    hiddens = noise(3, 6)
    assert identity(hiddens) is hiddens
    assert text_cond.embed.shape == (3, 7, 12)
    assert text_cond.mask.sum(dim=1).tolist() == [4, 2, 7]


def test_text_cond_holds_what_conditions():
    film, attention = make('film'), make('attention')
    assert film(TEXTS).text_cond.mask is None
    pooled = torch.cat([e.pooled for e in film.encode_texts(TEXTS)], dim=-1)
    torch.testing.assert_close(film(TEXTS).text_cond.embed, film.text_embed_stem_mlp(pooled))
    embed, mask = attention(TEXTS).text_cond
    tokens, kept = attention.encode_texts(TEXTS)[0].tokens, attention.encode_texts(TEXTS)[0].mask
    torch.testing.assert_close(embed, attention.to_latent_dims[0](tokens))
    assert torch.equal(mask, kept)


def test_the_first_example_of_the_readme(tiny_t5):
    text_conditioner = TextConditioner(model_types='t5', hidden_dims=(256, 512), hiddens_channel_first=False, cond_drop_prob=0.2)
    first_condition_fn, second_condition_fn = text_conditioner(['a dog chasing after a ball'])
    assert first_condition_fn(torch.randn(1, 16, 256)).shape == (1, 16, 256)
    assert second_condition_fn(torch.randn(1, 16, 512)).shape == (1, 16, 512)
