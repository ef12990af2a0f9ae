"""Schedules, the scale converter, prediction spaces and presets: values, types and round trips."""

from __future__ import annotations

import copy
import math
import pickle

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from classifier_free_guidance_pytorch import guidance
from classifier_free_guidance_pytorch.errors import ConfigError
from tests.guidance.test_oracles import pair

SCHEDULES = {
    'constant': guidance.constant(7.5),
    'linear': guidance.linear(1.0, 14.0),
    'cosine': guidance.cosine(1.0, 14.0),
    'power_cosine': guidance.power_cosine(1.0, 4.0, power=3.0),
    'clamp_linear': guidance.clamp_linear(1.0, 14.0, floor=4.0),
    'piecewise': guidance.piecewise((0.1, 2.0), (0.4, 7.0), (0.9, 1.0)),
    'piecewise, held': guidance.piecewise((0.1, 2.0), (0.4, 7.0), (0.9, 1.0), hold=True),
    'interval of progress': guidance.interval(guidance.linear(2.0, 5.0), progress=(0.2, 0.7)),
    'interval of sigma': guidance.interval(7.5, sigma=(0.28, 5.42)),
    'interval of a weight': guidance.interval(7.5, progress=(0.2, 0.7), outside=0.0),
    'cfg_plus_plus': guidance.cfg_plus_plus(0.6),
    'beta': guidance.beta(7.5, 2.0, 3.0),
    'exponential': guidance.exponential(3.0, 0.7),
}
progresses = st.floats(0, 1)


def at(schedule, value):
    return schedule(value, sigma=value * 10 + 0.01, next_sigma=value * 5)


FORMULAS = {
    'constant': lambda p: 7.5,
    'linear': lambda p: 1 + 13 * p,
    'cosine': lambda p: 1 + 13 * math.sin(math.pi * p / 2) ** 2,
    'power_cosine': lambda p: 1 + 3 * (1 - math.cos(math.pi * p**3)) / 2,
    'clamp_linear': lambda p: max(4.0, 1 + 13 * p),
    'piecewise': lambda p: (
        2.0 if p < 0.1 else 2 + 5 * (p - 0.1) / 0.3 if p < 0.4 else 7 - 6 * (p - 0.4) / 0.5 if p < 0.9 else 1.0
    ),
    'piecewise, held': lambda p: 2.0 if p < 0.4 else 7.0 if p < 0.9 else 1.0,
    'interval of progress': lambda p: 2 + 3 * p if 0.2 <= p < 0.7 else 1.0,
    'interval of sigma': lambda p: 7.5 if 0.28 < 10 * p + 0.01 <= 5.42 else 1.0,
    'interval of a weight': lambda p: 7.5 if 0.2 <= p < 0.7 else 0.0,
    'beta': lambda p: 1 + 6.5 * 12 * p * (1 - p) ** 2,
    'exponential': lambda p: 1 + 2 * math.exp(0.7 * p),
    'cfg_plus_plus': lambda p: 0.6 * (10 * p + 0.01) / (5 * p + 0.01),
}


def test_every_schedule_is_tested():
    from classifier_free_guidance_pytorch.guidance import schedules

    makers = {
        name
        for name, value in vars(schedules).items()
        if callable(value) and name.islower() and not name.startswith('_') and value.__module__ == schedules.__name__
    }
    assert makers - {'check_number'} <= {name.split(',')[0].split(' ')[0] for name in SCHEDULES}
    assert set(SCHEDULES) == set(FORMULAS)


@pytest.mark.parametrize('name', list(SCHEDULES))
@settings(deadline=None)
@given(progress=progresses)
def test_values(name, progress):
    value = at(SCHEDULES[name], progress)
    assert isinstance(value, float)
    assert value == pytest.approx(FORMULAS[name](progress), abs=1e-9)


@pytest.mark.parametrize('name', list(SCHEDULES))
def test_tensors_get_tensors(name):
    progress = torch.linspace(0, 1, 23, dtype=torch.float64)
    many = torch.as_tensor(at(SCHEDULES[name], progress), dtype=torch.float64).expand(23)
    one_by_one = torch.tensor([at(SCHEDULES[name], float(p)) for p in progress], dtype=torch.float64)
    torch.testing.assert_close(many, one_by_one)
    single = at(SCHEDULES[name], progress.float())
    assert name == 'constant' or single.dtype == torch.float32


