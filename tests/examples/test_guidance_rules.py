"""The picture of all rules, with few steps and few points."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import pytest
import torch

PATH = Path(__file__).parents[2] / 'examples' / '01_guidance_rules.py'


@pytest.fixture(scope='module')
def example():
    spec = importlib.util.spec_from_file_location('example_guidance_rules', PATH)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # where dataclasses look for their module
    spec.loader.exec_module(module)
    yield module
    del sys.modules[spec.name]


def test_it_runs_and_draws(example, tmp_path):
    found = example.main(steps=12, samples=120, out=tmp_path / 'pictures' / 'rules.png')
    assert (tmp_path / 'pictures' / 'rules.png').stat().st_size > 50_000
    assert len(found) == len(example.panels())
    assert all(0 <= fidelity <= 1 and 0 <= diversity <= 1 for fidelity, diversity, _ in found.values())
    assert found['Weak model'][0] > found['no guidance'][0] + 0.1, 'guidance by a weak model raises fidelity'
    passes = {title: per_step for title, (_, _, per_step) in found.items()}
    assert (passes['no guidance'], passes['CFG'], passes['Delta reuse, every 2'], passes['CFG + weak model']) == (1, 2, 1.5, 3)
    assert 1 < passes['CFG in 0.15 < sigma <= 2'] < 2


def test_the_scores_are_exact(example):
    """Tweedie: the denoiser is `x + sigma^2 * grad log p_sigma(x)`, with the density of the noised mixture."""
    mixture, sigma = example.WANTED, 0.7
    x = torch.randn(50, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64).requires_grad_()
    mixture = example.Mixture(mixture.means.double(), mixture.spread)
    (score,) = torch.autograd.grad(mixture.blurred(sigma).log_density(x).sum(), x)
    torch.testing.assert_close(mixture.denoise(x, sigma), x + sigma**2 * score)


def test_the_measures_measure(example):
    data = example.WANTED.sample(1000, torch.Generator().manual_seed(5))
    fidelity, diversity = example.measure(data)
    assert fidelity == pytest.approx(0.95, abs=0.02)
    assert diversity > 0.95
    assert example.measure(example.OTHER.sample(1000, torch.Generator().manual_seed(5)))[0] < 0.1
    one_point = data[:1].expand(1000, 2)
    assert example.measure(one_point)[1] < 0.1
