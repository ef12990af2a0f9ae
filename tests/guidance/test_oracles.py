"""Every function against something written by somebody else, or against its formula written out in loops."""

from __future__ import annotations

import inspect
import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from classifier_free_guidance_pytorch import guidance

pytest.importorskip('diffusers')

SHAPE = (3, 4, 16, 12)
seeds = st.integers(0, 10_000)
scales = st.floats(0.0, 15.0)
relaxed = settings(max_examples=15, deadline=None)


def pair(seed, shape=SHAPE, dtype=torch.float32):
    generator = torch.Generator().manual_seed(seed)
    common = torch.randn(shape, generator=generator, dtype=dtype)
    return tuple(common + 0.5 * torch.randn(shape, generator=generator, dtype=dtype) for _ in range(2))


def run_guider(guider, cond, null):
    """One step of a diffusers guider, in the order in which its pipelines drive it."""
    guider.set_state(step=0, num_inference_steps=10, timestep=torch.tensor(900))
    guider.prepare_inputs({'x': (cond, null)})
    return guider.forward(cond, null).pred


@relaxed
@given(seeds, scales)
def test_cfg(seed, scale):
    from diffusers.guiders import ClassifierFreeGuidance

    cond, null = pair(seed)
    theirs = run_guider(ClassifierFreeGuidance(scale), cond, null)
    torch.testing.assert_close(guidance.cfg(cond, null, scale), theirs, rtol=1e-5, atol=2e-5)


@relaxed
@given(seeds, st.floats(0, 1))
def test_rescale(seed, phi):
    from diffusers.guiders.guider_utils import rescale_noise_cfg

    guided, cond = pair(seed)
    torch.testing.assert_close(guidance.rescale(3 * guided, cond, phi), rescale_noise_cfg(3 * guided, cond, phi))


@relaxed
@given(seeds, st.floats(0.3, 2.0), st.floats(0, 0.9))
def test_renorm(seed, r, lo):
    guided, cond = pair(seed, (3, 5, 8), torch.float64)
    for dim in (None, -1):
        ours = guidance.renorm(guided, cond, r, lo, dim)
        for index in [(i,) if dim is None else (i, j) for i in range(3) for j in range(1 if dim is None else 5)]:
            g, c = guided[index].flatten().tolist(), cond[index].flatten().tolist()
            factor = min(1.0, max(lo, r * math.hypot(*c) / math.hypot(*g)))
            torch.testing.assert_close(ours[index].flatten(), torch.tensor([factor * x for x in g], dtype=torch.float64))


def test_renorm_as_in_pipelines():
    """Qwen-Image and Lumina2 set the length of every token; LongCat-Image only shortens."""
    guided, cond = pair(4, (2, 9, 16))
    lengths = cond.norm(dim=-1, keepdim=True) / guided.norm(dim=-1, keepdim=True)
    torch.testing.assert_close(guidance.renorm(guided, cond, dim=-1, hi=math.inf), guided * lengths)
    torch.testing.assert_close(guidance.renorm(guided, cond, dim=-1, lo=0.9), guided * lengths.clamp(0.9, 1.0))


@pytest.mark.parametrize(('r', 'lo', 'hi'), [(1, 0, 1), (0.8, 0, 1), (0.8, 1, 1), (2, 0, 1), (2, 0, math.inf), (0, 0.5, 1)])
def test_a_post_step_says_whether_it_keeps_cond(r, lo, hi):
    cond, _ = pair(0, dtype=torch.float64)
    post = guidance.renorm_to_cond(r, lo, hi=hi)
    assert post.keeps_cond == torch.allclose(post(cond, cond), cond)


def test_renorm_of_zeros_has_the_gradient_of_what_is_long_enough():
    guided = torch.zeros(2, 3, requires_grad=True)
    guidance.renorm(guided, torch.ones(2, 3)).sum().backward()
    assert torch.equal(guided.grad, torch.ones(2, 3))


@relaxed
@given(seeds, scales, st.floats(-0.5, 1.0), st.sampled_from([None, 5.0, 20.0]), st.sampled_from([0.0, -0.5, 0.7]))
def test_apg_over_three_steps(seed, scale, eta, norm, momentum):
    from diffusers.guiders.adaptive_projected_guidance import MomentumBuffer, normalized_guidance

    rule = guidance.APG(eta, norm, momentum)
    state, buffer = rule.init_state(), MomentumBuffer(momentum) if momentum else None
    for step in range(3):
        cond, null = pair(seed + step)
        ours = guidance.APG(eta, norm, momentum)(cond, null, scale, state=state)
        theirs = normalized_guidance(cond, null, scale - 1, buffer, eta, norm or 0.0, use_original_formulation=True)
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=3e-5)
        if scale == 1:
            return  # a step at scale 1 is no step for our average