@pytest.mark.parametrize('name', list(SCHEDULES))
def test_schedules_are_values(name):
    schedule = SCHEDULES[name]
    assert copy.deepcopy(schedule) == pickle.loads(pickle.dumps(schedule)) == schedule
    assert hash(copy.deepcopy(schedule)) == hash(schedule)


@pytest.mark.parametrize('name', [name for name in SCHEDULES if name != 'constant'])
def test_schedules_are_traced(name):
    """One graph over all steps of a sampler that hands its position over as a tensor."""
    from torch._dynamo.testing import CompileCounter

    torch._dynamo.reset()
    counter, (cond, null) = CompileCounter(), pair(0)

    def step(progress, cond, null):
        return guidance.CFG()(cond, null, at(SCHEDULES[name], progress))

    compiled = torch.compile(step, backend=counter, fullgraph=True)
    for progress in torch.linspace(0, 1, 5):
        torch.testing.assert_close(compiled(progress, cond, null), step(progress, cond, null))
    assert counter.frame_count == 1


def test_the_end_belongs_to_an_interval_that_ends_at_one():
    late, middle = guidance.interval(3.0, progress=(0.5, 1.0)), guidance.interval(3.0, progress=(0.2, 0.5))
    assert (late(0.5), late(1.0), middle(0.5), middle(0.2)) == (3.0, 3.0, 1.0, 3.0)
    assert late(torch.tensor([0.5, 1.0])).tolist() == [3.0, 3.0]


def test_linear_and_cosine_keep_the_mean():
    p = torch.linspace(0, 1, 1001, dtype=torch.float64)
    for schedule in (guidance.linear(1, 2 * 7.5 - 1), guidance.cosine(1, 2 * 7.5 - 1)):
        assert float(schedule(p).mean()) == pytest.approx(7.5)


# The converter


@settings(deadline=None)
@given(st.floats(0.1, 20), st.sampled_from(['scale', 'extra', 'inverse']), st.sampled_from(['scale', 'extra', 'inverse']))
def test_scales_convert_there_and_back(value, one, other):
    there = guidance.convert_scale(value, from_=one, to=other)
    assert guidance.convert_scale(there, from_=other, to=one) == pytest.approx(value)
    many = guidance.convert_scale(torch.tensor([value], dtype=torch.float64), from_=one, to=other)
    assert float(many) == pytest.approx(there)


@pytest.mark.parametrize(
    ('convention', 'formula'),
    [
        ('diffusers', lambda c, u, v: u + v * (c - u)),
        ('imagen', lambda c, u, v: u + v * (c - u)),
        ('edm2', lambda c, u, v: torch.lerp(u, c, v)),
        ('ho-salimans', lambda c, u, v: (1 + v) * c - v * u),
        ('llada', lambda c, u, v: u + (v + 1) * (c - u)),
        ('var', lambda c, u, v: (1 + v) * c - v * u),
        ('weak', lambda c, u, v: guidance.weak(c, u, v)),
        ('guidance-free-training', lambda c, u, v: (c - (1 - v) * u) / v),
    ],
)
def test_conventions_are_what_they_say(convention, formula):
    """The formula of each convention, at the converted value, is CFG at ours."""
    cond, null = pair(0, dtype=torch.float64)
    value = guidance.convert_scale(4.0, from_='scale', to=convention)
    torch.testing.assert_close(formula(cond, null, value), guidance.cfg(cond, null, 4.0))


# Prediction spaces

alphas = {'x0': None, 'eps': 0.8, 'v': 0.8, 'flow': 0.4}


@pytest.mark.parametrize('space', guidance.SPACES)
def test_spaces_invert_the_forward_process(space):
    """Noise a clean sample, write down what a perfect model predicts, and get the clean sample back."""
    x0, noise = pair(0, dtype=torch.float64)
    sigma = 0.6
    alpha = alphas[space] or 1.0
    x = alpha * x0 + sigma * noise
    perfect = {'x0': x0, 'eps': noise, 'v': alpha * noise - sigma * x0, 'flow': noise - x0}[space]
    for given_alpha in (alpha, None if space != 'eps' else alpha):
        torch.testing.assert_close(guidance.to_x0(perfect, space, x, sigma, given_alpha), x0)
        torch.testing.assert_close(guidance.from_x0(x0, space, x, sigma, given_alpha), perfect)


