"""What counts as a batch of texts, decided once for every encoder and conditioner."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal, Protocol, TypeVar, overload

from classifier_free_guidance_pytorch.errors import ConfigError

T_co = TypeVar('T_co', covariant=True)


class Batch(Protocol[T_co]):
    """A list, a tuple or an array, for type checkers: a string is a `Sequence[str]`, but not a `Batch[str]` (`__contains__`)."""

    def __len__(self) -> int: ...

    def __iter__(self) -> Iterator[T_co]: ...

    def __getitem__(self, index: int, /) -> T_co: ...

    def __contains__(self, value: object, /) -> bool: ...


@overload
def as_texts(texts: Any, name: str = ..., allow_none: Literal[False] = ...) -> tuple[str, ...]: ...
@overload
def as_texts(texts: Any, name: str, allow_none: bool) -> tuple[str | None, ...]: ...
def as_texts(texts: Any, name: str = 'texts', allow_none: bool = False) -> tuple[str | None, ...]:
    """Return a list, tuple or NumPy array of strings as a tuple of strings.

    Args:
        texts: The batch, one string per sample.
        name: The caller's name for it, for errors.
        allow_none: Whether it may contain None.

    Returns:
        The same strings, in a form that can be compared and hashed.

    Raises:
        ConfigError: A bare string, no texts at all, `None` among them, or anything that is not a string.

    Example:
        >>> as_texts(['a dog', 'a cat'])
        ('a dog', 'a cat')
    """
    if hasattr(texts, 'tolist'):  # a NumPy array (or a pandas column), without importing either
        texts = texts.tolist()
    if isinstance(texts, str):
        raise ConfigError(f'{name} is a batch of strings, but got the string {texts!r}: wrap it in a list, [{texts!r}]')
    if not isinstance(texts, list | tuple):
        raise ConfigError(f'{name} is a list, a tuple or a NumPy array of strings, but got {type(texts).__name__}')
    if not texts:
        raise ConfigError(f'{name} is empty: pass at least one string; the empty string [""] is a text too')
    for position, text in enumerate(texts):
        if text is None and not allow_none:
            raise ConfigError(f'{name}[{position}] is None, but every text is a string: write "" for a sample without text')
        if text is not None and not isinstance(text, str):
            raise ConfigError(f'{name}[{position}] is a {type(text).__name__}, but every text is a string: got {text!r}')
    return tuple(text if text is None else str(text) for text in texts)


def shorten(text: str, most: int = 60) -> str:
    """Return a text quoted for a message, cut to `most` characters: captions can be as long as books.

    Example:
        >>> shorten('a dog'), shorten('a very long caption', most=10)
        ("'a dog'", "'a very ...'")
    """
    return repr(text if len(text) <= most else f'{text[: most - 3]}...')
