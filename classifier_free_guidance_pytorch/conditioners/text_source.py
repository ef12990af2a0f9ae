"""The frozen side of a conditioner: its text encoders, and the encodings of the last few batches of texts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import torch

from classifier_free_guidance_pytorch.conditioners.prepared import WeightWatch
from classifier_free_guidance_pytorch.errors import ConfigError, ShapeError
from classifier_free_guidance_pytorch.layers import Place
from classifier_free_guidance_pytorch.text import (
    Encoder,
    EncoderIdentity,
    Precomputed,
    RecentCache,
    TextEncoder,
    TextEncoding,
    as_texts,
    build_encoders,
    encode_with,
    identity_of,
)

Encodings: TypeAlias = tuple[TextEncoding, ...]
ModelTypes: TypeAlias = str | Encoder | type[Encoder] | Sequence[str | Encoder | type[Encoder]]
Texts: TypeAlias = tuple[str | None, ...]  # None among them: a sample that has the null condition


class TextSource:
    """Turns texts into one `TextEncoding` per encoder.

    A plain object, so the encoders are no part of `parameters()` or `state_dict()`; a deep copy shares them. They follow the
    conditioner to its device and dtype when they are next asked to encode.
    """

    def __init__(self, encoders: tuple[Encoder, ...] = ()) -> None:
        self.encoders = encoders
        self.dims_latent = tuple(encoder.dim_latent for encoder in encoders)
        self.dims_pooled = tuple(encoder.dim_pooled for encoder in encoders)
        self.identities = tuple(map(identity_of, encoders))
        self._memo, self._empty = RecentCache(), RecentCache()
        self._watches = [WeightWatch() for _ in encoders]
        self._seen = [0] * len(encoders)
        self._changes = 0

    @classmethod
    def build(cls, model_types: Any, model_names: Any, model_kwargs: Any, text_embed_pad_value: float) -> TextSource:
        """Build the encoders that the arguments of a conditioner name."""
        encoders = build_encoders(model_types, model_names, model_kwargs)
        given = model_types if isinstance(model_types, (list, tuple)) else (model_types,)
        for encoder, entry in zip(encoders, given, strict=True):
            # an encoder that was handed in keeps its own
            if text_embed_pad_value != 0 and isinstance(encoder, TextEncoder) and encoder is not entry:
                encoder.text_embed_pad_value = text_embed_pad_value
        return cls(encoders)

    @property
    def is_precomputed(self) -> bool:
        """Whether there is no encoder at all, so that every feature that comes is as an encoder would make it."""
        return all(isinstance(encoder, Precomputed) for encoder in self.encoders)

    def check_reads_texts(self) -> None:
        """Raise `ConfigError` where an encoder could not encode the empty string."""
        if any(isinstance(encoder, Precomputed) for encoder in self.encoders):
            raise ConfigError(
                "null='empty' is the encoding of the empty string, and a Precomputed encoder reads no texts: pass null='learned' "
                "or null='zeros'"
            )

    @staticmethod
    def texts(texts: Any, name: str = 'texts', allow_none: bool = False) -> Texts:
        """Return a batch of texts as a tuple; a traced graph takes them as they are, since they are checked again outside it.

        Raises:
            ConfigError: This is no batch of strings.
        """
        if torch.compiler.is_compiling():
            return texts
        return as_texts(texts, name, allow_none)

    def encode(self, texts: Texts, place: Place, remember: bool) -> Encodings:
        """Return one encoding per encoder. With `remember`, the last few batches of texts cost nothing when they come again."""
        if not torch.compiler.is_compiling():
            return self._recall(texts, place, remember)
        # one graph break here, and none in a tokenizer; a compiler would also specialise on every string it sees
        disable: Any = torch.compiler.disable
        encodings: Encodings = disable(lambda: self._recall(as_texts(texts), place, remember))()
        return encodings

    def _recall(self, texts: Texts, place: Place, remember: bool) -> Encodings:
        """`encode`, outside any compiled graph; a text that is None is encoded as the empty one."""
        said = tuple('' if text is None else text for text in texts)
        if not remember:
            return self._encode(said, place)
        self.look()
        return self._memo.get((said, place), lambda: self._encode(said, place))

    def encode_empty(self, place: Place) -> Encodings:
        """Return the encoding of the empty string, made once."""
        return self._empty.get(place, lambda: self._encode(('',), place))

    def _encode(self, texts: tuple[str, ...], place: Place) -> Encodings:
        encodings = tuple(encode_with(encoder, texts, device=place.device, dtype=place.dtype) for encoder in self.encoders)
        self._seen = self._generations()  # of weights that have just been loaded, moved or read again
        return encodings

    def look(self) -> int:
        """Return how often the weights of the encoders were seen to change, as by LoRA; encodings made before are forgotten."""
        seen, self._seen = self._seen, self._generations()
        if self._seen != seen:
            self._memo.clear()
            self._empty.clear()
            self._changes += 1
        return self._changes

    def _generations(self) -> list[int]:
        """Return a number for the weights of each encoder as they are now; 0 where nobody else can have written to them."""
        networks = [encoder.network if isinstance(encoder, TextEncoder) else None for encoder in self.encoders]
        pairs = zip(self._watches, networks, strict=True)
        return [watch.look(one.module) if one is not None and one.is_known else 0 for watch, one in pairs]

    def checked(self, encodings: Sequence[TextEncoding]) -> Encodings:
        """Return encodings that these encoders can have made.

        Raises:
            ConfigError: Their number is not that of the encoders, or a different encoder made them.
            ShapeError: Their widths are not those of the encoders, or their batches differ.
        """
        if len(encodings) != len(self.encoders):
            raise ConfigError(
                f'{len(encodings)} TextEncoding(s) were passed to a conditioner with {len(self.encoders)} encoder(s): '
                'pass one per encoder, in the order of model_types, as encode_texts returns them'
            )
        for encoding, encoder, identity in zip(encodings, self.encoders, self.identities, strict=True):
            if encoding.origin is not None and not encoding.origin.matches(identity):
                raise ConfigError(
                    f'text_embeds were made by {encoding.origin}, but this conditioner was built for {identity}: build it for '
                    'that encoder, or embed the texts again. If the two are one model under two names, open the store with '
                    'check_encoders=False, or pass dataclasses.replace(encoding, origin=None)'
                )
            widths = (encoding.tokens.shape[-1], encoding.pooled.shape[-1])
            # features that were not stored have no tokens or a width of 0; a conditioner that needs them says so
            fits = widths[0] == encoder.dim_latent or encoding.tokens.shape[1] == 0
            if not fits or widths[1] not in (encoder.dim_pooled, 0):
                raise ShapeError(
                    f'a TextEncoding with tokens of width {widths[0]} and pooled features of width {widths[1]} was passed, but '
                    f'{type(encoder).__name__} makes {encoder.dim_latent} and {encoder.dim_pooled}: was it made by another?'
                )
        counts = [len(encoding) for encoding in encodings]
        if any(count != counts[0] for count in counts):  # no set: hashing a symbolic size would make it a constant
            raise ShapeError(f'the encodings describe batches of {counts} texts: every encoder needs the same')
        return tuple(encodings)

    def as_json(self) -> list[dict[str, Any]]:
        """Return the identities of the encoders, of plain types only."""
        return [identity.as_json() for identity in self.identities]

    def check_same(self, stated: Sequence[Mapping[str, Any]], or_else: str) -> None:
        """Raise `ConfigError` where the encoders of a saved conditioner are known to be others.

        Args:
            stated: Their identities, as `as_json` gives them.
            or_else: What to do where the others are meant.
        """
        if not isinstance(stated, Sequence) or not all(isinstance(one, Mapping) for one in stated):
            raise ConfigError(f'the encoders of a saved model are a list of what as_json returned for each, but got {stated!r}')
        saved = [EncoderIdentity.from_json(one) for one in stated]
        if len(saved) != len(self.identities) or not all(map(EncoderIdentity.may_be, saved, self.identities)):
            theirs, ours = (', '.join(map(str, identities)) or 'no encoder' for identities in (saved, self.identities))
            raise ConfigError(
                f'this model was trained with {theirs}, but its conditioner was built with {ours}: build it with the former, or '
                f'{or_else} to take the weights all the same'
            )

    def __deepcopy__(self, memo: dict[int, Any]) -> TextSource:
        return TextSource(self.encoders)
