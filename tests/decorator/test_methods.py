"""`classifier_free_guidance` on the methods of classes that handle text themselves."""

import inspect

import pytest
import torch
from torch import nn

from classifier_free_guidance_pytorch import TextConditioner, classifier_free_guidance, guidance
from classifier_free_guidance_pytorch.errors import ConfigError, UsageError
from tests.conditioners.making import noise, randomised
from tests.decorator.models import TEXTS, build
from tests.tiny_models import TinyEncoder


class Own(nn.Module):
    """Embeds labels, and drops them as it is told."""

    def __init__(self):
        super().__init__()
        self.labels = nn.Embedding(5, 4)
        self.null = nn.Parameter(torch.randn(4))
        self.calls = []

    @classifier_free_guidance
    def forward(self, x, labels=None, *, cond_drop_prob=0.25, texts=None):
        self.calls.append((cond_drop_prob, texts))
        label = self.labels(labels) if labels is not None else torch.full_like(x, float(len(texts[0])))
        keep = torch.rand(len(x), 1) >= cond_drop_prob
        return x + torch.where(keep, label, self.null)


@pytest.mark.parametrize('scale', [-1.0, 0.0, 0.5, 1.0, 3.0])
def test_the_formula(scale):
    model, x, labels = Own().eval(), noise(3, 4), torch.tensor([0, 3, 1])
    cond, null = x + model.labels(labels), x + model.null
    torch.testing.assert_close(model(x, labels, cond_scale=scale), null + scale * (cond - null))
    drops = [drop for drop, _ in model.calls]
    assert drops == ([0.0] if scale == 1 else [1.0] if scale == 0 else [0.0, 1.0])


def test_its_texts_are_handed_on():
    model, x = Own().eval(), noise(3, 4)
    model(x, texts=TEXTS, cond_scale=3.0)
    assert model.calls == [(0.0, TEXTS), (1.0, TEXTS)]
    guided = model(x, texts=['abcd'], negative_texts=['ab'], cond_scale=3.0)
    torch.testing.assert_close(guided, x + 2 + 3.0 * 2)
    assert model.calls[2:] == [(0.0, ['abcd']), (0.0, ['ab'])]


def test_its_own_default_holds_in_training_and_the_callers_word_everywhere():
    model, x, labels = Own(), noise(3, 4), torch.tensor([0, 3, 1])
    model(x, labels)
    model(x, labels, cond_drop_prob=0.5)
    model.eval()
    model(x, labels)
    model(x, labels, cond_drop_prob=1.0)
    assert [drop for drop, _ in model.calls] == [0.25, 0.5, 0.0, 1.0]


def test_what_it_cannot_take_is_refused():
    model, x = Own().eval(), noise(3, 4)
    for call, message in (
        ({'text_embeds': x}, r"Own.forward takes no 'text_embeds': it handles its texts itself"),
        (
            {'text_condition': build().prepare(TEXTS)},
            r'text_condition is for a text_conditioner, but Own.forward handles its texts itself',
        ),
        ({'cond_drop_prob': 1.5}, r'cond_drop_prob is a probability in \[0, 1\]'),
        ({'cond_scale': 3.0, 'guidance': guidance.NAG()}, r'inside the cross-attention of a text_conditioner, but Own.forward'),
    ):
        with pytest.raises(ConfigError, match=message):
            model(x, torch.tensor([0, 1, 2]), **call)
    model.train()
    with pytest.raises(UsageError, match='is for sampling'):
        model(x, torch.tensor([0, 1, 2]), cond_scale=3.0)
    assert model.calls == []


def test_many_conditions():
    model, x = Own().eval(), noise(3, 4)
    rule = guidance.Compose((1.0, 2.0))
    null = x + model.null
    expected = null + 2 * ((x + 1 - null) + 2 * (x + 3 - null))
    torch.testing.assert_close(model(x, texts=[['a'], ['abc']], cond_scale=2.0, guidance=rule), expected)


