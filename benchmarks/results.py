"""What a part found, where it ran, and the file it goes to."""

from __future__ import annotations

import datetime
import json
import os
import platform
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from benchmarks.timing import Spread, ratios

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / 'benchmarks' / 'results'
PACKAGES = ('classifier-free-guidance-pytorch', 'torch', 'transformers', 'open_clip_torch')


@dataclass(frozen=True)
class Bar:
    """What a figure is held against: `at most`, `at least` or `below` a value."""

    holds: str
    value: float

    def met_by(self, value: float) -> bool:
        """Whether the value keeps to it."""
        return {'at most': value <= self.value, 'at least': value >= self.value, 'below': value < self.value}[self.holds]

    def __str__(self) -> str:
        return f'{self.holds} {self.value:g}'


@dataclass(frozen=True)
class Figure:
    """One number that was measured.

    Attributes:
        case: what was measured on: a network and its conditioning, a size.
        way: how the library was called.
        against: what its figure is divided by.
        ratio: the spread of the ratio over the rounds.
        value: the library's own figure, in `unit`; `base` is the other's.
        unit: seconds, bytes, or what is counted.
        bar: what the median ratio is held against, if anything.
        note: what else a reader must know.
    """

    case: str
    way: str
    against: str
    ratio: Spread
    value: float
    base: float
    unit: str = 'seconds'
    bar: Bar | None = None
    note: str = ''

    @property
    def verdict(self) -> str:
        """Whether the bar was met."""
        if self.bar is None:
            return ''
        return 'met' if self.bar.met_by(self.ratio.median) else 'missed'


def timed(
    case: str, way: str, against: str, ours: list[float], theirs: list[float], bar: Bar | None = None, note: str = ''
) -> Figure:
    """The figure of two calls that were timed in turn."""
    return Figure(case, way, against, ratios(ours, theirs), Spread.of(ours).median, Spread.of(theirs).median, bar=bar, note=note)


def counted(
    case: str, way: str, against: str, ours: float, theirs: float, unit: str, bar: Bar | None = None, note: str = ''
) -> Figure:
    """A figure without a spread: bytes, operators, graphs."""
    return Figure(case, way, against, Spread.of([ours / theirs]), ours, theirs, unit, bar, note)


@dataclass
class Result:
    """All figures of one part."""

    part: str
    command: str
    figures: list[Figure]
    settings: dict[str, Any] = field(default_factory=dict)
    environment: dict[str, Any] = field(default_factory=dict)

    def write(self, folder: Path = RESULTS) -> Path:
        """Write the part's file."""
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f'{self.part}.json'
        path.write_text(json.dumps(asdict(self), indent=1) + '\n', encoding='utf-8')
        return path

    @staticmethod
    def read(path: Path) -> Result:
        """Read a part's file."""
        stored = json.loads(path.read_text(encoding='utf-8'))
        stored['figures'] = [_figure(one) for one in stored['figures']]
        return Result(**stored)


def _figure(stored: dict[str, Any]) -> Figure:
    bar = stored.pop('bar')
    return Figure(**{**stored, 'ratio': Spread(**stored['ratio'])}, bar=bar and Bar(**bar))


def read_all(folder: Path = RESULTS) -> dict[str, Result]:
    """Every part that has a file, by name."""
    found = [Result.read(path) for path in sorted(folder.glob('*.json'))]
    return {result.part: result for result in found}


def environment(device: torch.device) -> dict[str, Any]:
    """Where a part ran, and on what versions."""
    return {
        'date': datetime.datetime.now(datetime.timezone.utc).isoformat(timespec='minutes'),
        'device': torch.cuda.get_device_name(device) if device.type == 'cuda' else 'CPU',
        'processor': processor_name(),
        'cores': os.cpu_count(),
        'threads': torch.get_num_threads(),
        'memory_gib': round(total_memory() / 2**30, 1),
        'load_average': [round(load, 2) for load in os.getloadavg()],
        'system': f'{platform.system()} {platform.release()}',
        'python': platform.python_version(),
        'versions': {name: version_of(name) for name in PACKAGES},
    }


def version_of(package: str) -> str | None:
    """The installed version, or None."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def processor_name() -> str:
    """The processor, as the system names it."""
    try:
        lines = Path('/proc/cpuinfo').read_text(encoding='utf-8').splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    return next((line.partition(':')[2].strip() for line in lines if line.startswith('model name')), platform.machine())


def total_memory() -> int:
    """Bytes of memory that the machine has."""
    return os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES')


def assert_equal(ours: Any, theirs: Any, what: str, rtol: float = 1e-4, atol: float = 1e-5) -> None:
    """Both sides compute the same, to float32 rounding; nothing is timed before this holds."""
    pairs: Sequence[tuple[torch.Tensor, torch.Tensor]] = (
        [(ours, theirs)] if isinstance(ours, torch.Tensor) else list(zip(ours, theirs, strict=True))
    )
    for one, other in pairs:
        torch.testing.assert_close(one.float(), other.float(), rtol=rtol, atol=atol, msg=lambda text: f'{what}: {text}')
