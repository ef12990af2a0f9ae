"""Conditions that are not text: labels, vectors, image features, and several at once."""

import pytest
import torch
from torch import nn

from classifier_free_guidance_pytorch import Precomputed, TextEncoding, classifier_free_guidance_class_decorator
from classifier_free_guidance_pytorch.errors import ConfigError, ShapeError
from tests.conditioners.making import KINDS, TEXTS, make, make_raw, noise, randomised
from tests.tiny_models import TinyEncoder


@classifier_free_guidance_class_decorator
class Net(nn.Module):
    def __init__(self, dim=6):
        super().__init__()
        self.out = nn.Linear(dim, dim)

    def forward(self, x, cond_fns):
        return self.out(cond_fns[0](x).relu())


def net(kind, *encoders, **arguments):
    names = {f'text_condition_{name}': value for name, value in arguments.items()}
    built = Net(text_condition_type=kind, text_condition_model_types=encoders, text_condition_hidden_dims=(6,), **names)
    return randomised(built).eval()


@pytest.mark.parametrize('kind', ['film', 'concat'])
def test_labels_of_a_trained_embedding(kind):
    """Guided like any condition, dropped per sample, and trained with the network."""
    model, labels, x = net(kind, Precomputed(dim_pooled=5), cond_drop_prob=0.5), nn.Embedding(4, 5), noise(3, 6)
    embeds = labels(torch.tensor([0, 3, 3]))
    cond, null = model(x, text_embeds=embeds), model(x)
    torch.testing.assert_close(model(x, text_embeds=embeds, cond_scale=3.0), null + 3 * (cond - null), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(
        model(x, text_embeds=embeds, cond_scale=3.0, cfg_batched=True), null + 3 * (cond - null), rtol=1e-4, atol=1e-5
    )
    prepared = model.prepare(text_embeds=embeds)
    torch.testing.assert_close(model(x, text_condition=prepared, cond_scale=3.0), null + 3 * (cond - null), rtol=1e-4, atol=1e-5)
    model.train()
    kept = model(x, text_embeds=embeds, cond_drop_prob=torch.tensor([0.0, 1.0, 0.0]))
    torch.testing.assert_close(kept, torch.where(torch.tensor([[True], [False], [True]]), cond, null), rtol=1e-4, atol=1e-5)
    kept.sum().backward()
    assert [bool(row.any()) for row in labels.weight.grad] == [True, False, False, True]
    assert [name for name, weight in model.named_parameters() if weight.grad is None] == []


def test_vectors_one_for_all_samples_and_others_to_steer_away_from():
    model, x = net('film', Precomputed(dim_pooled=7)), noise(4, 6)
    state, away = noise(1, 7, seed=2), noise(1, 7, seed=3)
    torch.testing.assert_close(model(x, text_embeds=state), model(x, text_embeds=state.expand(4, -1)))
    cond, null = model(x, text_embeds=state), model(x, text_embeds=away)
    guided = model(x, text_embeds=state, negative_text_embeds=away, cond_scale=2.0)
    torch.testing.assert_close(guided, null + 2 * (cond - null), rtol=1e-4, atol=1e-5)
    with pytest.raises(ShapeError, match=r'one pooled feature per text, \(b, 7\), but got \(4, 6\)'):
        model(x, text_embeds=noise(4, 6))


@pytest.mark.parametrize('dim_latent', [None, 12])
def test_image_features_are_tokens_with_a_mask(dim_latent):
    """Masked patches have no influence; every weight is trained by a bare tensor."""
    model, x = net('attention', Precomputed(dim_latent=9), dim_latent=dim_latent, attn_heads=2, attn_dim_head=4), noise(2, 6)
    patches, mask = noise(2, 5, 9), torch.tensor([[True] * 5, [True, True, False, False, False]])
    changed = torch.where(mask[..., None], patches, noise(2, 5, 9, seed=4))
    expected = model(x, text_embeds=(patches, mask), cond_scale=2.0)
    torch.testing.assert_close(model(x, text_embeds=(changed, mask), cond_scale=2.0), expected)
    torch.testing.assert_close(model(x, text_embeds=TextEncoding.of(changed, mask=mask), cond_scale=2.0), expected)
    assert not torch.allclose(model(x, text_embeds=patches, cond_scale=2.0)[1], expected[1])
    model.train()
    model(x, text_embeds=patches).square().sum().backward()
    assert [name for name, weight in model.named_parameters() if weight.grad is None] == []
    assert model.text_conditioner.to_latent_dims[0].weight.grad.any()


@pytest.mark.parametrize('kind', [*KINDS, 'raw'])
def test_texts_and_features_together_and_dropped_apart(kind):
    text_encoder, features = TinyEncoder(), Precomputed(dim_latent=7, dim_pooled=5)
    encoders = [text_encoder, features]
    conditioner = make_raw(encoders) if kind == 'raw' else make(kind, encoders=encoders)
    text, other = text_encoder.encode(TEXTS), TextEncoding.of(noise(3, 4, 7), noise(3, 5, seed=2))

    def seen(drop_prob=None):
        cond_fns, text_cond = conditioner(text_embeds=(text, other), cond_drop_prob=drop_prob, return_text_cond=True)
        return text_cond.embed if kind == 'raw' else cond_fns[0](noise(3, 6))

    whole, without_other, without_text = seen(), seen((0.0, 1.0)), seen((1.0, 0.0))
    assert not torch.allclose(whole, without_other)
    assert not torch.allclose(whole, without_text)
    assert not torch.allclose(without_other, without_text)
    with pytest.raises(ConfigError, match=r'1 TextEncoding\(s\) were passed to a conditioner with 2 encoder\(s\)'):
        conditioner(text_embeds=text)
    with pytest.raises(ShapeError, match='a TextEncoding with tokens of width 7 and pooled features of width 5 was passed, but'):
        conditioner(text_embeds=(other, text))
