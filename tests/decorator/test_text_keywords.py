"""The text keywords of a call, a prepared condition and a bound model against nonsense; arguments that two keywords fill."""

import pytest
import torch
from torch import nn

from classifier_free_guidance_pytorch import classifier_free_guidance, guidance
from classifier_free_guidance_pytorch.errors import CFGError, ConfigError, ShapeError
from tests.conditioners.making import noise
from tests.decorator.models import TEXTS, Denoiser, build

modes = pytest.mark.parametrize('training', [False, True], ids=['eval', 'training'])
NAN, HUGE = float('nan'), 10**400

NONSENSE = {
    'text_embeds': [5, 'x', True, 0, [], (), {}, object(), ['a'], (1, 2), [None]],
    'text_condition': [5, 'x', True, 0, [], (), {}, object(), torch.ones(2), ['a'], [None]],
    'cond_drop_prob': ['a', 2.0, -0.1, NAN, True, [], {}, object(), (0.1, 'a'), 1j, HUGE, torch.ones(3, 1), torch.tensor([True])],
    'repeat_batch': [0, -1, 'a', 1.5, True, False, None, [], {}, object(), ['a'], (True,)],
    'num_samples_per_text': [0, -1, 'a', 1.5, True, False, None, [], {}, object(), [2]],
}
EACH = [(name, value) for name, values in NONSENSE.items() for value in values]


class Own(nn.Module):
    """Handles its texts itself."""

    def __init__(self):
        super().__init__()
        self.calls = []

    @classifier_free_guidance
    def forward(self, x, texts=None, text_embeds=None, label=None, cond_drop_prob=0.0):
        self.calls.append((texts, text_embeds, cond_drop_prob))
        return x * (1 - cond_drop_prob) + (0 if label is None else label)


@modes
@pytest.mark.parametrize('kind', ['film', 'null', 'own'])
@pytest.mark.parametrize(('name', 'value'), EACH, ids=lambda part: str(part).partition(' at 0x')[0][:30])
def test_nonsense_is_refused_by_name(kind, name, value, training):
    model = Own().train(training) if kind == 'own' else build(kind, training=training)
    texts = {} if name in ('text_embeds', 'text_condition') else {'texts': TEXTS}
    with pytest.raises(CFGError, match=name):
        model(noise(3, 6), **texts, **{name: value})
    assert model.calls == [] if kind == 'own' else (model.passes, model.encoder.calls) == (0, 0)


@pytest.mark.parametrize(
    'given',
    [*({name: value} for name, value in EACH), {'texts': 5}, {'texts': ['a', 3]}, {'texts': []}, {'negative_texts': [1]}],
    ids=lambda given: str(given).partition(' at 0x')[0][:40],
)  # fmt: skip
def test_a_bound_model_refuses_it_when_it_is_bound(given):
    model = build()
    with pytest.raises(CFGError, match=next(iter(given))):
        model.bind(**given)
    with pytest.raises(CFGError, match=next(iter(given))), model.bound(**given):
        pytest.fail('the block was entered')
    assert model.encoder.calls == 0


def test_negative_embeddings_of_a_function_that_handles_its_texts():
    model, x, (embeds, negative) = Own().eval(), noise(2, 4), noise(2, 2, 3)
    model(x, text_embeds=embeds, negative_text_embeds=negative, cond_scale=3.0)
    assert model.calls == [(None, embeds, 0.0), (None, negative, 0.0)]
    model.calls.clear()
    model(x, texts='ab', negative_text_embeds=negative, cond_scale=3.0)
    assert model.calls == [('ab', None, 0.0), (None, negative, 0.0)]

    class NoEmbeds(Own):
        @classifier_free_guidance
        def forward(self, x, texts=None, cond_drop_prob=0.0):
            pytest.fail('no pass')

    with pytest.raises(ConfigError, match="takes no 'text_embeds': it handles its texts itself"):
        NoEmbeds().eval()(x, texts='ab', negative_text_embeds=negative, cond_scale=3.0)


@pytest.mark.parametrize('name', ['cond_drop_prob', 'texts', 'text_embeds'])
def test_what_the_decorator_hands_on_cannot_be_routed(name):
    model, x = Own().eval(), noise(2, 4)
    with pytest.raises(ConfigError, match=f"'{name}' is no keyword of Own.forward, which takes label, x"):
        model(x, cond_scale=3.0, cfg_routed_kwargs={name: (0.5, 0.5)})
    with pytest.raises(ConfigError, match=f"weak has '{name}', which is no argument of Own.forward: it takes label, x"):
        model(x, cond_scale=3.0, guidance=guidance.Weak(2.0), weak={name: 0.5})
    with pytest.raises(ConfigError, match=f"cfg_batched names '{name}'"):
        model(x, cond_scale=3.0, cfg_batched=[name])


