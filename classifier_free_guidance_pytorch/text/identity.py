"""Which encoder made an encoding: what is compared before stored features meet a conditioner."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class EncoderIdentity:
    """What tells one encoder's features from another's. Device and precision are no part of it.

    Attributes:
        type: the adapter's class, such as `'T5Adapter'`.
        name: the model, as its encoder was given it; empty for an object that states none.
        revision: the commit of the model's files or a digest of its weights; None where it is not known.
        settings: what else decides the features, such as `(('layer', -1), ('pooling', 'mean'))`, sorted by name.

    Example:
        >>> print(EncoderIdentity('T5Adapter', 'google/t5-v1_1-base', 'a1b2'))
        T5Adapter 'google/t5-v1_1-base' (revision 'a1b2')
    """

    type: str
    name: str = ''
    revision: str | None = None
    settings: tuple[tuple[str, Any], ...] = ()

    def matches(self, other: EncoderIdentity) -> bool:
        """Whether nothing that is known of both tells them apart."""
        same_revision = self.revision is None or other.revision is None or self.revision == other.revision
        return same_revision and (self.type, self.name, self.settings) == (other.type, other.name, other.settings)

    def __str__(self) -> str:
        revision = () if self.revision is None else (('revision', self.revision),)
        stated = ', '.join(f'{key} {value!r}' for key, value in (*revision, *self.settings))
        return self.type + (f' {self.name!r}' if self.name else '') + (f' ({stated})' if stated else '')


def identity_of(encoder: Any) -> EncoderIdentity:
    """The identity of one of our encoders, or of any object: its class, and its `name` and `revision` if it has them."""
    stated = getattr(encoder, 'identity', None)
    if isinstance(stated, EncoderIdentity):
        return stated
    name, revision = getattr(encoder, 'name', None), getattr(encoder, 'revision', None)
    return EncoderIdentity(
        type(encoder).__name__, name if isinstance(name, str) else '', revision if isinstance(revision, str) else None
    )
