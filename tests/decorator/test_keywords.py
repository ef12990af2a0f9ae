# ruff: noqa: E501  the messages are as long as they are
"""Every keyword of a call against every kind of nonsense: our error, by name, before any work, in eval mode and in training."""

import inspect
import pydoc

import pytest
import torch
from torch import nn

from classifier_free_guidance_pytorch import classifier_free_guidance_class_decorator, guidance
from classifier_free_guidance_pytorch.decorator.keywords import GUIDANCE_KEYWORDS, GuidanceKeywords, TextKeywords, describe
from classifier_free_guidance_pytorch.decorator.signature import KeyNames
from classifier_free_guidance_pytorch.errors import CFGError, ConfigError, ShapeError, UsageError
from classifier_free_guidance_pytorch.perturb import skip_layers
from tests.conditioners.making import noise
from tests.decorator.models import TEXTS, Denoiser, build

modes = pytest.mark.parametrize('training', [False, True], ids=['eval', 'training'])
NAN, HUGE = float('nan'), 10**400

# Values that no keyword could mean, beside those of their own.
NONSENSE = {
    'a word': 'x', 'a number': 42, 'a negative number': -7, 'a float': 0.5, 'True': True, 'NaN': NAN, 'a huge number': HUGE,
    'an object': object(), 'bytes': b'x', 'an empty list': [], 'a list': ['nope'], 'a nested list': [[1]], 'an empty dict': {},
    'a dict': {'nope': 1}, 'a function': len, 'a class': dict, 'a bool tensor': torch.ones(3, dtype=torch.bool),
    'a complex tensor': torch.ones(3, dtype=torch.complex64), 'a text tensor': torch.zeros(2, 2, 2, 2), 'a set': {'nope'},
}  # fmt: skip

# Which of them each keyword takes.
MEANT = {
    'cond_scale': {'a number', 'a negative number', 'a float', 'a text tensor'},
    'guidance': set(),
    'guidance_state': set(),
    'guidance_kwargs': {'an empty dict'},
    'rescale_phi': {'a float'},
    'remove_parallel_component': {'True'},
    'keep_parallel_frac': set(),
    'return_unconditioned': {'True'},
    'cfg_routed_kwargs': {'an empty dict'},
    'cfg_batched': {'True', 'an empty list'},
    'weak': set(),
    'guide': set(),
}
KINDS_OF_NONSENSE = [(name, what) for name in MEANT for what in NONSENSE if what not in MEANT[name]]


def test_every_keyword_is_tried():
    assert MEANT.keys() == GUIDANCE_KEYWORDS.keys()


@modes
@pytest.mark.parametrize(('name', 'what'), KINDS_OF_NONSENSE, ids=lambda part: str(part))
def test_nonsense_is_refused_by_name(name, what, training):
    model = build(training=training)
    with pytest.raises(CFGError) as caught:
        model(noise(3, 6), texts=TEXTS, **{name: NONSENSE[what]})
    assert name in str(caught.value)
    assert len(str(caught.value)) > 40, 'what was passed, what was expected, how to fix it'
    if name != 'guide':  # only the output shows whether an entry of it exists
        assert (model.encoder.calls, model.passes) == (0, 0)


@modes
@pytest.mark.parametrize('name', [*GUIDANCE_KEYWORDS, 'texts', 'text_embeds', 'cond_drop_prob', 'repeat_batch'])
def test_the_default_may_be_written_out(name, training):
    model = build(training=training)
    default = describe(KeyNames())[name][0]
    torch.manual_seed(0)
    expected = model(noise(3, 6), texts=TEXTS)
    torch.manual_seed(0)
    torch.testing.assert_close(
        model(noise(3, 6), **{'texts': TEXTS, name: default} if name != 'texts' else {'texts': TEXTS}), expected
    )


