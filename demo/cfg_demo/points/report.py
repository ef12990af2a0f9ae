"""The report: the same numbers as a dictionary for JSON, as a table for the terminal, and as one sentence."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import torch

from cfg_demo.points import world
from cfg_demo.points.measure import SPLITS, Scores
from cfg_demo.points.settings import Settings
from classifier_free_guidance_pytorch import __version__


def as_dict(scores: Scores, settings: Settings, parameters: int, seconds: Mapping[str, float]) -> dict[str, Any]:
    """Everything that was measured, ready for JSON. All but `seconds` is the same for the same seed, machine and versions."""
    return {
        'settings': {**asdict(settings), 'model_types': [_name(kind) for kind in settings.model_types]},
        'versions': {
            'classifier_free_guidance_pytorch': __version__,
            'torch': torch.__version__,
            'python': platform.python_version(),
        },
        'trainable_parameters': parameters,
        'tolerance': world.TOLERANCE,
        'scales': [
            {
                'cond_scale': scale,
                **{
                    split: {what: asdict(scores.estimate(what, split, scale)) for what in ('adherence', 'coverage')}
                    for split in SPLITS
                },
            }
            for scale in scores.scales
        ],
        'gain': _gain(scores),
        'prompts': [
            {
                'text': prompt.text,
                'split': prompt.split,
                'adherence': _by_scale(scores, scores.adherence[i].tolist()),
                'coverage': _by_scale(scores, scores.coverage[i].tolist()),
            }
            for i, prompt in enumerate(scores.prompts)
        ],
        'seconds': {name: round(value, 1) for name, value in seconds.items()},
    }


def _name(kind: Any) -> str:
    return kind if isinstance(kind, str) else type(kind).__name__


def _by_scale(scores: Scores, values: list[float]) -> dict[str, float]:
    return {f'{scale:g}': round(value, 4) for scale, value in zip(scores.scales, values, strict=True)}


def _gain(scores: Scores) -> dict[str, Any] | None:
    """What guidance adds to the unguided model, in shares of the points; None if scale 1 was not sampled."""
    if 1.0 not in scores.scales:
        return None
    best = scores.best_scale
    return {'from': 1.0, 'to': best, **{split: asdict(scores.gain(split, 1.0, best)) for split in SPLITS}}


def as_table(report: Mapping[str, Any]) -> str:
    """The estimates per scale, in percent.

    >>> estimate = {'mean': 0.5, 'low': 0.25, 'high': 0.75}
    >>> row = {'adherence': estimate, 'coverage': estimate}
    >>> print(as_table({'scales': [{'cond_scale': 1.0, 'seen': row, 'held_out': row}]}))
                    seen in training                held out
    cond_scale   satisfied %     filled %   satisfied %     filled %
             1   50.0 ± 25.0  50.0 ± 25.0   50.0 ± 25.0  50.0 ± 25.0
    """

    def cell(estimate: Mapping[str, float]) -> str:
        return f'{100 * estimate["mean"]:.1f} ± {100 * (estimate["high"] - estimate["mean"]):.1f}'

    def pair(left: str, right: str) -> str:
        return f'{left:>14}{right:>13}'

    groups = f'{"":10}{"seen in training":>26}{"held out":>26} '
    heads = f'{"cond_scale":>10}' + 2 * pair('satisfied %', 'filled %')
    lines = [
        f'{row["cond_scale"]:>10g}'
        + ''.join(pair(cell(row[split]['adherence']), cell(row[split]['coverage'])) for split in SPLITS)
        for row in report['scales']
    ]
    return '\n'.join([groups.rstrip(), heads, *lines])


def as_sentence(report: Mapping[str, Any]) -> str:
    """What guidance did, in one sentence."""
    gain = report['gain']
    if gain is None:
        return 'Scale 1 (guidance off) was not sampled, so nothing can be said of what guidance adds: include 1 in --scales.'
    if gain['to'] == gain['from']:
        return 'No sampled scale satisfies more prompts than scale 1 (guidance off).'
    parts = [
        f'{100 * gain[split]["mean"]:+.1f} points [{100 * gain[split]["low"]:+.1f}, {100 * gain[split]["high"]:+.1f}] on {name}'
        for split, name in (('seen', 'seen prompts'), ('held_out', 'held-out prompts'))
    ]
    return (
        f'From cond_scale 1 to {gain["to"]:g} the share of points that satisfy their prompt changes by {parts[0]} and {parts[1]} '
        '(95% intervals).'
    )
