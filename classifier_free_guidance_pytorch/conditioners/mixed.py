"""Several kinds of conditioning of one text: each kind has layers of its own, and a sample loses its text for all or for none."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from classifier_free_guidance_pytorch.conditioners.base import Conditioner
from classifier_free_guidance_pytorch.conditioners.prepared import BranchCondition, CondFns, TextCondReturn
from classifier_free_guidance_pytorch.conditioners.reader import TextReader
from classifier_free_guidance_pytorch.conditioners.text_source import Encodings
from classifier_free_guidance_pytorch.errors import ShapeError
from classifier_free_guidance_pytorch.rows import Rows
from classifier_free_guidance_pytorch.text import Batch


@dataclass(eq=False)
class Features(Rows):
    """The features of every kind."""

    kinds: tuple[Rows, ...]


class MixedConditioner(TextReader[Features]):
    """Condition some hiddens in one way and others in another; the text is encoded once, and dropped by one draw.

    Args:
        kinds: A conditioner for each kind, by its name; all have the same encoders. Their hidden dimensions follow one another.
    """

    def __init__(self, kinds: dict[str, TextReader[Any]]) -> None:
        first, *others = kinds.values()
        dims = [dim for kind in kinds.values() for dim in kind.hidden_dims]
        layouts = [layout for kind in kinds.values() for layout in kind.hiddens_channel_first]
        super().__init__(dims, first.source, first.cond_drop_prob, layouts, first.null)
        for other in others:
            other.source = first.source  # which remembers encodings, so that each is made once
        self.kinds = nn.ModuleDict(kinds)
        self.reads_scale = all(kind.reads_scale for kind in kinds.values())

    @property
    def of_kinds(self) -> Iterable[Any]:
        """The conditioners, in order."""
        return self.kinds.values()

    def embed_texts(self, texts: Batch[str]) -> Tensor:
        """Raise `ShapeError`: what one kind makes of a text is of no use to another."""
        raise ShapeError(
            f'embed_texts would be {" and ".join(self.kinds)} features at once: store what encode_texts returns instead'
        )

    def read_encodings(self, encodings: Encodings) -> Features:
        return Features(tuple(kind.read_encodings(encodings) for kind in self.of_kinds))

    def read_embeds(self, embeds: Tensor | TextCondReturn) -> Features:
        raise ShapeError(
            f'text_embeds of a model that is conditioned by {" and ".join(self.kinds)} is what encode_texts returns, but got a '
            f'{type(embeds).__name__}, which is for one of them'
        )

    def null_features(self) -> Features:
        return Features(tuple(kind.null_features() for kind in self.of_kinds))

    def drop(self, features: Features, keep: Tensor) -> Features:
        pairs = zip(self.of_kinds, features.kinds, strict=True)
        return Features(tuple(kind.drop(own, keep) for kind, own in pairs))

    def text_cond(self, features: Features) -> TextCondReturn:
        raise AssertionError('every kind has its own')

    def condition(self, features: Features) -> BranchCondition:
        pairs = zip(self.of_kinds, features.kinds, strict=True)
        return _joined([kind.condition(own) for kind, own in pairs])

    def null_condition(self, features: Features | None) -> BranchCondition:
        return _joined([kind.null_condition(None) for kind in self.of_kinds])

    def at_scale(self, branch: BranchCondition, scale: float | Tensor) -> BranchCondition:
        pairs = zip(self.of_kinds, branch.kinds, strict=True)
        return _joined([kind.at_scale(own, scale) for kind, own in pairs])

    @property
    def learned_scales(self) -> tuple[float, float] | None:
        first: Conditioner = next(iter(self.of_kinds))
        return first.learned_scales

    def learn_scales(self, scale: float | Tensor) -> None:
        for kind in self.of_kinds:
            kind.learn_scales(scale)

    def bind(self, branch: BranchCondition, repeat_batch: int | Sequence[int] = 1) -> CondFns:
        repeats = self.check_repeat(repeat_batch)
        fns: list[Any] = []
        for kind, own in zip(self.of_kinds, branch.kinds, strict=True):
            fns.extend(kind.bind(own, repeats[len(fns) : len(fns) + len(kind.hidden_dims)]))
        return CondFns.of(fns, branch.text_cond)

    def check_attention(self) -> None:
        for kind in self.of_kinds:
            kind.check_attention()

    def extrapolated(
        self, cond: BranchCondition, null: BranchCondition, combine: Callable[[Tensor, Tensor], Tensor]
    ) -> BranchCondition:
        raise AssertionError('check_attention has refused one of the kinds')


def _joined(branches: Sequence[BranchCondition]) -> BranchCondition:
    """Return one branch with the conditions of all kinds."""
    return BranchCondition((), branches[0].text_cond, tuple(branches))
