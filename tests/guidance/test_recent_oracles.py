"""The rules of 2025 and 2026, and energies, against their formulas written out."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from classifier_free_guidance_pytorch import guidance
from tests.guidance.test_oracles import SHAPE, pair, relaxed, run_guider, scales, seeds


@relaxed
@given(seeds, st.floats(1, 12), st.floats(0.2, 1.5))
def test_adg(seed, scale, limit):
    """The rotation of `method/ADG_SD3.py` of its authors, per sample in float64."""
    cond, null = pair(seed)
    ours = guidance.adg(cond, null, scale, limit)
    for i in range(SHAPE[0]):
        c, u = cond[i].double().flatten(), null[i].double().flatten()
        theta = math.acos(float(c @ u / c.norm() / u.norm()))
        turned = min((scale - 1) * theta, limit)
        across = c - u * (c @ u) / (u @ u)
        expected = math.cos(turned) * c + math.sin(turned) / math.sin(theta) * across
        torch.testing.assert_close(ours[i].double().flatten(), expected, rtol=1e-4, atol=1e-4)
        assert ours[i].norm() <= math.sqrt(2) * c.norm() * 1.0001


def test_adg_where_predictions_agree():
    """There a rotation is the straight line that it starts along."""
    cond, null = pair(0)
    null = cond + 1e-5 * null
    across = cond - null * (cond * null).flatten(1).sum(1).view(3, 1, 1, 1) / null.flatten(1).square().sum(1).view(3, 1, 1, 1)
    torch.testing.assert_close(guidance.adg(cond, null, 4.0), cond + 3 * across, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(guidance.adg(cond, cond, 4.0), cond)


@relaxed
@given(seeds, st.floats(0.01, 10))
def test_mahiro(seed, scale):
    """The node of ComfyUI, with one cosine per sample."""
    cond, null = pair(seed)
    for i, ours in enumerate(guidance.mahiro(cond, null, scale)):
        c, u = cond[i].double().flatten(), null[i].double().flatten()
        leap, guided = scale * c, u + scale * (c - u)
        merge = (leap + guided) / 2
        roots = [x.sign() * x.abs().sqrt() for x in (scale * u, merge)]
        share = 2 * (F.cosine_similarity(*roots, 0) + 1)
        torch.testing.assert_close(ours.double().flatten(), (share * guided + (4 - share) * leap) / 4, rtol=1e-4, atol=1e-4)


@relaxed
@given(seeds, scales, st.floats(0, 6), st.floats(0, 1))
def test_smc_cfg_over_four_steps(seed, scale, lam, k):
    rule = guidance.SMCCFG(lam, k)
    state, before = rule.init_state(), None
    for step in range(4):
        cond, null = pair(seed + step, dtype=torch.float64)
        e = cond - null
        before = e if before is None else before
        e = e - k * torch.sign((e - before) + lam * before)
        before = e
        torch.testing.assert_close(rule(cond, null, scale, state=state), null + scale * e if scale != 1 else cond)
        if scale == 1:
            return  # a step at scale 1 is no step for our memory


@pytest.mark.parametrize('eta', [0.0, 0.6])
def test_higs_over_four_steps(eta):
    rule = guidance.HiGS(guidance.CFG(), weight=1.5, eta=eta, share=0.6, cutoff=0.1, low=0.3, high=0.9)
    state, average = rule.init_state(), torch.zeros(SHAPE, dtype=torch.float64)
    radius = torch.hypot(torch.arange(16).double()[:, None] / 16, torch.arange(12).double() / 12)
    waves = [  # an orthonormal cosine transform, written out
        [[math.sqrt((2 - (k == 0)) / n) * math.cos(math.pi * k * (2 * i + 1) / (2 * n)) for i in range(n)] for k in range(n)]
        for n in (16, 12)
    ]
    waves = [torch.tensor(wave, dtype=torch.float64) for wave in waves]
    for step, progress in enumerate((0.05, 0.2, 0.5, 0.8)):
        cond, null = pair(step, dtype=torch.float64)
        g = null + 3.0 * (cond - null)
        e = g - average
        along = (e * g).flatten(1).sum(1) / g.flatten(1).square().sum(1)
        e = e - (1 - eta) * along.view(3, 1, 1, 1) * g
        filtered = torch.einsum('yn,xm,bcnm->bcyx', *waves, e) * torch.sigmoid(50 * (radius - 0.1))
        high = torch.einsum('yn,xm,bcyx->bcnm', *waves, filtered)
        level = 1 - progress
        weight = 1.5 * math.sqrt((level - 0.3) / 0.6) if 0.3 < level <= 0.9 and step else 0.0
        torch.testing.assert_close(rule(cond, null, 3.0, state=state, progress=progress), g + weight * high)
        average = 0.6 * g + 0.4 * average


@relaxed
@given(seeds, st.tuples(scales, scales))
def test_a_nested_chain_is_that_of_bagel(seed, both):
    (no_image, no_text), (full, _) = pair(seed, (2, 5, 8)), pair(seed + 1, (2, 5, 8))
    text = no_text + both[1] * (full - no_text)
    factor = (full.norm(dim=-1, keepdim=True) / (text.norm(dim=-1, keepdim=True) + 1e-8)).clamp(min=0.2, max=1.0)
    expected = no_image + both[0] * (text * factor - no_image)
    post = guidance.renorm_to_cond(lo=0.2, dim=-1)
    torch.testing.assert_close(guidance.chain((no_image, no_text, full), both, post), expected, rtol=1e-4, atol=1e-4)


@relaxed
@given(seeds, st.tuples(st.floats(0, 50), st.floats(50, 100)))
def test_robust_energy(seed, percentiles):
    """EP-CFG: the energy of the squares between two percentiles of each prediction becomes that of the conditional one."""
    guided, cond = pair(seed, (2, 3, 11), torch.float64)
    ours = guidance.renorm(guided, cond, hi=math.inf, percentiles=percentiles)
    for i in range(2):
        energies = []
        for x in (cond[i].flatten(), guided[i].flatten()):
            squares = sorted(x.square().tolist())
            low, high = (squares[round(at / 100 * 32)] for at in percentiles)
            energies.append(sum(square for square in squares if low <= square <= high))
        torch.testing.assert_close(ours[i], guided[i] * math.sqrt(energies[0] / energies[1]))


@pytest.mark.parametrize('model', guidance.SPACES)
@pytest.mark.parametrize('of', ['x0 through the model', 'x'])
def test_energy_guidance_of_a_gaussian_is_its_posterior(model, of):
    """Of data N(0, 1) and an observation of them the guided score is that of the posterior."""
    alpha, sigma, noise, seen = 0.8, 0.6, 0.5, 1.3
    x = pair(0, (4, 1), torch.float64)[0].requires_grad_()
    clean = alpha * x / (alpha**2 + sigma**2)  # the mean of x0 given x
    eps = (x - alpha * clean) / sigma
    prediction = {'x0': clean, 'eps': eps, 'v': alpha * eps - sigma * clean, 'flow': eps - clean}[model]
    spread = sigma**2 / (alpha**2 + sigma**2)  # the variance of x0 given x

    def energy(sample):
        mean = sample if of != 'x' else alpha * sample / (alpha**2 + sigma**2)
        return ((seen - mean).square() / (2 * (spread + noise**2))).sum(1)

    guided = guidance.energy_guided(prediction, energy, 1.0, model=model, x=x, sigma=sigma, alpha=alpha, of=of)
    found = -guidance.convert(guided, model, 'eps', x.detach(), sigma, alpha) / sigma
    # x | y is Gaussian: its mean and variance, from those of (x, y)
    gain = alpha / (1 + noise**2)
    expected = -(x.detach() - gain * seen) / (alpha**2 + sigma**2 - gain * alpha)
    torch.testing.assert_close(found, expected)
    assert not guided.requires_grad


def test_energy_guidance_on_the_clean_sample_alone():
    """Its slope in x is taken for 1 / alpha, which it is where nothing is known of the data."""
    x, eps = pair(0, (4, 3))
    guided = guidance.energy_guided(eps, lambda s: (s - 2).square().sum(1), 0.5, model='eps', x=x, sigma=0.6, alpha=0.8)
    clean = (x - 0.6 * eps) / 0.8
    torch.testing.assert_close(guided, eps + 0.5 * 0.6 / 0.8 * 2 * (clean - 2))
    assert torch.allclose(guidance.energy_guided(eps, lambda s: s.sum(1), 0.0, model='flow', x=x, sigma=0.6), eps, atol=1e-5)


def test_mambo_g_is_raag_as_published():
    from diffusers.guiders import MagnitudeAwareGuidance

    assert guidance.MAMBOG is guidance.RAAG
    assert guidance.mambo_g is guidance.raag
    cond, null = pair(0, (3, 4, 16))
    preset = guidance.preset('mambo-g')
    theirs = run_guider(MagnitudeAwareGuidance(10.0, 8.0, guidance_rescale=1.0), cond, null)
    torch.testing.assert_close(preset.rule(cond, null, preset.at()), theirs, rtol=1e-4, atol=1e-5)
    assert guidance.preset('raag') == preset
