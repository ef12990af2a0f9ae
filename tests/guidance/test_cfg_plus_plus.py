"""CFG++ is CFG with a schedule, in every kind of diffusion."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from classifier_free_guidance_pytorch import guidance
from tests.guidance.test_oracles import pair, relaxed, seeds

NOISINGS = {
    've': lambda t: (1.0, 20 * t),
    'vp': lambda t: (math.cos(t * math.pi / 2), math.sin(t * math.pi / 2)),
    'flow': lambda t: (1 - t, t),
}
"""Alpha and sigma of `x = alpha * x0 + sigma * eps` at a time from 1 (noise) to 0."""


@pytest.mark.parametrize('kind', list(NOISINGS))
@relaxed
@given(seeds, st.floats(0, 1), st.floats(0.05, 0.99), st.floats(0.0, 0.9))
def test_cfg_plus_plus_is_cfg_with_a_schedule(kind, seed, lam, time, fraction):
    """A first-order step of CFG++ (guided x0, noise added back along null) is a DDIM step of CFG at the schedule's scale."""
    (alpha, sigma), (next_alpha, next_sigma) = NOISINGS[kind](time), NOISINGS[kind](time * fraction)
    x, _ = pair(seed + 1, dtype=torch.float64)
    cond, null = pair(seed, dtype=torch.float64)  # predictions of the noise

    def clean(noise):
        return (x - sigma * noise) / alpha

    expected = next_alpha * clean(guidance.cfg(cond, null, lam)) + next_sigma * null
    levels = {'sigma': sigma, 'next_sigma': next_sigma}
    if kind != 've':
        levels |= {'alpha': alpha, 'next_alpha': next_alpha}
    guided = guidance.cfg(cond, null, guidance.cfg_plus_plus(lam)(**levels))
    torch.testing.assert_close(next_alpha * clean(guided) + next_sigma * guided, expected)
    many = guidance.cfg_plus_plus(lam)(**{name: torch.tensor([value] * 3, dtype=torch.float64) for name, value in levels.items()})
    torch.testing.assert_close(guidance.cfg(cond, null, many), guided)


def test_cfg_plus_plus_at_pure_noise():
    """Where nothing of the sample is in x, or sigma has no end, the whole step is made from the guided sample."""
    at = guidance.cfg_plus_plus(0.6)
    assert at(sigma=1.0, alpha=0.0, next_sigma=0.96, next_alpha=0.04) == 0.6
    assert at(sigma=math.inf, next_sigma=80.0) == 0.6
    assert at(sigma=1, next_sigma=0) == 0.6
    found = at(sigma=torch.tensor([math.inf, 3.0]), next_sigma=torch.tensor([80.0, 1.0]))
    torch.testing.assert_close(found, torch.tensor([0.6, 0.9]))
