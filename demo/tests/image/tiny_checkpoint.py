"""A tiny model in a file."""

from __future__ import annotations

from pathlib import Path

from cfg_demo.image.checkpoint import save_model
from demo.tests.image.tiny import tiny_model, tiny_settings


def save_tiny(file: Path, condition: str = 'attention') -> Path:
    """Write a tiny model that is conditioned in this way, and return the file."""
    file.parent.mkdir(parents=True, exist_ok=True)
    save_model(tiny_model(condition=condition), tiny_settings(condition=condition), file)
    return file