@pytest.mark.parametrize('space', guidance.SPACES)
def test_spaces_take_any_forward_process(space):
    x0, noise = pair(0, dtype=torch.float64)
    alpha, sigma = 0.9, 0.7  # neither variance preserving nor a flow
    x = alpha * x0 + sigma * noise
    perfect = {'x0': x0, 'eps': noise, 'v': alpha * noise - sigma * x0, 'flow': noise - x0}[space]
    torch.testing.assert_close(guidance.to_x0(perfect, space, x, sigma, alpha), x0)
    torch.testing.assert_close(guidance.from_x0(x0, space, x, sigma, alpha), perfect)


def test_eps_without_alpha_is_variance_exploding():
    x0, noise = pair(0)
    torch.testing.assert_close(guidance.to_x0(noise, 'eps', x0 + 9.0 * noise, 9.0), x0, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize('space', guidance.SPACES)
def test_spaces_take_a_noise_level_per_sample(space):
    prediction, x = pair(0)
    sigma, alpha = torch.tensor([0.1, 0.5, 0.9]), torch.tensor([0.9, 0.7, 0.2])
    many = guidance.to_x0(prediction, space, x, sigma, alpha)
    for i in range(3):
        one = guidance.to_x0(prediction[i : i + 1], space, x[i : i + 1], float(sigma[i]), float(alpha[i]))
        torch.testing.assert_close(many[i : i + 1], one)


# Presets


@pytest.mark.parametrize('name', list(guidance.PRESETS))
def test_presets_guide_and_name_their_source(name):
    from tests.guidance.cases import call, inputs

    preset = guidance.preset(name)
    assert preset.source.startswith('arXiv ')
    assert preset.predicts in guidance.SPACES
    scale = preset.at(0.5, sigma=1.0)
    batch = inputs(preset.rule, (3, 4, 6, 5))
    assert not torch.allclose(call(preset.rule, batch, scale), batch.kwargs['cond'])


@pytest.mark.parametrize('name', list(SCHEDULES))
def test_whole_numbers_and_tensors_of_them_are_where_sampling_stands_too(name):
    """A scale is never rounded to the kind of number that progress or the noise level came as."""
    schedule, ends = SCHEDULES[name], (0, 1)
    many = at(schedule, torch.tensor(ends))
    assert many.is_floating_point()
    assert many.shape == (2,)
    torch.testing.assert_close(many, torch.tensor([at(schedule, float(end)) for end in ends]))
    held = guidance.piecewise((0.0, 1.5), (1.0, 2.5), hold=True)
    assert held(torch.tensor(ends)).tolist() == [1.5, 2.5]
    weight = guidance.interval(7.5, sigma=(0.3, 5.0), outside=0.5)
    assert weight(sigma=torch.tensor([6, 1])).tolist() == [0.5, 7.5]


def test_a_beta_of_large_parameters_is_its_density():
    """Against a Gaussian of the same mean and variance, which it approaches; the gamma function itself is no float there."""
    a = 2000.0
    variance = 1 / (4 * (2 * a + 1))
    for p in (0.5, 0.49, 0.52):
        expected = math.exp(-((p - 0.5) ** 2) / (2 * variance)) / math.sqrt(2 * math.pi * variance)
        assert (guidance.beta(2.0, a, a)(p) - 1) == pytest.approx(expected, rel=1e-2)
    ends = torch.tensor([0.0, 1.0])
    assert guidance.beta(2.0, a, a)(ends).tolist() == [1.0, 1.0]
    assert guidance.beta(3.0, 1.0, 1.0)(ends).tolist() == [3.0, 3.0]


def test_saved_passes_of_a_schedule_of_progress_and_sigma():
    schedule = guidance.interval(guidance.linear(1.0, 7.0), sigma=(0.3, 5.0))
    assert schedule.saved([0.0, 0.5, 0.7, 1.0], sigma=[6.0, 4.0, 1.0, 0.1]) == 2
    with pytest.raises(ConfigError, match='got 2 progress= and 1 sigma='):
        schedule.saved([0.0, 1.0], sigma=[1.0])
