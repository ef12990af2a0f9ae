"""One vector per sample: the conditioner 'pooled', `raw_text_cond.pooled`, and `pad_to`."""

import copy
import pickle

import pytest
import torch
from torch import nn

from classifier_free_guidance_pytorch import (
    PooledEmbeddingReturner,
    TextEmbeddingReturner,
    classifier_free_guidance_class_decorator,
)
from classifier_free_guidance_pytorch.errors import ConfigError, ShapeError
from tests.conditioners.making import TEXTS, noise, randomised, two_encoders
from tests.releases import NO_PREPARED_RAW, OLDER_TORCH
from tests.tiny_models import TinyEncoder

NULLS = ('learned', 'zeros', 'empty')


@classifier_free_guidance_class_decorator
class TimeEmbedded(nn.Module):
    """The recipe of the tutorials: `emb = time_embed(t) + text_proj(pooled)`."""

    def __init__(self, dim=6):
        super().__init__()
        self.enter, self.leave, self.time = nn.Linear(dim, dim), nn.Linear(dim, dim), nn.Linear(1, dim)

    def forward(self, x, t, raw_text_cond):
        emb = self.time(t[:, None]) + raw_text_cond.pooled
        return self.leave(torch.tanh(self.enter(x) + emb))


def build(null='learned', encoders=None, **arguments):
    made = TimeEmbedded(
        text_condition_type='pooled', text_condition_model_types=encoders or two_encoders(), text_condition_null=null,
        **{'text_condition_dim_latent': 6, **arguments},
    )  # fmt: skip
    return randomised(made)


def by_hand(model, x, t, pooled):
    emb = model.time(t[:, None]) + nn.functional.linear(pooled, model.text_conditioner.project.weight)
    return model.leave(torch.tanh(model.enter(x) + emb))


def pooled_of(model, texts):
    return torch.cat([encoding.pooled for encoding in model.encode_texts(texts)], dim=-1)


def null_of(model, null):
    if null == 'empty':
        return pooled_of(model, [''])
    return torch.zeros(1, 13) if null == 'zeros' else model.text_conditioner.null_text_embed[None]


X, T = noise(3, 6), torch.tensor([0.1, 0.5, 0.9])


@pytest.mark.parametrize('null', NULLS)
@pytest.mark.parametrize('batched', [False, True])
def test_it_is_the_recipe_written_out(null, batched):
    model = build(null).eval()
    cond = by_hand(model, X, T, pooled_of(model, TEXTS))
    none = by_hand(model, X, T, null_of(model, null))
    torch.testing.assert_close(model(X, T, texts=TEXTS), cond)
    torch.testing.assert_close(model(X, T), none)
    torch.testing.assert_close(model(X, T, texts=TEXTS, cond_scale=3.0, cfg_batched=batched), none + 3 * (cond - none))
    grey = by_hand(model, X, T, pooled_of(model, ['grey']))
    guided = model(X, T, texts=TEXTS, negative_texts=['grey'], cond_scale=3.0, cfg_batched=batched)
    torch.testing.assert_close(guided, grey + 3 * (cond - grey))


@pytest.mark.parametrize('null', NULLS)
@pytest.mark.parametrize('drop_prob', [0.0, 0.5, (0.2, 0.6)])
def test_training(null, drop_prob):
    model = build(null, text_condition_cond_drop_prob=drop_prob).train()
    model(X, T, texts=TEXTS).square().mean().backward()
    assert [name for name, p in model.named_parameters() if p.grad is None] == []


@pytest.mark.parametrize('null', NULLS)
def test_without_a_projection_the_features_are_handed_on(null):
    returner = PooledEmbeddingReturner(model_types=two_encoders(), null=null).eval()
    _, text_cond = returner(TEXTS)
    expected = torch.cat([encoding.pooled for encoding in returner.encode_texts(TEXTS)], dim=-1)
    torch.testing.assert_close(text_cond.pooled, expected, rtol=0, atol=0)
    assert text_cond.embed is text_cond.pooled
    assert len(list(returner.parameters())) == (null == 'learned')
    assert returner.double()(TEXTS)[1].pooled.dtype == torch.float64


def test_dropping_one_encoder_leaves_the_other():
    returner = PooledEmbeddingReturner(model_types=two_encoders(), null='zeros').train()
    given = returner(TEXTS)[1].pooled
    first_gone = returner(TEXTS, cond_drop_prob=(1.0, 0.0))[1].pooled
    torch.testing.assert_close(first_gone, torch.cat((torch.zeros(3, 8), given[:, 8:]), dim=1), rtol=0, atol=0)


