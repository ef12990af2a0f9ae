"""The advertised cost is the measured cost: a model that counts its passes, driven by what rules ask for."""

from __future__ import annotations

import sys
from collections import Counter

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from classifier_free_guidance_pytorch import guidance
from classifier_free_guidance_pytorch.errors import UsageError
from classifier_free_guidance_pytorch.rows import moved
from tests.guidance.cases import CASES, call, inputs, shape_of


class Model:
    """Makes exactly the passes that are asked for, and counts them."""

    def __init__(self, rule, steps=8, shape=(3, 4, 6, 5)):
        self.rule, self.passes = rule, Counter()
        self.batches = [inputs(rule, shape, seed) for seed in range(steps)]

    def sample(self, scale_of=lambda progress: 3.5, state=None):
        """All steps; returns the guided predictions."""
        state = state or self.rule.init_state()
        found = []
        for step, batch in enumerate(self.batches):
            progress = step / len(self.batches)
            batch.kwargs['progress'] = progress
            scale = scale_of(progress)
            needed = self.rule.branches(scale, state, progress)
            for name in needed:
                value = batch.kwargs[name]
                self.passes[name] += len(value) if isinstance(value, tuple) else 1
            found.append(call(self.rule, batch.only(needed), scale, state))
        return found


COSTS = {
    'CFG': (1, 1), 'APG': (1, 1), 'APG momentum': (1, 1), 'CFGZeroStar': (1, 1), 'TCFG': (1, 1), 'RAAG': (1, 1),
    'FDG': (1, 1), 'Logits': (1, 1), 'Discrete': (1, 1), 'OnChannels': (1, 1), 'InSpace': (1, 1), 'Then rescale': (1, 1),
    'PerpNeg': (1, 3), 'Compose': (1, 2), 'Chain': (1, 2), 'Weak': (1, 1),
    'Weak, scheduled': (1, 0.75), 'Weak, named': (1, 3), 'FDG of tokens': (1, 1),
    'Sum': (1, 2), 'Everything': (1, 2),
}  # fmt: skip
"""Passes per step: conditional, and all others."""


@pytest.mark.parametrize('name', list(COSTS))
def test_passes_per_step(name):
    model = Model(CASES[name], shape=shape_of(name))
    model.sample()
    assert (model.passes['cond'], model.passes.total() - model.passes['cond']) == tuple(8 * n for n in COSTS[name])


@pytest.mark.parametrize(
    ('schedule', 'null_passes'),
    [
        (guidance.constant(3.5), 8),
        (guidance.constant(1.0), 0),
        (guidance.interval(3.5, progress=(0.25, 0.75)), 4),
        (guidance.interval(guidance.linear(2.0, 6.0), progress=(0.0, 0.5)), 4),
        (guidance.linear(1.0, 6.0), 7),
        (guidance.cosine(1.0, 6.0), 7),
        (guidance.power_cosine(1.0, 6.0), 7),
        (guidance.clamp_linear(-1.0, 6.0, floor=1.0), 5),
        (guidance.piecewise((0.0, 1.0), (0.5, 4.0), hold=True), 4),
    ],
    ids=str,
)
def test_schedules_save_the_null_pass_where_they_are_one(schedule, null_passes):
    for scale_of in (schedule, lambda p: torch.full((3,), float(schedule(p)))):
        model = Model(guidance.CFG())
        model.sample(scale_of)
        assert model.passes == Counter(cond=8, null=null_passes)

    assert schedule.saved([step / 8 for step in range(8)]) == 8 - null_passes


def test_schedules_of_sigma_count_what_they_save():
    assert guidance.interval(7.5, sigma=(0.28, 5.42)).saved(sigma=(10.0, 5.42, 1.0, 0.28)) == 2
    assert guidance.cfg_plus_plus(0.5).saved(sigma=(4.0, 2.0, 1.0)) == 2  # 0.5 * 4 / (4 - 2) is 1, and the last is 0.5
    with pytest.raises(UsageError, match='give the progress= or the sigma= of every step'):
        guidance.linear(1.0, 5.0).saved()


