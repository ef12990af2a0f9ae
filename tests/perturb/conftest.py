"""A model and its input."""

import pytest
import torch

from classifier_free_guidance_pytorch.text.torchvision_repair import repair_torchvision
from tests.perturb.models import Model

repair_torchvision()  # which diffusers and timm import


@pytest.fixture
def model():
    torch.manual_seed(0)
    return Model().eval()


@pytest.fixture
def x():
    return torch.randn(2, 5, 16, generator=torch.Generator().manual_seed(1))
