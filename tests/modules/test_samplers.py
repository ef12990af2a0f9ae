"""Samplers of other libraries draw from a model that follows text; held to the same sampler on a function written by hand."""

import importlib
import sys
import types
from importlib.util import find_spec
from itertools import pairwise

import pytest
import torch
from torch import nn

from classifier_free_guidance_pytorch import guidance
from classifier_free_guidance_pytorch.text.torchvision_repair import repair_torchvision
from tests.conditioners.making import noise, randomised
from tests.modules.networks import TEXTS, following

SCALE = 3.0


class Velocity(nn.Module):
    """A small field over pictures, with what samplers ask of a network: `channels`, `self_condition`, ..."""

    channels, out_dim, self_condition, random_or_learned_sinusoidal_cond = 3, 3, False, False

    def __init__(self):
        super().__init__()
        self.enter, self.leave = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 3, 3, padding=1)

    def forward(self, x, times, x_self_cond=None):
        times = torch.as_tensor(times, dtype=x.dtype).reshape(-1, 1, 1, 1)
        return 0.1 * self.leave(torch.tanh(self.enter(x) + torch.sin(times)))


class Guided(nn.Module):
    """What a user would write: both branches and the rule by hand."""

    def __init__(self, model):
        super().__init__()
        self.model, self.channels, self.out_dim = model, 3, 3
        self.self_condition = self.random_or_learned_sinusoidal_cond = False

    def forward(self, x, times, x_self_cond=None):
        cond, null = self.model(x, times, texts=TEXTS), self.model(x, times, texts=TEXTS, cond_scale=0.0)
        return null + SCALE * (cond - null)


@pytest.fixture
def model():
    torch.manual_seed(0)
    net = randomised(Velocity())
    return following('enter', net, example=(noise(2, 3, 8, 8), torch.ones(2)))


def drawn(sample, network):
    torch.manual_seed(0)
    with torch.no_grad():
        return sample(network)


def distance(one, other):
    """How far two drawings are from one another; steps to small noise levels multiply what rounding leaves."""
    return ((one - other).norm() / other.norm()).item()


def check(model, sample, **bound):
    """The sampler with the bound model, and with the model while texts are bound to it, draws what it draws by hand."""
    expected = drawn(sample, Guided(model))
    assert not torch.allclose(expected, drawn(sample, model))
    assert distance(drawn(sample, model.bind(texts=TEXTS, cond_scale=SCALE, **bound)), expected) < 1e-4
    with model.bound(texts=TEXTS, cond_scale=SCALE, **bound):
        assert distance(drawn(sample, model), expected) < 1e-4


def test_a_scheduler_loop_of_diffusers(model):
    repair_torchvision()
    from diffusers import DPMSolverMultistepScheduler

    def sample(network):
        scheduler = DPMSolverMultistepScheduler()
        scheduler.set_timesteps(6)
        x = noise(3, 3, 8, 8)
        for t in scheduler.timesteps:
            x = scheduler.step(network(x, t), t, x).prev_sample
        return x

    check(model, sample)


def test_a_pipeline_of_diffusers():
    repair_torchvision()
    from diffusers import DDIMPipeline, DDIMScheduler, UNet2DModel

    torch.manual_seed(0)
    unet = UNet2DModel(
        sample_size=8, in_channels=1, out_channels=1, layers_per_block=1, block_out_channels=(8,), norm_num_groups=4,
        down_block_types=('DownBlock2D',), up_block_types=('UpBlock2D',),
    )  # fmt: skip
    model = following('mid_block', unet, example=(noise(2, 1, 8, 8), 3))

    def sample(network):
        pipeline = DDIMPipeline(unet=network, scheduler=DDIMScheduler())
        pipeline.set_progress_bar_config(disable=True)
        return pipeline(batch_size=3, num_inference_steps=4, output_type='np').images

    plain, asked = sample_twice(sample, model, model.bind(texts=TEXTS, cond_scale=SCALE))
    assert asked.shape == (3, 8, 8, 1)
    assert abs(asked - plain).max() > 1e-3
    with model.bound(texts=TEXTS, cond_scale=SCALE):
        assert abs(drawn(sample, model) - asked).max() < 1e-5