def test_scale_zero_saves_the_conditional_pass():
    model = Model(guidance.CFG())
    model.sample(lambda progress: 0.0)
    assert model.passes == Counter(null=8)


def test_zero_init_saves_every_pass():
    model = Model(guidance.CFGZeroStar(zero_init=0.25))
    guided = model.sample()
    assert model.passes == Counter(cond=6, null=6)
    assert [bool((prediction == 0).all()) for prediction in guided] == [True, True] + [False] * 6


@pytest.mark.parametrize(('every', 'null_passes'), [(1, 8), (2, 4), (3, 3), (8, 1)])
def test_delta_reuse(every, null_passes):
    rule = guidance.ReuseDelta(guidance.CFG(), every=every)
    model, state = Model(rule), rule.init_state()
    guided = model.sample(state=state)
    assert model.passes == Counter(cond=8, null=null_passes)
    assert state.saved == 3 * (8 - null_passes)
    for step, batch in enumerate(model.batches):
        measured = model.batches[step - step % every].kwargs
        delta = measured['null'] - measured['cond']
        cond = batch.kwargs['cond']
        torch.testing.assert_close(guided[step], guidance.cfg(cond, cond + delta, 3.5))


def test_delta_reuse_measures_again_after_a_pause():
    rule = guidance.ReuseDelta(guidance.CFG(), every=3)
    model = Model(rule)
    model.sample(lambda progress: 3.5 if progress < 0.2 or progress >= 0.5 else 1.0)  # steps 0, 1 and 4 to 7
    assert model.passes == Counter(cond=8, null=3)  # at steps 0, 4 and 7: the difference of step 0 has aged


def test_adaptive_guidance_stops_per_sample_and_then_altogether():
    rule = guidance.Adaptive(guidance.CFG(), threshold=0.99)
    model, state = Model(rule), rule.init_state()
    stops_after = [1, 3, 4]  # the step at which each sample converges
    for step, batch in enumerate(model.batches):
        for sample, stop in enumerate(stops_after):
            if step == stop:
                batch.kwargs['null'][sample] = batch.kwargs['cond'][sample]
    guided = model.sample(state=state)
    assert model.passes == Counter(cond=8, null=5)
    assert state.saved == 3 * 3
    for step, batch in enumerate(model.batches):
        cond, null = batch.kwargs['cond'], batch.kwargs['null']
        for sample, stop in enumerate(stops_after):
            expected = guidance.cfg(cond, null, 3.5) if step <= stop else cond
            torch.testing.assert_close(guided[step][sample], expected[sample])


@pytest.mark.parametrize('name', ['Adaptive', 'ReuseDelta'])
def test_savers_keep_working_inside_other_rules(name):
    inner = CASES[name]
    for rule in (inner.then(guidance.rescale_to_cond(0.5)), inner.in_x0('flow'), inner.on_channels(0, None)):
        state = rule.init_state()
        model = Model(rule)
        model.sample(state=state)
        assert state.saved == 3 * (8 - model.passes['null']) > 0


def test_nag_needs_one_pass_of_the_model():
    assert guidance.NAG().inside_attention
    assert not any(rule.inside_attention for name, rule in CASES.items() if name != 'NAG')


class Reads(TorchDispatchMode):
    """Counts how often a value is read from a tensor, which on an accelerator waits for it."""

    count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count += func.overloadpacket in (torch.ops.aten._local_scalar_dense, torch.ops.aten.equal)
        return func(*args, **(kwargs or {}))

    def __enter__(self):
        def numpy(tensor):
            self.count += 1
            return original(tensor)

        self.original = original = torch.Tensor.numpy
        torch.Tensor.numpy = numpy
        return super().__enter__()

    def __exit__(self, *error):
        torch.Tensor.numpy = self.original
        return super().__exit__(*error)


def test_reads_are_counted():
    with Reads() as reads:
        assert bool(torch.ones(3).all())
        assert torch.ones(1).item() == 1
        assert torch.ones(1).numpy()[0] == 1
    assert reads.count == 3


@pytest.fixture
def nothing_is_free_to_read(monkeypatch):
    """As on an accelerator; on the CPU values are checked that are not read there."""
    for name, module in list(sys.modules.items()):
        if name.startswith('classifier_free_guidance_pytorch.guidance.') and hasattr(module, 'is_readable'):
            monkeypatch.setattr(module, 'is_readable', lambda tensor: False)


