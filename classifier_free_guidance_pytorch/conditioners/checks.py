"""What is checked of a conditioner's arguments and of a call, before any encoder runs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from classifier_free_guidance_pytorch.conditioners.prepared import TextCondReturn
from classifier_free_guidance_pytorch.errors import ConfigError, ShapeError
from classifier_free_guidance_pytorch.text import TextEncoding, as_texts


def check_one_of(texts: object, text_embeds: object, prefix: str = '') -> None:
    """Raise `ConfigError` unless exactly one of texts and embeddings is given."""
    if (texts is None) == (text_embeds is None):
        got = 'neither' if texts is None else 'both'
        raise ConfigError(f'pass either {prefix}texts or {prefix}text_embeds, but got {got}')


def is_count(value: object) -> bool:
    """Whether this is a whole number of at least 1."""
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


def check_hidden_dims(hidden_dims: Sequence[int]) -> None:
    """Raise `ConfigError`, before any encoder is built, for hidden dimensions that are no list of positive integers."""
    if not hidden_dims or not all(map(is_count, hidden_dims)):
        raise ConfigError(
            f'hidden_dims lists the width of each of the hiddens to condition, such as (256, 512), but got {hidden_dims!r}'
        )


def per_hidden(value: Any, hidden_dims: tuple[int, ...], name: str) -> tuple[Any, ...]:
    """Return one value per hidden dimension: a single one is repeated, a sequence must have the right length."""
    if not isinstance(value, Sequence):
        return (value,) * len(hidden_dims)
    if len(value) != len(hidden_dims):
        raise ConfigError(
            f'{name} has {len(value)} entries for {len(hidden_dims)} hidden_dims: pass one for all, or one for each'
        )
    return tuple(value)


def check_repeat(repeat_batch: object) -> None:
    """Raise `ConfigError` for what does not say how often a text is repeated: a count, or one for each of the hiddens."""
    counts = list(repeat_batch) if isinstance(repeat_batch, Sequence) else [repeat_batch]
    if not counts or not all(map(is_count, counts)):
        raise ConfigError(f'repeat_batch counts the rows of the hiddens that share a text, at least 1, but got {repeat_batch!r}')


def check_samples(samples: object) -> None:
    """Raise `ConfigError` for what does not say how many samples share a text."""
    if not is_count(samples):
        raise ConfigError(f'num_samples_per_text counts the samples that share a text, at least 1, but got {samples!r}')


def check_texts(texts: object, name: str, allow_none: bool) -> None:
    """Raise `ConfigError` for texts that are no batch of strings."""
    as_texts(texts, name, allow_none)


def check_embeds(text_embeds: object, name: str = 'text_embeds') -> None:
    """Raise `ConfigError` for what neither `encode_texts` nor `embed_texts` can have returned."""
    if isinstance(text_embeds, (Tensor, TextCondReturn, TextEncoding)):
        return
    parts = list(text_embeds) if isinstance(text_embeds, Sequence) else []
    is_encodings = all(isinstance(part, TextEncoding) for part in parts)
    is_pair = len(parts) == 2 and all(isinstance(part, Tensor) for part in parts)
    if not parts or not (is_encodings or is_pair):
        raise ConfigError(
            f'{name} is what encode_texts or embed_texts returned: a tensor, a pair (embed, mask), a TextEncoding or one '
            f'TextEncoding per encoder, but got {type(text_embeds).__name__}'
        )


def check_as_many(texts: int, negatives: int) -> None:
    """Raise `ShapeError` for texts and negative texts that are not of one batch."""
    if texts != negatives and 1 not in (texts, negatives):
        raise ShapeError(f'{negatives} negative texts were given for {texts} texts: pass one for each, or one for all')
