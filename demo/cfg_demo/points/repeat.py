"""Several runs of a distillation, each from a seed of its own, summed up: means with 95% intervals over the seeds.

Teacher and student of a seed draw from the same noise, so what the student changes is a difference within each seed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from statistics import fmean, stdev
from typing import Any

from cfg_demo.points.measure import Estimate

# Student's t at 0.975 for 1, 2, ... degrees of freedom: what 1.96 is for many seeds is 4.3 for three.
QUANTILES = (12.7062, 4.3027, 3.1824, 2.7764, 2.5706, 2.4469, 2.3646, 2.3060, 2.2622)
MODELS = ('two passes', 'one pass')


def over_seeds(values: Sequence[float]) -> Estimate:
    """A mean with its 95% interval, `mean +- t * sd / sqrt(n)`, from one value per seed; one seed has no interval.

    >>> over_seeds([0.1, 0.2, 0.3])
    Estimate(mean=0.2, low=-0.0484, high=0.4484)
    """
    mean, count = fmean(values), len(values)
    half = QUANTILES[count - 2] * stdev(values) / count**0.5 if count > 1 else 0.0
    return Estimate(round(mean, 4), round(mean - half, 4), round(mean + half, 4))


def summary(runs: Sequence[Sequence[Mapping[str, Any]]]) -> list[dict[str, Any]]:
    """The rows of several seeds (`distil.as_rows`) summed up: a row per scale, ready for JSON."""
    scales = list(dict.fromkeys(row['cond_scale'] for row in runs[0]))
    return [_at_scale([[row for row in run if row['cond_scale'] == scale] for run in runs], scale) for scale in scales]


def _at_scale(runs: Sequence[Sequence[Mapping[str, Any]]], scale: float) -> dict[str, Any]:
    by_model = {name: [next(row for row in run if row['model'] == name) for run in runs] for name in MODELS}
    found: dict[str, Any] = {'cond_scale': scale, 'seeds': len(runs)}
    for what in ('adherence', 'coverage'):
        values = {name: [row[what]['mean'] for row in rows] for name, rows in by_model.items()}
        changes = [one - two for two, one in zip(*(values[name] for name in MODELS), strict=True)]
        found[what] = {**{name: asdict(over_seeds(own)) for name, own in values.items()}, 'change': asdict(over_seeds(changes))}
    errors = [row['term_error'] for row in by_model['one pass']]
    found['term_error'] = None if None in errors else asdict(over_seeds(errors))
    found['passes'] = {name: rows[0]['passes'] for name, rows in by_model.items()}
    found['seconds'] = {name: asdict(over_seeds([row['seconds'] for row in rows])) for name, rows in by_model.items()}
    return found


def as_table(rows: Sequence[Mapping[str, Any]]) -> str:
    """The summary as a table for the terminal: percent, points of percent, and the error as a share of the guidance term."""
    heads = f'{"two passes":>14}{"one pass":>14}{"change":>14}'
    lines = [
        f'{"":10}{"satisfied %":>28}{"":14}{"filled %":>28}',
        f'{"cond_scale":>10}{heads}{heads}{"term error":>16}{"passes":>9}{"seconds":>14}',
    ]
    for row in rows:
        cells = [_cell(row[what][name], 100) for what in ('adherence', 'coverage') for name in (*MODELS, 'change')]
        error = '' if row['term_error'] is None else _cell(row['term_error'], 1, digits=3)
        passes = ' / '.join(str(row['passes'][name]) for name in MODELS)
        seconds = ' / '.join(f'{row["seconds"][name]["mean"]:.1f}' for name in MODELS)
        words = ''.join(f'{cell:>14}' for cell in cells)
        lines.append(f'{row["cond_scale"]:>10g}{words}{error:>16}{passes:>9}{seconds:>14}')
    return '\n'.join(lines)


def _cell(estimate: Mapping[str, float], unit: float, digits: int = 1) -> str:
    return f'{unit * estimate["mean"]:.{digits}f} ± {unit * (estimate["high"] - estimate["mean"]):.{digits}f}'
