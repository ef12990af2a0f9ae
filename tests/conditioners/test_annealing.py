"""Annealed conditions: CADS written out, what stays as it is, and what is refused."""

from __future__ import annotations

import math

import pytest
import torch

from classifier_free_guidance_pytorch.conditioners.annealing import annealed, kept
from classifier_free_guidance_pytorch.errors import ConfigError
from tests.conditioners.making import noise
from tests.decorator.models import TEXTS, build


def test_how_much_is_kept():
    """Algorithm 1 of the paper, in its time: gamma(t) of tau_1 = 0.6 and tau_2 = 0.9."""
    for t in (1.0, 0.95, 0.9, 0.8, 0.7, 0.6, 0.3, 0.0):
        gamma = 1.0 if t <= 0.6 else 0.0 if t >= 0.9 else (0.9 - t) / 0.3
        assert kept(1 - t, 0.1, 0.4) == pytest.approx(gamma)


@pytest.mark.parametrize('mix', [0.0, 0.4, 1.0])
def test_the_formula_per_sample(mix):
    y = 3 * noise(4, 5, 6) + 1
    found = annealed(y, 0.3, 0.25, mix, torch.Generator().manual_seed(1))
    n = torch.randn(y.shape, generator=torch.Generator().manual_seed(1))
    for i in range(4):
        spread = y[i].std(correction=0)
        z = math.sqrt(0.3) * y[i] + 0.25 * math.sqrt(0.7) * spread * n[i]
        restored = (z - z.mean()) / z.std(correction=0) * spread + y[i].mean()
        torch.testing.assert_close(found[i], mix * restored + (1 - mix) * z)


def test_masks_and_what_does_not_vary_stay():
    mask, zeros = torch.ones(2, 3, dtype=torch.bool), torch.zeros(2, 3)
    for same in (mask, zeros):
        assert torch.equal(annealed(same, 0.0, 0.25, 1.0, None), same)


@pytest.mark.parametrize('kind', ['film', 'attention', 'concat', 'raw'])
def test_a_decorated_model(kind):
    model, x = build(kind), noise(3, 6)
    prepared = model.prepare(TEXTS)
    plain = model(x, text_condition=prepared, cond_scale=3.0)
    late = prepared.annealed(0.5)
    assert torch.equal(model(x, text_condition=late, cond_scale=3.0), plain)
    early = prepared.annealed(0.2, generator=torch.Generator().manual_seed(0))
    again = prepared.annealed(0.2, generator=torch.Generator().manual_seed(0))
    noisy = model(x, text_condition=early, cond_scale=3.0)
    assert torch.equal(model(x, text_condition=again, cond_scale=3.0), noisy)
    assert noisy.isfinite().all()
    assert not torch.allclose(noisy, plain)
    assert torch.equal(model(x, text_condition=early, cond_scale=0.0), model(x, text_condition=prepared, cond_scale=0.0))


def test_samples_of_one_text_differ():
    model = build()
    x = noise(1, 6).expand(4, -1)
    found = model(x, text_condition=model.prepare(TEXTS[:1]).annealed(0.0, samples=4))
    assert all(not torch.allclose(found[0], other) for other in found[1:])


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        ({'progress': 1.5}, r'progress must be a number in \[0, 1\], got 1.5'),
        ({'progress': True}, r'progress must be a number in \[0, 1\], got True'),
        ({'progress': 0.1, 'scale': -1}, 'scale must be a number of at least 0, got -1'),
        ({'progress': 0.1, 'mix': 2}, r'mix must be a number in \[0, 1\], got 2'),
        ({'progress': 0.1, 'between': (0.5, 0.5)}, r'between must be \(start, stop\) with 0 <= start < stop <= 1'),
    ],
)
def test_numbers_that_say_no_annealing(options, message):
    with pytest.raises(ConfigError, match=message):
        build().prepare(TEXTS).annealed(**options)
