"""How texts meet the rows of a batch: frames, several samples per prompt, samples that keep the null, and caches."""

import pytest
import torch
from torch import nn

from classifier_free_guidance_pytorch import classifier_free_guidance_class_decorator, guidance
from classifier_free_guidance_pytorch.errors import ConfigError, ShapeError
from tests.conditioners.making import noise
from tests.decorator.models import KINDS, TEXTS, build

kinds = pytest.mark.parametrize('kind', [kind for kind in KINDS if kind != 'null'])
layers = pytest.mark.parametrize('kind', ['film', 'attention', 'concat'])
batched = pytest.mark.parametrize('batched', [False, True])
FRAMES = [f'{text} {frame}' for text in TEXTS for frame in ('seen first', 'and then')]


@classifier_free_guidance_class_decorator
class Video(nn.Module):
    """Folds its frames into the batch."""

    def __init__(self, dim=6):
        super().__init__()
        self.inner = nn.Linear(dim, dim)

    def forward(self, video, cond_fns):
        b, f = video.shape[:2]
        return cond_fns[0](self.inner(video.flatten(0, 1))).unflatten(0, (b, f)).tanh()


@classifier_free_guidance_class_decorator
class VideoByHand(Video):
    """Says itself how many rows of its hiddens share a text."""

    def forward(self, video, cond_fns):
        b, f = video.shape[:2]
        return cond_fns[0](self.inner(video.flatten(0, 1)), repeat_batch=f).unflatten(0, (b, f)).tanh()


def frame_by_frame(model, video, texts, **call):
    """The oracle: every frame in a call of its own, under its own text."""
    rows = [model(video[i : i + 1, j : j + 1], texts=[texts[i * 2 + j]], **call) for i in range(3) for j in range(2)]
    return torch.cat(rows).view(video.shape)


@layers
@batched
def test_frames_folded_into_the_batch(kind, batched):
    model, video = build(kind, cls=Video), noise(3, 2, 6)
    call = {'cond_scale': 3.0, 'cfg_batched': batched}
    expected = frame_by_frame(model, video, [text for text in TEXTS for _ in range(2)], cond_scale=3.0)
    torch.testing.assert_close(model(video, texts=TEXTS, repeat_batch=2, **call), expected)
    prepared = model.prepare(TEXTS)
    torch.testing.assert_close(model(video, text_condition=prepared, repeat_batch=2, **call), expected)
    by_hand = build(kind, cls=VideoByHand)
    torch.testing.assert_close(by_hand(video, texts=TEXTS, **call), expected)


@layers
@batched
def test_one_text_per_frame(kind, batched):
    model, video = build(kind, cls=Video), noise(3, 2, 6)
    for negative in (None, ['grey'], FRAMES[::-1]):
        call = {'cond_scale': 3.0, 'cfg_batched': batched, 'repeat_batch': 2}
        guided = model(video, texts=FRAMES, negative_texts=negative, **call)
        rows = []
        for i in range(3):
            for j in range(2):
                one = None if negative is None else negative[-1:] if len(negative) == 1 else [negative[i * 2 + j]]
                frame = video[i : i + 1, j : j + 1]
                rows.append(model(frame, texts=[FRAMES[i * 2 + j]], negative_texts=one, cond_scale=3.0))
        torch.testing.assert_close(guided, torch.cat(rows).view(video.shape))


@kinds
@batched
def test_several_samples_per_prompt(kind, batched):
    model, x = build(kind), noise(6, 6)
    spelled_out = [text for text in TEXTS for _ in range(2)]
    for call in ({'cond_scale': 3.0}, {'cond_scale': 3.0, 'negative_texts': ['grey', 'dull', 'flat']}):
        said = {**call, **({'negative_texts': [t for t in call['negative_texts'] for _ in range(2)]} if len(call) > 1 else {})}
        expected = model(x, texts=spelled_out, **said)
        torch.testing.assert_close(model(x, texts=TEXTS, repeat_batch=2, cfg_batched=batched, **call), expected)


