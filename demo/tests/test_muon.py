"""Muon against its formula and the singular value decomposition."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from cfg_demo.muon import Muon, muon_and_adam, orthogonalized


@pytest.mark.parametrize('shape', [(8, 32), (32, 8), (16, 16), (96, 864)])
def test_an_update_keeps_its_singular_vectors_and_loses_its_singular_values(shape):
    update = torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    left, values, right = torch.linalg.svd(update, full_matrices=False)
    inside = left.T @ orthogonalized(update, steps=6) @ right.T
    big = values > 0.05 * values[0]
    assert (inside - inside.diag().diag()).abs().max() < 1e-9
    assert 0.6 < inside.diag()[big].min() <= inside.diag()[big].max() < 1.3


@pytest.mark.parametrize('rank', [1, 3])
def test_directions_that_an_update_lacks_stay_out_in_float32(rank):
    generator = torch.Generator().manual_seed(2)
    update = 1e-4 * torch.randn(64, rank, generator=generator) @ torch.randn(rank, 576, generator=generator)
    values = torch.linalg.svdvals(orthogonalized(update))
    assert 0.6 < values[rank - 1] <= values[0] < 1.3
    assert values[rank] < 1e-3


def test_a_step_is_the_formula_also_for_convolutions():
    generator = torch.Generator().manual_seed(1)
    start = torch.randn(12, 2, 2, 2, generator=generator)
    weight = nn.Parameter(start.clone())
    optimizer = Muon([weight], lr=0.1, momentum=0.9, weight_decay=0.5)
    momentum = torch.zeros(12, 8)
    expected = start.clone()
    for _ in range(3):
        gradient = torch.randn(12, 2, 2, 2, generator=generator)
        weight.grad = gradient
        optimizer.step()
        momentum = 0.9 * momentum + 0.1 * gradient.flatten(1)
        nesterov = 0.1 * gradient.flatten(1) + 0.9 * momentum
        expected = (1 - 0.1 * 0.5) * expected - 0.1 * 1.5**0.5 * orthogonalized(nesterov).view(12, 2, 2, 2)
    torch.testing.assert_close(weight.data, expected)


def test_every_parameter_has_one_optimizer_and_embeddings_have_adam():
    model = nn.ModuleList([nn.Embedding(5, 4), nn.Linear(4, 4), nn.Conv2d(4, 4, 3), nn.LayerNorm(4)])
    muon, adam = muon_and_adam(model)
    held = [{id(p) for group in optimizer.param_groups for p in group['params']} for optimizer in (muon, adam)]
    assert held[0] == {id(model[1].weight), id(model[2].weight)}
    assert held[0] | held[1] == {id(p) for p in model.parameters()}
    assert not held[0] & held[1]
    assert id(model[0].weight) in held[1]
    assert muon.param_groups[0]['initial_lr'] == 0.02


def test_it_learns():
    torch.manual_seed(0)
    model, target = nn.Linear(6, 6), torch.randn(6, 6)
    optimizers = muon_and_adam(model, lr=0.05, adam_lr=0.01)
    inputs = torch.randn(64, 6)
    first = last = 0.0
    for step in range(200):
        loss = (model(inputs) - inputs @ target).square().mean()
        loss.backward()
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()
        first, last = (loss.item() if step == 0 else first), loss.item()
    assert last < 0.02 * first
