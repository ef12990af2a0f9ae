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


@pytest.fixture(scope='module')
def sd3():
    diffusers = pytest.importorskip('diffusers')
    torch.manual_seed(0)
    return diffusers.SD3Transformer2DModel(
        sample_size=8, patch_size=2, in_channels=4, num_layers=3, attention_head_dim=4, num_attention_heads=2,
        joint_attention_dim=6, caption_projection_dim=8, pooled_projection_dim=5, out_channels=4, pos_embed_max_size=8,
    ).eval()  # fmt: skip


@pytest.fixture(scope='module')
def flux():
    diffusers = pytest.importorskip('diffusers')
    torch.manual_seed(0)
    return diffusers.FluxTransformer2DModel(
        patch_size=1, in_channels=4, num_layers=2, num_single_layers=2, attention_head_dim=8, num_attention_heads=2,
        joint_attention_dim=6, pooled_projection_dim=5, axes_dims_rope=(2, 2, 4),
    ).eval()  # fmt: skip
