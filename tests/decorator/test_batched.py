"""`cfg_batched=True`: all branches in one forward, and the same numbers."""

import types
import warnings

import pytest
import torch
from torch import nn

from classifier_free_guidance_pytorch import classifier_free_guidance, classifier_free_guidance_class_decorator, guidance
from classifier_free_guidance_pytorch.errors import ShapeError
from tests.conditioners.making import noise
from tests.decorator.models import KINDS, TEXTS, build

kinds = pytest.mark.parametrize('kind', KINDS)


def padded(kind):
    """Raw embeddings of one length, since those of different lengths are not joined: a network may read no mask."""
    return {'text_condition_pad_to': 16} if kind == 'raw' else {}


@kinds
@pytest.mark.parametrize('null', ['learned', 'zeros', 'empty'])
def test_batched_equals_separate(kind, null):
    if kind == 'raw' and null == 'learned':
        null = 'zeros'
    x, scales = noise(3, 6), torch.tensor([0.5, 3.0, -1.0])
    for call in (
        {'cond_scale': 3.0},
        {'cond_scale': scales, 'rescale_phi': 0.5, 'return_unconditioned': True},
        {'cond_scale': 3.0, 'negative_texts': ['blurry', 'a dull and grey picture', 'x']},
        {'cond_scale': 3.0, 'negative_texts': ['much longer than all of the other texts together are']},
        {'cond_scale': 3.0, 'cond_drop_prob': torch.tensor([1.0, 0.0, 0.0])},
    ):
        model = build(kind, text_condition_null=null, **padded(kind))
        separate = model(x, texts=TEXTS, **call)
        model.batches.clear()
        torch.testing.assert_close(model(x, texts=TEXTS, cfg_batched=True, **call), separate)
        assert model.batches == [6]


@kinds
def test_nested_arguments_are_joined(kind):
    model, x = build(kind), noise(3, 6)
    extra = {'added': (noise(3, 6, seed=2), [noise(3, 1, seed=3)][0], noise(1, 6, seed=4)), 'factor': 0.5}
    for call in ({'times': noise(3)}, {'extra': extra}, {'times': noise(3), 'extra': extra}):
        separate = model(x, texts=TEXTS, cond_scale=3.0, **call)
        torch.testing.assert_close(model(x, texts=TEXTS, cond_scale=3.0, cfg_batched=True, **call), separate)
    positional = model(x, noise(3), texts=TEXTS, cond_scale=3.0, cfg_batched=True)
    torch.testing.assert_close(positional, model(x, times=noise(3), texts=TEXTS, cond_scale=3.0))


@classifier_free_guidance_class_decorator
class WithTable(nn.Module):
    """Takes a table whose number of rows happens to be the batch, a size and other things that hold no tensors."""

    def forward(self, x, cond_fns, table=None, size=None, view=None, names=()):
        assert table.shape[0] == 3
        assert isinstance(size, torch.Size)
        assert isinstance(view, types.MappingProxyType)
        assert names == ['a', 'b', 'c']
        return cond_fns[0](x) @ table.T @ table


def test_shared_arguments_are_named():
    model, x, table = build(cls=WithTable), noise(3, 6), noise(3, 6, seed=2)
    call = {
        'size': x.shape,
        'view': types.MappingProxyType({'a': 1}),
        'names': ['a', 'b', 'c'],
        'texts': TEXTS,
        'cond_scale': 3.0,
    }
    separate = model(x, table=table, **call)
    torch.testing.assert_close(model(x, table=table, cfg_batched=['table'], **call), separate)
    torch.testing.assert_close(model(x, table, cfg_batched=('table',), **call), separate)


def test_many_branches_in_one_pass():
    model, x = build('attention'), noise(3, 6)
    nested = [TEXTS, TEXTS[::-1], ['a red dog']]
    rule = guidance.Compose((2.0, 1.0, -0.5))
    separate = model(x, texts=nested, cond_scale=1.5, guidance=rule)
    model.batches.clear()
    torch.testing.assert_close(model(x, texts=nested, cond_scale=1.5, guidance=rule, cfg_batched=True), separate)
    assert model.batches == [12]


@classifier_free_guidance_class_decorator
class WithBatchNorm(nn.Module):
    def __init__(self, dim=6, **options):
        super().__init__()
        self.odd_normalisation = nn.BatchNorm1d(dim, **options)
        self.batches = []

    def forward(self, x, cond_fns):
        self.batches.append(len(x))
        return self.odd_normalisation(cond_fns[0](x))


def test_batch_statistics_are_never_shared_between_branches():
    x = noise(3, 6)
    model = build(cls=WithBatchNorm, track_running_stats=False)
    expected = model(x, texts=TEXTS, cond_scale=3.0)
    model.batches.clear()
    with pytest.warns(UserWarning, match="one pass per branch here, because the batch normalisation 'odd_normalisation' takes"):
        batched = model(x, texts=TEXTS, cond_scale=3.0, cfg_batched=True)
    torch.testing.assert_close(batched, expected)
    assert model.batches == [3, 3]
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        model(x, texts=TEXTS, cond_scale=3.0, cfg_batched=True)  # said once


