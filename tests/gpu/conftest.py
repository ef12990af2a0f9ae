"""What only a GPU can answer. Without one everything here is skipped, unless GPU_TESTS_DEVICE=cpu asks for a rehearsal.

A rehearsal runs the same code on the CPU with fewer steps, so that a borrowed GPU is not spent on mistakes in the tests.
"""

import os
from contextlib import contextmanager

import pytest
import torch

from classifier_free_guidance_pytorch.text.torchvision_repair import repair_torchvision
from tests.guidance.test_costs import Reads

CHOSEN = os.environ.get('GPU_TESTS_DEVICE', 'cuda' if torch.cuda.is_available() else '')


@pytest.fixture(scope='session')
def device():
    if not CHOSEN:
        pytest.skip('needs a GPU')
    repair_torchvision()
    return torch.device(CHOSEN)


@pytest.fixture
def on_gpu(device):
    """For a test that has nothing to rehearse."""
    if device.type != 'cuda':
        pytest.skip('needs a GPU')


@pytest.fixture
def never_waiting(device):
    """A context in which nothing may wait for the device."""

    @contextmanager
    def block():
        if device.type != 'cuda':
            with Reads() as reads:
                yield
            assert reads.count == 0, 'a value was read from a tensor'
            return
        torch.cuda.synchronize()
        torch.cuda.set_sync_debug_mode('error')
        try:
            yield
        finally:
            torch.cuda.set_sync_debug_mode('default')

    return block