@kinds
def test_samples_of_one_prompt_are_dropped_apart(kind):
    torch.manual_seed(0)
    model = build(kind, training=True, text_condition_cond_drop_prob=0.5)
    x = noise(1, 6).expand(64, -1)
    predictions = {tuple(row.tolist()) for row in (model(x, texts=[TEXTS[0]] * 2, repeat_batch=32) * 1e4).round()}
    assert len(predictions) == 2


@layers
@pytest.mark.parametrize('texts', [TEXTS, FRAMES, TEXTS[:1]], ids=['one per video', 'one per frame', 'one for all'])
def test_frames_train_under_their_texts(kind, texts):
    """Nothing is dropped at probability 0, and everything at 1."""
    model, video = build(kind, cls=Video), noise(3, 2, 6)
    expected = [model(video, texts=texts, repeat_batch=2), model(video)]
    model.train()
    for drop, prediction in enumerate(expected):
        torch.testing.assert_close(model(video, texts=texts, repeat_batch=2, cond_drop_prob=float(drop)), prediction)


def test_counts_that_fit_neither_way_are_refused():
    model = build(cls=Video)
    with pytest.raises(ShapeError, match=r'4 texts were given for a batch of 3: .* \(or 1 or 6 with repeat_batch=2\)'):
        model(noise(3, 2, 6), texts=['a'] * 4, repeat_batch=2)
    with pytest.raises(ShapeError, match=r'3 texts cannot condition hiddens of batch 6: .* or repeat_batch='):
        model(noise(3, 2, 6), texts=TEXTS)
    with pytest.raises(ShapeError, match='3 texts cannot condition hiddens of batch 6'):
        model.text_conditioner(TEXTS)[0](noise(6, 6), repeat_batch=3)


@kinds
@batched
@pytest.mark.parametrize('null', ['learned', 'zeros', 'empty'])
def test_none_among_negative_texts_keeps_the_null_of_its_sample(kind, batched, null):
    if kind == 'raw' and null == 'learned':
        null = 'zeros'
    model, x = build(kind, text_condition_null=null), noise(3, 6)
    negatives = ['blurry', None, 'a much longer negative text than the others are']
    guided = model(x, texts=TEXTS, negative_texts=negatives, cond_scale=3.0, cfg_batched=batched)
    for i, negative in enumerate(negatives):
        said = {} if negative is None else {'negative_texts': [negative]}
        alone = model(x[i : i + 1], texts=TEXTS[i : i + 1], cond_scale=3.0, **said)
        torch.testing.assert_close(guided[i : i + 1], alone, rtol=1e-4, atol=1e-5)
    prepared = model.prepare(TEXTS, negatives)
    torch.testing.assert_close(model(x, text_condition=prepared, cond_scale=3.0, cfg_batched=batched), guided)


def test_none_is_for_negative_texts_alone():
    with pytest.raises(ConfigError, match=r'texts\[1\] is None, but every text is a string'):
        build()(noise(3, 6), texts=['a', None, 'b'])


# what a forward writes to


@classifier_free_guidance_class_decorator
class Decoder(nn.Module):
    """Keeps what it has seen in whatever it is given for that."""

    def forward(self, x, cond_fns, cache=None, scratch=None):
        seen = cond_fns[0](x)
        if isinstance(cache, list):
            cache.append(seen)
            return torch.stack(cache).sum(dim=0).tanh(), cache
        if isinstance(cache, dict):
            cache['seen'] = seen if 'seen' not in cache else cache['seen'] + seen
            return cache['seen'].tanh(), cache
        if cache is not None:
            cache.seen = seen if cache.seen is None else cache.seen + seen
            return cache.seen.tanh(), cache
        if scratch is not None:
            scratch.add_(1.0)
        return seen.tanh(), None


class Cache:
    """Like the cache of a decoder in transformers."""

    def __init__(self):
        self.seen = None


CACHES = {'a list': list, 'a dict': dict, 'an object': Cache}
caches = pytest.mark.parametrize('make', CACHES.values(), ids=CACHES)


