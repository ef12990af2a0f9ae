"""Pictures on disk, and the sentence with which a data set refuses them."""

from __future__ import annotations

import re

import pytest
from PIL import Image

from cfg_demo.image.data import open_data
from classifier_free_guidance_pytorch.errors import ConfigError

COLOURS = {'red': (255, 0, 0), 'lime': (0, 255, 0), 'blue': (0, 0, 255)}


def save(file, colour='red', size=(12, 8)):
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.new('RGB', size, colour).save(file)
    return file


def refused(sentence, *args, error=ConfigError, **kwargs):
    """Checks that `open_data` raises, with all of the sentence in its message."""
    with pytest.raises(error, match=re.escape(sentence)):
        open_data(*args, **{'size': 4, **kwargs})
