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


@pytest.fixture(scope='module')
def unet():
    diffusers = pytest.importorskip('diffusers')
    torch.manual_seed(0)
    return diffusers.UNet2DConditionModel(
        sample_size=8, block_out_channels=(8, 16), layers_per_block=1, cross_attention_dim=12, norm_num_groups=4,
        attention_head_dim=4, down_block_types=('CrossAttnDownBlock2D', 'DownBlock2D'),
        up_block_types=('UpBlock2D', 'CrossAttnUpBlock2D'),
    ).eval()  # fmt: skip