CASES = {
    'a name as weak': ({'weak': 'blocks.0'}, ConfigError, r"weak is a mapping .* got 'blocks.0': a name goes into skip_layers"),
    'a number as weak': ({'weak': 42}, ConfigError, 'weak is a mapping of keywords for the forward, a second model, or .* got 42'),
    'no weak': ({'weak': False}, ConfigError, 'weak is a mapping .* got False'),
    'weak keywords': ({'weak': {'nope': 1}}, ConfigError, "weak has 'nope', which is no argument of Denoiser.forward: it takes extra"),
    'weak with the conditions': ({'weak': {'cond_fns': 1}}, ConfigError, "weak has 'cond_fns', which is no argument"),
    'nothing weak': ({'weak': {}}, ConfigError, 'weak is an empty mapping'),
    'a scale in the kwargs': ({'guidance_kwargs': {'scale': 9.0}}, ConfigError, "has 'scale', but knows x, sigma, alpha, progress, next_sigma, next_alpha; the guidance scale is cond_scale="),
    'a typo in the kwargs': ({'guidance_kwargs': {'sigam': 1.0}}, ConfigError, "guidance_kwargs has 'sigam', but knows x, sigma"),
    'x that is no tensor': ({'guidance_kwargs': {'x': 1.0}}, ConfigError, r"guidance_kwargs\['x'\] is the noisy sample, a tensor"),
    'sigma that is a word': ({'guidance_kwargs': {'sigma': 'x'}}, ConfigError, r"guidance_kwargs\['sigma'\] is a number or a tensor"),
    'no such branch': ({'cfg_routed_kwargs': {'times': {'cnod': 1}}}, ConfigError, "has 'cnod', which is no branch: the branches are 'cond', 'null'"),
    'no cond': ({'cfg_routed_kwargs': {'times': {'null': 1}}}, ConfigError, "has no value for 'cond', which the other branches fall back to"),
    'three values': ({'cfg_routed_kwargs': {'times': (1, 2, 3)}}, ConfigError, r'is a pair \(for the conditional pass, for the null pass\)'),
    'names that match nothing': ({'cfg_batched': ['nope']}, ConfigError, "cfg_batched names 'nope', which is no argument of Denoiser.forward: it takes extra, times, x"),
    'three batches': ({'cfg_batched': 3}, ConfigError, 'cfg_batched is True, False, or a list of names of arguments that stay shared, but got 3'),
    'an entry of a tensor': ({'guide': 'nothing'}, ConfigError, "guide='nothing' names an entry of the output, but the forward returned a tensor"),
    'half a switch': ({'return_unconditioned': 'x'}, ConfigError, "return_unconditioned is True or False, but got 'x'"),
    'a bool tensor': ({'cond_scale': torch.ones(3, dtype=torch.bool)}, ConfigError, 'cond_scale is a number, or a tensor .* got a tensor of torch.bool'),
    'a rule alone': ({'guidance': guidance.APG()}, UsageError, r'APG\(.*\) does nothing at a guidance scale of 1: pass cond_scale= as well'),
    'a rule that is not made': ({'guidance': guidance.APG, 'cond_scale': 3.0}, ConfigError, r'guidance is a rule .* \(an instance: write it with parentheses\)'),
    'phi alone': ({'rescale_phi': 0.7}, UsageError, r'does nothing at a guidance scale of 1'),
    'a word as phi': ({'rescale_phi': 'a'}, ConfigError, r"rescale_phi is a share in \[0, 1\], but got 'a'"),
    'a number as state': ({'guidance_state': 5}, ConfigError, r'guidance_state is what rule.init_state\(\) returned, but got 5'),
    'a huge scale': ({'cond_scale': HUGE}, ConfigError, 'cond_scale must be finite'),
    'a schedule alone': ({'cond_scale': guidance.linear(1.0, 5.0)}, ConfigError, "say where sampling stands with guidance_kwargs="),
    'how others call it': ({'guidance_scale': 7.5}, ConfigError, "'guidance_scale' may be 'cond_scale' here"),
    'how others still call it': ({'cfg_scale': 7.5}, ConfigError, "'cfg_scale' may be 'cond_scale' here"),
    'a typo': ({'cond_scael': 7.5}, ConfigError, "'cond_scael' may be 'cond_scale' here"),
    'a typo of texts': ({'negative_text': ['a']}, ConfigError, "'negative_text' may be 'negative_texts' here"),
    'no repetition': ({'repeat_batch': 0}, ConfigError, 'repeat_batch counts the rows of the hiddens that share a text, at least 1'),
    'half a repetition': ({'repeat_batch': 1.5}, ConfigError, 'repeat_batch counts the rows .* but got 1.5'),
}  # fmt: skip


@pytest.mark.parametrize(('call', 'error', 'message'), CASES.values(), ids=CASES)
def test_what_the_messages_say(call, error, message):
    model = build()
    with pytest.raises(error, match=message):
        model(noise(3, 6), texts=TEXTS, **call)
    assert model.encoder.calls == 0 or 'guide' in call


FOR_SAMPLING = {
    'cond_scale': 3.0, 'guidance': guidance.APG(), 'guidance_state': guidance.APG(momentum=-0.5).init_state(),
    'guidance_kwargs': {'sigma': 0.5}, 'rescale_phi': 0.5, 'remove_parallel_component': True, 'return_unconditioned': True,
    'cfg_batched': True, 'weak': skip_layers('inner'), 'guide': 0,
}  # fmt: skip


