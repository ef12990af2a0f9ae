"""Noising and its targets against closed forms, the loop over betas, and diffusers' own schedulers."""

from __future__ import annotations

import diffusers
import pytest
import torch

from cfg_demo import folders
from cfg_demo.image.diffusion import SAMPLERS, Diffusion
from classifier_free_guidance_pytorch.errors import ConfigError, MissingDependencyError
from demo.tests.image.tiny import kept_shares


@pytest.fixture
def pair():
    generator = torch.Generator().manual_seed(0)
    images, noise = (torch.randn(5, 3, 4, 4, generator=generator, dtype=torch.float64) for _ in range(2))
    return images, noise


def spread(values):
    return torch.tensor(values, dtype=torch.float64)[:, None, None, None]


def test_flow_is_a_line_and_its_target_the_slope(pair):
    images, noise = pair
    times = torch.tensor([0.0, 0.2, 0.5, 0.9, 1.0], dtype=torch.float64)
    noisy, target = Diffusion('flow').noised(images, noise, times)
    torch.testing.assert_close(noisy, (1 - spread(times.tolist())) * images + spread(times.tolist()) * noise)
    torch.testing.assert_close(target, noise - images)
    step = 1e-3
    later, _ = Diffusion('flow').noised(images, noise, times + step)
    torch.testing.assert_close((later - noisy) / step, target)  # the velocity of the path


@pytest.mark.parametrize('prediction', ['v', 'epsilon'])
def test_v_and_epsilon_are_the_formulas_of_their_papers(prediction, pair):
    images, noise = pair
    steps, kept = [0, 3, 400, 777, 999], kept_shares()
    alpha, sigma = spread([kept[step] ** 0.5 for step in steps]), spread([(1 - kept[step]) ** 0.5 for step in steps])
    times = torch.tensor([(step + 0.5) / 999 if step < 999 else 1.0 for step in steps], dtype=torch.float64)
    noisy, target = Diffusion(prediction).noised(images, noise, times)
    torch.testing.assert_close(noisy, alpha * images + sigma * noise, rtol=1e-4, atol=1e-5)
    expected = noise if prediction == 'epsilon' else alpha * noise - sigma * images
    torch.testing.assert_close(target, expected, rtol=1e-4, atol=1e-5)


def test_flow_agrees_with_the_scheduler_of_diffusers(pair):
    images, noise = (tensor.float() for tensor in pair)
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler()
    timesteps = scheduler.timesteps[[0, 100, 500, 900, 999]]
    noisy, _ = Diffusion('flow').noised(images, noise, timesteps / 1000)
    torch.testing.assert_close(noisy, scheduler.scale_noise(images, timesteps, noise))


@pytest.mark.parametrize('prediction', ['v', 'epsilon'])
@pytest.mark.parametrize('sampler', ['ddim', 'ddpm', 'dpm++'])
def test_all_samplers_take_off_the_noise_that_training_adds(prediction, sampler, pair):
    kept = Diffusion(prediction).scheduler(sampler).alphas_cumprod
    torch.testing.assert_close(kept, torch.tensor(kept_shares()), rtol=1e-4, atol=1e-7)
    if sampler != 'dpm++':  # which counts its steps backwards until they are set
        images, noise = (tensor.float() for tensor in pair)
        steps = torch.tensor([0, 3, 400, 777, 999])
        noisy, _ = Diffusion(prediction).noised(images, noise, (steps + 0.5) / 999)
        torch.testing.assert_close(noisy, Diffusion(prediction).scheduler(sampler).add_noise(images, noise, steps))


@pytest.mark.parametrize('prediction', ['v', 'epsilon'])
def test_every_timestep_comes_back_from_the_time_of_the_network(prediction):
    diffusion, kept = Diffusion(prediction), kept_shares()
    for step in (*range(0, 1000, 7), 999):
        sigma, alpha = diffusion.levels(diffusion.network_time(torch.tensor(step)))
        assert alpha**2 == pytest.approx(kept[step], rel=1e-4, abs=1e-9)
        assert sigma**2 == pytest.approx(1 - kept[step], rel=1e-4, abs=1e-6)


@pytest.mark.parametrize('sampler', SAMPLERS['flow'])
def test_the_levels_of_flow_are_those_of_its_schedulers(sampler):
    diffusion = Diffusion('flow')
    scheduler = diffusion.scheduler(sampler)
    scheduler.set_timesteps(10)
    for timestep, sigma in zip(scheduler.timesteps, scheduler.sigmas, strict=False):
        time = diffusion.network_time(timestep)
        # timesteps of dpm++ are whole numbers
        assert diffusion.levels(time) == pytest.approx((float(sigma), 1 - float(sigma)), abs=1e-3)


@pytest.mark.parametrize(('mean', 'spread'), [(0.0, 1.0), (0.6, 1.2), (-1.0, 0.5)])
def test_times_are_logit_normal_and_belong_to_their_generator(mean, spread):
    first, second = (Diffusion('flow').draw_times(4000, torch.Generator().manual_seed(0), mean, spread) for _ in range(2))
    assert torch.equal(first, second)
    assert abs(first.logit().mean() - mean) < 0.05 * spread
    assert abs(first.logit().std() - spread) < 0.05 * spread


def test_the_first_sampler_is_the_default():
    names = {'flow': 'FlowMatchEulerDiscreteScheduler', 'v': 'DDIMScheduler', 'epsilon': 'DDIMScheduler'}
    assert {prediction: type(Diffusion(prediction).scheduler()).__name__ for prediction in SAMPLERS} == names


def test_an_unknown_prediction_is_refused():
    with pytest.raises(ConfigError, match=r"^prediction is one of flow, v, epsilon, but got 'x0'$"):
        Diffusion('x0')


def test_a_sampler_that_does_not_fit_is_refused():
    with pytest.raises(ConfigError, match=r"^a model that predicts flow is sampled by euler or dpm\+\+, but got 'ddim'$"):
        Diffusion('flow').scheduler('ddim')
    with pytest.raises(ConfigError, match='sampled by ddim or ddpm or dpm'):
        Diffusion('v').scheduler('euler')


def test_without_diffusers_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setattr(folders, 'find_spec', lambda name: None)
    with pytest.raises(
        MissingDependencyError, match=r'^images are sampled by diffusers, which is not installed: pip install diffusers$'
    ):
        Diffusion('flow').scheduler()
