"""What other libraries, and the 0.7.1 release of this one, get wrong: each shown to be right here."""

from __future__ import annotations

import pytest
import torch

from classifier_free_guidance_pytorch import guidance
from tests.guidance.test_oracles import pair, run_guider

pytest.importorskip('diffusers')


def test_apg_at_scale_one_returns_cond():
    from diffusers.guiders.adaptive_projected_guidance import normalized_guidance

    cond, null = pair(0)
    torch.testing.assert_close(guidance.apg(cond, null, 1.0), cond)
    assert not torch.allclose(normalized_guidance(cond, null, 1.0, None, 0.0), cond, atol=1e-2)


def test_momentum_works_from_any_step():
    from diffusers.guiders import AdaptiveProjectedGuidance

    guider = AdaptiveProjectedGuidance(3.0, adaptive_projected_guidance_momentum=-0.5)
    guider.set_state(step=4, num_inference_steps=10, timestep=torch.tensor(500))
    guider.prepare_inputs({'x': pair(0)})
    assert guider.momentum_buffer is None, 'diffusers has been fixed: this comparison can go'

    rule = guidance.APG(momentum=-0.5)
    state = rule.init_state()
    first = rule(*pair(0), 3.0, state=state)  # wherever it starts, the first step has no past
    torch.testing.assert_close(first, guidance.APG()(*pair(0), 3.0))
    assert not torch.allclose(rule(*pair(1), 3.0, state=state), guidance.APG()(*pair(1), 3.0), atol=1e-2)


def test_zeroed_steps_are_zero_and_free_even_with_rescale():
    from diffusers.guiders import ClassifierFreeZeroStarGuidance

    theirs = run_guider(ClassifierFreeZeroStarGuidance(4.0, zero_init_steps=1, guidance_rescale=0.7), *pair(0))
    assert theirs.isnan().any(), 'diffusers has been fixed: this comparison can go'

    rule = guidance.CFGZeroStar(zero_init=0.05).then(guidance.rescale_to_cond(0.7))
    assert rule.branches(4.0, progress=0.0) == (), 'no pass is made'
    x = pair(0)[0]
    assert torch.equal(rule(scale=4.0, progress=0.0, x=x), torch.zeros_like(x))
    assert torch.equal(rule(*pair(0), 4.0, progress=0.0), torch.zeros_like(x))
    assert torch.equal((guidance.CFGZeroStar(zero_init=0.05) + guidance.CFG())(scale=4.0, progress=0.0, x=x), torch.zeros_like(x))
    assert rule(*pair(0), 4.0, progress=0.06).isfinite().all()


def test_an_interval_of_sigma_is_just_that():
    scale = guidance.interval(7.5, sigma=(0.28, 5.42))
    sigmas = [14.6, 5.43, 5.42, 1.0, 0.29, 0.28, 0.0]
    assert [scale(sigma=sigma) for sigma in sigmas] == [1.0, 1.0, 7.5, 7.5, 7.5, 1.0, 1.0]
    assert [guidance.CFG().branches(scale(sigma=sigma)) == ('cond',) for sigma in sigmas] == [
        s > 5.42 or s <= 0.28 for s in sigmas
    ]


def test_one_level_of_a_pyramid_may_be_left_alone():
    pytest.importorskip('kornia')
    from diffusers.guiders import FrequencyDecoupledGuidance

    cond, null = pair(0, (2, 3, 32, 16))
    for scales in ((1.0, 5.0), (5.0, 1.0)):
        with pytest.raises((UnboundLocalError, RuntimeError)):  # where it stops failing, this comparison can go
            run_guider(FrequencyDecoupledGuidance(list(scales)), cond, null)
        nearly = run_guider(FrequencyDecoupledGuidance([scale + 1e-4 for scale in scales]), cond, null)
        torch.testing.assert_close(guidance.fdg(cond, null, scales), nearly, rtol=1e-3, atol=1e-3)


def test_rescale_measures_every_dimension_of_each_sample():
    """0.7.1 left out the last dimension of images, and measured `(b, d)` across the batch."""
    for shape in ((3, 4, 6, 5), (3, 8)):
        guided, cond = pair(0, shape)
        full = guidance.rescale(4 * guided, cond, 1.0)
        for i in range(3):
            torch.testing.assert_close(full[i].std(), cond[i].std())
            torch.testing.assert_close(full[i : i + 1], guidance.rescale(4 * guided[i : i + 1], cond[i : i + 1], 1.0))


def test_rescale_of_one_feature_is_not_nan():
    guided, cond = pair(0, (3, 1))
    assert torch.equal(guidance.rescale(guided, cond, 0.7), guided)


def test_remove_parallel_component_is_apg():
    """0.7.1 called `APG(eta)` by the names `remove_parallel_component` and `keep_parallel_frac`."""
    cond, null = pair(0, dtype=torch.float64)
    d, c = (cond - null).flatten(1), cond.flatten(1)
    unit = torch.nn.functional.normalize(c, dim=-1)
    along = (d * unit).sum(-1, keepdim=True) * unit
    expected = cond + ((d - along + 0.3 * along) * 2.0).view_as(cond)
    torch.testing.assert_close(guidance.APG(eta=0.3)(cond, null, 3.0), expected)
