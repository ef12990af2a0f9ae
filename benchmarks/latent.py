"""The U-Net of a latent diffusion model in its real size, of diffusers and at random weights: decorated, and guided by hand."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.encoders import WordEncoder
from benchmarks.settings import Settings
from classifier_free_guidance_pytorch import TextEncoding, classifier_free_guidance_class_decorator
from classifier_free_guidance_pytorch.text.torchvision_repair import repair_torchvision

SIZES = {'sample_size': 64, 'cross_attention_dim': 768, 'attention_head_dim': 8}  # 860 million parameters: Stable Diffusion 1.5
TINY = {
    'sample_size': 8, 'cross_attention_dim': 16, 'attention_head_dim': 4, 'block_out_channels': (8, 16), 'layers_per_block': 1,
    'norm_num_groups': 4, 'down_block_types': ('DownBlock2D', 'CrossAttnDownBlock2D'),
    'up_block_types': ('CrossAttnUpBlock2D', 'UpBlock2D'),
}  # fmt: skip


@classifier_free_guidance_class_decorator
class LatentUNet(nn.Module):
    """What the U-Net predicts of a latent picture."""

    def __init__(self, **sizes: Any) -> None:
        super().__init__()
        repair_torchvision()
        from diffusers import UNet2DConditionModel

        self.unet: Any = UNet2DConditionModel(**sizes)
        self.shape = (4, sizes['sample_size'], sizes['sample_size'])

    def forward(self, x: Tensor, t: Tensor, raw_text_cond: Any) -> Tensor:
        embed, mask = raw_text_cond
        return self.unet(x, t, encoder_hidden_states=embed, encoder_attention_mask=mask).sample


class ByHand:
    """The same U-Net and its projection of tokens, called as a pipeline calls them; a text that is dropped is masked out."""

    def __init__(self, model: Any) -> None:
        self.unet, self.project = model.unet, model.text_conditioner.to_latent_dims[0]

    def __call__(self, x: Tensor, t: Tensor, encodings: tuple[TextEncoding, ...], drop: bool | Tensor) -> Tensor:
        (encoding,) = encodings
        mask = encoding.mask & ~drop if isinstance(drop, Tensor) else torch.zeros_like(encoding.mask) if drop else encoding.mask
        embed = self.project(encoding.tokens).masked_fill(~mask[..., None], 0.0)
        return self.unet(x, t, encoder_hidden_states=embed, encoder_attention_mask=mask).sample


def pair(settings: Settings) -> tuple[Any, ByHand]:
    """The decorated network and the one by hand, which share their weights; made on the device, where that takes seconds."""
    torch.manual_seed(0)
    sizes: dict[str, Any] = TINY if settings.tiny else SIZES
    encoder = WordEncoder(sizes['cross_attention_dim'])
    with settings.device:
        model: Any = LatentUNet(**sizes, text_condition_type='raw', text_condition_model_types=encoder)
    settings.place(model)
    return model, ByHand(model)