def test_apg_with_dims_and_root_mean_square():
    from diffusers.guiders.adaptive_projected_guidance import normalized_guidance

    if 'norm_dim' not in inspect.signature(normalized_guidance).parameters:
        pytest.skip('this diffusers takes no norm_dim')
    cond, null = pair(0)
    theirs = normalized_guidance(cond, null, 2.0, None, 0.2, 1.3, use_original_formulation=True, norm_dim=(-1, -2))
    torch.testing.assert_close(guidance.apg(cond, null, 3.0, 0.2, 1.3, dim=(-1, -2)), theirs)
    whole = math.sqrt(cond[0].numel())
    torch.testing.assert_close(guidance.apg(cond, null, 3.0, 0.2, 0.4, rms=True), guidance.apg(cond, null, 3.0, 0.2, 0.4 * whole))


@relaxed
@given(seeds, scales)
def test_cfg_zero_star(seed, scale):
    from diffusers.guiders import ClassifierFreeZeroStarGuidance

    cond, null = pair(seed)
    theirs = run_guider(ClassifierFreeZeroStarGuidance(scale, zero_init_steps=0), cond, null)
    torch.testing.assert_close(guidance.cfg_zero_star(cond, null, scale), theirs, rtol=1e-5, atol=3e-5)


@relaxed
@given(seeds, scales, st.sampled_from([1e-3, 1.0, 1e3]))
def test_tcfg_against_a_float64_svd(seed, scale, longer):
    cond, null = pair(seed)
    null = null * longer
    ours = guidance.tcfg(cond, null, scale)
    c, u = cond.double().flatten(1), null.double().flatten(1)
    _, _, vectors = torch.linalg.svd(torch.stack((c, u), 1), full_matrices=False)
    first = vectors[:, 0]
    shared = (u * first).sum(1, keepdim=True) * first
    exact = (shared + scale * (c - shared)).view(SHAPE)
    assert (ours - exact).abs().max() <= 3e-6 * (1 + abs(1 - scale)) * exact.abs().max().clamp_min(shared.abs().max())


def test_tcfg_where_no_direction_is_the_first():
    """Of two orthogonal predictions of equal length neither singular vector comes first: the null prediction stays whole."""
    cond, null = torch.tensor([[0.0, 2.0]]), torch.tensor([[2.0, 0.0]])
    torch.testing.assert_close(guidance.tcfg(cond, null, 3.0), guidance.cfg(cond, null, 3.0))


def test_tcfg_against_diffusers():
    from diffusers.guiders.tangential_classifier_free_guidance import normalized_guidance

    cond, null = pair(0)
    torch.testing.assert_close(guidance.tcfg(cond, null, 3.0), normalized_guidance(cond, null, 3.0), rtol=0, atol=2e-2)


@relaxed
@given(seeds, scales, st.floats(0, 10))
def test_raag(seed, scale, alpha):
    from diffusers.guiders import MagnitudeAwareGuidance

    cond, null = pair(seed, (3, 4, 16))
    theirs = run_guider(MagnitudeAwareGuidance(scale, alpha), cond, null)
    torch.testing.assert_close(guidance.raag(cond, null, scale, alpha), theirs, rtol=1e-5, atol=2e-5)


@relaxed
@given(seeds, st.tuples(scales, scales).filter(lambda levels: 1 not in levels))  # see test_elsewhere.py
def test_fdg(seed, level_scales):
    pytest.importorskip('kornia')
    from diffusers.guiders import FrequencyDecoupledGuidance

    cond, null = pair(seed, (2, 3, 32, 16))
    theirs = run_guider(FrequencyDecoupledGuidance(list(level_scales)), cond, null)
    torch.testing.assert_close(guidance.fdg(cond, null, level_scales), theirs, rtol=1e-5, atol=1e-4)


