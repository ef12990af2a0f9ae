"""Conditional dropout and the null it leaves."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from classifier_free_guidance_pytorch import TextConditioner, TextEmbeddingReturner
from classifier_free_guidance_pytorch.errors import ConfigError
from tests.conditioners import reference
from tests.conditioners.making import KINDS, TEXTS, make, make_raw, noise, randomised, two_encoders
from tests.tiny_models import TinyEncoder

kinds = pytest.mark.parametrize('kind', KINDS)
nulls = pytest.mark.parametrize('null', ['learned', 'zeros', 'empty'])
MANY = 400


def dropped_rows(conditioner, hiddens, **call):
    """Which of many equal samples came out as the null, and which as the condition; every one is one of the two."""
    texts = [TEXTS[0]] * len(hiddens)
    kept = conditioner.eval()(texts, cond_drop_prob=0.0)[0](hiddens)
    null = conditioner(texts, cond_drop_prob=1.0)[0](hiddens)
    drawn = conditioner.train()(texts, **call)[0](hiddens)
    as_null = torch.isclose(drawn, null, atol=1e-5).all(dim=1)
    as_kept = torch.isclose(drawn, kept, atol=1e-5).all(dim=1)
    assert (as_null ^ as_kept).all(), 'a sample is neither null nor conditioned, or the two are equal'
    return as_null


@kinds
@nulls
def test_every_sample_is_dropped_by_its_own_draw(kind, null):
    torch.manual_seed(0)
    hiddens = noise(1, 6).expand(MANY, -1)
    dropped = dropped_rows(make(kind, null=null, cond_drop_prob=0.25), hiddens)
    assert abs(dropped.float().mean() - 0.25) < 0.09  # four standard deviations
    assert 0 < dropped.sum() < MANY


@kinds
def test_the_call_has_the_last_word_on_the_probability(kind):
    torch.manual_seed(0)
    hiddens = noise(1, 6).expand(40, -1)
    assert not dropped_rows(make(kind, cond_drop_prob=1.0), hiddens, cond_drop_prob=0.0).any()
    assert dropped_rows(make(kind), hiddens, cond_drop_prob=1.0).all()
    per_sample = torch.arange(40) % 2
    assert torch.equal(dropped_rows(make(kind), hiddens, cond_drop_prob=per_sample.float()), per_sample.bool())


@kinds
def test_nothing_is_dropped_in_eval_mode_unless_asked(kind):
    conditioner = make(kind, cond_drop_prob=1.0)
    hiddens = noise(3, 6)
    torch.testing.assert_close(conditioner(TEXTS)[0](hiddens), conditioner(TEXTS, cond_drop_prob=0.0)[0](hiddens))
    assert not torch.allclose(conditioner(TEXTS, cond_drop_prob=1.0)[0](hiddens), conditioner(TEXTS)[0](hiddens))


@kinds
@nulls
def test_the_null_is_the_same_whatever_the_text(kind, null):
    conditioner = make(kind, null=null)
    hiddens = noise(1, 6, 4).expand(3, -1, -1)
    a, b, c = conditioner(TEXTS, cond_drop_prob=1.0)[0](hiddens)
    torch.testing.assert_close(a, b)
    torch.testing.assert_close(b, c)


@kinds
@nulls
def test_the_short_way_to_the_null_equals_the_long_way(kind, null):
    """In eval mode a probability of 1 computes the null alone; a tensor of ones goes through dropout."""
    conditioner = make(kind, (6, 4), two_encoders(), null=null)
    for index, hiddens in enumerate((noise(3, 6, 4), noise(3, 4, 2, 2))):
        short = conditioner(TEXTS, cond_drop_prob=1.0)[index](hiddens)
        long = conditioner(TEXTS, cond_drop_prob=torch.ones(3))[index](hiddens)
        torch.testing.assert_close(short, long, rtol=1e-5, atol=1e-5)


def test_the_three_nulls_are_what_they_say():
    hiddens = noise(3, 6)
    weights = reference.film_checkpoint([8], (6,))
    encoder = TinyEncoder()
    features = {
        'learned': weights['null_text_embed'],
        'zeros': torch.zeros(8),
        'empty': encoder.encode(['']).pooled[0],
    }
    for null, feature in features.items():
        conditioner = TextConditioner((6,), [encoder], null=null).eval()
        own = {name: weights[name] for name in conditioner.state_dict()}
        conditioner.load_state_dict(own, strict=True)
        expected = reference.film(weights, feature.expand(3, -1), hiddens, 0, True)
        torch.testing.assert_close(conditioner(TEXTS, cond_drop_prob=1.0)[0](hiddens).double(), expected, rtol=1e-5, atol=1e-5)


def test_the_null_of_zeros_adds_nothing_to_attention():
    hiddens = noise(3, 6, 5)
    conditioner = make('attention', null='zeros')
    torch.testing.assert_close(conditioner(TEXTS, cond_drop_prob=1.0)[0](hiddens), hiddens, rtol=0, atol=0)


def test_the_empty_null_of_attention_is_the_empty_string():
    hiddens = noise(3, 6, 5)
    conditioner = make('attention', null='empty')
    torch.testing.assert_close(conditioner(TEXTS, cond_drop_prob=1.0)[0](hiddens), conditioner([''])[0](hiddens))


@pytest.mark.parametrize('null', ['zeros', 'empty'])
def test_the_two_nulls_of_raw_embeddings(null):
    returner = make_raw(null=null, text_embed_pad_value=5.0)
    for drop in (1.0, torch.ones(3)):
        _, (embed, mask) = returner(TEXTS, cond_drop_prob=drop)
        if null == 'zeros':
            assert not mask.any()
            assert (embed == 5).all()
        else:
            _, (empty, _) = returner([''])
            assert (mask.sum(dim=1) == 1).all()
            torch.testing.assert_close(embed[mask], empty[0].expand(len(embed), -1))


def test_raw_embeddings_have_nothing_to_learn_for_the_null():
    with pytest.raises(ConfigError, match='null'):
        TextEmbeddingReturner(model_types=[TinyEncoder()], null='learned')


@nulls
def test_encoders_of_film_are_dropped_independently(null):
    """The four combinations of two encoders occur with the product of the probabilities."""
    torch.manual_seed(0)
    conditioner = make('film', encoders=two_encoders(), cond_drop_prob=(0.5, 0.25), null=null)
    hiddens = noise(1, 6).expand(MANY, -1)
    encodings = conditioner.encode_texts(TEXTS[:1])
    empty = conditioner.encode_texts([''])
    nothing = {
        'learned': lambda: conditioner.null_text_embed.detach().split((8, 5)),
        'zeros': lambda: (torch.zeros(8), torch.zeros(5)),
        'empty': lambda: [e.pooled[0] for e in empty],
    }[null]()
    outcomes = {
        (a, b): conditioner(
            text_embeds=torch.cat(
                (nothing[0] if a else encodings[0].pooled[0], nothing[1] if b else encodings[1].pooled[0])
            ).unsqueeze(0)
        )[0](hiddens[:1])
        for a in (False, True)
        for b in (False, True)
    }
    drawn = conditioner.train()([TEXTS[0]] * MANY)[0](hiddens)
    counts = {key: torch.isclose(drawn, value, atol=1e-5).all(dim=1).sum().item() for key, value in outcomes.items()}
    assert sum(counts.values()) == MANY
    for (a, b), share in {(0, 0): 0.375, (1, 0): 0.375, (0, 1): 0.125, (1, 1): 0.125}.items():
        assert abs(counts[bool(a), bool(b)] / MANY - share) < 0.1


@pytest.mark.parametrize('make_one', [lambda *a, **k: make('attention', (6,), *a, **k), make_raw], ids=['attention', 'raw'])
def test_encoders_of_tokens_are_dropped_independently(make_one):
    torch.manual_seed(0)
    conditioner = make_one(two_encoders(), cond_drop_prob=(0.5, 0.25)).train()
    returned = conditioner(['a red dog'] * MANY, return_text_cond=True)
    mask = returned[1].mask
    assert mask.shape == (MANY, 6)
    first, second = mask[:, :3], mask[:, 3:]
    assert torch.equal(first.all(1), first.any(1))
    assert torch.equal(second.all(1), second.any(1))
    for share, dropped in ((0.5, ~first[:, 0]), (0.25, ~second[:, 0]), (0.125, ~first[:, 0] & ~second[:, 0])):
        assert abs(dropped.float().mean() - share) < 0.1


def test_an_encoder_that_is_always_dropped_has_no_influence():
    one, two = two_encoders()
    conditioner = make('attention', encoders=[one, two])
    alone = make('attention', encoders=[one], dim_latent=12)
    alone.load_state_dict({k: v for k, v in conditioner.state_dict().items() if not k.startswith('to_latent_dims.1')})
    hiddens = noise(3, 6, 4)
    torch.testing.assert_close(conditioner(TEXTS, cond_drop_prob=(0.0, 1.0))[0](hiddens), alone(TEXTS)[0](hiddens))


@settings(max_examples=20, deadline=None)
@given(keep=st.lists(st.booleans(), min_size=3, max_size=3), kind=st.sampled_from(list(KINDS)))
def test_a_dropped_sample_leaves_its_batch_mates_alone(keep, kind):
    conditioner = make(kind, null='empty')
    hiddens = noise(3, 6, 2)
    mixed = conditioner(TEXTS, cond_drop_prob=torch.tensor([0.0 if k else 1.0 for k in keep]))[0](hiddens)
    kept, null = conditioner(TEXTS)[0](hiddens), conditioner(TEXTS, cond_drop_prob=1.0)[0](hiddens)
    expected = torch.stack([kept[i] if k else null[i] for i, k in enumerate(keep)])
    torch.testing.assert_close(mixed, expected)


def test_dropout_of_a_seed_is_reproducible():
    conditioner = randomised(TextConditioner((6,), [TinyEncoder()], cond_drop_prob=0.5)).train()
    outputs = []
    for _ in range(2):
        torch.manual_seed(7)
        outputs.append(conditioner(TEXTS * 4)[0](noise(12, 6)))
    torch.testing.assert_close(*outputs, rtol=0, atol=0)


@pytest.mark.parametrize('make_one', [lambda **k: make('attention', **k), make_raw], ids=['attention', 'raw'])
def test_the_empty_null_replaces_joined_tokens_of_two_encoders(make_one):
    """What `embed_texts` returned holds the tokens of both encoders in one tensor: the null is joined in the same order."""
    conditioner = make_one(encoders=two_encoders(), null='empty')
    embeds, keep = conditioner.embed_texts(TEXTS), torch.tensor([1.0, 0.0, 0.0])  # the first text is dropped
    embed, mask = conditioner(text_embeds=embeds, cond_drop_prob=keep, return_text_cond=True)[1]
    (empty, real), longest = conditioner.embed_texts(['']), embed.shape[1]
    assert longest == max(embeds.embed.shape[1], empty.shape[1])
    count = empty.shape[1]
    torch.testing.assert_close(embed[0, :count][real[0]], empty[0][real[0]])
    assert mask[0].tolist() == [*real[0].tolist(), *[False] * (longest - count)]
    torch.testing.assert_close(embed[1:][mask[1:]], embeds.embed[1:][embeds.mask[1:]])
    assert torch.equal(mask[1:], embeds.mask[1:])
