"""Examples are scripts whose names start with a number, so that no import statement can name them."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import pytest

from classifier_free_guidance_pytorch.text.torchvision_repair import repair_torchvision

EXAMPLES = Path(__file__).parents[2] / 'examples'


def load_example(name):
    """A script under `examples/` as a module, by its path without the ending."""
    repair_torchvision()  # which diffusers imports
    spec = importlib.util.spec_from_file_location(f'example_{name.replace("/", "_")}', EXAMPLES / f'{name}.py')
    script = sys.modules[spec.name] = importlib.util.module_from_spec(spec)  # where dataclasses look for their module
    spec.loader.exec_module(script)
    return script


@pytest.fixture(scope='module')
def example(request):
    """The script that the test module names in `EXAMPLE`."""
    script = load_example(request.module.EXAMPLE)
    yield script
    del sys.modules[script.__name__]
