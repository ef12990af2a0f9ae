"""One prompt, drawn at several guidance scales from the same seeds, and read back by the checker."""

from __future__ import annotations

import math
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cfg_demo.image.checkpoint import load_model
from cfg_demo.image.diffusion import TIMES, Diffusion
from cfg_demo.image.rules import RULES, Guided, guided
from cfg_demo.image.sampling import result_of, sample_steps
from cfg_demo.image.settings import ModelSettings, one_of
from cfg_demo.shapes import Verdict, check_all, parse
from classifier_free_guidance_pytorch.errors import ArgumentTypeError, CFGError, ConfigError

SHIPPED = Path(__file__).parent / 'weights' / 'shapes.safetensors'
LARGEST_BATCH = 64


@dataclass(frozen=True)
class Request:
    """What to draw.

    Args:
        prompt: a text.
        negative: a text to steer away from, instead of the null condition.
        scales: guidance scales; 1 is off and 0 unconditional.
        rule: a key of `RULES`.
        seeds: of the pictures; each is drawn at every scale.
        steps: of the sampler.
        sampler: one that fits the model, see `diffusion.SAMPLERS`; the first of them by default.

    Raises:
        ArgumentTypeError: a prompt that is not a string.
        ConfigError: a value that cannot work, by name.
    """

    prompt: str
    negative: str | None = None
    scales: Sequence[float] = (0.0, 1.0, 2.0, 4.0, 7.0)
    rule: str = 'cfg'
    seeds: Sequence[int] = (0, 1, 2, 3)
    steps: int = 25
    sampler: str | None = None

    def __post_init__(self) -> None:
        for name, text in (('prompt', self.prompt), ('negative', self.negative)):
            if not isinstance(text, str) and not (name == 'negative' and text is None):
                raise ArgumentTypeError(f'{name} is a string, but got {text!r} of type {type(text).__name__}')
        if not self.prompt.strip():
            raise ConfigError('prompt is empty: say what to draw, such as "a small green triangle left of a big red circle"')
        one_of('guidance', self.rule, tuple(RULES))
        if not self.scales or not self.seeds:
            raise ConfigError(f'at least one scale and one seed are drawn, but got {list(self.scales)} and {list(self.seeds)}')
        if bad := [scale for scale in self.scales if not math.isfinite(scale)]:
            raise ConfigError(f'a guidance scale is a finite number, but scales has {bad[0]}')
        if not 1 <= self.steps <= TIMES:
            raise ConfigError(f'steps is a number from 1 to {TIMES}, but got {self.steps}')


@dataclass(frozen=True)
class Drawing:
    """What was drawn.

    Args:
        request: what was asked for.
        images: `(scales, seeds, 3, s, s)` from 0 to 1.
        verdicts: for each scale and seed what holds of the prompt; None where the checker cannot read the prompt.
    """

    request: Request
    images: Tensor
    verdicts: Sequence[Sequence[Verdict]] | None

    def share(self, index: int) -> float | None:
        """The share of pictures at a scale, by its index, of which the whole prompt holds."""
        return None if self.verdicts is None else sum(v.holds for v in self.verdicts[index]) / len(self.verdicts[index])


def load_shipped(device: str = 'cpu') -> tuple[Any, ModelSettings]:
    """The text-to-image model that comes with the package, and its settings."""
    return load_model(SHIPPED, device)


def draw(model: Any, settings: ModelSettings, request: Request, *, checked: bool = True, progress: bool = True) -> Drawing:
    """Draw a request.

    Args:
        model: what draws.
        settings: its own.
        request: what to draw.
        checked: whether the checker of the drawn world reads the pictures, if it can read the prompt.
        progress: show a progress bar.

    Raises:
        ConfigError: a sampler that does not fit the model.
    """
    return result_of(draw_steps(model, settings, request, checked=checked, progress=progress))


@torch.no_grad()
def draw_steps(
    model: Any, settings: ModelSettings, request: Request, *, checked: bool = True, progress: bool = True
) -> Generator[None, None, Drawing]:
    """Draw a request, as `draw` does, a step of the sampler at a time: whoever closes the generator stops the drawing there.

    Raises:
        ConfigError: a sampler that does not fit the model.
    """
    diffusion = Diffusion(settings.prediction)
    diffusion.scheduler(request.sampler)  # refused before any work is done
    columns = []
    for scale in request.scales:
        texts = [request.prompt] * len(request.seeds)
        columns.append((yield from sample_guided_steps(model, settings, texts, request, scale, progress=progress)))
    return Drawing(request, torch.stack(columns), _read(request.prompt, columns, settings.zoom) if checked else None)


def sample_guided(
    model: Any, settings: ModelSettings, texts: Sequence[str], request: Request, scale: float, *, progress: bool = True
) -> Tensor:
    """Images `(b, 3, s, s)` for texts at one scale, guided as a request says; image `i` from seed `request.seeds[i]`."""
    return result_of(sample_guided_steps(model, settings, texts, request, scale, progress=progress))


def sample_guided_steps(
    model: Any, settings: ModelSettings, texts: Sequence[str], request: Request, scale: float, *, progress: bool = True
) -> Generator[None, None, Tensor]:
    """`sample_guided`, a step at a time."""
    how = guided(request.rule, scale, settings.prediction)
    return sample_batches(model, settings, texts, request, how, f'{request.rule} at {scale:g}', progress=progress)


def sample_batches(
    model: Any, settings: ModelSettings, texts: Sequence[str], request: Request, how: Guided, title: str, *, progress: bool = True
) -> Generator[None, None, Tensor]:
    """Images `(b, 3, s, s)` for texts, in batches, a step at a time; `how` stands instead of the rule of the request."""
    batches = []
    for start in range(0, len(texts), LARGEST_BATCH):
        steps = sample_steps(
            model,
            Diffusion(settings.prediction),
            texts[start : start + LARGEST_BATCH],
            size=settings.image_size,
            how=how,
            negative=request.negative,
            sampler=request.sampler,
            steps=request.steps,
            seeds=request.seeds[start : start + LARGEST_BATCH],
            title=title,
            progress=progress,
        )
        batches.append((yield from steps))
    return torch.cat(batches)


def _read(prompt: str, columns: Sequence[Tensor], zoom: float) -> list[list[Verdict]] | None:
    """What holds of a prompt, if it is of the drawn world."""
    try:
        parse(prompt)
    except CFGError:
        return None
    return [list(check_all(images, [prompt] * len(images), zoom)) for images in columns]