NULL_SKIPPING = {'Adaptive', 'Adaptive with memory', 'ReuseDelta'}


@pytest.mark.parametrize('name', list(CASES))
@pytest.mark.usefixtures('nothing_is_free_to_read')
def test_one_flag_is_read_per_step(name):
    """By the rules that skip null passes, however often they are asked; the others read nothing."""
    rule, state, counts = CASES[name], CASES[name].init_state(), []
    for seed in range(6):
        batch = inputs(rule, shape_of(name), seed)
        with Reads() as reads:
            needed = rule.branches(3.5, state, 0.5)
            asked = reads.count
            given = guidance.Predictions.by_branch({branch: batch.kwargs[branch] for branch in needed})
            rule.guide(given, 3.5, guidance.Step(state, batch.kwargs['x'], batch.kwargs['sigma'], progress=0.5))
            assert reads.count == asked, 'guide reads nothing'
        counts.append(reads.count)
    assert max(counts) == (name in NULL_SKIPPING)


@pytest.mark.parametrize('name', sorted(NULL_SKIPPING))
@pytest.mark.usefixtures('nothing_is_free_to_read')
def test_a_loop_by_hand_reads_one_flag_as_well(name):
    inner = CASES[name]
    for rule in (inner, inner.then(guidance.rescale_to_cond(0.5)), inner.in_x0('flow'), inner.on_channels(0, None)):
        state, batches = rule.init_state(), [inputs(rule, (3, 4, 6, 5), seed) for seed in range(6)]
        for batch in batches:
            with Reads() as reads:
                needed = rule.branches(3.5, state, 0.5)
                call(rule, batch.only(needed), 3.5, state)
                rule.branches(3.5, state, 0.5)  # of the next step
            assert reads.count <= 2
        with Reads() as reads:
            for batch in batches:
                call(rule, batch.only(rule.branches(3.5, state, 0.5)), 3.5, state)
        assert reads.count <= len(batches)


def test_savers_in_each_other():
    """Reuse around adaptive guidance does both, and counts every null pass that was not made; the other way is refused."""
    rule = guidance.ReuseDelta(guidance.Adaptive(guidance.CFG(), threshold=0.9), every=2)
    model, state = Model(rule), rule.init_state()
    model.batches[4].kwargs['null'] = model.batches[4].kwargs['cond'].clone()  # all converge, at a step that measures
    guided = model.sample(state=state)
    assert model.passes == Counter(cond=8, null=3)
    assert state.saved == 3 * 5
    for step, batch in enumerate(model.batches):
        measured = model.batches[step - step % 2].kwargs
        cond = batch.kwargs['cond']
        expected = cond if step > 4 else guidance.cfg(cond, cond + measured['null'] - measured['cond'], 3.5)
        torch.testing.assert_close(guided[step], expected)


def test_saved_passes_are_those_that_the_scale_asked_for():
    for rule in (guidance.Adaptive(guidance.CFG(), threshold=-1), guidance.ReuseDelta(guidance.CFG(), every=9)):
        state, model = rule.init_state(), Model(rule)
        model.sample(lambda progress: 1.0 if progress > 0.5 else 3.5, state=state)
        assert model.passes == Counter(cond=8, null=1)
        assert state.saved == 3 * 4, 'three steps at scale 1 had no null pass to save'


@pytest.mark.parametrize(('start', 'end', 'waits'), [('cpu', 'cuda', False), ('cuda', 'cpu', True), ('cpu', 'cpu', True)])
def test_a_scale_from_the_cpu_is_not_waited_for(start, end, waits):
    """The other way round it must be: its values would be read before they are there."""

    class Placed:
        device = torch.device(start)

        def to(self, **place):
            return place

    found = moved(Placed(), torch.device(end), torch.float16)
    assert found == {'device': torch.device(end), 'dtype': torch.float16, 'non_blocking': not waits}


