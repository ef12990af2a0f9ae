"""Decorated models on the device: numbers, moves, precisions, and no waiting."""

import copy
import pickle

import pytest
import torch

from tests.conditioners.making import noise
from tests.decorator.models import KINDS, TEXTS, build

DTYPES = [torch.float32, torch.bfloat16, torch.float16]
every_kind = pytest.mark.parametrize('kind', KINDS)
every_dtype = pytest.mark.parametrize('dtype', DTYPES, ids=str)


def text_of(model, kind, form='texts'):
    if kind == 'null':
        return {}
    makers = {
        'texts': lambda: {'texts': TEXTS},
        'embeddings': lambda: {'text_embeds': model.encode_texts(TEXTS)},
        'prepared': lambda: {'text_condition': model.prepare(TEXTS)},
        'negative': lambda: {'text_condition': model.prepare(TEXTS, ['grey', None, 'two words'])},
    }
    return makers[form]()


def tolerance(dtype):
    return {torch.float32: 1e-3, torch.bfloat16: 0.1, torch.float16: 0.02}[dtype]


@every_kind
@every_dtype
@torch.no_grad()
def test_guided_steps_are_those_of_the_cpu(kind, dtype, device):
    exact, model, x = build(kind).double(), build(kind).to(device, dtype), noise(3, 6)
    expected = exact(x.double(), **text_of(exact, kind), cond_scale=2.0)
    for form in ('texts', 'embeddings', 'prepared'):
        guided = model(x.to(device, dtype), **text_of(model, kind, form), cond_scale=2.0)
        assert (guided.dtype, guided.device.type) == (dtype, device.type)
        allowed = tolerance(dtype)
        torch.testing.assert_close(guided.cpu().double(), expected, rtol=allowed, atol=allowed)


@every_kind
@every_dtype
@torch.no_grad()
def test_one_pass_for_both_branches(kind, dtype, device):
    model, x = build(kind).to(device, dtype), noise(3, 6).to(device, dtype)
    text, allowed = text_of(model, kind, 'prepared'), tolerance(dtype)
    for scale in (3.0, torch.tensor([1.0, 3.0, 0.0], device=device), torch.tensor([1.0, 3.0, 0.0])):
        apart, together = (model(x, **text, cond_scale=scale, cfg_batched=batched) for batched in (False, True))
        torch.testing.assert_close(together, apart, rtol=allowed, atol=allowed)


@every_kind
@pytest.mark.parametrize('form', ['texts', 'embeddings', 'prepared', 'negative'])
@pytest.mark.parametrize('batched', [False, True])
@torch.no_grad()
def test_a_guided_step_never_waits(kind, form, batched, device, never_waiting):
    model = build(kind).to(device)
    text, steps = text_of(model, kind, form), [noise(3, 6, seed=seed).to(device) for seed in range(3)]
    model(steps[0], **text, cond_scale=3.0, cfg_batched=batched)
    with never_waiting():
        for x in steps[1:]:
            model(x, **text, cond_scale=3.0, cfg_batched=batched)


@every_kind
@torch.no_grad()
def test_scales_on_the_device_or_the_cpu_never_wait(kind, on_gpu, device, never_waiting):
    model, x = build(kind).to(device), noise(3, 6).to(device)
    text, scale = text_of(model, kind, 'prepared'), torch.tensor([2.0, 1.0, 4.0])
    calls = [{'cond_scale': one, 'cfg_batched': batched} for one in (scale, scale.to(device)) for batched in (False, True)]
    expected = model(x, **text, **calls[0])
    with never_waiting():
        found = [model(x, **text, **one) for one in calls]
    for one in found:
        torch.testing.assert_close(one, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize('kind', ['film', 'attention', 'concat', 'raw'])
@torch.no_grad()
def test_prepared_conditions_move(kind, device):
    here, there = build(kind), build(kind).to(device)
    prepared, x = here.prepare(TEXTS), noise(3, 6)
    expected = here(x, text_condition=prepared, cond_scale=3.0)
    assert {t.device.type for t in tensors(there.prepare(TEXTS))} == {device.type}
    for way in (copy.deepcopy, lambda one: pickle.loads(pickle.dumps(one))):
        moved = way(there.prepare(TEXTS)).to('cpu').to(device)
        guided = there(x.to(device), text_condition=moved, cond_scale=3.0)
        torch.testing.assert_close(guided.cpu(), expected, rtol=1e-4, atol=1e-4)


def tensors(rows):
    found = []
    rows.map(lambda tensor: found.append(tensor) or tensor)
    return found


@every_kind
@torch.no_grad()
def test_a_model_that_moves_takes_its_text_along(kind, device):
    model, x = build(kind), noise(3, 6)
    expected = model(x, **text_of(model, kind), cond_scale=3.0)
    for place in (device, 'cpu', device):
        model.to(place)
        guided = model(x.to(place), **text_of(model, kind), cond_scale=3.0)
        torch.testing.assert_close(guided.cpu(), expected, rtol=1e-4, atol=1e-4)


@every_kind
@every_dtype
def test_a_training_step(kind, dtype, device):
    model = build(kind, training=True, text_condition_cond_drop_prob=0.5).to(device, dtype)
    loss = model(noise(3, 6).to(device, dtype), **text_of(model, kind)).float().square().mean()
    loss.backward()
    assert loss.isfinite()
    conditioner = [] if kind == 'null' else list(model.text_conditioner.parameters())
    assert all(weight.grad is not None and weight.grad.isfinite().all() for weight in conditioner)


@every_kind
@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16], ids=str)
def test_autocast(kind, dtype, device):
    model, x = build(kind).to(device), noise(3, 6).to(device)
    with torch.no_grad():
        expected = model(x, **text_of(model, kind), cond_scale=2.0)
        with torch.autocast(device.type, dtype):
            for form in ('texts', 'embeddings', 'prepared'):
                guided = model(x, **text_of(model, kind, form), cond_scale=2.0)
                torch.testing.assert_close(guided.float(), expected, rtol=0.1, atol=0.1)
    model.train()
    with torch.autocast(device.type, dtype):
        loss = model(x, **text_of(model, kind)).float().square().mean()
    loss.backward()
    assert all(weight.grad is None or weight.grad.dtype == torch.float32 for weight in model.parameters())