def test_fdg_of_more_levels_and_its_bands():
    """kornia's own three-level pyramid, and that the levels of the rule are its bands."""
    transform = pytest.importorskip('kornia.geometry.transform')
    cond, null = pair(1, (2, 3, 32, 64))
    bands = transform.build_laplacian_pyramid(cond - null, 3)
    for level, band in enumerate(bands):
        picked = tuple(2.0 if i == level else 1.0 for i in range(3))
        for _ in range(level):
            band = transform.pyrup(band)  # noqa: PLW2901
        torch.testing.assert_close(guidance.fdg(cond, null, picked) - cond, band, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize('shape', [(2, 3, 33, 17), (2, 3, 1, 5), (2, 3, 2, 2), (2, 3, 1, 31), (2, 7), (2, 3, 4, 15, 9)])
@pytest.mark.parametrize('levels', [1, 2, 4])
def test_fdg_of_odd_sizes(shape, levels):
    """Equal scales are plain CFG, whatever the size: the pyramid collapses to what it was built from."""
    cond, null = pair(2, shape)
    torch.testing.assert_close(guidance.fdg(cond, null, (3.0,) * levels), guidance.cfg(cond, null, 3.0), rtol=1e-4, atol=1e-5)
    if len(shape) == 5:
        frames = [guidance.fdg(cond[:, :, i], null[:, :, i], (3.0, 2.0)) for i in range(shape[2])]
        torch.testing.assert_close(guidance.fdg(cond, null, (3.0, 2.0)), torch.stack(frames, 2))


@relaxed
@given(seeds, st.lists(st.floats(-3, 8), min_size=1, max_size=4))
def test_compose(seed, weights):
    null, _ = pair(seed)
    conds = [pair(seed + i + 1)[0] for i in range(len(weights))]
    expected = null.double()
    for weight, cond in zip(weights, conds, strict=True):
        expected = expected + weight * (cond.double() - null.double())
    torch.testing.assert_close(guidance.compose(conds, null, weights).double(), expected, rtol=1e-5, atol=1e-4)


@relaxed
@given(seeds, st.tuples(scales, scales))
def test_chain(seed, both):
    (nothing, image), (full, _) = pair(seed), pair(seed + 1)
    expected = nothing.double() + both[0] * (image.double() - nothing) + both[1] * (full.double() - image)
    torch.testing.assert_close(guidance.chain((nothing, image, full), both).double(), expected, rtol=1e-5, atol=1e-4)


@relaxed
@given(seeds, scales, st.tuples(st.floats(0, 2), st.floats(0, 2)))
def test_perp_neg_per_sample(seed, scale, weights):
    cond, null = pair(seed)
    negatives = pair(seed + 1)
    ours = guidance.perp_neg(cond, null, negatives, scale, weights)
    for i in range(SHAPE[0]):
        positive = (cond[i].double() - null[i].double()).flatten()
        total = positive.clone()
        for negative, weight in zip(negatives, weights, strict=True):
            away = (negative[i].double() - null[i].double()).flatten()
            across = away - positive * torch.dot(away, positive) / torch.dot(positive, positive)
            assert abs(torch.dot(across, positive)) < 1e-9 * away.norm() * positive.norm()
            total -= weight * across
        torch.testing.assert_close(ours[i].double().flatten(), null[i].double().flatten() + scale * total, rtol=1e-4, atol=1e-4)


@relaxed
@given(seeds, st.floats(0, 5))
def test_weak_is_autoguidance(seed, weight):
    strong, weakened = pair(seed)
    autoguidance = torch.lerp(weakened, strong, weight + 1)  # EDM2: ref.lerp(D, guidance)
    torch.testing.assert_close(guidance.weak(strong, weakened, weight), autoguidance)


@relaxed
@given(seeds, st.floats(1.01, 6))
def test_logits(seed, scale):
    from transformers import ClassifierFreeGuidanceLogitsProcessor

    cond, null = pair(seed, (3, 50))
    ids = torch.zeros(3, 1, dtype=torch.long)
    theirs = ClassifierFreeGuidanceLogitsProcessor(scale)(ids, torch.cat((cond, null))).softmax(-1)
    torch.testing.assert_close(guidance.logits(cond, null, scale).softmax(-1), theirs, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(guidance.discrete(cond, null, scale), theirs, rtol=1e-4, atol=1e-6)


@relaxed
@given(seeds, scales)
def test_discrete_written_out(seed, scale):
    p, q = (x.softmax(-1) for x in pair(seed, (3, 4, 7), torch.float64))
    weighted = p**scale * q ** (1 - scale)
    torch.testing.assert_close(guidance.discrete(p.log(), q.log(), scale), weighted / weighted.sum(-1, keepdim=True))


def test_forbidden_classes():
    cond = torch.tensor([[0.0, 1.0, float('-inf'), float('-inf')]], requires_grad=True)
    null = torch.tensor([[0.0, float('-inf'), 2.0, float('-inf')]], requires_grad=True)
    guided = guidance.logits(cond, null, 3.0)
    assert torch.equal(guided.isneginf(), torch.tensor([[False, False, True, True]]))
    assert guided[0, 1] == torch.log_softmax(cond, -1)[0, 1], 'where only null forbids, cond decides'
    probabilities = guidance.discrete(cond, null, 3.0)
    torch.testing.assert_close(probabilities.sum(-1), torch.ones(1))
    probabilities[0, 0].backward()
    assert cond.grad.isfinite().all()
    assert null.grad.isfinite().all()


@relaxed
@given(seeds, scales, st.floats(1, 3), st.floats(0, 1))
def test_nag_per_vector(seed, scale, tau, alpha):
    positive, negative = pair(seed, (2, 3, 8), torch.float64)
    ours = guidance.nag(positive, negative, scale, tau, alpha)
    for i in range(2):
        for j in range(3):
            p, n = positive[i, j], negative[i, j]
            guided = scale * p - (scale - 1) * n
            ratio = guided.abs().sum() / p.abs().sum()
            guided = guided * min(float(ratio), tau) / ratio
            torch.testing.assert_close(ours[i, j], alpha * guided + (1 - alpha) * p)


@pytest.mark.parametrize('grid', [(4, 6), (2, 4, 3)], ids=str)
def test_fdg_of_tokens(grid):
    """Tokens on a grid are the images, or frames, they lie in."""
    cond, null = pair(0, (2, 24, 5))

    def placed(x):
        return x.mT.unflatten(-1, grid)

    expected = guidance.fdg(placed(cond), placed(null), (7.0, 2.0)).flatten(2).mT
    torch.testing.assert_close(guidance.fdg(cond, null, (7.0, 2.0), grid), expected)
    torch.testing.assert_close(guidance.FDG((7.0, 2.0), grid)(cond, null, 7.0), expected)


def test_fdg_of_a_signal():
    """Along the last dimension only: its pyramid is that of an image of one line."""
    cond, null = pair(0, (2, 3, 1, 16))
    tokens = guidance.fdg(cond[:, :, 0].mT, null[:, :, 0].mT, (7.0, 2.0), (16,))
    torch.testing.assert_close(guidance.fdg(cond, null, (7.0, 2.0)), tokens.mT[:, :, None])


@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16], ids=str)
def test_distributions_over_many_classes_in_half_precision(dtype):
    cond, null = (3 * x for x in pair(0, (2, 32_000)))
    cond, null = cond.to(dtype), null.to(dtype)
    exact = guidance.discrete(cond.double(), null.double(), 3.0)
    for found in (guidance.discrete(cond, null, 3.0), guidance.logits(cond, null, 3.0).softmax(-1)):
        assert found.dtype == torch.float32
        assert float((found - exact).abs().sum(-1).max() / 2) < 1e-4, 'total variation'
    for rule in (guidance.Logits(), guidance.Discrete()):
        assert rule(cond, null, 3.0).dtype == rule(cond, scale=1.0).dtype == torch.float32


