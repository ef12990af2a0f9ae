"""Averages of weights: what was prepared from older ones is refused, however the new ones were written."""

import copy

import pytest
import torch
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from classifier_free_guidance_pytorch.errors import UsageError
from tests.company.models import GUIDED, KINDS, TEXTS, build, inputs

kinds = pytest.mark.parametrize('kind', KINDS)


def step(model):
    """One training step, which changes every weight."""
    model.train()
    for weight in model.parameters():
        weight.grad = torch.ones_like(weight)
    torch.optim.SGD(model.parameters(), lr=0.1).step()


@torch.no_grad()  # as one samples, so that conditions are remembered
def check(averaged, update, fresh):
    """What was prepared, or remembered from texts, before an update of the average is used no more after it."""
    x = inputs()
    old, prepared = averaged(x, **GUIDED), averaged.prepare(TEXTS)
    torch.testing.assert_close(averaged(x, text_condition=prepared, cond_scale=3.0), old)
    update()
    with pytest.raises(UsageError, match='weights have changed since this text_condition was prepared'):
        averaged(x, text_condition=prepared)
    new = averaged(x, **GUIDED)
    assert not torch.allclose(new, old)
    torch.testing.assert_close(new, fresh()(x, **GUIDED), rtol=0, atol=0)


def unseen(model):
    """The same weights in a model that has never been called."""
    other = copy.deepcopy(model)
    other.load_state_dict(model.state_dict())
    return other.eval()


@kinds
@pytest.mark.parametrize('foreach', [False, True])
def test_ema_pytorch(kind, foreach):
    ema_pytorch = pytest.importorskip('ema_pytorch')
    model = build(kind)
    ema = ema_pytorch.EMA(model, beta=0.9, update_every=1, update_after_step=0, use_foreach=foreach)
    ema.update()  # the first copies
    step(model)
    averaged = ema.ema_model.eval()
    check(averaged, ema.update, lambda: unseen(averaged))
    x = inputs()
    torch.testing.assert_close(ema(x, **GUIDED), averaged(x, **GUIDED), rtol=0, atol=0)


@kinds
@pytest.mark.parametrize('foreach', [False, True])
def test_diffusers(kind, foreach):
    training_utils = pytest.importorskip('diffusers.training_utils')
    model = build(kind)
    ema = training_utils.EMAModel(model.parameters(), decay=0.9, foreach=foreach)
    for _ in range(3):  # the first of them copies
        step(model)
        ema.step(model.parameters())
    model.eval()
    ema.store(model.parameters())
    check(model, lambda: ema.copy_to(model.parameters()), lambda: unseen(model))
    check(model, lambda: ema.restore(model.parameters()), lambda: unseen(model))


@kinds
@pytest.mark.parametrize('more', [{}, {'multi_avg_fn': get_ema_multi_avg_fn(0.9)}], ids=['mean', 'ema'])
def test_torch(kind, more):
    model = build(kind)
    average = AveragedModel(model, **more)
    average.update_parameters(model)
    step(model)
    averaged = average.module.eval()
    check(averaged, lambda: average.update_parameters(model), lambda: unseen(averaged))
    torch.testing.assert_close(average(inputs(), **GUIDED), averaged(inputs(), **GUIDED), rtol=0, atol=0)


def every_weight(write):
    def update(model):
        for weight in model.text_conditioner.parameters():
            write(weight.data)

    return update


WRITES = {
    'all': every_weight(lambda data: data.mul_(1.01)),
    'doubled': every_weight(lambda data: data.mul_(2)),
    'the first value': every_weight(lambda data: data.view(-1)[:1].add_(1)),
    'one column': every_weight(lambda data: data.select(-1, -1).add_(1)),
    'half': every_weight(lambda data: data.view(-1)[data.numel() // 2 :].zero_()),
    'one weight': lambda model: next(model.text_conditioner.parameters()).data.add_(1),
    'foreach': lambda model: torch._foreach_mul_([w.data for w in model.text_conditioner.parameters()], 1.5),
    'numpy': every_weight(lambda data: data.numpy().__imul__(1.5)),
    'exchanged': lambda model: [
        setattr(w, 'data', w.data.clone().add_(1)) for w in model.text_conditioner.parameters()
    ],
}  # fmt: skip


@torch.no_grad()
@pytest.mark.parametrize('write', WRITES.values(), ids=WRITES)
@kinds
@pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16], ids=str)
def test_writes_through_data_are_seen(kind, write, dtype):
    if dtype is torch.bfloat16 and write is WRITES['numpy']:
        pytest.skip('numpy has no bfloat16')
    model = build(kind).to(dtype)
    x = inputs().to(dtype)
    model(x, **GUIDED)
    prepared = model.prepare(TEXTS)
    model(x, text_condition=prepared)
    write(model)
    with pytest.raises(UsageError, match='weights have changed'):
        model(x, text_condition=prepared)
    torch.testing.assert_close(model(x, **GUIDED), unseen(model)(x, **GUIDED), rtol=0, atol=0)
