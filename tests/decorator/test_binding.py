"""`bind` and `bound`: a guided model for code that knows nothing of text."""

import copy
import pickle
import re
import threading

import pytest
import torch
from torch import nn

from classifier_free_guidance_pytorch import classifier_free_guidance, classifier_free_guidance_class_decorator, guidance
from classifier_free_guidance_pytorch.decorator import Bound
from classifier_free_guidance_pytorch.decorator.binding import bind
from classifier_free_guidance_pytorch.errors import ConfigError, UsageError
from tests.conditioners.making import noise, randomised
from tests.decorator.models import TEXTS
from tests.tiny_models import TinyEncoder


@classifier_free_guidance_class_decorator
class Denoiser(nn.Module):
    def __init__(self, dim=6):
        super().__init__()
        self.inner = nn.Linear(dim, dim)
        self.channels = dim

    def forward(self, x, t, cond_fns):
        return cond_fns[0](self.inner(x)) - t


def build():
    made = Denoiser(text_condition_model_types=[TinyEncoder()], text_condition_hidden_dims=(6,))
    return randomised(made).eval()


CALLS = [
    {'texts': TEXTS},
    {'texts': TEXTS, 'cond_scale': 3.0, 'negative_texts': ['grey']},
    {'texts': TEXTS, 'guidance': guidance.APG(eta=0.5), 'cond_scale': 3.0, 'cfg_batched': True},
]


@pytest.mark.parametrize('call', CALLS)
def test_bound_is_the_call_written_out(call):
    model, x = build(), noise(3, 6)
    expected = model(x, 0.5, **call)
    denoise = model.bind(**call)
    assert isinstance(denoise, Bound)
    torch.testing.assert_close(denoise(x, 0.5), expected, rtol=0, atol=0)
    torch.testing.assert_close(denoise(x, t=0.5), expected, rtol=0, atol=0)
    with model.bound(**call) as inside:
        assert inside is model
        torch.testing.assert_close(model(x, 0.5), expected, rtol=0, atol=0)
    torch.testing.assert_close(model(x, 0.5), build()(x, 0.5), rtol=0, atol=0)


def test_what_the_call_says_has_the_last_word():
    model, x = build(), noise(3, 6)
    denoise = model.bind(texts=TEXTS, cond_scale=3.0)
    torch.testing.assert_close(denoise(x, 0.5, cond_scale=1.0), model(x, 0.5, texts=TEXTS))


def test_schedules_are_told_the_time():
    model, x = build(), noise(3, 6)
    late = guidance.interval(5.0, sigma=(0.0, 1.0))
    denoise = model.bind(texts=TEXTS, cond_scale=late, sigma=lambda t: t)
    torch.testing.assert_close(denoise(x, 0.5), model(x, 0.5, texts=TEXTS, cond_scale=5.0))
    torch.testing.assert_close(denoise(x, 2.0), model(x, 2.0, texts=TEXTS))
    ramp = guidance.linear(1.0, 5.0)
    denoise = model.bind(texts=TEXTS, cond_scale=ramp, progress=lambda t: 1 - t)
    torch.testing.assert_close(denoise(x, t=0.25), model(x, 0.25, texts=TEXTS, cond_scale=4.0))
    with model.bound(texts=TEXTS, cond_scale=ramp, progress=lambda t: 1 - t):
        torch.testing.assert_close(model(x, 0.25), denoise(x, 0.25))


def test_a_rule_that_remembers_has_a_state_per_run():
    model, rule = build(), guidance.APG(momentum=-0.5)
    steps = [noise(3, 6, seed=seed) for seed in range(3)]

    def by_hand():
        state = rule.init_state()
        return [model(x, 0.5, texts=TEXTS, cond_scale=3.0, guidance=rule, guidance_state=state) for x in steps]

    denoise = model.bind(texts=TEXTS, cond_scale=3.0, guidance=rule)
    for _ in range(2):
        torch.testing.assert_close([denoise(x, 0.5) for x in steps], by_hand(), rtol=0, atol=0)
        denoise.restart()
    with model.bound(texts=TEXTS, cond_scale=3.0, guidance=rule):
        torch.testing.assert_close([model(x, 0.5) for x in steps], by_hand(), rtol=0, atol=0)


def test_it_looks_like_the_model():
    model, x = build(), noise(3, 6)
    denoise = model.bind(texts=TEXTS, cond_scale=3.0)
    assert denoise.channels == 6
    assert denoise.inner is model.inner
    assert next(denoise.parameters()) is next(model.parameters())
    assert denoise.training is False
    for copied in (copy.deepcopy(denoise), pickle.loads(pickle.dumps(denoise))):
        torch.testing.assert_close(copied(x, 0.5), denoise(x, 0.5), rtol=0, atol=0)
    assert denoise.double()(x.double(), 0.5).dtype == torch.float64
    with pytest.raises(AttributeError, match="'Denoiser' object has no attribute 'sample_rate'"):
        denoise.sample_rate


