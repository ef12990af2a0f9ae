"""What the conditioners hand out: the text feature, the conditions of one branch, and prepared conditions for many steps."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple
from weakref import WeakSet

import torch
import torch.nn.functional as F
from torch import Tensor

from classifier_free_guidance_pytorch.errors import UsageError
from classifier_free_guidance_pytorch.layers import Condition
from classifier_free_guidance_pytorch.text.encoding import moved


class TextCondReturn(NamedTuple):
    """The text feature that conditions a batch, and the mask of its tokens.

    Attributes:
        embed: `(b, d)` per text, or `(b, n, d)` per token; None for a conditioner without text.
        mask: `(b, n)`, True = a real token that may be attended to; None where the feature has no tokens.
    """

    embed: Tensor | None
    mask: Tensor | None

    def map(self, fn: Callable[[Tensor], Tensor]) -> TextCondReturn:
        """The pair with `fn` applied to each tensor that is there."""
        return TextCondReturn(*(None if t is None else fn(t) for t in self))

    def to(self, device: torch.device | str | int | None = None, dtype: torch.dtype | None = None) -> TextCondReturn:
        """Move to a device and / or a floating dtype; the mask stays boolean."""
        return self.map(lambda t: moved(t, device, dtype))

    def expand(self, rows: int) -> TextCondReturn:
        """The feature of one text, seen as `rows` equal ones (no copy); any other number stays."""
        return self if self.embed is None or len(self.embed) != 1 else self.map(lambda t: t.expand(rows, *t.shape[1:]))

    def joined(self, other: TextCondReturn) -> TextCondReturn:
        """The rows of both, with tokens padded to the longer."""
        if self.embed is None or other.embed is None:
            return self
        if self.mask is None or other.mask is None:
            return TextCondReturn(torch.cat((self.embed, other.embed)), None)
        longest = max(self.mask.shape[1], other.mask.shape[1])
        pairs = [(embed, mask, longest - mask.shape[1]) for embed, mask in ((self.embed, self.mask), (other.embed, other.mask))]
        embeds = [F.pad(embed, (0, 0, 0, missing)) for embed, _, missing in pairs]
        return TextCondReturn(torch.cat(embeds), torch.cat([F.pad(mask, (0, missing)) for _, mask, missing in pairs]))


class CondFns(tuple[Callable[[Tensor], Tensor], ...]):
    """One callable per hidden dimension, in the order of `hidden_dims`; `.text_cond` is the feature they were made from."""

    text_cond: TextCondReturn

    def __new__(cls, fns: Iterable[Callable[[Tensor], Tensor]], text_cond: TextCondReturn) -> CondFns:
        self = super().__new__(cls, fns)
        self.text_cond = text_cond
        return self

    def __getitem__(self, index: Any) -> Any:
        """One callable; or, for a slice, some of them, which a decorated `super().forward` still knows as conditions."""
        picked: Any = super().__getitem__(index)
        return CondFns(picked, self.text_cond) if isinstance(index, slice) else picked


@dataclass(eq=False)
class BranchCondition:
    """All that one branch of a model (conditional, null, negative) needs to know of its texts."""

    layers: tuple[Condition, ...]
    text_cond: TextCondReturn
    bound: CondFns | None = None  # the callables, where they were made ahead of time

    def map(self, fn: Callable[[Tensor], Tensor]) -> BranchCondition:
        """The same branch with `fn` applied to each tensor."""
        return BranchCondition(tuple(layer.map(fn) for layer in self.layers), self.text_cond.map(fn))

    @property
    def rows(self) -> int:
        """How many texts the branch describes; 1 fits every batch."""
        embed = self.text_cond.embed
        return 1 if embed is None else embed.shape[0]

    def expand(self, rows: int) -> BranchCondition:
        """A branch of one text, seen as `rows` equal ones (no copy)."""
        return BranchCondition(tuple(layer.expand(rows) for layer in self.layers), self.text_cond.expand(rows))

    def joined(self, other: BranchCondition) -> BranchCondition:
        """One branch for a batch whose first rows are of this one and whose last rows are of the other."""
        layers = tuple(first.joined(second) for first, second in zip(self.layers, other.layers, strict=True))
        return BranchCondition(layers, self.text_cond.joined(other.text_cond))


def version_of(weight: Tensor) -> int:
    """How often a weight was written to. Tensors made in inference mode do not count."""
    return 0 if weight.is_inference() else weight._version


class Ownership:
    """Ties prepared conditions to the one conditioner that made them: a copy of the conditioner gets an ownership of its own."""

    def __init__(self) -> None:
        self.prepared: WeakSet[PreparedCondition] = WeakSet()

    def mark_stale(self, weights: Sequence[Tensor]) -> None:
        """Mark what was prepared from other weights than these, or from these before they changed."""
        for prepared in self.prepared:
            same = len(weights) == len(prepared.weights) and all(w is p for w, p in zip(weights, prepared.weights, strict=True))
            prepared.stale = prepared.stale or not same or prepared.weights_changed()

    def __deepcopy__(self, memo: dict[int, Any]) -> Ownership:
        return Ownership()

    def __reduce__(self) -> tuple[Any, ...]:
        return Ownership, ()


@dataclass(eq=False)
class PreparedCondition:
    """Conditions made once by `prepare`, for as many steps as you like: pass it as `text_condition=`.

    It moves with `.to(device, dtype)` and is indexed by sample, `prepared[2:4]`. It belongs to the conditioner that made it, and
    is refused once that conditioner's weights have changed: at every call, or, in a compiled model, from the next `eval()` or
    `load_state_dict` on. Only what is written through a weight's `.data` goes unseen (some EMA implementations do so): prepare
    again after it.
    """

    cond: BranchCondition
    null: BranchCondition
    owner: Ownership
    weights: tuple[Tensor, ...]
    versions: tuple[int, ...]
    stale: bool = False

    def __post_init__(self) -> None:
        self.owner.prepared.add(self)

    def __repr__(self) -> str:
        return f'PreparedCondition({len(self)} texts)'

    def weights_changed(self) -> bool:
        """Whether a weight was written to since: every in-place change of a tensor counts its version up."""
        return any(version_of(weight) != version for weight, version in zip(self.weights, self.versions, strict=True))

    def __len__(self) -> int:
        return max(self.cond.rows, self.null.rows)

    def map(self, fn: Callable[[Tensor], Tensor]) -> PreparedCondition:
        """The same condition with `fn` applied to each tensor of both branches."""
        return replace(self, cond=self.cond.map(fn), null=self.null.map(fn))

    def to(self, device: torch.device | str | int | None = None, dtype: torch.dtype | None = None) -> PreparedCondition:
        """Move to a device and / or a floating dtype; masks stay boolean."""
        return self.map(lambda t: moved(t, device, dtype))

    def __getitem__(self, index: int | slice | Tensor | list[int]) -> PreparedCondition:
        """The condition of some of the samples, always as a batch."""
        rows: Any = [index] if isinstance(index, int) else index
        cond, null = (
            branch if branch.rows == 1 != len(self) else branch.map(lambda t: t[rows]) for branch in (self.cond, self.null)
        )
        return replace(self, cond=cond, null=null)

    def __getstate__(self) -> dict[str, Any]:
        raise UsageError(
            'a prepared condition belongs to the model in this process and cannot be pickled: store the encodings of '
            'encode_texts(texts) and call prepare(text_embeds=...) again after loading'
        )
