"""Make an installed torchvision importable beside a torch it was not built for.

Text encoders use none of torchvision's operators, but open_clip imports torchvision, and so do transformers' model classes
wherever it is installed. A torchvision built for CUDA beside a CPU-only torch (or for another version of torch) cannot load
its compiled operators, and then its import ends in `operator torchvision::nms does not exist`: it attaches shape functions to
two operators that nobody declared. Declaring their schemas is enough.

Only that failure is repaired, and only after it has happened: declaring the operators beside a working torchvision aborts
the process.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from threading import Lock
from typing import Any

from classifier_free_guidance_pytorch.errors import MissingDependencyError

_SYMPTOM = 'operator torchvision::nms does not exist'
_SCHEMAS = (
    'nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor',
    'qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor',
)
_lock = Lock()
_declared: list[Any] = []  # the library object must outlive this function, or its operators vanish with it


def repair_torchvision() -> None:
    """Import torchvision if it is installed, once more with its operators declared if that is what it lacks.

    Raises:
        MissingDependencyError: torchvision is installed and cannot be imported for another reason.
    """
    with _lock:
        if 'torchvision' in sys.modules or importlib.util.find_spec('torchvision') is None:
            return
        try:
            importlib.import_module('torchvision')
        except Exception as error:
            if _SYMPTOM not in str(error):
                raise _broken(error) from error
        else:
            return
        _forget_torchvision()
        _declare_operators()
        try:
            importlib.import_module('torchvision')
        except Exception as error:
            raise _broken(error) from error


def _forget_torchvision() -> None:
    """Drop the submodules that the failed import left behind, so that the second import runs them again."""
    for name in [name for name in sys.modules if name.partition('.')[0] == 'torchvision']:
        del sys.modules[name]


def _declare_operators() -> None:
    """Declare the two operators, once per process."""
    import torch

    if not _declared:
        library: Any = torch.library.Library('torchvision', 'FRAGMENT')  # type: ignore[no-untyped-call]
        for schema in _SCHEMAS:
            library.define(schema)
        _declared.append(library)


def _broken(error: BaseException) -> MissingDependencyError:
    import torch

    return MissingDependencyError(
        f'torchvision is installed but cannot be imported beside torch {torch.__version__} ({type(error).__name__}: {error}), '
        'and open_clip and transformers import it: install the torchvision that belongs to this torch, or uninstall torchvision '
        'if you do not use CLIP'
    )
