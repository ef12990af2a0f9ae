"""How the parts are run."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import torch
from tqdm import tqdm

from benchmarks.timing import Pace

Item = TypeVar('Item')


@dataclass(frozen=True)
class Settings:
    """What the command line chooses.

    Attributes:
        pace: how long every figure is measured.
        tiny: networks and encoders small enough for a test of the suite itself; their figures mean nothing.
        device: where the networks run.
        dtype: in what precision; bfloat16 on a GPU, unless told otherwise.
        baseline: a folder with the 0.7.1 release; installed from PyPI into a temporary one if None.
        quiet: no progress bars.
    """

    pace: Pace = field(default_factory=Pace)
    tiny: bool = False
    device: torch.device = field(default_factory=lambda: torch.device('cpu'))
    dtype: torch.dtype = torch.float32
    baseline: Path | None = None
    quiet: bool = False

    @property
    def tolerance(self) -> dict[str, float]:
        """How far apart two ways of rounding the same result may lie."""
        return {'rtol': 1e-4, 'atol': 1e-4} if self.dtype == torch.float32 else {'rtol': 0.05, 'atol': 0.1}

    def progress(self, items: Iterable[Item], what: str) -> Iterator[Item]:
        """The items, behind a progress bar."""
        bar: Any = tqdm(list(items), desc=what, disable=self.quiet, leave=False)
        for item in bar:
            bar.set_postfix_str(' '.join(map(str, item)) if isinstance(item, tuple) else str(item))
            yield item

    def place(self, *networks: Any) -> None:
        """Move networks to the device and precision of the measurement, in eval mode."""
        for network in networks:
            network.to(self.device, self.dtype).eval()