def test_running_statistics_may_be_shared():
    model, x = build(cls=WithBatchNorm), noise(3, 6)
    expected = model(x, texts=TEXTS, cond_scale=3.0)
    model.batches.clear()
    torch.testing.assert_close(model(x, texts=TEXTS, cond_scale=3.0, cfg_batched=True), expected)
    assert model.batches == [6]


@classifier_free_guidance_class_decorator
class WithCache(nn.Module):
    """A toy decoder: predicts from the sum of everything it has seen, kept in a cache that the caller carries."""

    def __init__(self):
        super().__init__()
        self.passes = 0

    def forward(self, x, cond_fns, cache=None):
        self.passes += 1
        seen = cond_fns[0](x) if cache is None else cache + cond_fns[0](x)
        return seen.tanh(), seen


def test_caches_are_routed_to_their_branches():
    model, steps = build(cls=WithCache), noise(4, 3, 6)
    cond_cache = null_cache = None
    for x in steps:
        caches = {'cache': (cond_cache, null_cache)}
        guided, (cond_cache, null_cache) = model(x, texts=TEXTS, cond_scale=3.0, cfg_routed_kwargs=caches)
    branches = []
    for drop in (0.0, 1.0):
        cache = None
        for x in steps:
            prediction, cache = model(x, texts=TEXTS, cond_drop_prob=drop, cache=cache)
        branches.append((prediction, cache))
    (cond, cond_seen), (null, null_seen) = branches
    torch.testing.assert_close(guided, null + 3.0 * (cond - null))
    torch.testing.assert_close(cond_cache, cond_seen)
    torch.testing.assert_close(null_cache, null_seen)
    by_name = {'cache': {'cond': cond_cache, 'null': null_cache}}
    a = model(steps[0], texts=TEXTS, cond_scale=3.0, cfg_routed_kwargs=by_name)[0]
    b = model(steps[0], texts=TEXTS, cond_scale=3.0, cfg_routed_kwargs={'cache': (cond_cache, null_cache)})[0]
    torch.testing.assert_close(a, b)


def test_routed_keywords_at_scales_of_a_single_pass():
    model, x, ours, other = build(cls=WithCache), noise(3, 6), noise(3, 6, seed=2), noise(3, 6, seed=3)
    routed = {'cache': (ours, other)}
    alone = model(x, texts=TEXTS, cfg_routed_kwargs=routed)
    torch.testing.assert_close(alone[0], model(x, texts=TEXTS, cache=ours)[0])
    nothing = model(x, texts=TEXTS, cond_scale=0.0, cfg_routed_kwargs=routed)
    torch.testing.assert_close(nothing[0], model(x, texts=TEXTS, cond_drop_prob=1.0, cache=other)[0])


def test_routed_keywords_are_not_batched():
    model, x = build(cls=WithCache), noise(3, 6)
    routed = {'cache': (noise(3, 6, seed=2), noise(3, 6, seed=3))}
    expected = model(x, texts=TEXTS, cond_scale=3.0, cfg_routed_kwargs=routed)[0]
    with pytest.warns(UserWarning, match="'cache' of cfg_routed_kwargs differ from branch to branch"):
        batched = model(x, texts=TEXTS, cond_scale=3.0, cfg_routed_kwargs=routed, cfg_batched=True)[0]
    torch.testing.assert_close(batched, expected)


def test_a_batch_of_unknown_size_cannot_be_joined():
    @classifier_free_guidance_class_decorator
    class Blind(nn.Module):
        def forward(self, size, cond_fns):
            return cond_fns[0](torch.ones(size))

    model = build(cls=Blind)
    assert model((3, 6), texts=TEXTS, cond_scale=3.0).shape == (3, 6)
    assert model((3, 6), texts=TEXTS, cond_scale=torch.tensor([1.0, 2.0, 3.0])).shape == (3, 6)
    with pytest.raises(ShapeError, match='no tensor argument says how large the batch is: pass cfg_batched=False'):
        model((3, 6), texts=TEXTS, cond_scale=3.0, cfg_batched=True)


def test_a_method_that_handles_texts_itself_is_run_branch_by_branch():
    class Own(nn.Module):
        @classifier_free_guidance
        def forward(self, x, label, cond_drop_prob=0.0):
            return x + label * (1 - cond_drop_prob)

    own = Own().eval()
    with pytest.warns(UserWarning, match='handles its texts itself, by cond_drop_prob'):
        guided = own(noise(2, 3), torch.ones(2, 3), cond_scale=3.0, cfg_batched=True)
    torch.testing.assert_close(guided, noise(2, 3) + 3)


