"""What a rule is handed at a step: predictions by their branch, where sampling stands, and the memory of the run."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, fields
from typing import Any, NamedTuple

import torch
from torch import Tensor
from typing_extensions import Self

from classifier_free_guidance_pytorch.errors import ConfigError, ShapeError
from classifier_free_guidance_pytorch.guidance.checks import Scale, check_alike
from classifier_free_guidance_pytorch.rows import is_readable

BRANCHES = ('cond', 'null', 'weak', 'conds', 'negatives')
"""The predictions a rule can ask for, in the order in which `Rule.branches` names them; `Weak` passes with a name follow."""

SEVERAL = ('conds', 'negatives')
"""Those of which there may be more than one."""


def is_weak(branch: str) -> bool:
    """Return whether a branch is the pass of a weakened model: `weak`, or one with a name of its own."""
    return branch == 'weak' or branch not in BRANCHES


class Predictions(NamedTuple):
    """The predictions of one step, each `(b, ...)`; those that were not made are None or empty."""

    cond: Tensor | None = None
    null: Tensor | None = None
    weak: Tensor | None = None
    conds: tuple[Tensor, ...] = ()
    negatives: tuple[Tensor, ...] = ()
    named: Mapping[str, Tensor] = {}
    """Those of weakened passes with a name of their own."""

    def of(self, branch: str) -> Tensor | tuple[Tensor, ...] | None:
        """Return what was made for a branch, None where nothing was."""
        made: Tensor | tuple[Tensor, ...] | None = getattr(self, branch) if branch in BRANCHES else self.named.get(branch)
        return None if isinstance(made, tuple) and not made else made

    @staticmethod
    def by_branch(made: Mapping[str, Any]) -> Predictions:
        """Return the predictions that a mapping has by their branch."""
        named = {name: value for name, value in made.items() if name not in BRANCHES}
        if not named:
            return Predictions(**made)
        return Predictions(**{name: value for name, value in made.items() if name in BRANCHES}, named=named)

    def first(self) -> Tensor:
        """Return one of the predictions, of which there must be one."""
        every = (self.cond, self.null, self.weak, *self.conds, *self.negatives, *self.named.values())
        return next(one for one in every if one is not None)

    def pair(self) -> tuple[Tensor, Tensor]:
        """Return `cond` and `null`, of which the caller knows that they are there."""
        assert self.cond is not None
        assert self.null is not None
        return self.cond, self.null

    def with_null(self, null: Tensor | None) -> Predictions:
        """Return the predictions with another null: `_replace`, which older releases of torch do not trace."""
        return Predictions(self.cond, null, self.weak, self.conds, self.negatives, self.named)

    def map(self, fn: Callable[[Tensor], Tensor]) -> Predictions:
        """Apply a function to every prediction."""
        cond, null, weak = [None if one is None else fn(one) for one in (self.cond, self.null, self.weak)]
        named = {name: fn(prediction) for name, prediction in self.named.items()}
        return Predictions(cond, null, weak, tuple(map(fn, self.conds)), tuple(map(fn, self.negatives)), named)


class Step(NamedTuple):
    """Where sampling stands: the memory of the run, the noisy sample, its noise level, and progress from 0 (noise) to 1.

    `next_sigma` and `next_alpha` are those of the next step, for schedules; `rows` the samples that the null pass was made for.
    """

    state: State | None = None
    x: Tensor | None = None
    sigma: Scale | None = None
    alpha: Scale | None = None
    progress: float | None = None
    next_sigma: Scale | None = None
    next_alpha: Scale | None = None
    rows: Tensor | None = None

    def but(self, **changed: Any) -> Step:
        """Return a step with other entries: `_replace`, which older releases of torch do not trace."""
        return Step(**{**{name: getattr(self, name) for name in self._fields}, **changed})


@dataclass(eq=False)
class State:
    """The memory of one sampling run under one rule, updated in place.

    Args:
        rule: The rule that made it, and the only one that may use it.
        parts: States of the rules it is composed of, None for those that remember nothing.
    """

    rule: Any
    parts: tuple[State | None, ...] = ()

    def reset(self) -> None:
        """Forget everything, as before the first step."""
        for part in self.parts:
            if part is not None:
                part.reset()
        defaults = {entry.name: entry.default for entry in fields(self)}
        for name in self._entries():
            setattr(self, name, defaults[name])

    def state_dict(self) -> dict[str, Any]:
        """Return what is remembered as tensors, numbers, lists and None, which `torch.load(weights_only=True)` reads.

        >>> import torch
        >>> from classifier_free_guidance_pytorch import guidance
        >>> rule = guidance.APG(momentum=-0.5)
        >>> state = rule.init_state()
        >>> guided = rule(torch.ones(1, 2), torch.zeros(1, 2), 3., state=state)
        >>> resumed = rule.init_state()
        >>> resumed.load_state_dict(state.state_dict())
        >>> resumed.average
        tensor([[1., 1.]])
        """
        parts = [None if part is None else part.state_dict() for part in self.parts]
        return {'parts': parts} | {name: getattr(self, name) for name in self._entries()}

    def load_state_dict(self, saved: Mapping[str, Any]) -> None:
        """Remember what a state of an equal rule had remembered.

        Args:
            saved: What `state_dict` returned.

        Raises:
            ConfigError: It is that of a different kind of rule.
        """
        if not isinstance(saved, Mapping):
            raise ConfigError(f'expected what state_dict() returned, a dictionary, got {saved!r}')
        parts, entries = saved.get('parts', ()), self._entries()
        fits = set(saved) == {'parts', *entries} and [one is None for one in parts] == [one is None for one in self.parts]
        if not fits:
            raise ConfigError(
                f'the state of {self.rule!r} holds {["parts", *entries]}, which does not fit what was saved: {list(saved)} with '
                f'{len(parts)} parts; load it into the state of an equal rule'
            )
        for part, one in zip(self.parts, parts, strict=True):
            if part is not None:
                part.load_state_dict(one)
        for name in entries:
            setattr(self, name, saved[name])

    def to(self, *args: Any, **kwargs: Any) -> Self:
        """Move every remembered tensor, as `Tensor.to` does; a dtype changes those of floating point only.

        Returns:
            This state.
        """
        moved = torch.empty(0).to(*args, **kwargs)
        for part in self.parts:
            if part is not None:
                part.to(*args, **kwargs)
        for name in self._entries():
            value = getattr(self, name)
            if isinstance(value, Tensor):
                setattr(self, name, value.to(*args, **kwargs) if value.is_floating_point() else value.to(moved.device))
        return self

    def _entries(self) -> list[str]:
        """Return the names of what is remembered here, beside the states of the parts."""
        return [entry.name for entry in fields(self) if entry.name not in ('rule', 'parts')]

    def check_held(self, what: str, held: Tensor | None, expected: tuple[int, ...], like: Tensor) -> None:
        """Raise `ShapeError` where a remembered tensor belongs to predictions of another shape."""
        if held is not None and tuple(held.shape) != expected:
            raise ShapeError(
                f'guidance state holds {what} of shape {tuple(held.shape)}, but the predictions have shape '
                f'{tuple(like.shape)}; make a new state with rule.init_state() for every sampling run'
            )


def filled(cond: Tensor, null: Tensor, rows: Tensor) -> Tensor:
    """Return a null prediction of every sample: that of `cond` where none was made."""
    if not isinstance(rows, Tensor) or rows.ndim != 1 or rows.dtype not in (torch.int32, torch.int64):
        raise ConfigError(f'rows must be what null_rows returned, indices of samples (r,), got {rows!r}')
    if null.shape[1:] != cond.shape[1:] or null.shape[:1] != rows.shape:
        raise ShapeError(
            f'null has shape {tuple(null.shape)} for rows={tuple(rows.shape)} and predictions of shape {tuple(cond.shape)}; give '
            'one prediction for each of the rows'
        )
    check_alike('rows', {'null': null[:0], 'cond': cond[:0]}, linear=True)
    if is_readable(rows) and len(rows) and not (0 <= int(rows.min()) <= int(rows.max()) < len(cond)):
        raise ShapeError(f'rows must be of the {len(cond)} samples of the batch, got {rows.tolist()}')
    return cond.index_copy(0, rows.to(cond.device), null)  # (b, ...)


def in_order(names: Collection[str]) -> tuple[str, ...]:
    """Return branches in the order of `BRANCHES`."""
    return tuple([branch for branch in BRANCHES if branch in names] + sorted(name for name in names if name not in BRANCHES))