@relaxed
@given(seeds, st.floats(0, 8), st.floats(0, 4), st.floats(0, 4), st.floats(0, 1))
def test_named_weak_passes_are_those_of_ltx(seed, scale, stg, modality, phi):
    guiders = pytest.importorskip('diffusers.guiders')
    if not hasattr(guiders, 'LTX2Guidance'):
        pytest.skip('this diffusers has no LTX2Guidance')
    (cond, null), (perturbed, isolated) = pair(seed), pair(seed + 1)
    theirs = guiders.LTX2Guidance(scale, stg_scale=stg, modality_scale=modality, guidance_rescale=phi)
    theirs.set_state(step=0, num_inference_steps=10, timestep=torch.tensor(900))
    rule = guidance.CFG() + guidance.Weak(stg, name='stg') + guidance.Weak(modality - 1, name='modality')
    guided = rule.then(guidance.rescale_to_cond(phi))(cond, null, scale, weak={'stg': perturbed, 'modality': isolated})
    torch.testing.assert_close(guided, theirs.forward(cond, null, perturbed, isolated).pred, rtol=1e-4, atol=1e-4)


def test_one_lerp_is_all_that_cfg_does():
    from torch.utils._python_dispatch import TorchDispatchMode

    class Recorder(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            called.append(func.overloadpacket.__name__)
            return func(*args, **(kwargs or {}))

    for scale in (3.0, torch.tensor([1.0, 2.0, 3.0]).view(3, 1, 1, 1)):
        called: list[str] = []
        with Recorder():
            guidance.cfg(*pair(0), scale)
        assert [name for name in called if name not in ('randn', 'add', 'mul')] == ['lerp']
    cond, null = (F.pad(x, (1, 0)) for x in pair(0))
    assert torch.equal(guidance.CFG()(cond, null, 2.5), torch.lerp(null, cond, 2.5))
