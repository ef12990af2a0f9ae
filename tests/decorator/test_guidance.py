"""The guided prediction, against the formula, and the passes it costs."""

import pytest
import torch
from torch import nn

from classifier_free_guidance_pytorch import classifier_free_guidance_class_decorator, guidance
from tests.conditioners.making import noise
from tests.decorator.models import KINDS, TEXTS, build

kinds = pytest.mark.parametrize('kind', KINDS)
SCALES = (-1.5, 0.0, 0.5, 1.0, 3.0)


def branches(model, x):
    """The conditional and the null prediction."""
    return model(x, texts=TEXTS), model(x)


@kinds
@pytest.mark.parametrize('scale', SCALES)
def test_the_formula_at_every_scale(kind, scale):
    model, x = build(kind), noise(3, 6)
    cond, null = branches(model, x)
    expected = null + scale * (cond - null)
    torch.testing.assert_close(model(x, texts=TEXTS, cond_scale=scale), expected, rtol=1e-4, atol=1e-5)
    assert kind == 'null' or not torch.allclose(cond, null)


@kinds
def test_one_scale_per_sample(kind):
    model, x = build(kind), noise(3, 6)
    cond, null = branches(model, x)
    for scales in (torch.tensor([0.0, 1.0, 4.0]), torch.tensor([[-1.0], [1.0], [2.0]])):
        expected = null + scales.view(3, 1) * (cond - null)
        torch.testing.assert_close(model(x, texts=TEXTS, cond_scale=scales), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ('scale', 'passes'),
    [
        (1.0, 1),
        (1, 1),
        (0.0, 1),
        (3.0, 2),
        (-1.0, 2),
        (torch.ones(3), 1),
        (torch.zeros(3), 1),
        (torch.tensor([1.0, 1.0, 2.0]), 2),
    ],
    ids=str,
)
def test_the_passes_that_a_scale_costs(scale, passes):
    model = build()
    model(noise(3, 6), texts=TEXTS, cond_scale=scale)
    assert model.passes == passes


def test_the_passes_of_other_calls():
    for call, passes in (
        ({'cond_scale': 3.0, 'cfg_batched': True}, 1),
        ({'return_unconditioned': True}, 2),
        ({'cond_scale': 0.0, 'return_unconditioned': True}, 1),
        ({'cond_scale': 1.0, 'rescale_phi': 0.7}, 1),
        ({'cond_scale': 3.0, 'negative_texts': ['blurry']}, 2),
        ({'cond_scale': 3.0, 'guidance': guidance.CFGZeroStar(zero_init=0.5), 'guidance_kwargs': {'progress': 0.1}}, 1),
    ):
        model = build()
        model(noise(3, 6), texts=TEXTS, **call)
        assert model.passes == passes, call
    model = build()
    model(noise(3, 6), cond_scale=3.0)
    assert model.passes == 1, 'without texts there is nothing to guide'


@kinds
def test_the_encoder_runs_once_per_text(kind):
    model = build(kind)
    for _ in range(4):
        model(noise(3, 6), texts=TEXTS, negative_texts=['blurry'], cond_scale=3.0)
    assert model.encoder.calls == (0 if kind == 'null' else 2)
    model = build(kind)
    for _ in range(4):
        model(noise(3, 6), texts=TEXTS, cond_scale=3.0, rescale_phi=0.5)
    assert model.encoder.calls == (0 if kind == 'null' else 1)


@kinds
def test_negative_texts_replace_the_null(kind):
    model, x = build(kind), noise(3, 6)
    cond, negative = model(x, texts=TEXTS), model(x, texts=['blurry and grey'])
    expected = negative + 3.0 * (cond - negative)
    torch.testing.assert_close(model(x, texts=TEXTS, negative_texts=['blurry and grey'], cond_scale=3.0), expected)
    if kind != 'null':
        stored = model.encode_texts(['blurry and grey'])
        guided = model(x, text_embeds=model.encode_texts(TEXTS), negative_text_embeds=stored, cond_scale=3.0)
        torch.testing.assert_close(guided, expected)
        assert not torch.allclose(guided, model(x, texts=TEXTS, cond_scale=3.0))


@kinds
@pytest.mark.parametrize('scale', SCALES)
def test_the_null_prediction_is_returned_at_every_scale(kind, scale):
    model, x = build(kind), noise(3, 6)
    cond, null = branches(model, x)
    guided, returned = model(x, texts=TEXTS, cond_scale=scale, return_unconditioned=True)
    torch.testing.assert_close(returned, null)
    torch.testing.assert_close(guided, null + scale * (cond - null), rtol=1e-4, atol=1e-5)


def test_the_null_prediction_is_returned_without_texts():
    model, x = build(), noise(3, 6)
    guided, null = model(x, cond_scale=3.0, return_unconditioned=True)
    torch.testing.assert_close(guided, model(x))
    torch.testing.assert_close(null, model(x))


