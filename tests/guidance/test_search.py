"""`guidance.search`: against all plans there are, the laws that it keeps, and what it refuses."""

from __future__ import annotations

import itertools
import json
import random

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from classifier_free_guidance_pytorch import guidance
from classifier_free_guidance_pytorch.errors import ConfigError
from tests.decorator.models import TEXTS, build

SCALES = (2.0, 3.0, 5.0)


def by_step(schedule, steps):
    return [schedule(i / steps) for i in range(steps)]


def separable(weights, wanted):
    """A judge of the scales of all steps, `-sum_i w_i (s_i - wanted_i)^2`."""
    return lambda scales: -sum(w * (s - t) ** 2 for w, s, t in zip(weights, scales, wanted, strict=True))


def rough(seed):
    """A judge in which steps depend on one another, so that a search step by step can end anywhere."""
    draws = random.Random(seed)
    memory = {}
    return lambda scales: memory.setdefault(tuple(scales), draws.random())


@settings(deadline=None, max_examples=25)
@given(data=st.data())
def test_the_best_plan_of_all_is_found_where_steps_add_up(data):
    """Against every schedule within the budget, one by one."""
    steps, pieces = 6, data.draw(st.sampled_from([1, 2, 3]))
    weights = data.draw(st.lists(st.floats(0.1, 1), min_size=steps, max_size=steps))
    of_pieces = data.draw(st.lists(st.sampled_from(SCALES), min_size=pieces, max_size=pieces))
    judge = separable(weights, [of_pieces[i * pieces // steps] for i in range(steps)])
    budget = steps + data.draw(st.integers(1, steps))
    made = lambda schedule: by_step(schedule, steps)  # noqa: E731
    found = guidance.search(made, judge, budget, steps=steps, pieces=pieces, scales=SCALES, trials=10000)
    every = (
        [scales[i * pieces // steps] if on else 1.0 for i, on in enumerate(mask)]
        for scales in itertools.product(SCALES, repeat=pieces)
        for mask in itertools.product((False, True), repeat=steps)
        if sum(mask) <= budget - steps
    )
    assert judge(made(found)) == pytest.approx(max(map(judge, every)))


@settings(deadline=None, max_examples=50)
@given(
    steps=st.integers(1, 9), more=st.integers(1, 12), pieces=st.integers(1, 4), trials=st.integers(1, 60), seed=st.integers(0, 99)
)
def test_laws(steps, more, pieces, trials, seed):
    """Never above the budget, never worse than a constant that was tried, no plan twice, the same again for the same seed."""
    pieces, tried = min(pieces, steps), []

    def found():
        return guidance.search(
            lambda schedule: by_step(schedule, steps),
            rough(seed),
            steps + more,
            steps=steps,
            pieces=pieces,
            scales=SCALES,
            trials=trials,
            seed=seed,
            on_trial=lambda schedule, passes, score: tried.append((schedule, passes, score)),
        )

    best = found()
    for schedule, passes, _ in tried:
        scales = by_step(schedule, steps)
        guided = [scale for scale in scales if scale != 1]
        assert passes == steps + len(guided) == 2 * steps - schedule.saved([i / steps for i in range(steps)])
        assert passes <= steps + more
        assert set(guided) <= set(SCALES)
        in_pieces = {(i * pieces // steps, scale) for i, scale in enumerate(scales) if scale != 1}
        assert len(in_pieces) <= pieces
    assert 1 <= len(tried) <= trials
    assert len({tuple(by_step(schedule, steps)) for schedule, _, _ in tried}) == len(tried)
    scores = {schedule: score for schedule, _, score in tried}
    assert scores[best] == max(scores.values())
    before = list(tried)
    tried.clear()
    assert (found(), tried) == (best, before)


def test_constant_scales_come_first_and_another_seed_searches_elsewhere():
    def tried(seed, budget=10):
        found = []
        guidance.search(
            lambda s: by_step(s, 5),
            rough(0),
            budget,
            steps=5,
            scales=SCALES,
            trials=20,
            seed=seed,
            on_trial=lambda s, *_: found.append(s),
        )
        return [by_step(one, 5) for one in found]

    assert tried(0)[:4] == [[1.0] * 5, [2.0] * 5, [3.0] * 5, [5.0] * 5]
    assert tried(0) != tried(1)
    in_a_row, spread = [1.0, 1.0, 2.0, 2.0, 1.0], [1.0, 2.0, 1.0, 2.0, 1.0]
    assert in_a_row in tried(0, budget=7)[:13]
    assert spread in tried(0, budget=7)[:16]


def test_global_randomness_is_left_alone():
    torch.manual_seed(0)
    random.seed(0)
    before = (torch.get_rng_state(), random.getstate())
    guidance.search(lambda s: by_step(s, 5), rough(0), 8, steps=5, trials=30)
    assert torch.equal(torch.get_rng_state(), before[0])
    assert random.getstate() == before[1]


def test_steps_may_have_any_progress_and_rounding_moves_no_scale():
    progress = [0.0, 0.1, 0.5, 0.55]
    wanted = [1.0, 3.0, 1.0, 5.0]
    found = guidance.search(
        lambda schedule: [schedule(p) for p in progress], separable([1.0] * 4, wanted), 6, steps=progress, pieces=4, scales=SCALES
    )
    for error in (-1e-3, 0.0, 1e-3):
        assert [found(min(max(p + error, 0.0), 1.0)) for p in progress] == wanted


def test_what_is_found_is_a_cond_scale_and_goes_through_json():
    """A decorated model makes as many passes as the search counted."""
    model, x, steps = build(), torch.randn(3, 6), 8
    counted = {}

    def sample(schedule):
        model.passes = 0
        for i in range(steps):
            out = model(x, texts=TEXTS, cond_scale=schedule, guidance_kwargs={'progress': i / steps})
        counted['passes'] = model.passes
        return out

    def check(schedule, passes, score):
        assert passes == counted['passes']

    found = guidance.search(sample, lambda out: out.square().mean(), 11, steps=steps, trials=20, on_trial=check)
    assert guidance.from_config(json.loads(json.dumps(guidance.to_config(found)))) == found


GOOD = {'sample': lambda s: s, 'judge': lambda s: 0.0, 'budget': 8, 'steps': 5}


@pytest.mark.parametrize(
    ('changed', 'sentence'),
    [
        ({'sample': 3}, 'search: sample must be a function, got 3'),
        ({'judge': None}, 'search: judge must be a function, got None'),
        ({'steps': 0}, 'search: steps must be a whole number of at least 1, got 0'),
        ({'steps': []}, r'search: steps, the progress of each, must be a non-empty tuple of numbers, got \(\)'),
        ({'steps': 2.5}, r'search: steps, the progress of each, must be a non-empty tuple of numbers'),
        ({'steps': [0.5, 2.0]}, r'search: the progress of a step must be a number in \[0, 1\], got 2.0'),
        ({'steps': [0.5, 0.2]}, r'search: the progress of steps must rise, from 0 \(pure noise\) to 1, got \[0.5, 0.2\]'),
        ({'budget': 5}, 'search: budget must be a whole number of forward passes above the 5 conditional ones of 5 steps, got 5'),
        ({'budget': 7.5}, 'got 7.5; 2 . steps is guidance at every step'),
        ({'scales': ()}, 'search: scales must be a non-empty tuple of numbers'),
        ({'scales': 3}, r'search: scales must be the numbers to choose from, such as \(2., 4.\), got 3'),
        ({'scales': '24'}, "search: scales must be the numbers to choose from.* got '24'"),
        ({'on_trial': 3}, 'search: on_trial must be a function, got 3'),
        ({'scales': (2.0, float('nan'))}, r'search: scales\[1\] must be a finite number, got nan'),
        ({'scales': (1.0, 2.0)}, r'search: 1 is no guidance, which is tried anyway; leave it out of scales, got \[1.0, 2.0\]'),
        ({'pieces': 6}, 'search: pieces must be a whole number from 1 to 5, got 6'),
        ({'trials': True}, 'search: trials must be a whole number of at least 1, got True'),
        ({'seed': 1.5}, 'search: seed must be a whole number, got 1.5'),
        ({'judge': lambda s: float('nan')}, r'search: judge must return a finite number, got nan for Piecewise'),
        ({'judge': lambda s: torch.zeros(2)}, r'search: judge must return a finite number, got tensor'),
    ],
)
def test_refusals(changed, sentence):
    given = {**GOOD, **changed}
    sample, judge, budget = (given.pop(name) for name in ('sample', 'judge', 'budget'))
    with pytest.raises(ConfigError, match=sentence):
        guidance.search(sample, judge, budget, **given)


def test_what_is_refused_is_refused_before_sampling():
    drawn = []
    with pytest.raises(ConfigError, match='trials'):
        guidance.search(drawn.append, lambda s: 0.0, 8, steps=5, trials=0)
    assert drawn == []