@caches
def test_a_cache_that_both_branches_would_write_is_refused(make):
    model, x = build(cls=Decoder), noise(3, 6)
    with pytest.raises(ConfigError, match=r"argument 'cache' was changed by the pass of one branch, .* cfg_routed_kwargs="):
        model(x, texts=TEXTS, cond_scale=3.0, cache=make())
    model(x, texts=TEXTS, cache=make())
    with pytest.raises(ConfigError, match="argument 'cache' was changed by the pass of one branch"):
        model(x, make(), texts=TEXTS, cond_scale=3.0)


def test_a_tensor_that_is_written_to_is_refused():
    model, x = build(cls=Decoder), noise(3, 6)
    with pytest.raises(ConfigError, match="argument 'scratch' was changed by the pass of one branch"):
        model(x, texts=TEXTS, cond_scale=3.0, scratch=torch.zeros(3))
    model(x, texts=TEXTS, scratch=torch.zeros(3))


@caches
def test_what_comes_back_for_both_branches_routes_itself(make):
    model, steps = build(cls=Decoder), noise(4, 3, 6)
    call = {'cfg_routed_kwargs': {'cache': (make(), make())}}
    for x in steps:
        guided, cache = model(x, texts=TEXTS, cond_scale=3.0, **call)
        call = {'cache': cache}
    alone = []
    for texts in (TEXTS, None):
        cache = make()
        for x in steps:
            prediction, cache = model(x, texts=texts, cache=cache)
        alone.append(prediction)
    torch.testing.assert_close(guided, alone[1] + 3.0 * (alone[0] - alone[1]))


def test_routed_arguments_meet_weak_and_further_branches():
    """Each branch gets its own value; a branch that is not named has that of cond."""

    @classifier_free_guidance_class_decorator
    class Shifted(nn.Module):
        def forward(self, x, cond_fns, shift=0.0, factor=1.0):
            return (cond_fns[0](x) + shift) * factor

    model, x, other = build(cls=Shifted), noise(3, 6), ['a red dog', 'two', 'three']
    plain = lambda texts, shift, factor=1.0: model(x, texts=texts, shift=shift, factor=factor)  # noqa: E731
    null = model(x, shift=2.0)
    pair = {'shift': (1.0, 2.0)}
    rule = guidance.CFG() + guidance.Weak(2.0)
    guided = model(x, texts=TEXTS, cond_scale=3.0, guidance=rule, weak={'factor': 0.5}, cfg_routed_kwargs=pair)
    cond, weak = plain(TEXTS, 1.0), plain(TEXTS, 1.0, 0.5)
    torch.testing.assert_close(guided, null + 3.0 * (cond - null) + 2.0 * (cond - weak))
    named = {'shift': {'cond': 1.0, 'null': 2.0, 'weak': 5.0, 'conds': 7.0}}
    guided = model(x, texts=TEXTS, cond_scale=3.0, guidance=rule, weak={'factor': 0.5}, cfg_routed_kwargs=named)
    torch.testing.assert_close(guided, null + 3.0 * (cond - null) + 2.0 * (cond - plain(TEXTS, 5.0, 0.5)))
    for routed, shift in ((pair, 1.0), (named, 7.0)):
        guided = model(x, texts=[TEXTS, other], cond_scale=1.0, guidance=guidance.Compose((2.0, 0.5)), cfg_routed_kwargs=routed)
        torch.testing.assert_close(guided, null + 2.0 * (cond - null) + 0.5 * (plain(other, shift) - null))


def test_a_second_weak_model_beside_composed_conditions():
    model, second, x, other = build(), build('concat'), noise(3, 6), ['a red dog', 'two', 'three']
    rule = guidance.Compose((2.0, 0.5)) + guidance.Weak(1.5)
    guided = model(x, texts=[TEXTS, other], cond_scale=2.0, guidance=rule, weak=second)
    null, cond, further = model(x), model(x, texts=TEXTS), model(x, texts=other)
    expected = null + 2.0 * (2.0 * (cond - null) + 0.5 * (further - null)) + 1.5 * (cond - second(x, texts=TEXTS))
    torch.testing.assert_close(guided, expected, rtol=1e-5, atol=1e-5)
