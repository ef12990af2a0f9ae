"""Masks are carried and obeyed, and never inferred from values."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from classifier_free_guidance_pytorch import TextEncoding
from classifier_free_guidance_pytorch.conditioners import TextCondReturn
from classifier_free_guidance_pytorch.errors import ConfigError, ShapeError
from tests.conditioners.making import TEXTS, make, make_raw, noise


def encoded(mask, tokens=None):
    mask = torch.tensor(mask)
    return TextEncoding(noise(*mask.shape, 12) if tokens is None else tokens, mask, noise(mask.shape[0], 8))


@settings(max_examples=20, deadline=None)
@given(mask=st.lists(st.lists(st.booleans(), min_size=4, max_size=4), min_size=2, max_size=2), scale=st.floats(-100, 100))
def test_masked_tokens_have_no_influence(mask, scale):
    conditioner, hiddens = make('attention'), noise(2, 6, 3)
    encoding = encoded(mask)
    other = encoded(mask, torch.where(encoding.mask[..., None], encoding.tokens, noise(2, 4, 12, seed=5) * scale))
    a, b = (conditioner(text_embeds=one)[0](hiddens) for one in (encoding, other))
    torch.testing.assert_close(a, b)


def test_masked_tokens_are_as_good_as_absent():
    conditioner, hiddens = make('attention'), noise(1, 6, 3)
    encoding = encoded([[True, False, True, False]])
    present = TextEncoding(encoding.tokens[:, ::2], encoding.mask[:, ::2], encoding.pooled)
    torch.testing.assert_close(conditioner(text_embeds=encoding)[0](hiddens), conditioner(text_embeds=present)[0](hiddens))


def test_a_text_that_is_masked_altogether_is_the_null():
    conditioner, hiddens = make('attention'), noise(2, 6, 3)
    nothing = conditioner(text_embeds=encoded([[False] * 3] * 2))[0](hiddens)
    torch.testing.assert_close(nothing, conditioner(TEXTS[:2], cond_drop_prob=1.0)[0](hiddens))


@pytest.mark.parametrize(
    'make_one', [lambda: make('attention', dim_latent=10), lambda: make_raw(dim_latent=10)], ids=['attention', 'raw']
)
def test_the_mask_is_never_inferred_from_values(make_one):
    """Real tokens that are zero, or equal to the pad value, stay real."""
    conditioner = make_one()
    embed = torch.zeros(2, 3, conditioner.dim_latent)
    _, text_cond = conditioner(text_embeds=embed, return_text_cond=True)
    assert text_cond.mask.all()
    encoding = encoded([[True] * 3] * 2, torch.zeros(2, 3, 12))
    _, text_cond = conditioner(text_embeds=encoding, return_text_cond=True)
    assert text_cond.mask.all()


@pytest.mark.parametrize('as_pair', [tuple, list, lambda pair: TextCondReturn(*pair)], ids=['tuple', 'list', 'named'])
def test_an_explicit_mask_goes_with_embeddings(as_pair):
    conditioner, hiddens = make('attention', dim_latent=10), noise(2, 6, 3)
    embed, mask = noise(2, 4, 10), torch.tensor([[True, True, False, False], [True, False, True, True]])
    changed = torch.where(mask[..., None], embed, torch.full_like(embed, 9.0))
    a = conditioner(text_embeds=as_pair((embed, mask)))[0](hiddens)
    torch.testing.assert_close(a, conditioner(text_embeds=as_pair((changed, mask)))[0](hiddens))
    assert not torch.allclose(a, conditioner(text_embeds=embed)[0](hiddens))


def test_masks_that_do_not_fit_are_refused():
    conditioner = make('attention')
    with pytest.raises(ShapeError, match=r'mask of text_embeds \(2, 4, 12\) is boolean and of shape \(2, 4\), but got'):
        conditioner(text_embeds=(noise(2, 4, 12), torch.ones(2, 3, dtype=torch.bool)))
    with pytest.raises(ShapeError, match='boolean'):
        conditioner(text_embeds=(noise(2, 4, 12), torch.ones(2, 4)))
    with pytest.raises(ConfigError, match='mask of a TextEncoding is boolean'):
        TextEncoding(noise(2, 4, 12), torch.ones(2, 4), noise(2, 8))
