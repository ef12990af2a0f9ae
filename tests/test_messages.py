"""Every error of a user: its sentence, its family, and that it comes before any work is done."""

import numpy as np
import pytest
import torch

import classifier_free_guidance_pytorch as cfg
from classifier_free_guidance_pytorch import errors, guidance
from classifier_free_guidance_pytorch.errors import CFGError, ConfigError, MissingDependencyError, ShapeError, UsageError
from tests.conditioners.making import KINDS, TEXTS, make, noise
from tests.decorator.models import build
from tests.tiny_models import TinyEncoder

NAN = float('nan')


def test_the_family():
    assert issubclass(ConfigError, CFGError)
    assert issubclass(ConfigError, ValueError)
    assert issubclass(ShapeError, CFGError)
    assert issubclass(ShapeError, ValueError)
    assert issubclass(UsageError, CFGError)
    assert issubclass(UsageError, RuntimeError)
    assert issubclass(MissingDependencyError, CFGError)
    assert issubclass(MissingDependencyError, ImportError)
    assert errors.CFGError.__mro__[1] is Exception


def test_a_message_is_never_a_book():
    """What was given may be; the beginning and the end, which says how to fix it, are shown."""
    message = str(ConfigError(f'texts is a batch of strings, but got {"a" * 100_000}: wrap it in a list'))
    assert len(message) < 3100
    assert message.startswith('texts is a batch of strings, but got aaa')
    assert message.endswith('aaa: wrap it in a list')
    assert str(ConfigError('b' * 3000)) == 'b' * 3000


# texts

BAD_TEXTS = {
    'a string': ('a dog', r"texts is a batch of strings, but got the string 'a dog': wrap it in a list, \['a dog'\]"),
    'no texts': ([], r'texts is empty: pass at least one string; the empty string \[""\] is a text too'),
    'None among them': (['a', None, 'b'], r'texts\[1\] is None, but every text is a string: write ""'),
    'a number among them': (['a', 3, 'b'], r'texts\[1\] is a int, but every text is a string: got 3'),
    'a number': (3, r'texts is a list, a tuple or a NumPy array of strings, but got int'),
    'a generator': ((t for t in TEXTS), r'but got generator'),
    'an array of numbers': (np.zeros(3), r'texts\[0\] is a float'),
}
bad_texts = pytest.mark.parametrize(('texts', 'message'), BAD_TEXTS.values(), ids=BAD_TEXTS)


@bad_texts
@pytest.mark.parametrize('kind', KINDS)
def test_texts_of_a_conditioner(kind, texts, message):
    conditioner = make(kind, encoders=[TinyEncoder()])
    for call in (conditioner, conditioner.encode_texts, conditioner.embed_texts, conditioner.prepare):
        with pytest.raises(ConfigError, match=message):
            call(texts)
    assert conditioner.text_models[0].calls == 0


@bad_texts
@pytest.mark.parametrize('training', [False, True], ids=['eval', 'training'])
@pytest.mark.parametrize('kind', [*KINDS, 'raw', 'null'])
def test_texts_of_a_model(kind, training, texts, message):
    model = build(kind, training=training)
    with pytest.raises(ConfigError, match=message):
        model(noise(3, 6), texts=texts)
    assert (model.encoder.calls, model.passes) == (0, 0)


@bad_texts
def test_negative_texts(texts, message):
    if message == BAD_TEXTS['None among them'][1]:  # a sample that keeps the null condition
        return
    model = build()
    with pytest.raises(ConfigError, match=f'negative_{message}' if 'texts' in message else message):
        model(noise(3, 6), texts=TEXTS, negative_texts=texts, cond_scale=3.0)
    assert (model.encoder.calls, model.passes) == (0, 0)