def sample_twice(sample, *networks):
    return [drawn(sample, network) for network in networks]


def test_k_diffusion(model):
    """The samplers alone: the package as a whole imports much more."""
    spec = find_spec('k_diffusion')
    if spec is None:
        pytest.skip('k-diffusion is not installed')
    repair_torchvision()
    package = types.ModuleType('k_diffusion')
    package.__path__ = list(spec.submodule_search_locations)
    sys.modules.setdefault('k_diffusion', package)
    sampling = importlib.import_module('k_diffusion.sampling')
    sigmas = sampling.get_sigmas_karras(6, 0.02, 20.0)
    for sampler in (sampling.sample_heun, sampling.sample_dpmpp_2m, sampling.sample_euler_ancestral):
        check(model, lambda network, run=sampler: run(network, 20 * noise(3, 3, 8, 8), sigmas, disable=True))
    limited = guidance.interval(SCALE, sigma=(0.1, 5.0))  # guided in the middle only (arXiv 2404.07724)
    seen = []
    rule = model.bind(texts=TEXTS, cond_scale=limited, sigma=lambda sigma: seen.append(float(sigma.mean())) or sigma.mean())
    drawn(lambda network: sampling.sample_euler(network, 20 * noise(3, 3, 8, 8), sigmas, disable=True), rule)
    torch.testing.assert_close(torch.tensor(seen), sigmas[:-1])


def heun(network, steps=6):
    """Heun's method (arXiv 2206.00364, algorithm 1), written out."""
    sigmas = torch.linspace(20.0**0.5, 0.02**0.5, steps) ** 2
    x = sigmas[0] * noise(3, 3, 8, 8)
    for now, then in pairwise(sigmas.tolist()):
        slope = (x - network(x, now)) / now
        ahead = x + (then - now) * slope
        x = x + (then - now) * (slope + (ahead - network(ahead, then)) / then) / 2
    return x


def test_a_loop_written_out(model):
    check(model, heun)
    check(model, heun, sigma=lambda t: t)


def test_gaussian_diffusion(model):
    repair_torchvision()
    lucid = pytest.importorskip('denoising_diffusion_pytorch')
    for steps in (8, 4):

        def sample(network, steps=steps):
            diffusion = lucid.GaussianDiffusion(network, image_size=8, timesteps=8, sampling_timesteps=steps).eval()
            return diffusion.sample(batch_size=3)

        check(model, sample)


def test_training_gaussian_diffusion(model):
    """The trainer knows nothing of captions either: they are bound for the step."""
    repair_torchvision()
    lucid = pytest.importorskip('denoising_diffusion_pytorch')
    diffusion = lucid.GaussianDiffusion(model.only_text_trains(), image_size=8, timesteps=8).train()
    with model.bound(texts=TEXTS):
        diffusion(noise(3, 3, 8, 8).sigmoid()).backward()
    assert all(p.grad is not None for p in model.trainable_parameters())


def test_rectified_flow(model):
    repair_torchvision()
    lucid = pytest.importorskip('rectified_flow_pytorch')
    check(model, lambda network: lucid.RectifiedFlow(network, data_shape=(3, 8, 8)).sample(batch_size=3, steps=4))


@pytest.mark.parametrize('method', ['midpoint', 'rk4', 'dopri5'])
def test_an_ode_solver(model, method):
    torchdiffeq = pytest.importorskip('torchdiffeq')
    times = torch.linspace(0, 1, 4)

    def sample(network):
        return torchdiffeq.odeint(lambda t, x: network(x, t), noise(3, 3, 8, 8), times, method=method)[-1]

    check(model, sample)
    check(model, sample, progress=lambda t: t)
