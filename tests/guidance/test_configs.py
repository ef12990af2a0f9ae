"""Rules as JSON and back, and as guiders of diffusers' modular pipelines."""

from __future__ import annotations

import json

import pytest
import torch

from classifier_free_guidance_pytorch import guidance
from classifier_free_guidance_pytorch.errors import ConfigError, UsageError
from classifier_free_guidance_pytorch.perturb import skip_layers
from tests.guidance.cases import CASES
from tests.guidance.test_schedules import SCHEDULES

POSTS = {'rescale': guidance.rescale_to_cond(0.3), 'renorm': guidance.renorm_to_cond(dim=(-1, -2), hi=float('inf'))}
VALUES = {**CASES, **SCHEDULES, **POSTS, **{f'preset {name}': preset for name, preset in guidance.PRESETS.items()}}


@pytest.mark.parametrize('name', list(VALUES))
def test_through_json_and_back(name):
    written = json.dumps(guidance.to_config(VALUES[name]), allow_nan=False)
    found = guidance.from_config(json.loads(written))
    assert found == VALUES[name]
    assert type(found) is type(VALUES[name])


class Own(guidance.Rule):
    pass


@pytest.mark.parametrize(
    ('call', 'message'),
    [
        (lambda: guidance.to_config(guidance.CFG().then(lambda g, c: g)), 'is of your own; rules, schedules and post-steps'),
        (lambda: guidance.to_config(Own()), r'Own\(\) is of your own'),
        (
            lambda: guidance.to_config(guidance.Weak(torch.ones(2))),
            'is a tensor, which is saved with the model and not with the rule',
        ),
        (lambda: guidance.to_config(3.0), 'expected a rule, a schedule, a post-step or a preset, got 3.0'),
        (lambda: guidance.from_config({'kind': 'APGG'}), "unknown kind 'APGG'; expected one of 'ADG', 'APG'"),
        (lambda: guidance.from_config({'kind': 'APG', 'beta': 1}), "APG has no parameter 'beta'; it has eta, norm, momentum"),
        (lambda: guidance.from_config({'kind': 'APG', 'norm': 0}), 'norm is 0, which removes all guidance'),
        (lambda: guidance.from_config({'eta': 0}), "expected what to_config returned, with a 'kind'"),
        (lambda: guidance.from_config('APG'), "expected what to_config returned, with a 'kind', got 'APG'"),
    ],
)
def test_what_cannot_be_written_or_read(call, message):
    with pytest.raises(ConfigError, match=message):
        call()


diffusers = pytest.importorskip('diffusers')


def random(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope='module')
def transformer():
    torch.manual_seed(0)
    return diffusers.SD3Transformer2DModel(
        sample_size=8, patch_size=2, in_channels=4, num_layers=3, attention_head_dim=4, num_attention_heads=2,
        joint_attention_dim=6, caption_projection_dim=8, pooled_projection_dim=5, out_channels=4, pos_embed_max_size=8,
    ).eval()  # fmt: skip


PROMPT, NEGATIVE = ((random(2, 3, 6, seed=seed), random(2, 5, seed=seed + 1)) for seed in (1, 3))


def sample(transformer, guider, steps=5):
    """The denoising loop of SD3's modular pipeline, with as many passes of the model as its guider asks for."""
    denoise = pytest.importorskip('diffusers.modular_pipelines.stable_diffusion_3.denoise')

    scheduler = diffusers.FlowMatchEulerDiscreteScheduler()
    scheduler.set_timesteps(steps)
    pipe = denoise.StableDiffusion3DenoiseStep().init_pipeline()
    pipe.update_components(guider=guider, transformer=transformer, scheduler=scheduler)
    pipe.set_progress_bar_config(disable=True)
    passes = []
    hook = transformer.register_forward_pre_hook(lambda *_: passes.append(1))
    (text, pooled), (no_text, no_pooled) = PROMPT, NEGATIVE
    found = pipe(
        timesteps=scheduler.timesteps, num_inference_steps=steps, latents=random(2, 4, 8, 8), prompt_embeds=text,
        pooled_prompt_embeds=pooled, negative_prompt_embeds=no_text, negative_pooled_prompt_embeds=no_pooled, output='latents',
    )  # fmt: skip
    hook.remove()
    return found, len(passes)


def theirs(name, **options):
    return getattr(diffusers.guiders, name)(**options)