@pytest.mark.parametrize('kind', ['film', 'attention', 'concat', 'raw'])
@pytest.mark.parametrize('form', [list, tuple, np.array], ids=['list', 'tuple', 'array'])
def test_counts_that_do_not_match_the_batch(kind, form):
    for training in (False, True):
        model = build(kind, training=training)
        with pytest.raises(ShapeError, match='2 texts were given for a batch of 3: pass one per sample, or one for all'):
            model(noise(3, 6), texts=form(TEXTS[:2]))
        assert (model.encoder.calls, model.passes) == (0, 0)
    with pytest.raises(ShapeError, match='2 texts were given for a batch of 1'):
        build(kind)(noise(1, 6), texts=form(TEXTS[:2]))
    model = build(kind)
    with pytest.raises(ShapeError, match='2 negative_texts were given for a batch of 3'):
        model(noise(3, 6), texts=form(TEXTS), negative_texts=form(TEXTS[:2]), cond_scale=3.0)
    assert model.encoder.calls == 0
    encodings = model.encode_texts(TEXTS[:2])
    with pytest.raises(ShapeError, match='2 text embeddings were given for a batch of 3'):
        model(noise(3, 6), text_embeds=encodings)
    for batched in (False, True):
        with pytest.raises(ShapeError, match='2 prepared texts were given for a batch of 3'):
            model(noise(3, 6), text_condition=model.prepare(TEXTS[:2]), cond_scale=3.0, cfg_batched=batched)


# keywords of a call

