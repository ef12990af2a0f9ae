"""A model of the smallest size with random weights, in a file."""

from __future__ import annotations

from pathlib import Path

import torch

from classifier_free_guidance_pytorch.demo.image.checkpoint import save_model
from classifier_free_guidance_pytorch.demo.image.models import build_model
from classifier_free_guidance_pytorch.demo.image.settings import ModelSettings


def save_tiny(file: Path, condition: str = 'attention') -> Path:
    """Write a tiny model that is conditioned in this way, and return the file."""
    file.parent.mkdir(parents=True, exist_ok=True)
    settings = ModelSettings(network_size='tiny', image_size=16, condition=condition)
    torch.manual_seed(0)
    save_model(build_model(settings), settings, file)
    return file
