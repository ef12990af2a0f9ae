"""From settings to a network."""

from __future__ import annotations

from typing import Any

from torch import nn

from cfg_demo.image.settings import ModelSettings
from cfg_demo.image.transformer import build_transformer
from cfg_demo.image.unet import SIZES as UNET_SIZES
from cfg_demo.image.unet import UNet

DIM_TEXT = 128  # what tokens are projected to


def build_model(settings: ModelSettings) -> Any:
    """A fresh network, conditioned as the settings say; its weights follow torch's global seed."""
    if settings.network == 'unet':
        return _build_unet(settings)
    return build_transformer(
        size=settings.network_size,
        patch=settings.image_size // 16,
        condition=settings.condition,
        model_types=settings.model_types,
        model_names=settings.model_names,
        null=settings.null,
        reads_scale=settings.reads_scale,
    )


def count_parameters(model: nn.Module) -> int:
    """Parameters that training changes; encoders are frozen and not among them."""
    return sum(parameter.numel() for parameter in model.parameters())


def _text_condition(settings: ModelSettings) -> dict[str, Any]:
    condition: dict[str, Any] = {
        'text_condition_type': settings.condition,
        'text_condition_model_types': settings.model_types,
        'text_condition_model_names': settings.model_names,
        'text_condition_null': settings.null,
        'text_condition_reads_scale': settings.reads_scale,
    }
    if settings.condition == 'attention':  # captions are short and the networks narrow
        condition |= {'text_condition_attn_heads': 4, 'text_condition_attn_dim_head': 32, 'text_condition_dim_latent': DIM_TEXT}
    if settings.condition == 'film':  # every block has a network of its own behind the stem
        condition |= {'text_condition_text_embed_stem_dim_mult': 1}
    return condition


def _build_unet(settings: ModelSettings) -> Any:
    shape = {**UNET_SIZES[settings.network_size], 'text_in_time': settings.condition == 'film'}
    shape['dim_text'] = DIM_TEXT if settings.condition == 'attention' else None
    unet: Any = UNet  # the decorator adds the text_condition_* arguments, which its type does not show
    hidden_dims = UNet.hidden_dims(shape['widths'], shape['depths'], shape['dim_time'], shape['text_in_time'])
    return unet(**shape, **_text_condition(settings), text_condition_hidden_dims=hidden_dims)