@kinds
def test_a_probability_of_the_caller_is_respected_in_eval_mode(kind):
    model, x = build(kind), noise(3, 6)
    cond, null = branches(model, x)
    torch.testing.assert_close(model(x, texts=TEXTS, cond_drop_prob=1.0), null)
    torch.testing.assert_close(model(x, texts=TEXTS, cond_drop_prob=0.0), cond)
    torch.testing.assert_close(model(x, texts=TEXTS, cond_drop_prob=1.0, cond_scale=3.0), null)
    if kind != 'null':
        some = model(x, texts=TEXTS, cond_drop_prob=torch.tensor([1.0, 0.0, 1.0]))
        torch.testing.assert_close(some, torch.stack((null[0], cond[1], null[2])))


@kinds
def test_one_text_for_the_whole_batch(kind):
    model, x = build(kind), noise(3, 6)
    torch.testing.assert_close(model(x, texts=TEXTS[:1], cond_scale=3.0), model(x, texts=TEXTS[:1] * 3, cond_scale=3.0))
    assert kind == 'null' or model.encoder.calls == 2


@pytest.mark.parametrize('kind', ['film', 'attention', 'concat', 'raw'])
def test_one_text_is_dropped_for_each_sample_apart(kind):
    torch.manual_seed(0)
    model = build(kind, training=True, text_condition_cond_drop_prob=0.5)
    x = noise(1, 6).expand(64, -1)
    predictions = {tuple(row.tolist()) for row in (model(x, texts=TEXTS[:1]) * 1e4).round()}
    assert len(predictions) == 2