def test_arguments_are_only_ever_regrouped_on_request():
    """A table with as many rows as the batch stays whole, also where some samples need no guidance."""
    model, x, table = build(cls=WithTable), noise(3, 6), noise(3, 6, seed=2)
    call = {'table': table, 'size': x.shape, 'view': types.MappingProxyType({}), 'names': ['a', 'b', 'c'], 'texts': TEXTS}
    cond, null = model(x, **call), model(x, **{**call, 'texts': None})
    scales = torch.tensor([1.0, 3.0, 1.0])
    expected = null + scales[:, None] * (cond - null)
    torch.testing.assert_close(model(x, cond_scale=scales, **call), expected, rtol=1e-5, atol=1e-5)


@classifier_free_guidance_class_decorator
class Counter(nn.Module):
    """Tells how many tokens it may read."""

    def forward(self, x, raw_text_cond):
        return x + raw_text_cond.mask.sum(dim=1, keepdim=True)


@pytest.mark.parametrize('kind', ['attention', 'raw'])
def test_masks_of_joined_branches_grow_by_padding_alone(kind):
    model, x = build(kind, cls=Counter), noise(3, 6)
    negatives = ['a much longer text than any of the others here is']
    counted = torch.tensor([[4.0], [2.0], [7.0]])
    expected = x + 11 + 3.0 * (counted - 11)
    for batched in (False, True):
        guided = model(x, texts=TEXTS, negative_texts=negatives, cond_scale=3.0, cfg_batched=batched)
        torch.testing.assert_close(guided, expected)


@kinds
@pytest.mark.parametrize(
    'rule', [guidance.CFG(), guidance.APG(eta=0.3), guidance.CFG().then(guidance.rescale_to_cond(0.5))], ids=repr
)
def test_samples_at_scale_one_have_no_null_pass(kind, rule):
    model, x = build(kind, **padded(kind)), noise(3, 6)
    call = {'texts': TEXTS, 'cond_scale': torch.tensor([1.0, 4.0, 2.0]), 'guidance': rule, 'times': noise(3)}
    for negative in (None, ['blurry', 'a dull and grey picture', 'x']):
        separate = model(x, negative_texts=negative, **call)
        model.batches.clear()
        torch.testing.assert_close(model(x, negative_texts=negative, cfg_batched=True, **call), separate)
        assert model.batches == [3 + 2]


def test_all_samples_have_a_null_pass_where_it_is_looked_at():
    model, x, scales = build(), noise(3, 6), torch.tensor([1.0, 4.0, 2.0])
    _, null = model(x, texts=TEXTS, cond_scale=scales, cfg_batched=True, return_unconditioned=True)
    torch.testing.assert_close(null, model(x))
    momentum = guidance.APG(momentum=-0.5)
    for batched in (False, True):
        model.batches.clear()
        model(x, texts=TEXTS, cond_scale=scales, cfg_batched=batched, guidance=momentum, guidance_state=momentum.init_state())
        assert sum(model.batches) == 6


@kinds
@pytest.mark.parametrize('batched', [True, False])
def test_adaptive_guidance_by_samples(kind, batched):
    """The joined batch has a null row for every sample that has not converged, and the numbers are those of a loop by hand."""
    rule = guidance.Adaptive(guidance.CFG(), threshold=0.9)
    model, steps = build(kind), noise(4, 3, 6)
    state, by_hand = rule.init_state(), rule.init_state()
    flags = torch.tensor([False, True, False])
    for one in (state, by_hand):
        rule(torch.ones(3, 6), torch.ones(3, 6) * (2 * flags[:, None] - 1), 3.0, state=one)
    for x in steps:
        cond, null = model(x, texts=TEXTS), model(x)
        needed = 3 - int(by_hand.can_skip.sum())
        expected = rule(cond, null, 3.0, state=by_hand)
        model.batches.clear()
        call = {'texts': TEXTS, 'cond_scale': 3.0, 'guidance': rule, 'guidance_state': state}
        torch.testing.assert_close(model(x, cfg_batched=batched, **call), expected)
        assert model.batches == ([3 + needed] if batched else [3, 3] if needed else [3])


def test_structured_outputs_of_some_samples_are_filled_with_the_conditional_ones():
    @classifier_free_guidance_class_decorator
    class Two(nn.Module):
        def forward(self, x, cond_fns):
            hidden = cond_fns[0](x)
            return {'pred': hidden.tanh(), 'hidden': hidden, 'name': 'two'}

    model, x, scales = build(cls=Two), noise(3, 6), torch.tensor([1.0, 4.0, 1.0])
    separate, batched = (model(x, texts=TEXTS, cond_scale=scales, cfg_batched=batched) for batched in (False, True))
    torch.testing.assert_close(batched['pred'], separate['pred'])
    cond, null = batched['hidden']
    torch.testing.assert_close(cond, separate['hidden'][0])
    torch.testing.assert_close(null[1], separate['hidden'][1][1])
    torch.testing.assert_close(null[0], cond[0])
