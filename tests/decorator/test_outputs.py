"""Outputs that hold more than a tensor."""

import collections
import dataclasses

import pytest
import torch
from torch import nn

from classifier_free_guidance_pytorch import classifier_free_guidance_class_decorator, guidance
from classifier_free_guidance_pytorch.errors import ConfigError, UsageError
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


@classifier_free_guidance_class_decorator
class Shaped(nn.Module):
    """Returns what it is told to make of its prediction."""

    def __init__(self, make):
        super().__init__()
        self.make = make

    def forward(self, x, cond_fns):
        return self.make(cond_fns[0](x))


def shaped(make):
    return build(cls=Shaped, make=make)


def of_branches(model, x, pick):
    cond, null = pick(model(x, texts=TEXTS)), pick(model(x))
    return null + 3.0 * (cond - null)


HEADS = {
    'a name': (lambda y: {'a': y, 'b': y.tanh()}, 'b', lambda o: [o['b']]),
    'an index': (lambda y: (y.tanh(), y), 1, lambda o: [o[1]]),
    'several names': (lambda y: {'a': y, 'b': y.tanh(), 'c': y.sin()}, ('a', 'b'), lambda o: [o['a'], o['b']]),
    'several in a list': (lambda y: {'a': y, 'b': y.tanh()}, ['a', 'b'], lambda o: [o['a'], o['b']]),
    'a path': (lambda y: {'p': {'a': y, 'b': y.sin()}, 'q': y.tanh()}, ('p', 'a'), lambda o: [o['p']['a']]),
    'a path through a tuple': (lambda y: (y, [y.tanh(), y.sin()]), (1, 0), lambda o: [o[1][0]]),
    'several paths': (
        lambda y: {'p': {'a': y}, 'q': (y.tanh(), 1)}, [('p', 'a'), ('q', 0)], lambda o: [o['p']['a'], o['q'][0]]
    ),
    'a path and a name': (lambda y: {'p': {'a': y}, 'q': y.tanh()}, [('p', 'a'), 'q'], lambda o: [o['p']['a'], o['q']]),
    'one value per sample': (lambda y: y.sum(dim=-1), None, lambda o: [o]),
    'complex numbers': (lambda y: torch.complex(y, y.tanh()), None, lambda o: [o]),
}  # fmt: skip


@pytest.mark.parametrize(('make', 'guide', 'pick'), HEADS.values(), ids=HEADS)
@pytest.mark.parametrize('batched', [False, True])
def test_what_can_be_guided(make, guide, pick, batched):
    model, x = shaped(make), noise(3, 6)
    guided = model(x, texts=TEXTS, cond_scale=3.0, guide=guide, cfg_batched=batched)
    for index, part in enumerate(pick(guided)):
        torch.testing.assert_close(part, of_branches(model, x, lambda output, index=index: pick(output)[index]))


def test_everything_beside_a_nested_entry_comes_from_all_branches():
    model, x = shaped(lambda y: {'p': {'a': y, 'b': y.sin()}, 'q': y.tanh()}), noise(3, 6)
    guided = model(x, texts=TEXTS, cond_scale=3.0, guide=('p', 'a'))
    for branch, inner, outer in zip((model(x, texts=TEXTS), model(x)), guided['p']['b'], guided['q'], strict=True):
        torch.testing.assert_close(inner, branch['p']['b'])
        torch.testing.assert_close(outer, branch['q'])


def test_several_entries_come_with_their_null():
    model, x = shaped(lambda y: (y, y.tanh())), noise(3, 6)
    (a, null_a), (b, null_b) = model(x, texts=TEXTS, cond_scale=3.0, guide=[0, 1], return_unconditioned=True)
    for part, null, index in ((a, null_a, 0), (b, null_b, 1)):
        torch.testing.assert_close(null, model(x)[index])
        torch.testing.assert_close(part, of_branches(model, x, lambda output, index=index: output[index]))


def test_places_that_cannot_be_guided_are_refused():
    x, rule = noise(3, 6), guidance.APG(momentum=-0.5)
    for make, call, error, message in (
        (lambda y: (y.square().mean(), y), {}, ConfigError, 'entry 0 .* is a tensor without a batch: name another with guide='),
        (lambda y: (None, y), {}, ConfigError, 'entry 0 .* is a NoneType and no tensor: name another with guide='),
        (lambda y: {'p': {'a': y}}, {'guide': ('p', 'c')}, ConfigError, r"guide=\('p', 'c'\) names no entry .* has \['a'\]"),
        (lambda y: {'p': {'a': y}}, {'guide': ('q', 'a')}, ConfigError, r"guide=\('q', 'a'\) names no entry .* has \['p'\]"),
        (lambda y: {'p': y}, {'guide': ('p', 'a')}, ConfigError, 'this one returned a Tensor'),
        (lambda y: {'p': {'a': y}, 'a': y}, {'guide': ('p', 'a')}, None, None),
        (lambda y: [y, (y, y)], {'guide': 7}, ConfigError, r'guide=7 names no entry of the output, which has \[0, 1\]'),
        (lambda y: y, {'guide': 0}, ConfigError, 'guide=0 names an entry of the output, but the forward returned a tensor'),
        (
            lambda y: (y, y.tanh()), {'guide': [0, 1], 'guidance': rule, 'guidance_state': rule.init_state()}, UsageError,
            'remembers one prediction between steps, but guide=.* names 2',
        ),
    ):  # fmt: skip
        if error is None:
            shaped(make)(x, texts=TEXTS, cond_scale=3.0, **call)
            continue
        with pytest.raises(error, match=message):
            shaped(make)(x, texts=TEXTS, cond_scale=3.0, **call)
