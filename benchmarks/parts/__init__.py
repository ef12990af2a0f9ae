"""The parts of the suite. Each is a module with `measure(settings)`, which returns its figures."""

from __future__ import annotations

import importlib
from typing import Any

PARTS = {
    'steps': 'a guided step against two forward passes conditioned by hand',
    'sampling': 'fifty steps with text encoders of real size, against loops by hand and the 0.7.1 release',
    'training': 'a training step against the same by hand',
    'layers': 'single layers and rules against the plain operation',
    'rules': 'every guidance rule against one torch.lerp, and against diffusers',
    'compile': 'guided steps under torch.compile: one graph, and its speed',
    'imports': 'importing the package against importing torch',
    'memory': 'peak memory of a guided step against the same by hand',
    'growth': 'time against batch, tokens, prompts and steps, and what stays allocated',
    'dispatch': 'what a guided call costs beside its forward passes',
    'kernels': 'the operators, or the kernels of a GPU, that a guided step runs',
}
ON_GPU = {  # what means nothing elsewhere, or would take hours
    'graphs': 'guided steps recorded as CUDA graphs, against the same by hand',
    'bandwidth': 'guidance rules against the bandwidth of the memory',
    'large': 'guided steps of a DiT of 130 million and a U-Net of 860 million parameters',
    'compile_large': 'the same two under torch.compile',
    'embed': 'captions per second of cfg-embed on a GPU, against a plain loop',
}
_MODULES = {'compile': 'compiled', 'compile_large': 'compiled_large'}


def load(part: str) -> Any:
    """The module of a part."""
    return importlib.import_module(f'benchmarks.parts.{_MODULES.get(part, part)}')
