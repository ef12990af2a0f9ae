"""Several conditions, several negatives, and weakened passes."""

import pytest
import torch
from torch import nn

from classifier_free_guidance_pytorch import classifier_free_guidance_class_decorator, guidance
from classifier_free_guidance_pytorch.errors import ConfigError, UsageError
from classifier_free_guidance_pytorch.perturb import perturbed_attention, skip_layers
from tests.conditioners.making import noise
from tests.decorator.models import KINDS, TEXTS, build

kinds = pytest.mark.parametrize('kind', [kind for kind in KINDS if kind != 'null'])
OTHERS = ['a red dog', 'two blue squares', 'nothing at all']
NEGATIVES = [['grey'], ['blurry', 'dull', 'flat']]


def predictions(model, x, *many):
    return [model(x, texts=texts) for texts in many]


@kinds
@pytest.mark.parametrize('prepared', [False, True])
def test_composed_conditions(kind, prepared):
    model, x = build(kind), noise(3, 6)
    first, second = predictions(model, x, TEXTS, OTHERS)
    null = model(x, texts=TEXTS, cond_drop_prob=1.0)
    given = {'text_condition': [model.prepare(TEXTS), model.prepare(OTHERS)]} if prepared else {'texts': [TEXTS, OTHERS]}
    guided = model(x, **given, cond_scale=2.0, guidance=guidance.Compose((1.0, -0.5)))
    torch.testing.assert_close(guided, null + 2.0 * ((first - null) - 0.5 * (second - null)), rtol=1e-5, atol=1e-5)


