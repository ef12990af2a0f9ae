"""The error family, and the type checker that speaks it.

Every error a user can cause is a `CFGError`. A message says what was passed, what was expected and how to fix it.
`assert` is left for the library's own invariants.

    CFGError
    ├── ConfigError             (ValueError)    an argument that can never work
    │   └── ArgumentTypeError                   ... because of its type
    ├── ShapeError              (ValueError)    tensors or batches that do not fit together
    ├── UsageError              (RuntimeError)  the right thing at the wrong time
    ├── StoreError              (RuntimeError)  files of a store of embeddings that are damaged, missing or of another
    ├── UnknownCaptionError     (KeyError)      a caption that a store does not hold
    └── MissingDependencyError  (ImportError)   a package, a model or a file that is not there
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import cache, wraps
from typing import Any, TypeVar

F = TypeVar('F', bound=Callable[..., Any])


class CFGError(Exception):
    """Base of every error this library raises on purpose."""


class ConfigError(CFGError, ValueError):
    """An argument that can never work: an unknown name, a wrong type, a value out of range."""


class ShapeError(CFGError, ValueError):
    """Tensors, texts or batches that do not fit together."""


class UsageError(CFGError, RuntimeError):
    """A call that is well formed but not possible now, such as guidance in training mode."""


class StoreError(CFGError, RuntimeError):
    """A file of a store of embeddings that is damaged, missing, unfinished or of another store; the message names it."""


class UnknownCaptionError(CFGError, KeyError):
    """A caption that a store of embeddings does not hold."""

    __str__ = Exception.__str__  # KeyError would show the sentence in quotes


class MissingDependencyError(CFGError, ImportError):
    """A package, model or file that is needed and cannot be found."""


class ArgumentTypeError(ConfigError):
    """An argument of the wrong type, in one plain sentence made of what the type checker found."""

    def __init__(self, finding: str) -> None:
        found = re.search(r'parameter (?P<given>.*?) violates type hint (?P<hint>.*?), as (?P<reason>.*)', finding, re.DOTALL)
        if found is not None:
            hint = re.sub(r"(collections\.abc|typing|beartype\.typing)\.|<class '([\w.]+)'>", r'\2', found['hint'])
            reason = ' '.join(found['reason'].replace('* ', '').split()).rstrip('.')
            finding = f'{found["given"]} is of the wrong type: expected {hint} ({reason})'
        super().__init__(finding)


# Types of public arguments are checked where objects are built, never in the hot path.
# As everywhere in Python, an int serves as a float.
# The checker is loaded, and its check written, at the first call: at import it would cost 5 % of the time of `import torch`.
def checked(function: F) -> F:
    """Check the types of a function's arguments, and raise our own error."""

    @cache
    def with_check() -> Callable[..., Any]:
        from beartype import BeartypeConf, beartype

        return beartype(conf=BeartypeConf(violation_param_type=ArgumentTypeError, is_color=False, is_pep484_tower=True))(function)

    @wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        return with_check()(*args, **kwargs)

    return call  # type: ignore[return-value]
