"""The error family, and the type checker that speaks it.

Every error a user can cause is a `CFGError`. A message says what was passed, what was expected and how to fix it.
`assert` is left for the library's own invariants.

    CFGError
    ├── ConfigError             (ValueError)    an argument that can never work
    │   └── ShapeError          (ValueError)    tensors or batches that do not fit together
    ├── UsageError              (RuntimeError)  the right thing at the wrong time
    └── MissingDependencyError  (ImportError)   a package, a model or a file that is not there
"""

from beartype import BeartypeConf, beartype


class CFGError(Exception):
    """Base of every error this library raises on purpose."""


class ConfigError(CFGError, ValueError):
    """An argument that can never work: an unknown name, a wrong type, a value out of range."""


class ShapeError(CFGError, ValueError):
    """Tensors, texts or batches that do not fit together."""


class UsageError(CFGError, RuntimeError):
    """A call that is well formed but not possible now, such as guidance in training mode."""


class MissingDependencyError(CFGError, ImportError):
    """A package, model or file that is needed and cannot be found."""


# Types of public arguments are checked where objects are built, never in the hot path.
# As everywhere in Python, an int serves as a float.
checked = beartype(conf=BeartypeConf(violation_param_type=ConfigError, is_color=False, is_pep484_tower=True))