@pytest.mark.parametrize('name', FOR_SAMPLING)
def test_in_training_the_message_names_what_is_for_sampling(name):
    model = build(training=True)
    with pytest.raises(UsageError, match=f'{name}=.* is for sampling, but the model is in training mode'):
        model(noise(3, 6), texts=TEXTS, **{name: FOR_SAMPLING[name]})
    assert (model.passes, model.encoder.calls) == (0, 0)


def test_rules_with_a_scale_of_their_own_need_no_other():
    model, x = build(), noise(3, 6)
    cond, null = model(x, texts=TEXTS), model(x)
    torch.testing.assert_close(model(x, texts=TEXTS, guidance=guidance.FDG((10.0, 5.0))), guidance.fdg(cond, null, (10.0, 5.0)))
    preset = guidance.preset('rescale')
    torch.testing.assert_close(model(x, texts=TEXTS, guidance=preset), preset.rule(cond, null, 7.5))
    torch.testing.assert_close(model(x, texts=TEXTS, guidance=preset, cond_scale=2.0), preset.rule(cond, null, 2.0))
    timed = guidance.preset('interval-sdxl')
    for sigma, scale in ((1.0, 7.5), (9.0, 1.0)):
        guided = model(x, texts=TEXTS, guidance=timed, guidance_kwargs={'sigma': sigma})
        torch.testing.assert_close(guided, guidance.cfg(cond, null, scale))


def test_a_schedule_is_a_scale():
    model, x = build(), noise(3, 6)
    cond, null = model(x, texts=TEXTS), model(x)
    schedule = guidance.linear(1.0, 5.0)
    for progress in (0.0, 0.5, 1.0):
        model.passes = 0
        guided = model(x, texts=TEXTS, cond_scale=schedule, guidance_kwargs={'progress': progress})
        torch.testing.assert_close(guided, guidance.cfg(cond, null, schedule(progress)))
        assert model.passes == (1 if progress == 0 else 2)


def test_samples_at_scale_one_of_a_schedule_have_no_null_pass():
    model, x = build(), noise(3, 6)
    schedule, sigma = guidance.interval(4.0, sigma=(0.3, 5.0)), torch.tensor([0.1, 1.0, 2.0])
    model.batches.clear()
    model(x, texts=TEXTS, cond_scale=schedule, guidance_kwargs={'sigma': sigma}, cfg_batched=True)
    assert model.batches == [3 + 2]


@classifier_free_guidance_class_decorator
class Open(nn.Module):
    """Takes anything."""

    def forward(self, x, cond_fns, **options):
        return cond_fns[0](x)


def test_a_forward_that_takes_anything_gets_what_is_not_ours():
    model, x = build(cls=Open), noise(3, 6)
    model(x, texts=TEXTS, cond_scale=3.0, guidance_scale=7.5, cfg_routed_kwargs={'cache': (1, 2)})
    with pytest.raises(ConfigError, match='no branch'):
        model(x, texts=TEXTS, cfg_routed_kwargs={'cache': {'cnod': 1}})


def test_signature_help_and_table_come_from_one_place():
    parameters = inspect.signature(Denoiser.forward).parameters
    said = pydoc.render_doc(Denoiser.forward, renderer=pydoc.plaintext)
    for name, (default, annotation, sentence) in describe(KeyNames()).items():
        assert parameters[name].default is default
        assert parameters[name].annotation == annotation
        assert parameters[name].kind is inspect.Parameter.KEYWORD_ONLY
        assert f'{name}: {sentence[0].upper()}{sentence[1:]}.' in said
    with pytest.raises(AttributeError, match='cannot assign'):
        GuidanceKeywords().cond_scale = 3.0
    with pytest.raises(AttributeError, match='cannot assign'):
        TextKeywords().texts = TEXTS


def test_too_many_scales_for_the_batch():
    model = build()
    with pytest.raises(ShapeError, match='cond_scale has 2 values for a batch of 3'):
        model(noise(3, 6), texts=TEXTS, cond_scale=torch.ones(2))
    assert model.passes == 0


def test_a_scale_of_another_shape_is_refused_where_it_is_off_too():
    model = build()
    for scale in (1.0, 2.0):
        with pytest.raises(ShapeError, match=r'scale of shape \(3, 1, 1\) does not fit predictions of shape \(3, 6\)'):
            model(noise(3, 6), texts=TEXTS, cond_scale=torch.full((3, 1, 1), scale))
