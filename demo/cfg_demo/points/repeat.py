"""Several runs of a distillation, each from a seed of its own, summed up: means with 95% intervals over the seeds.

Teacher and student of a seed draw from the same noise, so what the student changes is a difference within each seed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from cfg_demo.intervals import Estimate

MODELS = ('two passes', 'one pass')


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
        found[what] = {
            **{name: asdict(Estimate.over_seeds(own)) for name, own in values.items()},
            'change': asdict(Estimate.over_seeds(changes)),
        }
    errors = [row['term_error'] for row in by_model['one pass']]
    found['term_error'] = None if None in errors else asdict(Estimate.over_seeds(errors))
    found['passes'] = {name: rows[0]['passes'] for name, rows in by_model.items()}
    found['seconds'] = {name: asdict(Estimate.over_seeds([row['seconds'] for row in rows])) for name, rows in by_model.items()}
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
