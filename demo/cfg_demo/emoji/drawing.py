"""What `cfg-demo emoji` checks before it draws, and what the judge sees in what was drawn."""

from __future__ import annotations

import re
import sys
import warnings
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from cfg_demo.emoji import STYLE_NAMES
from cfg_demo.emoji.judge import load_judge
from cfg_demo.image.checkpoint import load_model
from classifier_free_guidance_pytorch.errors import ConfigError

if TYPE_CHECKING:
    from cfg_demo.image.drawing import Drawing
    from cfg_demo.image.settings import ModelSettings

SHIPPED = Path(__file__).parent / 'weights' / 'emoji.safetensors'
ANY = 'any'
# Words of other languages that English texts hardly have. One of them in a short prompt, and it is probably not English.
FOREIGN = frozenset({
    'un', 'une', 'le', 'les', 'des', 'du', 'et', 'avec', 'sur', 'dans', 'est',  # French
    'el', 'los', 'las', 'una', 'unos', 'con', 'del',  # Spanish
    'il', 'lo', 'gli', 'dei', 'della', 'che',  # Italian
    'ein', 'eine', 'einen', 'der', 'das', 'und', 'mit', 'auf', 'ist',  # German
    'uma', 'os', 'het', 'een', 'och', 'ett', 'med', 'og',  # Portuguese, Dutch, Scandinavian
})  # fmt: skip


def load(file: Path, device: str = 'cpu') -> tuple[Any, ModelSettings]:
    """Return a model of emoji and its settings.

    The encoder reads the names of the styles letter by letter, and would say so; the model has learned them that way.

    Raises:
        ConfigError: There is no model, or no such device.
    """
    model, settings = load_model(file, device)
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        model.encode_texts(list(STYLE_NAMES))  # a word is named once
    return model, settings


def check_style(name: str) -> str | None:
    """Return a style, or None for 'any'.

    Raises:
        ConfigError: There is no such style.
    """
    if name == ANY:
        return None
    if name not in STYLE_NAMES:
        raise ConfigError(f'style is one of {", ".join(STYLE_NAMES)}, or {ANY}, but got {name!r}')
    return name


def is_foreign(text: str) -> bool:
    """Whether a text looks like another language: other scripts, or the small words of a European one.

    Example:
        >>> is_foreign('un chat noir'), is_foreign('котик'), is_foreign('a black cat')
        (True, True, False)
    """
    words = re.findall(r'[^\W\d_]+', text.lower())
    other_letters = sum(not word.isascii() for word in words)
    small_words = sum(word in FOREIGN for word in words)
    return bool(words) and (2 * other_letters >= len(words) or 4 * (other_letters + small_words) > len(words))


def warn_of_other_languages(text: str) -> None:
    """Say, before anything is drawn, that the encoder reads English, if a text looks like anything else."""
    if is_foreign(text):
        print(
            f'cfg-demo: warning: {text!r} does not look like English, which is all that the encoder reads: say it in English',
            file=sys.stderr,
        )


@torch.no_grad()
def what_is_seen(drawing: Drawing) -> list[list[str]]:
    """Return, for each scale, which concepts and which style the judge sees in the pictures, below a header."""
    judge, about = load_judge()
    rows = [['scale', 'the judge sees', 'style']]
    for scale, images in zip(drawing.request.scales, drawing.images, strict=True):
        names, styles = judge(images)
        seen = Counter(about['concepts'][at] for at in names.argmax(1).tolist())
        drawn = Counter(about['styles'][at] for at in styles.argmax(1).tolist())
        told = ', '.join(f'{name} ({count})' for name, count in seen.most_common(3))
        rows.append([f'{scale:g}', told, drawn.most_common(1)[0][0]])
    return rows


def tell_what_is_seen(drawing: Drawing) -> str:
    """Return the same as lines."""
    return '\n'.join(f'scale {scale}: the judge sees {seen}; style: {style}' for scale, seen, style in what_is_seen(drawing)[1:])