CALLS = {
    'both': ({'text_embeds': noise(3, 8)}, ConfigError, 'pass either texts or text_embeds, but got both'),
    'both negatives': (
        {'negative_texts': ['a'], 'negative_text_embeds': noise(3, 8)},
        ConfigError,
        'pass either negative_texts or negative_text_embeds, but got both',
    ),
    'a condition beside texts': (
        {'text_condition': 3},
        ConfigError,
        'text_condition holds the texts and the negative texts already',
    ),
    'an unknown keyword': ({'text': 1}, ConfigError, r"'text' is no keyword of Denoiser.forward, which takes extra, times, x"),
    'an unknown routed keyword': (
        {'cfg_routed_kwargs': {'cache': (1, 2)}},
        ConfigError,
        "'cache' is no keyword of Denoiser.forward",
    ),
    'a probability too large': ({'cond_drop_prob': 1.5}, ConfigError, r'cond_drop_prob is a probability in \[0, 1\], .* got 1.5'),
    'a negative probability': ({'cond_drop_prob': -0.1}, ConfigError, r'cond_drop_prob is a probability in \[0, 1\]'),
    'a probability that is NaN': ({'cond_drop_prob': NAN}, ConfigError, r'cond_drop_prob is a probability in \[0, 1\]'),
    'a probability that is a word': ({'cond_drop_prob': 'half'}, ConfigError, r"cond_drop_prob is a probability .* got 'half'"),
    'probabilities out of range': ({'cond_drop_prob': torch.tensor([0.0, 2.0, 1.0])}, ConfigError, r'probabilities in \[0, 1\]'),
    'too few probabilities': (
        {'cond_drop_prob': torch.rand(2)},
        ShapeError,
        'has 2 probabilities for 3 texts: pass one per text',
    ),
    'a table of probabilities': (
        {'cond_drop_prob': torch.rand(3, 1)},
        ConfigError,
        r'one probability per sample, \(b,\), but got',
    ),
    'too many encoders': (
        {'cond_drop_prob': (0.1, 0.2)},
        ConfigError,
        r'has 2 probabilities for 1 encoder\(s\): pass one per entry',
    ),
    'a scale that is NaN': ({'cond_scale': NAN}, ConfigError, 'cond_scale must be finite, but got nan'),
    'an infinite scale': ({'cond_scale': float('inf')}, ConfigError, 'cond_scale must be finite, but got inf'),
    'scales with a NaN': (
        {'cond_scale': torch.tensor([1.0, NAN, 2.0])},
        ConfigError,
        'cond_scale must be finite, but got tensor',
    ),
    'a scale that is a word': ({'cond_scale': 'high'}, ConfigError, "cond_scale is a number, or a tensor .* but got 'high'"),
    'a scale that is True': ({'cond_scale': True}, ConfigError, 'cond_scale is a number, or a tensor .* but got True'),
    'a schedule': (
        {'cond_scale': guidance.interval(7.5, sigma=(0.3, 5.0))},
        ConfigError,
        r'call the schedule for it, as in schedule',
    ),
    'too few scales': (
        {'cond_scale': torch.ones(2)},
        ShapeError,
        'cond_scale has 2 values for a batch of 3: pass one per sample',
    ),
    'no rule': (
        {'guidance': 'apg'},
        ConfigError,
        r"guidance is a rule of the guidance module, such as guidance.APG\(\), but got 'apg'",
    ),
    'two rules': (
        {'guidance': guidance.APG(), 'remove_parallel_component': True},
        ConfigError,
        'remove_parallel_component is a rule of its own and cannot be combined with guidance=',
    ),
    'a fraction of nothing': ({'keep_parallel_frac': 0.5}, ConfigError, 'has an effect only with remove_parallel_component=True'),
    'phi out of range': ({'rescale_phi': 1.5}, ConfigError, r'rescale_phi is a share in \[0, 1\], but got 1.5'),
    'phi that is NaN': ({'rescale_phi': NAN}, ConfigError, r'rescale_phi is a share in \[0, 1\], but got nan'),
    'a weak pass for nothing': ({'weak': {'extra': None}}, ConfigError, 'the rule asks for no weak pass: add guidance.Weak'),
    'no weak pass': (
        {'guidance': guidance.Weak(), 'cond_scale': 3.0},
        UsageError,
        'this rule needs a weak pass: pass weak= a dict',
    ),
    'no negatives': ({'guidance': guidance.PerpNeg(), 'cond_scale': 3.0}, UsageError, 'steers away from negative texts: pass'),
    'one condition': ({'guidance': guidance.Compose(), 'cond_scale': 3.0}, UsageError, 'this rule combines several conditions'),
    'no attention': (
        {'guidance': guidance.NAG(), 'cond_scale': 3.0},
        ConfigError,
        'inside cross-attention, which a TextConditioner',
    ),
    'no state': (
        {'guidance': guidance.APG(momentum=-0.5), 'cond_scale': 3.0},
        UsageError,
        r'needs a state: make one with rule.init_state',
    ),
    'a state of another': (
        {'guidance_state': guidance.APG(momentum=-0.5).init_state(), 'cond_scale': 3.0},
        UsageError,
        'remembers nothing between steps, but was given the state of',
    ),
    'a routed value alone': (
        {'cfg_routed_kwargs': {'times': noise(3)}, 'cond_scale': 3.0},
        ConfigError,
        r"cfg_routed_kwargs\['times'\] is a pair \(for the conditional pass, for the null pass\) or a mapping",
    ),
}


@pytest.mark.parametrize(('call', 'error', 'message'), CALLS.values(), ids=CALLS)
def test_keywords_of_a_call(call, error, message):
    model = build()
    with pytest.raises(error, match=message):
        model(noise(3, 6), **{'texts': TEXTS, **call})
    assert (model.encoder.calls, model.passes) == (0, 0)


def test_conditions_of_others():
    model = build()
    with pytest.raises(
        ConfigError, match=r'text_condition is what model.prepare\(texts\) returned, or a list of these, but got \['
    ):
        model(noise(3, 6), text_condition=[TEXTS])
    with pytest.raises(UsageError, match=r'prepared by another model \(or by a copy\): call prepare\(texts\) on this one'):
        model(noise(3, 6), text_condition=build().prepare(TEXTS))
    prepared = model.prepare(TEXTS)
    with pytest.raises(ConfigError, match='a prepared text_condition has no dropout: leave cond_drop_prob out, or pass texts'):
        model(noise(3, 6), text_condition=prepared, cond_drop_prob=0.5)
    model.load_state_dict({name: tensor + 1 for name, tensor in model.state_dict().items()})
    with pytest.raises(UsageError, match='the weights have changed since this text_condition was prepared'):
        model(noise(3, 6), text_condition=prepared)
    with pytest.raises(UsageError, match='negative texts were given without texts to steer towards: pass texts= as well'):
        model(noise(3, 6), negative_texts=['grey'], cond_scale=3.0)
    assert model.passes == 0


