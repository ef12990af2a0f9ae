"""Which encoder made an encoding, or goes with the weights of a conditioner.

Encodings carry the identity of their encoder, in memory, in files and in stores; a conditioner that was built for a different one
refuses them. So does a checkpoint of a conditioner. What says nothing of its encoder is taken as it is.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from classifier_free_guidance_pytorch.text.hub import looks_local


@dataclass(frozen=True)
class EncoderIdentity:
    """What distinguishes one encoder's features from another's. Device and precision are not part of it.

    Attributes:
        type: The adapter's class, such as `'T5Adapter'`; empty for features of which it is not known who made them.
        name: The model, as it was named to its encoder; empty for an object without a name.
        revision: The commit of the model's files or a digest of its weights; None where it is unknown.
        settings: What else decides the features, such as `(('layer', -1), ('pooling', 'mean'))`, sorted by name.

    Example:
        >>> print(EncoderIdentity('T5Adapter', 'google/t5-v1_1-base', 'a1b2'))
        T5Adapter 'google/t5-v1_1-base' (revision 'a1b2')
    """

    type: str = ''
    name: str = ''
    revision: str | None = None
    settings: tuple[tuple[str, Any], ...] = ()

    def matches(self, other: EncoderIdentity) -> bool:
        """Return whether both can be the same encoder; what is unknown, an encoder or its revision, matches everything."""
        if not (self.type and other.type):
            return True
        same_revision = self.revision is None or other.revision is None or self.revision == other.revision
        return same_revision and (self.type, self.name, self.settings) == (other.type, other.name, other.settings)

    def may_be(self, other: EncoderIdentity) -> bool:
        """Return whether nothing shows that the two are different models, so that weights trained with one fit the other.

        This is less than `matches` asks: a path says where a model is and not which, and a commit may have changed a description.
        """
        if not (self.type and other.type):
            return True
        ours, theirs = dict(self.settings), dict(other.settings)
        revisions = {self.revision, other.revision}
        return (
            self.type == other.type
            and all(ours[name] == theirs[name] for name in ours.keys() & theirs.keys())
            and (self.name == other.name or looks_local(self.name) or looks_local(other.name))
            and (len(revisions) == 1 or any(r is None or re.fullmatch('[0-9a-f]{40}', r) for r in revisions))
        )

    def as_json(self) -> dict[str, Any]:
        """Return what `from_json` reads, of plain types only."""
        return {'type': self.type, 'name': self.name, 'revision': self.revision, 'settings': dict(self.settings)}

    @staticmethod
    def from_json(stated: Mapping[str, Any]) -> EncoderIdentity:
        """Return the identity that was written as JSON, which has no tuples."""
        settings = {name: tuple(value) if isinstance(value, list) else value for name, value in stated['settings'].items()}
        return EncoderIdentity(stated['type'], stated['name'], stated['revision'], tuple(sorted(settings.items())))

    def __str__(self) -> str:
        revision = () if self.revision is None else (('revision', self.revision),)
        stated = ', '.join(f'{key} {value!r}' for key, value in (*revision, *self.settings))
        return self.type + (f' {self.name!r}' if self.name else '') + (f' ({stated})' if stated else '')


def identity_of(encoder: Any) -> EncoderIdentity:
    """Return the identity of an encoder; of any other object its class, and its `name` and `revision` if they are strings."""
    stated = getattr(encoder, 'identity', None)
    if isinstance(stated, EncoderIdentity):
        return stated
    name, revision = getattr(encoder, 'name', None), getattr(encoder, 'revision', None)
    return EncoderIdentity(
        type(encoder).__name__, name if isinstance(name, str) else '', revision if isinstance(revision, str) else None
    )