class Repeats(nn.Module):
    """A model with a loop of its own, that is copied in its own way."""

    def forward(self, x, cond_fns):
        return cond_fns[0](x)

    def twice(self, x):
        return self(self(x))

    def __deepcopy__(self, memo):
        return self


def test_its_methods_are_bound_as_well():
    cls = classifier_free_guidance_class_decorator(Repeats)
    model = cls(text_condition_model_types=[TinyEncoder()], text_condition_hidden_dims=(6,)).eval()
    randomised(model.text_conditioner)
    call, x = {'texts': TEXTS, 'cond_scale': 3.0}, noise(3, 6)
    denoise = model.bind(**call)
    torch.testing.assert_close(denoise.twice(x), model(model(x, **call), **call), rtol=0, atol=0)
    torch.testing.assert_close(model.twice(x), model(model(x)), rtol=0, atol=0)  # and nobody else is
    torch.testing.assert_close(copy.deepcopy(denoise)(x), denoise(x), rtol=0, atol=0)


def test_compiled():
    torch._dynamo.reset()
    model, x = build(), noise(3, 6)
    denoise = model.bind(text_condition=model.prepare(TEXTS), cond_scale=torch.full((3,), 3.0))
    compiled = torch.compile(denoise, fullgraph=True, backend='eager')
    torch.testing.assert_close(compiled(x, torch.tensor(0.5)), denoise(x, torch.tensor(0.5)))


@pytest.mark.parametrize(
    ('keywords', 'says'),
    [
        ({'cond_scle': 3.0}, "bind: 'cond_scle' is no keyword of Denoiser.forward"),
        ({'sgma': float}, "'sgma' may be 'sigma' here"),
        ({'captions': TEXTS}, "'captions' may be 'texts' here"),
        ({'negative_prompt': TEXTS}, "'negative_prompt' may be 'negative_texts' here"),
        ({'cond_scale': '3'}, "cond_scale is a number, or a tensor with one value per sample, but got '3'"),
        ({'texts': TEXTS, 'text_embeds': noise(3, 8)}, 'pass either texts or text_embeds, but got both'),
        ({'sigma': 0.5}, 'bind: sigma is a function of the time that the sampler passes, such as sigma=lambda t: t, but got 0.5'),
    ],
)
@pytest.mark.parametrize('how', ['bind', 'bound'])
def test_keywords_are_checked_before_any_call(keywords, says, how):
    model = build()
    with pytest.raises(ConfigError, match=re.escape(says)):
        model.bind(**keywords) if how == 'bind' else model.bound(**keywords).__enter__()


def test_functions_of_time_need_a_time():
    @classifier_free_guidance_class_decorator
    class Timeless(nn.Module):
        def forward(self, x, cond_fns):
            return x

    timeless = Timeless(text_condition_model_types=[TinyEncoder()], text_condition_hidden_dims=(6,))
    with pytest.raises(ConfigError, match=r'bind: sigma is a function of time, but .*Timeless.forward takes no second argument'):
        timeless.bind(sigma=float)
    with pytest.raises(UsageError, match="sigma is bound to the time, but this call has no 't'"):
        build().bind(sigma=float)(noise(3, 6))


def test_training():
    model, x = build().train(), noise(3, 6)
    with pytest.raises(UsageError, match='a bound model is for sampling, but the model is in training mode: call model'):
        model.bind(texts=TEXTS)(x, 0.5)
    with model.bound(texts=TEXTS):  # code that holds the model can train it
        torch.testing.assert_close(model(x, 0.5), model(x, 0.5, texts=TEXTS))
    with model.bound(texts=TEXTS, cond_scale=3.0), pytest.raises(UsageError, match=r'cond_scale=3\.0 is for sampling'):
        model(x, 0.5)


def test_another_thread_does_not_see_it():
    model, x, seen = build(), noise(3, 6), []
    expected = model(x, 0.5)
    with model.bound(texts=TEXTS, cond_scale=3.0):
        thread = threading.Thread(target=lambda: seen.append(model(x, 0.5)))
        thread.start()
        thread.join()
        bound = model(x, 0.5)
    torch.testing.assert_close(seen[0], expected, rtol=0, atol=0)
    assert not torch.allclose(bound, expected)


def test_a_block_in_which_nothing_calls_the_model():
    model, x = build(), noise(3, 6)
    other = copy.deepcopy(model)
    says = r'nothing inside of `with model.bound\(...\)` called this Denoiser'
    with pytest.warns(UserWarning, match=says), model.bound(texts=TEXTS, cond_scale=3.0):
        other(x, 0.5)


def test_a_method_that_handles_texts_itself():
    class ByItself(nn.Linear):
        @classifier_free_guidance
        def forward(self, x, t, label, cond_drop_prob=0.0):
            return super().forward(x) + label * (1 - cond_drop_prob)

    model, x, label = ByItself(6, 6).eval(), noise(3, 6), noise(3, 6, seed=2)
    torch.testing.assert_close(bind(model, cond_scale=3.0)(x, 0.5, label), model(x, 0.5, label, cond_scale=3.0))
