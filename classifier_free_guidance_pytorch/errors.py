"""The error family, the type checker that uses it, and warnings that point to the user's line.

The library's own errors are `CFGError`s: about an argument, a call at the wrong time, a damaged file or a missing package. A
message says what was passed, what was expected and how to fix it. Three errors are Python's own, because its protocols ask for
them: `IndexError` for a place beyond the end, `AttributeError` for an unknown name, `TypeError` for too many arguments. What a
user's own code raises passes through unchanged. `assert` is for the library's own invariants.

    CFGError
    ├── ConfigError             (ValueError)    an argument that can never work
    │   └── ArgumentTypeError                   ... because of its type
    ├── ShapeError              (ValueError)    tensors or batches that do not fit together
    ├── UsageError              (RuntimeError)  a valid call at the wrong time
    ├── StoreError              (RuntimeError)  a file of an embedding store that is damaged, missing or of a different store
    ├── UnknownCaptionError     (KeyError)      a caption that a store does not hold
    └── MissingDependencyError  (ImportError)   a package, a model or a file that is missing
"""

from __future__ import annotations

import inspect
import re
import sys
import warnings
from collections.abc import Callable
from functools import cache, wraps
from typing import Any, TypeVar

# what moves a cursor, recolours, hides or reorders text, and halves of characters: all but the line feed and the tabulator
_UNPRINTABLE = re.compile('[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]')

_LONGEST = 3000  # characters of a message

F = TypeVar('F', bound=Callable[..., Any])


def printable(message: str) -> str:
    r"""Return a message in which the names of files and the like can do nothing to a terminal.

    Example:
        >>> print(printable('a\x1b[2Jb.txt'))
        a\x1b[2Jb.txt
    """
    return _UNPRINTABLE.sub(lambda found: ascii(found[0])[1:-1], message)


class CFGError(Exception):
    """Base of the library's own errors."""

    def __str__(self) -> str:
        message = Exception.__str__(self)
        if len(message) > _LONGEST:  # what was given may be as long as a book; how to fix it is said last
            message = f'{message[: _LONGEST // 2]} ... {message[-_LONGEST // 2 :]}'
        return printable(message)


class ConfigError(CFGError, ValueError):
    """An argument that can never work: an unknown name, a wrong type, a value out of range."""


class ShapeError(CFGError, ValueError):
    """Tensors, texts or batches that do not fit together."""


class UsageError(CFGError, RuntimeError):
    """A valid call that is not possible now, such as guidance in training mode."""


class StoreError(CFGError, RuntimeError):
    """A file of an embedding store that is damaged, missing, unfinished or of a different store; the message names it."""


class UnknownCaptionError(CFGError, KeyError):
    """A caption that an embedding store does not hold."""


class MissingDependencyError(CFGError, ImportError):
    """A package, model or file that is needed and missing."""


class ArgumentTypeError(ConfigError):
    """An argument of the wrong type, with the finding of the type checker in one plain sentence."""

    def __init__(self, finding: str) -> None:
        found = re.search(r'parameter (?P<given>.*?) violates type hint (?P<hint>.*?), as (?P<reason>.*)', finding, re.DOTALL)
        if found is not None:
            hint = re.sub(r"(collections\.abc|typing|beartype\.typing)\.|<class '([\w.]+)'>", r'\2', found['hint'])
            reason = ' '.join(found['reason'].replace('* ', '').split()).rstrip('.')
            finding = f'{found["given"]} is of the wrong type: expected {hint} ({reason})'
        super().__init__(finding)


# Argument types are checked where objects are built, never in the hot path. As everywhere in Python, an int serves as a float.
# beartype loads at the first call: at import it would add 5 % to the time of `import torch`.
def checked(function: F) -> F:
    """Decorate a function: check the types of its arguments, and raise `ArgumentTypeError` for a wrong one."""

    numbers = {name for name, kind in function.__annotations__.items() if kind in ('int', 'int | None')}

    @cache
    def with_check() -> Callable[..., Any]:
        from beartype import BeartypeConf, beartype

        return beartype(conf=BeartypeConf(violation_param_type=ArgumentTypeError, is_color=False, is_pep484_tower=True))(function)

    @wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        if numbers and any(isinstance(value, bool) for value in (*args, *kwargs.values())):  # to Python, True is the number 1
            for name, value in inspect.signature(function).bind_partial(*args, **kwargs).arguments.items():
                if name in numbers and isinstance(value, bool):
                    raise ArgumentTypeError(f'{name}={value} is of the wrong type: expected int, a whole number (got a bool)')
        return with_check()(*args, **kwargs)

    return call  # type: ignore[return-value]


def warn(message: str) -> None:
    """Warn, and point to the line of the user that called this package."""
    package = __name__.partition('.')[0]
    level, frame = 2, sys._getframe(1)
    while frame.f_back is not None and frame.f_globals.get('__name__', '').partition('.')[0] in (package, 'torch'):
        frame, level = frame.f_back, level + 1
    warnings.warn(printable(message), UserWarning, stacklevel=level)
