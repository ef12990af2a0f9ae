"""Search for a schedule: which steps to guide, and how strongly, within a number of forward passes."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import TypeVar

from torch import Tensor

from classifier_free_guidance_pytorch.errors import ConfigError
from classifier_free_guidance_pytorch.guidance.checks import as_number, check_number, check_numbers, shown
from classifier_free_guidance_pytorch.guidance.schedules import Piecewise

T = TypeVar('T')


@dataclass(frozen=True)
class Plan:
    """A scale for each piece of the steps, and the steps that are guided; all others make no null pass.

    Args:
        scales: One per piece.
        guided: The numbers of the steps with a null pass, in order.
        steps: How many steps there are.
    """

    scales: tuple[float, ...]
    guided: tuple[int, ...]
    steps: int

    @property
    def passes(self) -> int:
        """The forward passes of one sampling run."""
        return self.steps + len(self.guided)

    def piece(self, step: int) -> int:
        """Return which piece a step is in; they are as equal as can be."""
        return step * len(self.scales) // self.steps

    def by_step(self) -> list[float]:
        """Return the scale of every step, 1 where it is not guided."""
        guided = set(self.guided)
        return [self.scales[self.piece(step)] if step in guided else 1.0 for step in range(self.steps)]

    def schedule(self, progress: Sequence[float]) -> Piecewise:
        """Return the schedule, which changes halfway between two steps, so that rounding cannot move it to the other one."""
        scales = self.by_step()
        starts = [0.0, *((before + after) / 2 for before, after in pairwise(progress))]
        kept = [i for i, scale in enumerate(scales) if i == 0 or scale != scales[i - 1]]
        return Piecewise(tuple((starts[i], scales[i]) for i in kept), hold=True)

    def near(self, known: Sequence[float]) -> Iterator[Plan]:
        """Yield the plans with the next scale in a piece, or in all, and those with one null pass a step earlier or later.

        Args:
            known: The scales there are to choose from, in order.
        """
        used = sorted({self.piece(step) for step in self.guided})
        for pieces in [[piece] for piece in used] + ([used] if len(used) > 1 else []):
            for by in (-1, 1):
                to = {piece: known.index(self.scales[piece]) + by for piece in pieces}
                if all(0 <= at < len(known) for at in to.values()):
                    yield replace(self, scales=tuple(known[to[i]] if i in to else one for i, one in enumerate(self.scales)))
        for step in self.guided:
            for next_step in {step - 1, step + 1} & set(range(self.steps)) - set(self.guided):
                yield from self._with(next_step, self._without(step), known)

    def far(self, known: Sequence[float], room: int) -> Iterator[Plan]:
        """Yield the plans with one null pass elsewhere, one less, or one more.

        Args:
            known: The scales there are to choose from, in order.
            room: How many null passes there may be.
        """
        free = [step for step in range(self.steps) if step not in self.guided]
        for guided in (*map(self._without, self.guided), *([self.guided] if len(self.guided) < room else [])):
            yield replace(self, guided=guided)
            for step in free:
                yield from self._with(step, guided, known)

    def _without(self, step: int) -> tuple[int, ...]:
        return tuple(other for other in self.guided if other != step)

    def _with(self, step: int, guided: tuple[int, ...], known: Sequence[float]) -> Iterator[Plan]:
        """Yield the plans in which a step is guided too: at the scale of its piece, or at any if it is the first there."""
        here = self.piece(step)
        is_first = here not in map(self.piece, guided)
        for scale in known if is_first else (self.scales[here],):
            scales = tuple(scale if i == here else one for i, one in enumerate(self.scales))
            yield replace(self, scales=scales, guided=tuple(sorted((*guided, step))))


def search(
    sample: Callable[[Piecewise], T],
    judge: Callable[[T], float],
    budget: int,
    *,
    steps: int | Sequence[float],
    scales: Sequence[float] = (1.5, 2.0, 3.0, 4.0, 6.0, 8.0),
    pieces: int = 5,
    trials: int = 100,
    seed: int = 0,
    on_trial: Callable[[Piecewise, int, float], None] | None = None,
) -> Piecewise:
    """Find a schedule, piecewise constant and off at some steps, that a judge likes best within a number of forward passes.

    Coordinate search. First come the constant scales, at all steps if the budget allows, and otherwise at as many as it does, in
    a row or evenly spread. The best of them is then changed in one thing at a time: the next scale in a piece or in all, one
    guided step exchanged for another, added or left out. What is better is kept, until the trials are spent or nothing helps.
    Where every step adds a part of its own to the score, what it ends at is the best there is.

    A guided step costs two passes and any other one. The result saves passes with a rule that needs no null pass at scale 1, such
    as `CFG` or `APG`. It is as good on other prompts as those that it was found on are like them: judge it on prompts held out.

    Args:
        sample: Samples under a schedule of progress, and returns what the judge takes. With fixed noise, or the judge will
            choose the luckiest noise.
        judge: How good that is, a finite number; more is better.
        budget: Forward passes of one sampling run, more than there are steps.
        steps: The number of steps, whose progress is `i / steps`, or the progress of each.
        scales: The scales to choose from.
        pieces: In how many pieces the scale may differ.
        trials: How often to sample at most.
        seed: Of the order in which changes are tried.
        on_trial: Called after each trial with its schedule, its passes and its score, for records and progress bars.

    Returns:
        The best schedule that was tried: a value that `to_config` writes, usable as `cond_scale=` of a call that is told the
        progress.

    Raises:
        ConfigError: An argument that cannot work, or a score that is no finite number.

    >>> sample = lambda schedule: [schedule(i / 4) for i in range(4)]
    >>> found = search(sample, lambda scales: -abs(scales[2] - 3) - abs(scales[1] - 1), budget=6, steps=4, pieces=4)
    >>> [found(i / 4) for i in (1, 2)]
    [1.0, 3.0]
    """
    progress, known = _checked(sample, judge, budget, steps, scales, pieces, trials, seed, on_trial)
    room, order = min(budget - len(progress), len(progress)), random.Random(seed)
    scores: dict[tuple[float, ...], float] = {}

    def score(plan: Plan) -> float | None:
        """Return how good a plan is; None where it was tried before, or the trials are spent."""
        as_tried = tuple(plan.by_step())
        if as_tried in scores or len(scores) == trials:
            return None
        schedule = plan.schedule(progress)
        scores[as_tried] = _number(judge(sample(schedule)), schedule)
        if on_trial is not None:
            on_trial(schedule, plan.passes, scores[as_tried])
        return scores[as_tried]

    best, highest = Plan((known[0],) * pieces, (), len(progress)), float('-inf')
    for plan in (best, *_constants(known, pieces, len(progress), room)):
        if (value := score(plan)) is not None and value > highest:
            best, highest = plan, value
    improved = True
    while improved and len(scores) < trials:
        improved = False
        near, far = list(best.near(known)), list(best.far(known, room))
        order.shuffle(near)
        order.shuffle(far)
        for plan in (*near, *far):
            if (value := score(plan)) is not None and value > highest:
                best, highest, improved = plan, value, True
                break
    return best.schedule(progress)


def _constants(known: Sequence[float], pieces: int, steps: int, room: int) -> Iterator[Plan]:
    """Yield the plans of one scale: at all steps if there is room, else in a row at several places, or evenly spread."""
    rows = [tuple(range(start, start + room)) for start in dict.fromkeys(i * (steps - room) // 4 for i in range(5))]
    spread = tuple((2 * i + 1) * steps // (2 * room) for i in range(room))
    for guided in dict.fromkeys((*rows, spread)):
        for scale in known:
            yield Plan((scale,) * pieces, guided, steps)


def _checked(
    sample: object,
    judge: object,
    budget: object,
    steps: object,
    scales: Sequence[float],
    pieces: object,
    trials: object,
    seed: object,
    on_trial: object,
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return the progress of every step and the scales in order, or raise `ConfigError`."""
    for name, value in (('sample', sample), ('judge', judge), ('on_trial', on_trial)):
        if not callable(value) and not (name == 'on_trial' and value is None):
            raise ConfigError(f'search: {name} must be a function, got {shown(value)}')
    if isinstance(steps, int) and not isinstance(steps, bool):
        _check_count('steps', steps, 1)
        progress = tuple(i / steps for i in range(steps))
    else:
        progress = tuple(steps) if isinstance(steps, Sequence) else ()
        check_numbers('search', 'steps, the progress of each,', progress)
        for one in progress:
            check_number('search', 'the progress of a step', one, 0, 1)
        if any(before >= after for before, after in pairwise(progress)):
            raise ConfigError(f'search: the progress of steps must rise, from 0 (pure noise) to 1, got {list(progress)}')
    if isinstance(scales, str) or not isinstance(scales, Sequence):
        raise ConfigError(f'search: scales must be the numbers to choose from, such as (2., 4.), got {shown(scales)}')
    check_numbers('search', 'scales', tuple(scales))
    if 1 in scales:
        raise ConfigError(f'search: 1 is no guidance, which is tried anyway; leave it out of scales, got {list(scales)}')
    _check_count('pieces', pieces, 1, len(progress))
    _check_count('trials', trials, 1)
    if not isinstance(seed, int) or isinstance(seed, bool):
        raise ConfigError(f'search: seed must be a whole number, got {shown(seed)}')
    if not isinstance(budget, int) or isinstance(budget, bool) or budget <= len(progress):
        raise ConfigError(
            f'search: budget must be a whole number of forward passes above the {len(progress)} conditional ones of '
            f'{len(progress)} steps, got {shown(budget)}; 2 * steps is guidance at every step'
        )
    return progress, tuple(sorted(float(scale) for scale in set(scales)))


def _check_count(name: str, value: object, low: int, high: int | None = None) -> None:
    """Raise `ConfigError` unless a value is a whole number in a range."""
    if not isinstance(value, int) or isinstance(value, bool) or value < low or (high is not None and value > high):
        expected = f'of at least {low}' if high is None else f'from {low} to {high}'
        raise ConfigError(f'search: {name} must be a whole number {expected}, got {shown(value)}')


def _number(score: object, schedule: Piecewise) -> float:
    """Return the score of a schedule as a number."""
    number = as_number(score.item() if isinstance(score, Tensor) and score.numel() == 1 else score)
    if number is None:
        raise ConfigError(f'search: judge must return a finite number, got {shown(score)} for {schedule!r}')
    return number
