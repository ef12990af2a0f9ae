"""`fit` minimises, with either optimizer, and leaves the model in eval mode."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from cfg_demo.fitting import fit


@pytest.mark.parametrize('lr', [0.02, None])
def test_it_learns_a_line_in_training_mode(lr):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 1))
    inputs = torch.randn(64, 3)
    wanted, seen = inputs.sum(dim=1, keepdim=True).tanh(), []

    def loss():
        assert model.training
        seen.append((model(inputs) - wanted).square().mean())
        return seen[-1]

    fit(model, loss, 60, lr=lr)
    assert len(seen) == 60
    assert seen[-1] < 0.2 * seen[0]
    assert not model.training


def test_the_rate_rises_and_falls(monkeypatch):
    rates = []
    step = torch.optim.AdamW.step
    monkeypatch.setattr(torch.optim.AdamW, 'step', lambda self, *rest: rates.append(self.param_groups[0]['lr']) or step(self))
    model = nn.Linear(1, 1)
    fit(model, lambda: model(torch.ones(1)).sum(), 100, lr=1.0)
    assert max(rates) == pytest.approx(rates[9], abs=0.03)
    assert rates[0] < 0.2
    assert rates[-1] < 0.01
