"""The machine, its versions, and its two ceilings: how fast it copies, and how fast it multiplies.

python -m benchmarks.gpu.facts --device cuda --out FOLDER
"""

from __future__ import annotations

import argparse
import importlib
import json
import platform
import statistics
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks.gpu.wheels import PACKAGES, there
from benchmarks.results import environment, version_of
from benchmarks.timing import seconds
from classifier_free_guidance_pytorch.text.torchvision_repair import repair_torchvision

NAMED = (
    'torchvision',
    'triton',
    'transformers',
    'tokenizers',
    'open_clip_torch',
    'diffusers',
    'safetensors',
    'beartype',
    'numpy',
)


def ceilings(device: torch.device, tiny: bool) -> dict[str, float]:
    """Return GB/s of a copy, counting bytes read and written, TFLOP/s of a product in bfloat16, and microseconds per launch."""
    size, side, launches = (2**16, 64, 20) if tiny else (2**31, 8192, 2000)
    source = torch.randint(0, 255, (size,), dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    left, right = torch.randn(2, side, side, device=device).bfloat16()
    one = torch.zeros(1, device=device)
    copied = median(lambda: target.copy_(source))
    multiplied = median(lambda: left @ right)
    launched = median(lambda: [one.add_(1) for _ in range(launches)]) / launches
    return {
        'copy_gb_per_s': round(2 * size / copied / 1e9, 1),
        'bfloat16_tflop_per_s': round(2 * side**3 / multiplied / 1e12, 3),
        'launch_microseconds': round(launched * 1e6, 2),
    }


def median(call: Callable[[], Any]) -> float:
    """Return the median seconds of ten calls, after three that are not timed."""
    return statistics.median([seconds(call) for _ in range(13)][3:])


def of_the_card(device: torch.device) -> dict[str, Any]:
    """Return what the driver and torch say about a GPU."""
    if device.type != 'cuda':
        return {}
    about = torch.cuda.get_device_properties(device)
    asked = ['nvidia-smi', '--query-gpu=driver_version,clocks.sm,clocks.mem,temperature.gpu', '--format=csv,noheader']
    try:
        driver = subprocess.run(asked, capture_output=True, text=True, timeout=20, check=False).stdout.strip()
    except (OSError, subprocess.TimeoutExpired) as error:
        driver = f'nvidia-smi did not answer: {error}'
    return {
        'memory_gib_of_the_card': round(about.total_memory / 2**30, 1), 'multiprocessors': about.multi_processor_count,
        'capability': f'{about.major}.{about.minor}', 'cuda': torch.version.cuda, 'cudnn': torch.backends.cudnn.version(),
        'driver, clocks, temperature': driver,
    }  # fmt: skip


def broken() -> dict[str, str]:
    """Return the packages that are there and cannot be imported, with their errors."""
    repair_torchvision()
    found = {}
    for module in PACKAGES.values():
        if not there(module):
            continue
        try:
            importlib.import_module(module)
        except Exception as error:
            found[module] = f'{type(error).__name__}: {error}'[:200]
    return found


def main(arguments: Sequence[str] | None = None) -> None:
    """Write `facts.json`, and print it."""
    parser = argparse.ArgumentParser('python -m benchmarks.gpu.facts', description=__doc__)
    parser.add_argument('--device', default='cuda', help='default: %(default)s')
    parser.add_argument('--out', type=Path, required=True, help='folder of the results')
    parser.add_argument('--tiny', action='store_true', help='does it run? The figures mean nothing')
    chosen = parser.parse_args(arguments)
    device = torch.device(chosen.device)
    facts = environment(device)
    facts['versions'] = {**facts['versions'], **{name: version_of(name) for name in NAMED}, 'torch': torch.__version__}
    facts |= {
        'machine': platform.machine(),
        **of_the_card(device),
        'cannot be imported': broken(),
        **ceilings(device, chosen.tiny),
    }
    chosen.out.mkdir(parents=True, exist_ok=True)
    text = json.dumps(facts, indent=1)
    (chosen.out / 'facts.json').write_text(text + '\n', encoding='utf-8')
    print(text)
    print(f'{facts["device"]}: {facts["copy_gb_per_s"]:g} GB/s, {facts["bfloat16_tflop_per_s"]:g} TFLOP/s in bfloat16')


if __name__ == '__main__':
    main()