class Rows(Model):
    """Makes the null pass for the samples that need it, and counts samples."""

    def sample(self, scale_of=lambda progress: 3.5, state=None):
        state, found = state or self.rule.init_state(), []
        for step, batch in enumerate(self.batches):
            kwargs, scale = dict(batch.kwargs), scale_of(step / len(self.batches))
            needed, rows = self.rule.branches(scale, state), self.rule.null_rows(scale, state)
            if 'null' in needed and rows is not None:
                kwargs['null'] = kwargs['null'][rows]
            self.passes['null'] += len(kwargs['null']) if 'null' in needed else 0
            kwargs = {name: value for name, value in kwargs.items() if name not in guidance.BRANCHES or name in needed}
            found.append(self.rule(**kwargs, scale=scale, state=state, rows=rows if 'null' in needed else None))
        return found


SAVERS = {
    'Adaptive': CASES['Adaptive'],
    'Adaptive with memory': CASES['Adaptive with memory'],
    'ReuseDelta': CASES['ReuseDelta'],
    'in each other': guidance.ReuseDelta(guidance.Adaptive(guidance.CFG(), threshold=0.67), every=2),
    'in a sum': CASES['Adaptive'] + guidance.CFG().then(guidance.rescale_to_cond(0.5)),
    'on channels, in a space': CASES['Adaptive'].on_channels(0, 2).in_space('eps', model='flow'),
    'none': guidance.CFG(),
}


@pytest.mark.parametrize('scale', [3.5, torch.tensor([1.0, 3.5, 2.0])], ids=['number', 'per sample'])
@pytest.mark.parametrize('name', list(SAVERS))
def test_the_null_pass_is_made_for_the_samples_that_need_it(name, scale):
    """The same predictions as from null passes of everybody, and no more samples than those that need one."""
    rule = SAVERS[name]
    few, all_rows = Rows(rule), Model(rule)
    state = rule.init_state()
    for one, other in zip(few.sample(lambda p: scale, state), all_rows.sample(lambda p: scale), strict=True):
        torch.testing.assert_close(one, other)
    assert few.passes['null'] <= 3 * all_rows.passes['null']
    if name in ('Adaptive', 'ReuseDelta'):
        asked = 8 * (2 if isinstance(scale, torch.Tensor) else 3)
        assert state.saved == asked - few.passes['null'] > 0


def test_adaptive_guidance_counts_samples():
    rule = guidance.Adaptive(guidance.CFG(), threshold=0.99)
    model, state = Rows(rule), rule.init_state()
    for step, batch in enumerate(model.batches):
        for sample, stop in enumerate([1, 3, 4]):
            if step == stop:
                batch.kwargs['null'][sample] = batch.kwargs['cond'][sample]
    model.sample(state=state)
    assert model.passes['null'] == 2 + 4 + 5
    assert state.saved == 3 * 8 - (2 + 4 + 5)


def test_a_number_that_differs_from_one_asks_for_every_row():
    assert guidance.CFG().null_rows(3.5) is None
    assert guidance.CFG().null_rows(torch.tensor([3.0, 3.0])) is None
    assert guidance.Compose((2.0, 1.0)).null_rows(torch.tensor([1.0, 3.0])) is None
    assert guidance.APG().null_rows(torch.tensor([3.0, 1.0])).tolist() == [0]


def test_scheduled_weights_make_the_weak_pass_where_they_are_not_zero():
    weight = guidance.interval(2.0, progress=(0.25, 0.75), outside=0.0)
    model = Model(guidance.CFG() + guidance.Weak(weight))
    guided = model.sample()
    assert model.passes == Counter(cond=8, null=8, weak=4)
    for step, (batch, found) in enumerate(zip(model.batches, guided, strict=True)):
        given = batch.kwargs
        expected = guidance.cfg(given['cond'], given['null'], 3.5)
        if 2 <= step < 6:
            expected = expected + 2.0 * (given['cond'] - given['weak'])
        torch.testing.assert_close(found, expected)
    by_sigma = guidance.Weak(guidance.interval(2.0, sigma=(0.3, 5.0), outside=0.0))
    assert by_sigma.branches(sigma=1.0) == ('cond', 'weak')
    assert by_sigma.branches(sigma=0.1) == ('cond',)
