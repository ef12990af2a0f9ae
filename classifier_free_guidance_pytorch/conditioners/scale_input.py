"""How a conditioner reads the guidance scale, for models that have learned to guide in one pass (arXiv 2210.03142).

b       = 1 / scale                          what is read: 1 is off, and every scale above it lies between 0 and 1
feature <- feature + W (waves(b) - waves(1)) W starts at zero

So nothing is added at the scale 1, whatever `W` is: without guidance the model is its conditional prediction, and the null has no
scale.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from classifier_free_guidance_pytorch.layers import place_of
from classifier_free_guidance_pytorch.rows import is_readable

WAVES = 8
"""How many waves of `b`; the shortest has a length of 1/2."""


class ScaleInput(nn.Module):
    """Turn guidance scales into what is added to a text feature.

    Args:
        dims: Widths of the features: of the text feature, and of a pooled one beside it.

    Attributes:
        scales: The lowest and the highest scale that the model has learned, `(2,)`; `[1, 1]` before it has learned any.

    Example:
        >>> ScaleInput([16])(torch.tensor([1., 2.5]))[0].shape
        torch.Size([2, 16])
    """

    scales: Tensor

    def __init__(self, dims: Sequence[int]) -> None:
        super().__init__()
        self.to_features = nn.ModuleList(nn.Linear(2 * WAVES + 1, dim, bias=False) for dim in dims)
        for project in self.to_features:
            nn.init.zeros_(project.weight)  # type: ignore[arg-type]
        self.register_buffer('scales', torch.ones(2))
        self._read: tuple[tuple[int, int | None] | None, tuple[float, float] | None] = (None, None)

    if TYPE_CHECKING:

        def __call__(self, scale: float | Tensor) -> list[Tensor]: ...

    def forward(self, scale: float | Tensor) -> list[Tensor]:
        """Return what is added to each feature, `(b, dim)` each; `(1, dim)` for a number."""
        device, dtype = place_of(self.to_features)
        if not isinstance(scale, Tensor):
            scale = torch.full((1,), float(scale), device=device)
        inverse = scale.to(device, torch.promote_types(dtype, torch.float32)).reciprocal().unsqueeze(1)  # (b, 1)
        features = (_waves(inverse) - _waves(torch.ones_like(inverse[:1]))).to(dtype)  # (b, 2 * WAVES + 1)
        return [project(features) for project in self.to_features]

    @property
    def learned(self) -> tuple[float, float] | None:
        """The lowest and highest scale that were learned; None before any. A traced graph knows what was last read outside it."""
        if torch.compiler.is_compiling():
            return self._read[1]
        seen = (id(self.scales), None if self.scales.is_inference() else self.scales._version)
        if is_readable(self.scales) or self._read[0] != seen:  # on an accelerator once for each time that it was written
            low, high = self.scales.tolist() if not self.scales.is_meta else (1.0, 1.0)
            self._read = (seen, (low, high) if low < high else None)
        return self._read[1]

    @torch.no_grad()
    def learn(self, scale: float | Tensor) -> None:
        """Widen what counts as learned by the scales of one training step; no tensor is read."""
        low, high = scale.aminmax() if isinstance(scale, Tensor) else (torch.tensor(float(scale)),) * 2
        seen = torch.stack((low, high)).to(self.scales)
        self.scales.copy_(torch.stack((torch.minimum(self.scales[0], seen[0]), torch.maximum(self.scales[1], seen[1]))))

    def _load_from_state_dict(self, state_dict: Any, prefix: str, *more: Any) -> None:
        """Take the weights of a model that read no scale as well: nothing is added then, and nothing is learned yet."""
        if not any(name.startswith(prefix) for name in state_dict):
            with torch.no_grad():
                for name, value in (*self.to_features.state_dict().items(), ('scales', self.scales)):
                    value.fill_(1.0 if name == 'scales' else 0.0)
            state_dict |= {prefix + name: value for name, value in self.state_dict().items()}
        super()._load_from_state_dict(state_dict, prefix, *more)


def _waves(inverse: Tensor) -> Tensor:
    """Return smooth features of `b` `(b, 1)`: itself, sines and cosines, `(b, 2 * WAVES + 1)`."""
    angles = inverse * (0.5 * torch.pi * torch.arange(1, WAVES + 1, device=inverse.device, dtype=inverse.dtype))
    return torch.cat((inverse, angles.sin(), angles.cos()), dim=1)