@kinds
def test_a_sample_is_guided_alone_as_in_its_batch(kind):
    model, x = build(kind), noise(3, 6)
    call = {'cond_scale': 3.0, 'rescale_phi': 0.6, 'remove_parallel_component': True}
    batched = model(x, texts=TEXTS, **call)
    alone = [model(x[i : i + 1], texts=TEXTS[i : i + 1], **call) for i in range(3)]
    torch.testing.assert_close(batched, torch.cat(alone), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize('shape', [(3, 6), (3, 2, 6), (3, 2, 2, 6)], ids=str)
def test_rescaling_is_per_sample_over_everything_but_the_batch(shape):
    model = build('film', text_condition_hiddens_channel_first=False)
    x = noise(*shape)
    cond, null = (model(x, texts=TEXTS, cond_drop_prob=drop).double() for drop in (0.0, 1.0))
    expected = []
    for c, u in zip(cond, null, strict=True):
        g = u + 4.0 * (c - u)
        expected.append(0.7 * g * c.flatten().std() / g.flatten().std() + 0.3 * g)
    guided = model(x, texts=TEXTS, cond_scale=4.0, rescale_phi=0.7)
    torch.testing.assert_close(guided.double(), torch.stack(expected), rtol=1e-4, atol=1e-5)


def test_rescaling_stays_finite_for_one_feature_and_for_constants():
    constant = build()
    with torch.no_grad():
        for weight in constant.parameters():
            weight.zero_()
    assert constant(noise(3, 6), texts=TEXTS, cond_scale=4.0, rescale_phi=1.0).isfinite().all()
    one = build(text_condition_hidden_dims=(1,), dim=1)
    assert one(noise(3, 1), texts=TEXTS, cond_scale=4.0, rescale_phi=1.0).isfinite().all()


@pytest.mark.parametrize('frac', [0.0, 0.25, 1.0])
def test_the_parallel_part_of_the_update_is_removed(frac):
    model, x = build(), noise(3, 6)
    cond, null = (t.double() for t in branches(model, x))
    expected = []
    for c, u in zip(cond, null, strict=True):
        d = c - u
        along = (d @ c) / (c @ c) * c
        expected.append(c + 2.0 * (d - along + frac * along))
    guided = model(x, texts=TEXTS, cond_scale=3.0, remove_parallel_component=True, keep_parallel_frac=frac)
    torch.testing.assert_close(guided.double(), torch.stack(expected), rtol=1e-4, atol=1e-5)


def test_schedules_of_two_noise_levels():
    model, x = build(), noise(3, 6)
    cond, null = branches(model, x)
    at = {'sigma': 1.0, 'alpha': 0.0, 'next_sigma': 0.96, 'next_alpha': 0.04}
    guided = model(x, texts=TEXTS, cond_scale=guidance.cfg_plus_plus(0.6), guidance_kwargs=at)
    torch.testing.assert_close(guided, null + 0.6 * (cond - null))


def test_zero_steps_have_the_output_of_every_step():
    """Its container, the shape of the prediction, which need not be that of x, and what else is in it; only guided is zero."""

    @classifier_free_guidance_class_decorator
    class Wide(nn.Module):
        def forward(self, x, cond_fns):
            hidden = cond_fns[0](x)
            return {'pred': torch.cat((hidden, hidden), dim=1), 'hidden': hidden}

    model, x = build(cls=Wide), noise(3, 6)
    rule = guidance.CFGZeroStar(zero_init=0.1)
    first, later = (model(x, texts=TEXTS, cond_scale=3.0, guidance=rule, guidance_kwargs={'progress': p}) for p in (0.0, 0.5))
    assert type(first) is type(later) is dict
    assert torch.equal(first['pred'], torch.zeros(3, 12))
    assert later['pred'].shape == (3, 12)
    torch.testing.assert_close(first['hidden'], model(x, texts=TEXTS)['hidden'])
    in_eps = guidance.CFGZeroStar(zero_init=0.1).in_space('flow', model='eps')
    at = {'progress': 0.0, 'sigma': 0.75, 'alpha': 0.25}
    guided = build()(x, texts=TEXTS, cond_scale=3.0, guidance=in_eps, guidance_kwargs=at)
    velocity = guidance.convert(guided, 'eps', 'flow', x, 0.75, 0.25)
    torch.testing.assert_close(velocity, torch.zeros(3, 6), atol=1e-6, rtol=0)


def test_a_rule_is_handed_what_the_caller_says():
    model, x = build(), noise(3, 6)
    cond, null = branches(model, x)
    rule = guidance.APG(momentum=-0.5)
    state = rule.init_state()
    expected_state = rule.init_state()
    for _ in range(2):
        guided = model(x, texts=TEXTS, cond_scale=3.0, guidance=rule, guidance_state=state)
        torch.testing.assert_close(guided, rule(cond, null, 3.0, state=expected_state))
    in_x0 = guidance.CFG().in_x0('eps')
    at = {'sigma': 0.5, 'alpha': 0.8}
    guided = model(x, texts=TEXTS, cond_scale=3.0, guidance=in_x0, guidance_kwargs=at)
    torch.testing.assert_close(guided, in_x0(cond, null, 3.0, x=x, **at))


@pytest.mark.parametrize('kind', ['film', 'attention', 'concat', 'raw'])
def test_prepared_conditions_equal_texts(kind):
    model, x = build(kind), noise(3, 6)
    prepared = model.prepare(TEXTS)
    calls = model.encoder.calls
    for call in ({}, {'cond_scale': 3.0}, {'cond_scale': 0.0}, {'cond_scale': 3.0, 'cfg_batched': True, 'rescale_phi': 0.5}):
        torch.testing.assert_close(model(x, text_condition=prepared, **call), model(x, texts=TEXTS, **call))
    with_negatives = model.prepare(TEXTS, ['blurry'])
    calls = model.encoder.calls
    guided = model(x, text_condition=with_negatives, cond_scale=3.0)
    assert model.encoder.calls == calls
    torch.testing.assert_close(guided, model(x, texts=TEXTS, negative_texts=['blurry'], cond_scale=3.0))
    torch.testing.assert_close(
        model(x[1:], text_condition=prepared[1:], cond_scale=3.0), model(x, texts=TEXTS, cond_scale=3.0)[1:]
    )


@pytest.mark.parametrize(
    'rule',
    [guidance.APG(norm=1.0), guidance.ReuseDelta(guidance.CFG()), guidance.CFG().then(guidance.rescale_to_cond(0.5))],
    ids=repr,
)
def test_without_texts_every_rule_gives_the_null_prediction(rule):
    model, x = build(), noise(3, 6)
    call = {'cond_scale': 3.0, 'guidance': rule, 'guidance_state': rule.init_state()}
    torch.testing.assert_close(model(x, **call), model(x), rtol=0, atol=0)
    guided, null = model(x, **call, return_unconditioned=True)
    torch.testing.assert_close(guided, null, rtol=0, atol=0)


def test_returning_the_null_prediction_changes_no_guided_one():
    """At a step at which a rule does without its null pass, the null prediction is made for the caller alone."""
    rule, steps = guidance.ReuseDelta(guidance.CFG(), every=2), noise(4, 3, 6)
    found = []
    for pair in (False, True):
        model, state = build(), rule.init_state()
        call = {'texts': TEXTS, 'cond_scale': 3.0, 'guidance': rule, 'guidance_state': state, 'return_unconditioned': pair}
        found.append([model(x, **call) for x in steps])
        assert model.passes == (8 if pair else 6)
        assert state.saved == 2 * 3
    for alone, (guided, null), x in zip(*found, steps, strict=True):
        torch.testing.assert_close(guided, alone, rtol=0, atol=0)
        torch.testing.assert_close(null, model(x))
