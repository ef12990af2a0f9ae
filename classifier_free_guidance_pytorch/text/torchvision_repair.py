"""Make an installed torchvision importable with a torch that it was not built for.

Text encoders use none of torchvision's operators, but open_clip imports torchvision, and so do transformers' model classes
wherever it is installed. A torchvision built for CUDA cannot load its compiled operators with a CPU-only torch, nor one built for
another version of torch. Its import then fails with `operator torchvision::nms does not exist`: it attaches shape functions to
two operators that were never declared. Declaring their schemas is enough.

Only this failure is repaired, and only after it has happened: to declare the operators beside a working torchvision aborts
the process.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from threading import Lock
from typing import Any

import torch

from classifier_free_guidance_pytorch.errors import MissingDependencyError

_SYMPTOM = 'operator torchvision::nms does not exist'
_SCHEMAS = (
    'nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor',
    'qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor',
)
_lock = Lock()
_declared: list[Any] = []  # the library object must stay alive, or its operators vanish with it


def repair_torchvision() -> None:
    """Import torchvision if it is installed; if its operators are missing, declare them and import it again.

    Raises:
        MissingDependencyError: torchvision is installed and cannot be imported for another reason.
    """
    with _lock:
        if 'torchvision' in sys.modules or importlib.util.find_spec('torchvision') is None:
            return
        for repaired in (False, True):
            try:
                importlib.import_module('torchvision')
            except Exception as error:
                if repaired or _SYMPTOM not in str(error):
                    raise MissingDependencyError(
                        f'torchvision is installed but cannot be imported beside torch {torch.__version__} '
                        f'({type(error).__name__}: {error}), and open_clip and transformers import it: install the torchvision '
                        'that belongs to this torch, or uninstall torchvision if you do not use CLIP'
                    ) from error
            else:
                return
            # Drop the submodules that the failed import left behind, so that the second import runs them again.
            for name in [name for name in sys.modules if name.partition('.')[0] == 'torchvision']:
                del sys.modules[name]
            _declare_operators()


def _declare_operators() -> None:
    """Declare the two operators, once per process."""
    if not _declared:
        library: Any = torch.library.Library('torchvision', 'FRAGMENT')  # type: ignore[no-untyped-call]
        for schema in _SCHEMAS:
            library.define(schema)
        _declared.append(library)
