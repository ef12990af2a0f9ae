"""The world of two arcs: its denoiser is exact, and its measures measure."""

from __future__ import annotations

import pytest
import torch

from cfg_demo import arcs


def test_the_scores_are_exact():
    """Tweedie: the denoiser is `x + sigma^2 * grad log p_sigma(x)`, with the density of the noised mixture."""
    mixture, sigma = arcs.WANTED, 0.7
    x = torch.randn(50, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64).requires_grad_()
    mixture = arcs.Mixture(mixture.means.double(), mixture.spread)
    (score,) = torch.autograd.grad(mixture.blurred(sigma).log_density(x).sum(), x)
    torch.testing.assert_close(mixture.denoise(x, sigma), x + sigma**2 * score)


def test_the_measures_measure():
    data = arcs.WANTED.sample(1000, torch.Generator().manual_seed(5))
    fidelity, diversity = arcs.measure(data)
    assert fidelity == pytest.approx(0.95, abs=0.02)
    assert diversity > 0.95
    assert arcs.measure(arcs.OTHER.sample(1000, torch.Generator().manual_seed(5)))[0] < 0.1
    one_point = data[:1].expand(1000, 2)
    assert arcs.measure(one_point)[1] < 0.1
