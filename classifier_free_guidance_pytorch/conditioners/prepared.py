"""What the conditioners hand out: the text feature, the callables, the conditions of one branch, and prepared conditions."""

from __future__ import annotations

from collections.abc import Iterable
from copy import deepcopy
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol, SupportsIndex, overload

from torch import Tensor
from typing_extensions import Self

from classifier_free_guidance_pytorch.layers import Condition
from classifier_free_guidance_pytorch.rows import Rows, detached, map_rows


class TextCondReturn(NamedTuple):
    """The text feature that conditions a batch, and the mask of its tokens.

    Attributes:
        embed: `(b, d)` per text, or `(b, n, d)` per token; None for a conditioner without text.
        mask: `(b, n)`, True = a real token that may be attended to; None where the feature has no tokens.
    """

    embed: Tensor | None
    mask: Tensor | None

    @property
    def pooled(self) -> Tensor | None:
        """The pooled feature, `(b, d)`, of conditioners that hand features on as they are; None elsewhere."""
        return None


class RawTextCond(TextCondReturn):
    """The same pair, with the pooled feature beside it."""

    pooled: Tensor | None = None

    @classmethod
    def of(cls, embed: Tensor | None, mask: Tensor | None, pooled: Tensor | None) -> Self:
        """Make the pair, and put the pooled feature beside it."""
        self = cls(embed, mask)
        self.pooled = pooled
        return self


def identity(hiddens: Tensor, repeat_batch: int | None = None) -> Tensor:
    """Return the hiddens: the callable of a conditioner that leaves them alone."""
    return hiddens


class AnyCondFn(Protocol):
    """What a conditioner returns for each of the hiddens: a `CondFn`, or the identity."""

    def __call__(self, hiddens: Tensor, repeat_batch: int | None = None) -> Tensor:
        """Return the conditioned hiddens."""


class CondFns(tuple[AnyCondFn, ...]):
    """One callable per hidden dimension, in the order of `hidden_dims`; `.text_cond` is the feature they were made from."""

    text_cond: TextCondReturn

    @classmethod
    def of(cls, fns: Iterable[AnyCondFn], text_cond: TextCondReturn) -> Self:
        """Make the tuple of callables."""
        self = cls(fns)
        self.text_cond = text_cond
        return self

    @overload
    def __getitem__(self, index: SupportsIndex) -> AnyCondFn: ...
    @overload
    def __getitem__(self, index: slice) -> CondFns: ...
    def __getitem__(self, index: SupportsIndex | slice) -> AnyCondFn | CondFns:
        """Return one callable; or, for a slice, some of them, which a decorated `super().forward` still knows as conditions."""
        if isinstance(index, slice):
            return CondFns.of(super().__getitem__(index), self.text_cond)
        return super().__getitem__(index)

    def __reduce__(self) -> tuple[Any, ...]:
        return CondFns.of, (tuple(self), self.text_cond)

    def __deepcopy__(self, memo: dict[int, Any]) -> CondFns:
        return CondFns.of(deepcopy(tuple(self), memo), map_rows(self.text_cond, detached))


@dataclass(eq=False)
class BranchCondition(Rows):
    """All that one branch of a model (conditional, null, negative) needs to know of its texts.

    Attributes:
        layers: The condition of every conditioning layer; empty for a conditioner without layers.
        text_cond: The text feature itself.
    """

    layers: tuple[Condition, ...]
    text_cond: TextCondReturn

    @property
    def rows(self) -> int:
        embed = self.text_cond.embed
        return 1 if embed is None else embed.shape[0]


@dataclass(eq=False)
class PreparedCondition(Rows):
    """Conditions made once by `prepare`, for as many steps as you like: pass it as `text_condition=`.

    It moves with `.to(device, dtype)`, is indexed by sample, `prepared[2:4]`, can be copied and pickled, and keeps no weights
    alive. It belongs to the conditioner that made it, and is refused once that conditioner's weights have changed: at every call
    or, in a compiled model, from the next `eval()` or `load_state_dict()` on.

    Attributes:
        cond: The conditions of the texts.
        null: The conditions of the negative texts, or of no text.
        owner: Names the conditioner that made it.
        generation: Which weights it was made from.
    """

    cond: BranchCondition
    null: BranchCondition
    owner: str
    generation: int

    def __repr__(self) -> str:
        return f'PreparedCondition({len(self)} texts)'

    def __len__(self) -> int:
        return max(self.cond.rows, self.null.rows)

    def __getitem__(self, index: int | slice | Tensor | list[int]) -> PreparedCondition:
        """Return the condition of some of the samples, always as a batch."""
        rows = [index] if isinstance(index, int) else index
        if isinstance(index, int) and not -len(self) <= index < len(self):
            raise IndexError(f'text {index} of a condition of {len(self)} texts')
        cond, null = (branch if branch.rows == 1 != len(self) else branch.index(rows) for branch in (self.cond, self.null))
        return PreparedCondition(cond, null, self.owner, self.generation)
