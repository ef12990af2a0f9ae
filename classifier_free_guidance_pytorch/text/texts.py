"""What counts as a batch of texts, decided once for every encoder and conditioner."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Literal, Protocol, TypeVar, overload

from classifier_free_guidance_pytorch.errors import ConfigError, warn

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
    """Return a batch of strings as a tuple of strings, whatever library it comes from.

    Batches are lists, tuples and other sequences (a column of `datasets`), and arrays: of NumPy, pandas, polars and pyarrow. Half
    a surrogate pair, as cut JSON leaves it, is in no encoding of Unicode, and no tokenizer takes it: it becomes U+FFFD.

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
    given = plain(texts)
    if isinstance(given, str):
        raise ConfigError(f'{name} is a batch of strings, but got the string {given!r}: wrap it in a list, [{given!r}]')
    if not is_batch(given):
        raise ConfigError(f'{name} is a list, a tuple or a NumPy array of strings, but got {type(texts).__name__}')
    found = tuple(text if type(text) is str else plain(text) for text in given)
    if not found:
        raise ConfigError(f'{name} is empty: pass at least one string; the empty string [""] is a text too')
    for position, text in enumerate(found):
        if text is None and not allow_none:
            raise ConfigError(f'{name}[{position}] is None, but every text is a string: write "" for a sample without text')
        if text is not None and not isinstance(text, str):
            choose = ', so choose one of its captions for every sample' if is_batch(text) else ''
            raise ConfigError(
                f'{name}[{position}] is a {type(text).__name__}, but every text is a string{choose}: got {shorten(text)}'
            )
    return tuple(text if text is None else _whole(text, f'{name}[{i}]') for i, text in enumerate(found))


def plain(value: Any) -> Any:
    """Return an array or scalar of NumPy, pandas, polars or pyarrow as Python's own, without importing any of them."""
    for method in ('tolist', 'to_pylist', 'to_list', 'as_py'):
        if hasattr(value, method):
            return getattr(value, method)()
    return value


def is_batch(value: Any) -> bool:
    """Return whether this holds one value per sample, in an order."""
    return isinstance(value, Sequence) and not isinstance(value, str | bytes | bytearray | memoryview)


def _whole(text: str, name: str) -> str:
    """Return a text as a plain string, with both halves of a surrogate pair joined and lone ones replaced."""
    try:
        text.encode()
    except UnicodeEncodeError:
        text = text.encode('utf-16', 'surrogatepass').decode('utf-16', 'replace')
        if '\ufffd' in text:
            warn(f'{name} holds half a surrogate pair, as cut JSON leaves it, which is read as U+FFFD: {shorten(text)}')
    return str.__str__(text)  # of an enumeration its value, where str(text) would be its name


def shorten(text: object, most: int = 60) -> str:
    """Return what was given for a text as a message shows it, cut to `most` characters: captions can be as long as books.

    Example:
        >>> shorten('a dog'), shorten('a very long caption', most=10)
        ("'a dog'", "'a very ...'")
    """
    if isinstance(text, str):
        return repr(text if len(text) <= most else f'{text[: most - 3]}...')
    shown = repr(text)
    return shown if len(shown) <= most else f'{shown[: most - 3]}...'