@kinds
def test_chained_conditions(kind):
    model, x = build(kind), noise(3, 6)
    whole, part = predictions(model, x, TEXTS, OTHERS)
    null = model(x, texts=TEXTS, cond_drop_prob=1.0)
    guided = model(x, texts=[TEXTS, OTHERS], cond_scale=7.5, guidance=guidance.Chain((1.5, 7.5)))
    torch.testing.assert_close(guided, null + 1.5 * (part - null) + 7.5 * (whole - part), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize('prepared', [False, True])
def test_a_chain_at_scale_one_runs_the_whole_condition_alone(prepared):
    model, x = build('film'), noise(3, 6)
    (whole,) = predictions(model, x, TEXTS)
    given = {'text_condition': [model.prepare(TEXTS), model.prepare(OTHERS)]} if prepared else {'texts': [TEXTS, OTHERS]}
    model.passes = 0
    torch.testing.assert_close(model(x, **given, cond_scale=1.0, guidance=guidance.Chain((1.5, 7.5))), whole)
    assert model.passes == 1


@kinds
@pytest.mark.parametrize('prepared', [False, True])
def test_perpendicular_negatives(kind, prepared):
    model, x = build(kind), noise(3, 6)
    cond, null = model(x, texts=TEXTS), model(x, texts=TEXTS, cond_drop_prob=1.0)
    negatives = NEGATIVES[:1] if prepared else NEGATIVES
    expected = []
    for i in range(3):
        d = cond[i] - null[i]
        across = torch.zeros(6)
        for texts in negatives:
            n = model(x, texts=texts)[i] - null[i]
            across += n - (n @ d) / (d @ d) * d
        expected.append(null[i] + 3.0 * (d - across))
    texts = {'text_condition': model.prepare(TEXTS, negatives[0])} if prepared else {'texts': TEXTS, 'negative_texts': negatives}
    guided = model(x, **texts, cond_scale=3.0, guidance=guidance.PerpNeg())
    torch.testing.assert_close(guided, torch.stack(expected), rtol=1e-4, atol=1e-5)


def test_every_text_is_encoded_once_for_all_branches():
    model = build()
    rule = guidance.Compose() + guidance.PerpNeg()
    for _ in range(2):
        model(noise(3, 6), texts=[TEXTS, OTHERS], negative_texts=NEGATIVES, cond_scale=2.0, guidance=rule)
    assert model.encoder.calls == 4
    assert model.passes == 2 * 5


def test_conditions_and_rules_that_do_not_fit_each_other():
    model, x = build(), noise(3, 6)
    cases = (
        ({'texts': [TEXTS, OTHERS]}, ConfigError, '2 conditions were given, but this call has one: pass one text'),
        ({'texts': TEXTS, 'guidance': guidance.Compose()}, UsageError, r'several conditions: pass texts=\[\[...\], \[...\]\]'),
        ({'texts': TEXTS, 'guidance': guidance.PerpNeg()}, UsageError, 'steers away from negative texts: pass negative_texts='),
        ({'texts': TEXTS, 'guidance': guidance.CFG() + guidance.Weak()}, UsageError, 'needs a weak pass: pass weak= a dict'),
        ({'texts': TEXTS, 'weak': {'extra': None}}, ConfigError, 'asks for no weak pass: add guidance.Weak'),
        ({'texts': TEXTS, 'guidance': guidance.NAG()}, ConfigError, 'cross-attention, which a TextConditioner does not have'),
    )
    for call, error, message in cases:
        with pytest.raises(error, match=message):
            model(x, **call, cond_scale=2.0)


def test_several_texts_where_one_is_used_are_refused():
    """Also in training: a column of several captions for every sample would be read as the captions of different samples."""
    model, x = build(), noise(3, 6)
    with pytest.raises(ConfigError, match='2 batches of negative_texts were given, but this rule takes one'):
        model(x, texts=TEXTS, negative_texts=[TEXTS, OTHERS], cond_scale=2.0)
    model.train()
    with pytest.raises(ConfigError, match=r'pass one text for each sample \(of several captions, choose one'):
        model(x, texts=[TEXTS, OTHERS])


@classifier_free_guidance_class_decorator
class Blocks(nn.Module):
    def __init__(self, dim=6):
        super().__init__()
        self.attn = nn.MultiheadAttention(dim, 2, batch_first=True)
        self.mlp = nn.Linear(dim, dim)
        self.passes = 0

    def forward(self, x, cond_fns, factor=1.0):
        self.passes += 1
        h = cond_fns[0](x)
        h = h + self.attn(h, h, h, need_weights=False)[0]
        return self.mlp(h) * factor


def blocks(**arguments):
    return build(cls=Blocks, text_condition_hiddens_channel_first=False, **arguments)


RULE = guidance.CFG() + guidance.Weak(2.0)


def expected_of(model, x, weak):
    cond, null = model(x, texts=TEXTS), model(x)
    return null + 3.0 * (cond - null) + 2.0 * (cond - weak)


def test_a_weak_pass_by_keywords():
    model, x = blocks(), noise(3, 4, 6)
    expected = expected_of(model, x, model(x, texts=TEXTS, factor=0.5))
    for batched in (False, True):
        model.passes = 0
        guided = model(x, texts=TEXTS, cond_scale=3.0, guidance=RULE, weak={'factor': 0.5}, cfg_batched=batched)
        torch.testing.assert_close(guided, expected, rtol=1e-5, atol=1e-5)
        assert model.passes == (2 if batched else 3)


def test_a_weak_pass_by_a_second_model():
    model, other, x = blocks(), build('attention', cls=Blocks, text_condition_hiddens_channel_first=False), noise(3, 4, 6)
    guided = model(x, texts=TEXTS, cond_scale=3.0, guidance=RULE, weak=other)
    torch.testing.assert_close(guided, expected_of(model, x, other(x, texts=TEXTS)), rtol=1e-5, atol=1e-5)
    assert other.passes == 2
    with pytest.raises(UsageError, match=r'second model in weak= cannot use it: pass texts='):
        model(x, text_condition=model.prepare(TEXTS), cond_scale=3.0, guidance=RULE, weak=other)


@pytest.mark.parametrize('spec', [perturbed_attention('attn'), skip_layers('mlp')], ids=['perturbed', 'skipped'])
def test_a_weak_pass_by_a_spec(spec):
    model, x = blocks(), noise(3, 4, 6)
    with spec.applied(model):
        weak = model(x, texts=TEXTS)
    assert not torch.allclose(weak, model(x, texts=TEXTS))
    guided = model(x, texts=TEXTS, cond_scale=3.0, guidance=RULE, weak=spec)
    torch.testing.assert_close(guided, expected_of(model, x, weak), rtol=1e-5, atol=1e-5)
    prepared = model(x, text_condition=model.prepare(TEXTS), cond_scale=3.0, guidance=RULE, weak=spec)
    torch.testing.assert_close(prepared, guided)


def test_guidance_inside_attention_costs_one_pass():
    model, x = build('attention'), noise(3, 6)
    guided = model(x, texts=TEXTS, cond_scale=4.0, guidance=guidance.NAG())
    assert model.passes == 1
    assert not torch.allclose(guided, model(x, texts=TEXTS))
    torch.testing.assert_close(model(x, texts=TEXTS, cond_scale=1.0, guidance=guidance.NAG()), model(x, texts=TEXTS))
    prepared = model.prepare(TEXTS)
    torch.testing.assert_close(model(x, text_condition=prepared, cond_scale=4.0, guidance=guidance.NAG()), guided)
