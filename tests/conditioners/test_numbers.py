"""Outputs with a checkpoint in the shape of the 0.7.1 release, against the contract's formulas in float64."""

import pytest
import torch

from classifier_free_guidance_pytorch import AttentionTextConditioner, ConcatTextConditioner, TextConditioner
from tests.conditioners import reference
from tests.tiny_models import TinyEncoder

TEXTS = ['a small red circle', 'a dog', 'the large blue square above a triangle']
HIDDENS = {
    'channel last': ((3, 5, 6), False),
    'channel first': ((3, 6, 5), True),
    'vectors': ((3, 6), True),
    'pictures': ((3, 6, 2, 3), True),
    'pictures, channel last': ((3, 2, 3, 6), False),
    'video': ((3, 6, 2, 2, 2), True),
}
ENCODERS = {'one': [TinyEncoder()], 'two': [TinyEncoder(), TinyEncoder(dim_latent=7, dim_pooled=5)]}


def hiddens_of(shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(1))


def with_weights(conditioner, weights):
    conditioner.load_state_dict(weights, strict=True)
    return conditioner.eval()


@pytest.mark.parametrize('encoders', ENCODERS.values(), ids=ENCODERS)
@pytest.mark.parametrize(('shape', 'channel_first'), HIDDENS.values(), ids=HIDDENS)
def test_film(encoders, shape, channel_first):
    weights = reference.film_checkpoint([e.dim_pooled for e in encoders], (4, 6))
    conditioner = TextConditioner((4, 6), model_types=encoders, hiddens_channel_first=channel_first)
    hiddens = hiddens_of(shape)
    pooled = torch.cat([e.encode(TEXTS).pooled for e in encoders], dim=-1)
    null = weights['null_text_embed'].expand_as(pooled)
    with_weights(conditioner, weights)
    for feature, drop in ((pooled, None), (pooled, 0.0), (null, 1.0)):
        expected = reference.film(weights, feature, hiddens, 1, channel_first)
        conditioned = conditioner(TEXTS, cond_drop_prob=drop)[1](hiddens)
        torch.testing.assert_close(conditioned.double(), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize('flash', [True, False], ids=['fused', 'written out'])
@pytest.mark.parametrize('encoders', ENCODERS.values(), ids=ENCODERS)
@pytest.mark.parametrize(('shape', 'channel_first'), HIDDENS.values(), ids=HIDDENS)
def test_attention(encoders, shape, channel_first, flash):
    heads, dim_head = 3, 4
    weights = reference.attention_checkpoint([e.dim_latent for e in encoders], (4, 6), heads, dim_head)
    conditioner = AttentionTextConditioner(
        (4, 6), encoders, attn_heads=heads, attn_dim_head=dim_head, flash=flash, hiddens_channel_first=channel_first
    )
    with_weights(conditioner, weights)
    hiddens = hiddens_of(shape)
    encodings = [e.encode(TEXTS) for e in encoders]
    tokens, masks = [e.tokens for e in encodings], [e.mask for e in encodings]
    assert not all(mask.all() for mask in masks), 'no padding in this test'
    nothing = [torch.zeros_like(mask) for mask in masks]
    for keep, drop in ((masks, None), (masks, 0.0), (nothing, 1.0)):
        expected = reference.attention(weights, tokens, keep, hiddens, 1, channel_first, heads, dim_head)
        conditioned = conditioner(TEXTS, cond_drop_prob=drop)[1](hiddens)
        torch.testing.assert_close(conditioned.double(), expected, rtol=1e-5, atol=1e-5)


def test_attention_with_the_defaults_of_the_release():
    weights = reference.attention_checkpoint([12], (6,))
    conditioner = with_weights(AttentionTextConditioner((6,), [TinyEncoder()]), weights)
    encoding, hiddens = TinyEncoder().encode(TEXTS), hiddens_of((3, 6, 2))
    expected = reference.attention(weights, [encoding.tokens], [encoding.mask], hiddens, 0, True)
    torch.testing.assert_close(conditioner(TEXTS)[0](hiddens).double(), expected, rtol=1e-5, atol=1e-5)


def test_attention_projects_to_dim_latent():
    weights = reference.attention_checkpoint([12, 7], (6,), 2, 4, dim_latent=5)
    encoders = ENCODERS['two']
    conditioner = with_weights(AttentionTextConditioner((6,), encoders, dim_latent=5, attn_heads=2, attn_dim_head=4), weights)
    encodings, hiddens = [e.encode(TEXTS) for e in encoders], hiddens_of((3, 6, 2))
    expected = reference.attention(
        weights, [e.tokens for e in encodings], [e.mask for e in encodings], hiddens, 0, True, heads=2, dim_head=4
    )
    torch.testing.assert_close(conditioner(TEXTS)[0](hiddens).double(), expected, rtol=1e-5, atol=1e-5)


def test_concat():
    """`h + out(SiLU(joint([norm(h), feature])))`, with the concatenation really made."""
    conditioner = ConcatTextConditioner((6,), [TinyEncoder()]).eval()
    torch.nn.init.normal_(conditioner.conditioners[0].out.weight)
    w = {name: tensor.double() for name, tensor in conditioner.state_dict().items()}
    hiddens, pooled = hiddens_of((3, 6, 4)), TinyEncoder().encode(TEXTS).pooled.double()
    stem = reference.silu(reference.linear(w, reference.STEM, pooled))
    rows = reference.positions(hiddens, channel_first=True)
    halves = [w.pop(f'conditioners.0.joint_{half}.weight') for half in ('hidden', 'text')]
    w['conditioners.0.joint.weight'] = torch.cat(halves, dim=1)
    w['conditioners.0.joint.bias'] = w['conditioners.0.joint_text.bias']
    joint = torch.cat((reference.norm(w, 'conditioners.0.norm', rows), stem[:, None].expand(-1, 4, -1)), dim=-1)
    added = reference.linear(w, 'conditioners.0.out', reference.silu(reference.linear(w, 'conditioners.0.joint', joint)))
    expected = reference.restored(rows + added, hiddens, channel_first=True)
    torch.testing.assert_close(conditioner(TEXTS)[0](hiddens).double(), expected, rtol=1e-5, atol=1e-5)


FILM_KEYS = [
    'null_text_embed',
    'text_embed_stem_mlp.0.weight',
    'text_embed_stem_mlp.0.bias',
    *(f'conditioners.{i}.net.{n}.{kind}' for i in (0, 1) for n in (0, 2) for kind in ('weight', 'bias')),
]
ATTENTION_KEYS = [
    *(f'to_latent_dims.{e}.{kind}' for e in (0, 1) for kind in ('weight', 'bias')),
    *(
        f'conditioners.{i}.attn.{name}'
        for i in (0, 1)
        for name in (
            'norm.weight', 'norm.bias', 'context_norm.weight', 'context_norm.bias', 'null_kv', 'to_q.weight', 'to_kv.weight',
            'to_out.weight',
        )
    ),
]  # fmt: skip


@pytest.mark.parametrize(('cls', 'keys'), [(TextConditioner, FILM_KEYS), (AttentionTextConditioner, ATTENTION_KEYS)])
def test_the_keys_of_checkpoints_are_frozen(cls, keys):
    conditioner = cls((4, 6), model_types=[TinyEncoder(), TinyEncoder()])
    assert sorted(conditioner.state_dict()) == sorted(keys)
    assert sorted(name for name, _ in conditioner.named_parameters()) == sorted(keys), 'a key is no parameter'


def test_the_null_key_and_value_have_their_published_shape():
    conditioner = AttentionTextConditioner((4,), model_types=[TinyEncoder()], attn_dim_head=16)
    assert conditioner.state_dict()['conditioners.0.attn.null_kv'].shape == (2, 1, 16)
    assert conditioner.state_dict()['conditioners.0.attn.to_kv.weight'].shape == (32, 12)