# calling a conditioner

CONDITIONER_CALLS = {
    'neither': ({'texts': None}, ConfigError, 'pass either texts or text_embeds, but got neither'),
    'both': ({'text_embeds': noise(3, 8)}, ConfigError, 'pass either texts or text_embeds, but got both'),
    'a probability': ({'cond_drop_prob': 1.5}, ConfigError, r'cond_drop_prob is a probability in \[0, 1\]'),
    'too few probabilities': ({'cond_drop_prob': torch.rand(2)}, ShapeError, 'has 2 probabilities for 3 texts'),
    'no repetition': ({'repeat_batch': 0}, ConfigError, 'repeat_batch .* at least 1, but got 0'),
    'half a repetition': ({'repeat_batch': 1.5}, ConfigError, 'repeat_batch .* at least 1, but got 1.5'),
    'too many repetitions': ({'repeat_batch': (1, 2, 3)}, ConfigError, 'repeat_batch has 3 entries for 1 hidden_dims'),
}


@pytest.mark.parametrize(('call', 'error', 'message'), CONDITIONER_CALLS.values(), ids=CONDITIONER_CALLS)
@pytest.mark.parametrize('kind', KINDS)
def test_calls_of_a_conditioner(kind, call, error, message):
    conditioner = make(kind)
    with pytest.raises(error, match=message):
        conditioner(**{'texts': TEXTS, **call})
    assert conditioner.text_models[0].calls == 0


def test_embeddings_that_do_not_fit():
    film, attention, raw = make('film'), make('attention'), build('raw').text_conditioner
    for embeds in (noise(3, 9), noise(3, 4, 8), (noise(3, 4, 12), torch.ones(3, 4, dtype=torch.bool))):
        with pytest.raises(
            ShapeError, match=r'text_embeds of a TextConditioner is one pooled feature per text, \(b, 8\), but got'
        ):
            film(text_embeds=embeds)
    for conditioner in (attention, raw):
        for embeds in (noise(3, 12), noise(3, 4, 11)):
            with pytest.raises(ShapeError, match=r'holds projected tokens, \(b, n, 12\), but got'):
                conditioner(text_embeds=embeds)
    for embeds in (3, 'text', [], [noise(3, 8)] * 3, TEXTS):
        with pytest.raises(ConfigError, match='text_embeds is what encode_texts or embed_texts returned'):
            film(text_embeds=embeds)
    encoding = film.encode_texts(TEXTS)
    with pytest.raises(ConfigError, match=r'2 TextEncoding\(s\) were passed to a conditioner with 1 encoder\(s\): pass one per'):
        film(text_embeds=encoding * 2)
    other = make('film', encoders=[TinyEncoder(dim_latent=7)]).encode_texts(TEXTS)
    with pytest.raises(ShapeError, match=r'tokens of width 7 .* but TinyEncoder makes 12 and 8: was it made by another\?'):
        film(text_embeds=other)
    two = make('film', encoders=[TinyEncoder(), TinyEncoder()])
    with pytest.raises(ShapeError, match=r'the encodings describe batches of \[3, 2\] texts: every encoder needs the same'):
        two(text_embeds=(encoding[0], encoding[0][:2]))


def test_there_is_nothing_to_embed_without_text():
    for method in (cfg.NullConditioner((6,)).embed_texts, cfg.NullConditioner((6,)).encode_texts):
        with pytest.raises(UsageError, match='a NullConditioner has no text encoder: choose another text_condition_type'):
            method(TEXTS)