@classifier_free_guidance_class_decorator
class Both(nn.Module):
    """Reads tokens, mask and the pooled feature, and returns what it was given."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Linear(1, 1)

    def forward(self, x, raw_text_cond):
        embed, mask = raw_text_cond
        return x + (embed * mask.unsqueeze(-1)).sum(dim=(1, 2))[:, None] + raw_text_cond.pooled.sum(dim=1, keepdim=True)


def both(**arguments):
    made = Both(text_condition_type='raw', text_condition_model_types=two_encoders(), **arguments)
    return randomised(made).eval()


@pytest.mark.parametrize('null', ['zeros', 'empty'])
def test_raw_embeddings_and_the_pooled_feature_are_dropped_by_one_draw(null):
    returner = TextEmbeddingReturner(model_types=two_encoders(), null=null).eval()
    _, cond = returner(TEXTS)
    _, none = returner(TEXTS, cond_drop_prob=1.0)
    assert cond.pooled.shape == (3, 13)
    returner.train()
    seen = set()
    for _ in range(10):
        _, drawn = returner(TEXTS, cond_drop_prob=0.5)
        for row in range(3):
            kept = torch.equal(drawn.pooled[row], cond.pooled[row])
            expected = cond if kept else none
            at = min(row, len(expected.mask) - 1)  # where the null does not depend on the text there is one row of it
            torch.testing.assert_close(drawn.pooled[row], expected.pooled[at])
            assert drawn.mask[row].sum() == expected.mask[at].sum()
            seen.add(kept)
    assert seen == {True, False}


@pytest.mark.parametrize('batched', [False, True])
def test_guidance_on_raw_embeddings_and_the_pooled_feature(batched):
    model = both()
    cond, null = model(X, texts=TEXTS), model(X)
    torch.testing.assert_close(null, X.expand(3, -1))
    torch.testing.assert_close(model(X, texts=TEXTS, cond_scale=3.0, cfg_batched=batched), null + 3 * (cond - null))
    torch.testing.assert_close(model(X, texts=TEXTS[:1]), model(X, texts=TEXTS[:1] * 3))
    prepared = model.prepare(TEXTS)
    for copied in (prepared, copy.deepcopy(prepared), pickle.loads(pickle.dumps(prepared))):
        torch.testing.assert_close(model(X, text_condition=copied), cond)
    torch.testing.assert_close(model(X[1:], text_condition=prepared[1:]), cond[1:])


def test_of_projected_tokens_nothing_is_pooled():
    _, text_cond = TextEmbeddingReturner(model_types=[TinyEncoder()])(text_embeds=(noise(3, 4, 12), torch.ones(3, 4) > 0))
    assert text_cond.pooled is None
    assert len(text_cond) == 2


@classifier_free_guidance_class_decorator
class Unmasked(nn.Module):
    """Attends to all tokens it is given, padding included, as the networks of SD3 and Flux do."""

    def __init__(self):
        super().__init__()
        self.q = nn.Linear(6, 12)

    def forward(self, x, raw_text_cond):
        embed = raw_text_cond.embed
        return x + (torch.einsum('bd,bnd->bn', self.q(x), embed).softmax(dim=-1).unsqueeze(-1) * embed).sum(dim=1)[:, :6]


def unmasked(**arguments):
    made = Unmasked(text_condition_type='raw', text_condition_model_types=[TinyEncoder()], **arguments)
    return randomised(made).eval()


def test_padding_to_one_length():
    model, short = unmasked(text_condition_pad_to=10), ['a dog']
    assert model.text_conditioner(short)[1].embed.shape[1] == 10
    assert not torch.allclose(unmasked()(X, texts=TEXTS)[1], unmasked()(X[1:2], texts=short)[0])
    torch.testing.assert_close(model(X, texts=TEXTS)[1], model(X[1:2], texts=short)[0])  # a sample does not know its batch
    call = {'texts': TEXTS, 'negative_texts': short, 'cond_scale': 3.0}
    torch.testing.assert_close(model(X, **call, cfg_batched=True), model(X, **call))
    torch.testing.assert_close(model(X, texts=TEXTS, cond_scale=3.0, cfg_batched=True), model(X, texts=TEXTS, cond_scale=3.0))
    with pytest.raises(ShapeError, match='the texts have 7 tokens, but pad_to=5: raise it, up to max_cond_text_len=16'):
        unmasked(text_condition_pad_to=5)(X, texts=TEXTS)
    with pytest.raises(ConfigError, match='pad_to is the number of tokens that every text is padded to, at least 1, but got 0'):
        unmasked(text_condition_pad_to=0)


def test_branches_of_different_lengths_are_not_joined(monkeypatch):
    monkeypatch.setattr('classifier_free_guidance_pytorch.decorator.batched._said', set())  # it is said once per process
    model = unmasked()
    call = {'texts': TEXTS, 'negative_texts': ['grey'], 'cond_scale': 3.0}
    with pytest.warns(UserWarning, match=r'the branches have 7 and 1 tokens, and a network that reads no mask would read'):
        joined = model(X, **call, cfg_batched=True)
    torch.testing.assert_close(joined, model(X, **call), rtol=0, atol=0)


@pytest.mark.parametrize('model', [build, both, unmasked])
def test_compiled(model):
    if OLDER_TORCH:
        pytest.skip(NO_PREPARED_RAW)
    torch._dynamo.reset()
    model = model().eval()
    inputs = (X, T) if isinstance(model, TimeEmbedded) else (X,)
    call = {'text_condition': model.prepare(TEXTS), 'cond_scale': torch.full((3,), 3.0)}
    compiled = torch.compile(model, fullgraph=True, backend='eager')
    torch.testing.assert_close(compiled(*inputs, **call), model(*inputs, **call))


def test_bad_arguments():
    with pytest.raises(ConfigError, match='dim_latent is a positive integer, but got 0'):
        PooledEmbeddingReturner(model_types=[TinyEncoder()], dim_latent=0)
    with pytest.raises(ShapeError, match=r'text_embeds of a PooledEmbeddingReturner is one pooled feature per text, \(b, 8\)'):
        PooledEmbeddingReturner(model_types=[TinyEncoder()])(text_embeds=noise(3, 7))
