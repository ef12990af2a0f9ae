"""Training mode: dropout, what is asked for, and what is refused."""

import pytest
import torch

from classifier_free_guidance_pytorch import guidance
from classifier_free_guidance_pytorch.errors import UsageError
from tests.conditioners.making import noise
from tests.decorator.models import KINDS, TEXTS, build

kinds = pytest.mark.parametrize('kind', KINDS)
with_text = pytest.mark.parametrize('kind', [kind for kind in KINDS if kind != 'null'])


@kinds
def test_a_training_step_is_one_pass_and_one_encoding(kind):
    model = build(kind, training=True, text_condition_cond_drop_prob=0.2)
    model(noise(3, 6), texts=TEXTS).sum().backward()
    assert model.passes == 1
    assert model.encoder.calls == (0 if kind == 'null' else 1)


def test_without_text_conditioning_nothing_is_needed_in_training():
    model, x = build('null', training=True), noise(3, 6)
    expected = model.inner(x).tanh()
    for call in ({}, {'texts': TEXTS}, {'texts': TEXTS, 'cond_drop_prob': 0.3}, {'cond_drop_prob': 1.0}):
        torch.testing.assert_close(model(x, **call), expected)
    model.eval()
    torch.testing.assert_close(model(x, texts=TEXTS, cond_scale=3.0), expected)


@with_text
def test_dropped_samples_come_out_as_the_null(kind):
    torch.manual_seed(0)
    model = build(kind, text_condition_cond_drop_prob=0.5)
    x, texts = noise(1, 6).expand(100, -1), [TEXTS[0]] * 100
    cond, null = model(x, texts=texts), model(x)
    drawn = model.train()(x, texts=texts)
    is_null, is_cond = (torch.isclose(drawn, one, atol=1e-5).all(dim=1) for one in (null, cond))
    assert (is_null ^ is_cond).all()
    assert abs(is_null.float().mean() - 0.5) < 0.2


@with_text
def test_the_probability_of_the_call(kind):
    model = build(kind, text_condition_cond_drop_prob=0.5)
    x = noise(3, 6)
    cond, null = model(x, texts=TEXTS), model(x)
    model.train()
    torch.testing.assert_close(model(x, texts=TEXTS, cond_drop_prob=0.0), cond)
    torch.testing.assert_close(model(x, texts=TEXTS, cond_drop_prob=1), null)
    torch.testing.assert_close(model(x, cond_drop_prob=1.0), null)
    torch.testing.assert_close(model(x, texts=TEXTS, cond_drop_prob=torch.tensor([1.0, 0.0, 0.0]))[1:], cond[1:])


@with_text
def test_stored_encodings_train_like_texts(kind):
    x = noise(3, 6)
    gradients = []
    for stored in (False, True):
        model = build(kind, training=True)
        call = {'text_embeds': model.encode_texts(TEXTS)} if stored else {'texts': TEXTS}
        model(x, **call).square().sum().backward()
        gradients.append({name: p.grad for name, p in model.named_parameters() if p.grad is not None})
    assert gradients[0].keys() == gradients[1].keys()
    torch.testing.assert_close(gradients[0], gradients[1])


@with_text
def test_texts_are_asked_for(kind):
    model = build(kind, training=True)
    with pytest.raises(UsageError, match=r'no texts were given in training: pass texts= .* with cond_drop_prob=1\.'):
        model(noise(3, 6))
    assert model.passes == 0


@with_text
@pytest.mark.parametrize(
    'call',
    [
        {'cond_scale': 3.0}, {'cond_scale': torch.full((3,), 3.0)}, {'rescale_phi': 0.5}, {'remove_parallel_component': True},
        {'guidance': guidance.APG()}, {'return_unconditioned': True},
    ],
    ids=lambda call: next(iter(call)),
)  # fmt: skip
def test_guidance_is_refused_in_training(kind, call):
    model = build(kind, training=True)
    with pytest.raises(UsageError, match=r'is for sampling, but the model is in training mode: call model.eval\(\) first'):
        model(noise(3, 6), texts=TEXTS, **call)
    assert (model.passes, model.encoder.calls) == (0, 0)


@with_text
def test_what_else_is_for_sampling(kind):
    model = build(kind)
    prepared = model.prepare(TEXTS)
    model.train()
    with pytest.raises(UsageError, match=r'prepared text_condition carries no gradient .* in training pass texts='):
        model(noise(3, 6), text_condition=prepared)
    with pytest.raises(UsageError, match=r'negative texts steer guidance, which is for sampling'):
        model(noise(3, 6), texts=TEXTS, negative_texts=['grey'])
    assert model.passes == 0


def test_a_few_steps_of_training_lower_the_loss():
    torch.manual_seed(0)
    model, x = build('film', training=True, text_condition_cond_drop_prob=0.1), noise(3, 6)
    target = torch.tensor([[0.5] * 6, [-0.5] * 6, [0.0] * 6])
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
    losses = []
    for _ in range(60):
        loss = (model(x, texts=TEXTS) - target).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert sum(losses[-10:]) < sum(losses[:10]) / 4
