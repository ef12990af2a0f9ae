"""Conditional dropout: which samples, and which of their encoders, lose their text.

Draws come from torch's random state on the device of the weights, so that gradient checkpointing repeats them. Processes that
train together therefore each need a seed of their own; or decide yourself, with one probability of 0 or 1 per sample.
"""

from __future__ import annotations

from collections.abc import Sequence
from numbers import Real
from typing import Any, TypeAlias

import torch
from torch import Tensor

from classifier_free_guidance_pytorch.errors import ConfigError, ShapeError
from classifier_free_guidance_pytorch.rows import is_readable

DropProb: TypeAlias = float | Sequence[float] | Tensor


def check_drop_prob(drop_prob: DropProb, num_encoders: int | None, name: str = 'cond_drop_prob', rows: int | None = None) -> None:
    """Check that this is a probability, one per encoder, or a tensor with one for each of the `rows` samples.

    Args:
        drop_prob: What is to be one.
        num_encoders: How many encoders there are; None or 0 where nothing is known of them.
        name: What it is called.
        rows: How many samples there are, None where that is not known.

    Raises:
        ConfigError: A value outside [0, 1], or a sequence of another length than there are encoders.
        ShapeError: A tensor of another length than there are samples.
    """
    if isinstance(drop_prob, Tensor):
        if drop_prob.ndim != 1 or not drop_prob.is_floating_point():
            raise ConfigError(
                f'{name} as a tensor is one probability per sample, (b,), but got {drop_prob.dtype} of {tuple(drop_prob.shape)}'
            )
        if rows not in (None, drop_prob.shape[0]):
            raise ShapeError(f'{name} has {drop_prob.shape[0]} probabilities for {rows} texts: pass one per text')
        if is_readable(drop_prob) and not bool(((drop_prob >= 0) & (drop_prob <= 1)).all()):
            raise ConfigError(f'{name} holds probabilities in [0, 1], but got {drop_prob}')
        return
    per_encoder = isinstance(drop_prob, Sequence) and not isinstance(drop_prob, str)
    probabilities: tuple[Any, ...] = tuple(drop_prob) if per_encoder else (drop_prob,)  # type: ignore[arg-type]
    for value in probabilities:
        number: Any = value
        if isinstance(value, bool) or not isinstance(value, Real) or not 0 <= number <= 1:
            raise ConfigError(f'{name} is a probability in [0, 1], or a tuple with one per encoder, but got {drop_prob!r}')
    if per_encoder and len(probabilities) != (num_encoders or len(probabilities) or 1):
        raise ConfigError(
            f'{name} has {len(probabilities)} probabilities for {num_encoders or "the"} encoder(s): pass one per entry of '
            'model_types, or a single number to drop all encoders together'
        )


def drops_nothing(drop_prob: DropProb) -> bool:
    """Whether it is known, without reading a tensor, that every sample keeps its text."""
    return not isinstance(drop_prob, Tensor) and not any(drop_prob if isinstance(drop_prob, Sequence) else (drop_prob,))


def drops_all(drop_prob: DropProb) -> bool:
    """Whether it is known, without reading a tensor, that every sample loses all of its text."""
    return not isinstance(drop_prob, Tensor) and all(
        p == 1 for p in (drop_prob if isinstance(drop_prob, Sequence) else (drop_prob,))
    )


def keep_mask(drop_prob: DropProb, rows: int, device: torch.device) -> Tensor:
    """Draw which samples keep their text: boolean, `(rows, 1)`, or `(rows, encoders)` for a probability per encoder."""
    if isinstance(drop_prob, Tensor):
        if drop_prob.shape[0] != rows:
            raise ShapeError(f'cond_drop_prob has {drop_prob.shape[0]} probabilities for {rows} texts: pass one per text')
        return torch.rand(rows, 1, device=device) >= drop_prob.to(device).unsqueeze(1)
    if isinstance(drop_prob, Sequence):
        # one column per encoder (eDiff-I, 2211.01324, section 3.3); written without a tensor of constants so that it compiles
        return torch.cat([torch.rand(rows, 1, device=device) >= p for p in drop_prob], dim=1)
    return torch.rand(rows, 1, device=device) >= drop_prob
