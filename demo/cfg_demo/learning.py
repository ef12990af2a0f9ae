"""What the students of all worlds have in common when guidance is distilled: the scales, and the part that learns."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from classifier_free_guidance_pytorch.errors import ConfigError

if TYPE_CHECKING:
    import torch
    from torch import Tensor

TRAINED = ('all', 'conditioner', 'scale')


def check_scales(scales: Sequence[float]) -> None:
    """Raise `ConfigError` for scales that are not distilled."""
    if min(scales) < 1 or max(scales) == 1:
        raise ConfigError(f'--scales are at least 1, and one of them is above it, but got {list(scales)}')


def drawn_scales(count: int, top: float, generator: torch.Generator | None) -> Tensor:
    """Draw a scale from 1 to the highest for each sample, `(count,)`, as likely from 1 to 2 as from 2 to 4.

    What the student adds to the conditional prediction grows with `s - 1`, so an error counts most near 1.
    """
    import torch  # here, so that --help does without it

    return top ** torch.rand(count, generator=generator)


def counted(scale: Tensor) -> Tensor:
    """Return how much the error counts at each scale `(b,)`: about `1 / (s - 1)^2`, as a share of what guidance adds there.

    Without it the highest scales decide, and the student changes what it predicts at all others.
    """
    return 1 / (0.25 + (scale - 1) ** 2)


def train_only(student: Any, part: str) -> Any:
    """Freeze all of a student but one part, and return it.

    Args:
        student: a model whose text conditioner reads the scale.
        part: 'all'; 'conditioner', the text conditioner alone; or 'scale', the layer that reads the scale alone.
    """
    trained = {'all': student, 'conditioner': student.text_conditioner}.get(part, student.text_conditioner.scale_input)
    student.requires_grad_(False)
    trained.requires_grad_(True)
    return student