PAIRS = {
    'cfg': (lambda: theirs('ClassifierFreeGuidance', guidance_scale=4.0), guidance.CFG(), 4.0, 10),
    'rescaled': (
        lambda: theirs('ClassifierFreeGuidance', guidance_scale=4.0, guidance_rescale=0.7),
        guidance.CFG().then(guidance.rescale_to_cond(0.7)), 4.0, 10,
    ),
    'interval': (
        lambda: theirs('ClassifierFreeGuidance', guidance_scale=4.0, start=0.2, stop=0.6),
        guidance.CFG(), guidance.interval(4.0, progress=(0.19, 0.59)), 7,
    ),
    'apg': (
        lambda: theirs(
            'AdaptiveProjectedGuidance', guidance_scale=3.0, adaptive_projected_guidance_momentum=-0.5, eta=0.0,
            adaptive_projected_guidance_rescale=5.0, use_original_formulation=True,
        ),
        guidance.APG(norm=5.0, momentum=-0.5), 4.0, 10,
    ),
    'cfg zero star': (
        lambda: theirs('ClassifierFreeZeroStarGuidance', guidance_scale=4.0, zero_init_steps=1),
        guidance.CFGZeroStar(zero_init=0.2), 4.0, 9,
    ),
    'tcfg': (lambda: theirs('TangentialClassifierFreeGuidance', guidance_scale=4.0), guidance.TCFG(), 4.0, 10),
}  # fmt: skip
"""A guider of diffusers; the rule and scale that are the same; and the passes of the latter in five steps."""


@pytest.mark.parametrize('name', list(PAIRS))
def test_rules_in_a_modular_pipeline_are_the_guiders_of_diffusers(transformer, name, tmp_path):
    make, rule, scale, passes = PAIRS[name]
    guider = guidance.diffusers_guider(rule, scale)
    assert isinstance(guider, diffusers.guiders.guider_utils.BaseGuidance)
    expected, _ = sample(transformer, make())
    found, count = sample(transformer, guider)
    tolerance = 0.02 if name == 'tcfg' else 1e-4  # there an SVD in float32
    torch.testing.assert_close(found, expected, rtol=tolerance, atol=tolerance)
    assert count == passes

    guider.save_pretrained(tmp_path)
    from classifier_free_guidance_pytorch.guidance.guider import RuleGuidance

    loaded = RuleGuidance.from_pretrained(tmp_path)
    assert loaded.rule == rule
    assert torch.equal(sample(transformer, loaded)[0], found)
    assert torch.equal(sample(transformer, loaded.new() if name != 'skip layers' else loaded)[0], found), (
        'a second run begins anew'
    )


@torch.no_grad()
def test_weak_passes_in_a_modular_pipeline(transformer):
    """Three passes per step, against the loop by hand with the layers that SD3's own forward skips."""
    rule = guidance.CFG() + guidance.Weak(guidance.interval(2.0, progress=(0.0, 0.5), outside=0.0))
    found, passes = sample(transformer, guidance.diffusers_guider(rule, 4.0, weak=skip_layers('transformer_blocks.1')))
    assert passes == 3 * 3 + 2 * 2
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler()
    scheduler.set_timesteps(5)
    x, (text, pooled), (no_text, no_pooled) = random(2, 4, 8, 8), PROMPT, NEGATIVE
    for step, t in enumerate(scheduler.timesteps):
        cond, null = transformer(x, text, pooled, t.expand(2)).sample, transformer(x, no_text, no_pooled, t.expand(2)).sample
        weak = transformer(x, text, pooled, t.expand(2), skip_layers=[1]).sample
        x = scheduler.step(null + 4.0 * (cond - null) + 2.0 * (step < 3) * (cond - weak), t, x).prev_sample
    torch.testing.assert_close(found, x, rtol=1e-4, atol=1e-4)


def test_a_rule_in_another_space_in_a_modular_pipeline(transformer):
    """The time of a flow is its noise level, and the latents are its noisy sample."""
    plain, _ = sample(transformer, guidance.diffusers_guider(guidance.CFG(), 4.0))
    for space in ('x0', 'eps', 'v'):
        moved, _ = sample(transformer, guidance.diffusers_guider(guidance.CFG().in_space(space, model='flow'), 4.0))
        torch.testing.assert_close(moved, plain, rtol=1e-2, atol=1e-2, msg=lambda text, space=space: f'{space}: {text}')


@pytest.mark.parametrize(
    ('rule', 'message'),
    [
        (guidance.Compose((1.0, 2.0)), 'needs conds, but diffusers has one prompt and a negative'),
        (guidance.NAG(), r'guides inside attention; use perturb\.guided_attention'),
        (guidance.APG().in_x0('eps'), 'needs sigma and alpha, which pipelines say of flow models only'),
    ],
)
def test_rules_that_no_pipeline_feeds(rule, message):
    with pytest.raises(ConfigError, match=message):
        guidance.diffusers_guider(rule, 4.0)


def test_a_weak_pass_without_a_perturbation(transformer):
    guider = guidance.diffusers_guider(guidance.Weak(2.0))
    with pytest.raises(UsageError, match=r"has a weak pass 'weak': set guider.weak to a perturbation"):
        sample(transformer, guider)
