"""From measurements to the front: means with intervals, what dominates what, and what comes near the best at full cost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch

from cfg_demo.front.plans import Plan
from cfg_demo.front.worlds import MEASURES, Measured
from cfg_demo.intervals import Estimate

WORTH = 4.0
"""How much diversity is worth as much as adherence: a point of adherence is worth four of diversity."""
NEAR = {'adherence': 0.005, 'diversity': 0.02}
"""By how much a plan may be below the best at full cost to be near it."""


@dataclass(frozen=True)
class Row:
    """One plan, measured with all seeds.

    Args:
        plan: The plan.
        passes: Forward passes of a sample, the mean over seeds.
        estimates: Of each measure, the mean over prompts of their means over seeds, with a 95% interval over prompts.
        spread: Of each measure, the standard deviation of the means of the seeds.
        values: Of each measure, a value per prompt, the mean over seeds.
    """

    plan: Plan
    passes: float
    estimates: Mapping[str, Estimate]
    spread: Mapping[str, float]
    values: Mapping[str, torch.Tensor]

    @staticmethod
    def of(plan: Plan, measured: Sequence[Measured]) -> Row:
        """Sum up the measurements of a plan, one per seed."""
        every = {name: torch.stack([one.values[name] for one in measured]) for name in MEASURES}  # (seeds, prompts)
        spread = {name: float(v.mean(1).std()) if len(v) > 1 else 0.0 for name, v in every.items()}
        values = {name: v.mean(0) for name, v in every.items()}
        passes = sum(one.passes for one in measured) / len(measured)
        return Row(plan, passes, {name: Estimate.of(v) for name, v in values.items()}, spread, values)

    @property
    def worth(self) -> float:
        """Adherence and diversity in one number."""
        return self.estimates['adherence'].mean + self.estimates['diversity'].mean / WORTH

    def dominates(self, other: Row) -> bool:
        """Whether it is as good in everything, at no more passes, and better in something."""
        mine, its = ((-row.passes, *(_signed(row, name) for name in MEASURES)) for row in (self, other))
        return mine != its and all(a >= b for a, b in zip(mine, its, strict=True))

    def less(self, best: Row, name: str) -> Estimate:
        """How much less of a measure it has than another, prompt by prompt."""
        return Estimate.of(best.values[name] - self.values[name])


def _signed(row: Row, name: str) -> float:
    """A measure of which more is better."""
    mean = row.estimates[name].mean
    return -mean if name == 'distance' else mean


def front(rows: Sequence[Row]) -> list[Row]:
    """The rows that no other dominates, the cheapest first."""
    kept = [row for row in rows if not any(other.dominates(row) for other in rows)]
    return sorted(kept, key=lambda row: (row.passes, row.worth))


def best_at(rows: Sequence[Row], passes: float) -> Row:
    """The row of most worth among those at the full cost, or the nearest below it."""
    full = max((row.passes for row in rows if row.passes <= passes + 1e-6 and row.plan.kind != 'searched'), default=0.0)
    at_cost = [row for row in rows if row.passes == full] or list(rows)
    return max(at_cost, key=lambda row: row.worth)


def is_near(row: Row, best: Row) -> bool:
    """Whether a row is as good as the best, but for `NEAR`."""
    return all(best.estimates[name].mean - row.estimates[name].mean <= most + 1e-9 for name, most in NEAR.items())


def as_dict(rows: Sequence[Row], steps: int) -> dict[str, Any]:
    """Everything, ready for JSON."""
    best, kept = best_at(rows, 2 * steps), front(rows)
    return {
        'best at full cost': best.plan.name,
        'near': {'within': NEAR, 'settings': [row.plan.name for row in kept if is_near(row, best) and row is not best]},
        'front': [row.plan.name for row in kept],
        'rows': [
            {
                'name': row.plan.name,
                'kind': row.plan.kind,
                'steps': row.plan.steps,
                'passes': round(row.passes, 2),
                'on the front': row in kept,
                **{name: {**asdict(row.estimates[name]), 'spread of seeds': round(row.spread[name], 4)} for name in MEASURES},
                'less than the best': {name: asdict(row.less(best, name)) for name in NEAR},
            }
            for row in sorted(rows, key=lambda row: (row.passes, -row.worth))
        ],
    }


def as_table(report: Mapping[str, Any]) -> str:
    """The front, in a table for the terminal: those that come near the best at full cost are marked."""
    wide = max(len(row['name']) for row in report['rows'])
    lines = [f'{"passes":>6}  {"setting":<{wide}}  {"adherence":>13}{"diversity":>15}{"distance":>16}']
    for row in report['rows']:
        if row['on the front']:
            cells = [f'{row[name]["mean"]:.3f} ± {row[name]["high"] - row[name]["mean"]:.3f}' for name in MEASURES]
            mark = '*' if row['name'] in report['near']['settings'] else ' '
            lines.append(f'{row["passes"]:6.1f} {mark}{row["name"]:<{wide}}  {cells[0]:>13}{cells[1]:>15}{cells[2]:>16}')
    near = ', '.join(f'{most:g} {name}' for name, most in NEAR.items())
    hidden = len(report['rows']) - len(report['front'])
    lines.append(f'Nothing dominates these; of the other {hidden} settings one of these is as good for no more passes.')
    return '\n'.join([*lines, f'* within {near} of the best at full cost, {report["best at full cost"]}.'])