@pytest.mark.parametrize(
    'call', [lambda m, x, t, **k: m(x, t, **k), lambda m, x, t, **k: m(x, times=t, **k)], ids=['place', 'name']
)
def test_an_argument_that_was_passed_and_is_routed(call):
    model, x, t = build(), noise(3, 6), noise(3)
    with pytest.raises(ConfigError, match="'times' was passed, and cfg_routed_kwargs has values for it as well: leave out one"):
        call(model, x, t, texts=TEXTS, cond_scale=3.0, cfg_routed_kwargs={'times': (t, t)})
    with pytest.raises(ConfigError, match="'x' was passed, and cfg_routed_kwargs"):
        call(model, x, t, texts=TEXTS, cond_scale=3.0, cfg_routed_kwargs={'x': (x, x)})
    assert (model.passes, model.encoder.calls) == (0, 0)


def test_a_weak_pass_has_a_value_of_its_own_for_an_argument_passed_by_position():
    model, x, t = build(), noise(3, 6), noise(3)
    rule = guidance.Weak(2.0)
    expected = model(x, times=t, texts=TEXTS, cond_scale=3.0, guidance=rule, weak={'times': t + 1})
    torch.testing.assert_close(model(x, t, texts=TEXTS, cond_scale=3.0, guidance=rule, weak={'times': t + 1}), expected)
    assert not torch.allclose(model(x, t, texts=TEXTS, cond_scale=3.0), expected)


def test_a_mapping_whose_keys_are_no_names():
    with pytest.raises(ConfigError, match=r'cfg_routed_kwargs: 1 is no keyword of Denoiser.forward'):
        build()(noise(3, 6), texts=TEXTS, cond_scale=3.0, cfg_routed_kwargs={1: (1, 2)})


def test_an_empty_list_of_shared_arguments_shares_none():
    model, x = build(), noise(3, 6)
    expected = model(x, texts=TEXTS, cond_scale=3.0)
    model.batches.clear()
    torch.testing.assert_close(model(x, texts=TEXTS, cond_scale=3.0, cfg_batched=[]), expected)
    assert model.batches == [6]


def test_a_function_may_write_to_the_raw_condition():
    class Writing(Denoiser):
        def forward(self, x, raw_text_cond):
            embed, _ = raw_text_cond
            embed += 1
            return x + embed.sum(dim=(1, 2), keepdim=True)[:, 0]

    model, x = build('raw', cls=Writing), noise(3, 6)
    with torch.no_grad():
        prepared = model.prepare(TEXTS)
        first = model(x, texts=TEXTS, cond_scale=3.0)
        torch.testing.assert_close(model(x, texts=TEXTS, cond_scale=3.0), first)
        for _ in range(2):
            torch.testing.assert_close(model(x, text_condition=prepared, cond_scale=3.0), first)
        one = model(x, texts=TEXTS[:1])  # one text for all, which is one row in memory
        torch.testing.assert_close(one, model(x, texts=TEXTS[:1] * 3))


def test_as_many_negatives_as_texts():
    model = build()
    for given in ({'negative_texts': ['a', 'b']}, {'negative_text_embeds': noise(2, model.text_conditioner.dim_pooled)}):
        with pytest.raises(ShapeError, match='2 negative texts were given for 3 texts: pass one for each, or one for all'):
            model.prepare(TEXTS, **given)
    assert len(model.prepare(TEXTS, ['a'])) == len(model.prepare(['a'], TEXTS)) == 3


def test_time_of_a_function_of_any_number_of_arguments():
    class Any(Denoiser):
        def forward(self, *args, cond_fns):
            return cond_fns[0](self.inner(args[0]))

    model, x = build(cls=Any), noise(3, 6)
    late = guidance.interval(3.0, sigma=(0.0, 1.0))
    denoise = model.bind(texts=TEXTS, cond_scale=late, sigma=lambda t: t)
    torch.testing.assert_close(denoise(x, 0.5), model(x, 0.5, texts=TEXTS, cond_scale=3.0))
    torch.testing.assert_close(denoise(x, 2.0), model(x, 2.0, texts=TEXTS))
    with pytest.raises(CFGError, match='sigma is bound to the time, but this call has no second argument'):
        denoise(x)
