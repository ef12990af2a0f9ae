"""Outputs that hold more than a tensor."""

import collections
import dataclasses

import pytest
import torch
from torch import nn

from classifier_free_guidance_pytorch import classifier_free_guidance_class_decorator
from classifier_free_guidance_pytorch.errors import ConfigError
from tests.conditioners.making import noise
from tests.decorator.models import TEXTS, build

Named = collections.namedtuple('Named', ['sample', 'cache'])


@dataclasses.dataclass
class Plain:
    sample: torch.Tensor
    cache: torch.Tensor


@dataclasses.dataclass(frozen=True)
class Frozen:
    sample: torch.Tensor
    cache: torch.Tensor
    norm: float = dataclasses.field(init=False, default=0.0)


def model_output(sample, cache):
    from transformers.utils import ModelOutput

    @dataclasses.dataclass
    class Output(ModelOutput):
        sample: torch.Tensor = None
        cache: torch.Tensor = None

    return Output(sample=sample, cache=cache)


FORMS = {
    'tuple': (lambda s, c: (s, c), 0, 1),
    'list': (lambda s, c: [s, c], 0, 1),
    'dict': (lambda s, c: {'sample': s, 'cache': c}, 'sample', 'cache'),
    'ordered': (lambda s, c: collections.OrderedDict(sample=s, cache=c), 'sample', 'cache'),
    'named tuple': (Named, 0, 1),
    'dataclass': (Plain, 'sample', 'cache'),
    'frozen dataclass': (Frozen, 'sample', 'cache'),
    'model output': (model_output, 'sample', 'cache'),
}
forms = pytest.mark.parametrize('form', FORMS)


@classifier_free_guidance_class_decorator
class Structured(nn.Module):
    """Returns its prediction and, beside it, what it saw before the last step."""

    def __init__(self, form, swapped=False):
        super().__init__()
        self.form, self.swapped = FORMS[form][0], swapped
        self.passes = 0

    def forward(self, x, cond_fns):
        self.passes += 1
        h = cond_fns[0](x)
        return self.form(h, h.tanh()) if self.swapped else self.form(h.tanh(), h)


def entry(output, key):
    return getattr(output, key) if dataclasses.is_dataclass(output) else output[key]


@forms
@pytest.mark.parametrize('batched', [False, True])
def test_the_first_entry_is_guided_and_the_others_come_from_all_branches(form, batched):
    _, first, second = FORMS[form]
    model, x = build(cls=Structured, form=form), noise(3, 6)
    alone, null = model(x, texts=TEXTS), model(x)
    assert isinstance(entry(alone, second), torch.Tensor), 'a single pass gives what the forward returned'
    guided = model(x, texts=TEXTS, cond_scale=3.0, cfg_batched=batched)
    assert type(guided).__name__ == type(alone).__name__
    torch.testing.assert_close(entry(guided, first), entry(null, first) + 3.0 * (entry(alone, first) - entry(null, first)))
    for branch, value in zip((alone, null), entry(guided, second), strict=True):
        torch.testing.assert_close(value, entry(branch, second))
    (pair, returned), caches = (
        entry(o, k) for o, k in ((model(x, texts=TEXTS, cond_scale=3.0, return_unconditioned=True), k) for k in (first, second))
    )
    torch.testing.assert_close(pair, entry(guided, first))
    torch.testing.assert_close(returned, entry(null, first))
    assert len(caches) == 2


@forms
def test_guide_names_the_entry(form):
    _, first, second = FORMS[form]
    model, x = build(cls=Structured, form=form, swapped=True), noise(3, 6)
    plain = build(cls=Structured, form=form)
    guided = model(x, texts=TEXTS, cond_scale=3.0, guide=second)
    torch.testing.assert_close(entry(guided, second), entry(plain(x, texts=TEXTS, cond_scale=3.0), first))
    assert len(entry(guided, first)) == 2


def test_a_named_tuple_is_guided_by_name_too():
    model, x = build(cls=Structured, form='named tuple'), noise(3, 6)
    by_name = model(x, texts=TEXTS, cond_scale=3.0, guide='cache').cache
    torch.testing.assert_close(by_name, model(x, texts=TEXTS, cond_scale=3.0, guide=1).cache)


def test_outputs_that_cannot_be_guided_are_refused():
    x = noise(3, 6)
    with pytest.raises(ConfigError, match=r"guide='mean' names no entry of the output, which has \['sample', 'cache'\]"):
        build(cls=Structured, form='dict')(x, texts=TEXTS, cond_scale=3.0, guide='mean')
    for value, message in (
        ({'loss': 1.0, 'sample': x}, r"entry 'loss' of the output is to be guided, but is a float .* \['loss', 'sample'\]"),
        ('text', 'a guided forward returns a tensor, .* but this one returned a str'),
        ((), 'guide=None names no entry of the output, which has none'),
    ):
        model = build(cls=Structured, form='dict')
        model.form = lambda *_, value=value: value
        with pytest.raises(ConfigError, match=message):
            model(x, texts=TEXTS, cond_scale=3.0)
        assert model(x, texts=TEXTS) is value, 'without guidance anything may be returned'


def test_nested_outputs_are_split_between_branches():
    x = noise(3, 6)
    model = build(cls=Structured, form='dict')
    model.form = lambda sample, cache: (sample, {'layers': [cache, cache * 2], 'step': 4})
    guided, (cond, null) = model(x, texts=TEXTS, cond_scale=3.0, cfg_batched=True)
    separate, (cond_alone, null_alone) = model(x, texts=TEXTS, cond_scale=3.0)
    torch.testing.assert_close(guided, separate)
    assert cond['step'] == null['step'] == 4
    torch.testing.assert_close(cond['layers'], cond_alone['layers'])
    torch.testing.assert_close(null['layers'], null_alone['layers'])