def test_a_method_beside_forward_and_names_of_ones_own():
    class Other(nn.Module):
        def __init__(self):
            super().__init__()
            self.reader = TextConditioner((4,), [TinyEncoder()])

        @classifier_free_guidance(cond_drop_prob_keyname='drop')
        def denoise(self, x, drop=0.0):
            return x + (1 - drop)

        @classifier_free_guidance(cond_fns_keyname='conditions', texts_key_name='captions', text_conditioner_name='reader')
        def read(self, x, conditions):
            return conditions[0](x)

        @torch.no_grad()
        def sample(self, x, **call):
            return self.read(x, **call)

    other, x = randomised(Other()).eval(), noise(3, 4)
    torch.testing.assert_close(other.denoise(x, cond_scale=3.0), x + 3)
    cond, null = other.read(x, captions=TEXTS), other.read(x)
    torch.testing.assert_close(other.sample(x, captions=TEXTS, cond_scale=3.0), null + 3.0 * (cond - null))
    assert 'captions' in inspect.signature(Other.read).parameters
    assert Other.read.__name__ == 'read'


def test_a_method_that_no_condition_can_reach_is_refused():
    with pytest.raises(ConfigError, match=r"forward\(self, x\) has no way to receive a condition: name the parameter 'cond_fns'"):

        class Deaf(nn.Module):
            @classifier_free_guidance
            def forward(self, x):
                return x


def test_positional_arguments_around_the_injected_ones():
    class Between(nn.Module):
        def __init__(self):
            super().__init__()
            self.text_conditioner = TextConditioner((4,), [TinyEncoder()])

        @classifier_free_guidance
        def forward(self, x, cond_fns, times, raw_text_cond, factor=1.0):
            assert raw_text_cond.embed.shape[0] == len(x)
            return cond_fns[0](x) * factor + times.unsqueeze(-1)

    model, x, times = randomised(Between()).eval(), noise(3, 4), noise(3)
    by_name = model(x, times=times, factor=2.0, texts=TEXTS, cond_scale=3.0)
    torch.testing.assert_close(model(x, times, 2.0, texts=TEXTS, cond_scale=3.0), by_name)
    torch.testing.assert_close(model(x, times, 2.0, texts=TEXTS, cond_scale=3.0, cfg_batched=True), by_name)
    with pytest.raises(TypeError, match='4 positional arguments were given, but only'):
        model(x, times, 2.0, 1, texts=TEXTS)


@pytest.mark.parametrize('times', [torch.tensor(0.5), torch.tensor([0.5]), torch.rand(3)], ids=['number', 'one', 'each'])
def test_the_batch_is_that_of_the_sample_and_not_of_its_time(times):
    """Flow models are called with their time first."""

    class Flow(nn.Module):
        def __init__(self):
            super().__init__()
            self.text_conditioner = TextConditioner((4,), [TinyEncoder()])

        @classifier_free_guidance
        def forward(self, t, x, cond_fns):
            return cond_fns[0](x) * t.reshape(-1, 1)

    model, x = randomised(Flow()).eval(), noise(3, 4)
    expected = model(times, x) + 3.0 * (model(times, x, texts=TEXTS) - model(times, x))
    for call in ({}, {'cfg_batched': True}):
        torch.testing.assert_close(model(times, x, texts=TEXTS, cond_scale=3.0, **call), expected)
    at = {'guidance': guidance.CFG().in_x0('flow'), 'guidance_kwargs': {'sigma': 0.5}}
    torch.testing.assert_close(model(times, x, texts=TEXTS, cond_scale=3.0, **at), expected)


def test_of_several_vectors_the_first_is_the_sample():
    class Line(nn.Module):
        def __init__(self):
            super().__init__()
            self.text_conditioner = TextConditioner((1,), [TinyEncoder()])

        @classifier_free_guidance
        def forward(self, x, cond_fns, time):
            return cond_fns[0](x.unsqueeze(-1)).squeeze(-1) * time

    model, x = randomised(Line()).eval(), noise(3)
    guided = model(x, time=torch.tensor([0.5]), texts=TEXTS, cond_scale=3.0)
    cond, null = model(x, time=torch.tensor([0.5]), texts=TEXTS), model(x, time=torch.tensor([0.5]))
    torch.testing.assert_close(guided, null + 3.0 * (cond - null))
