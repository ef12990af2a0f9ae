"""`cfg-demo front`: its distances and its front against definitions, what the commands write, and what they refuse."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cfg_demo import cli
from cfg_demo.front.images import energy_parts
from cfg_demo.front.plans import Plan, all_plans
from cfg_demo.front.report import Row, as_dict, as_table, front
from cfg_demo.front.worlds import MEASURES, Measured, energy_distances
from classifier_free_guidance_pytorch import guidance

QUICK = ['front', '--quick', '--quiet', '--seeds', '0', '--only', 'cfg 1', 'cfg 2', 'adaptive(.99) cfg 2']


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_the_energy_distance_is_its_definition():
    drawn, true = normal(2, 5, 2), normal(2, 4, 2, seed=1)
    for found, x, y in zip(energy_distances(drawn, true), drawn, true, strict=True):
        across = sum(float((a - b).norm()) for a in x for b in y) / 20
        inside = sum(float((a - b).norm()) for a in x for b in x) / 20
        true_inside = sum(float((a - b).norm()) for a in y for b in y) / 12
        assert float(found) == pytest.approx(2 * across - inside - true_inside)


def test_the_energy_distance_of_equal_distributions_is_zero_on_average():
    same = energy_distances(normal(400, 30, 2), normal(400, 30, 2, seed=1))
    assert abs(float(same.mean())) < 4 * float(same.std()) / 20
    assert float(energy_distances(normal(1, 500, 2), normal(1, 500, 2, seed=1) + 1)) > 0.3


def test_the_parts_of_the_distance_of_pictures_are_those_of_a_jackknife():
    drawn, real = normal(5, 3, 4), normal(5, 4, seed=1)

    def distance(kept):
        terms = []
        for i in kept:
            for j in kept:
                if i != j:
                    cross = sum((x - real[j]).norm() for x in drawn[i]) / 3 + sum((x - real[i]).norm() for x in drawn[j]) / 3
                    own = sum((x - y).norm() for x in drawn[i] for y in drawn[j]) / 9
                    terms.append(float(cross - own - (real[i] - real[j]).norm()))
        return sum(terms) / len(terms)

    whole = distance(range(5))
    parts = energy_parts(drawn, real)
    assert float(parts.mean()) == pytest.approx(whole)
    for i, part in enumerate(parts.tolist()):
        assert part == pytest.approx(5 * whole - 4 * distance([j for j in range(5) if j != i]))


def row(name, passes, adherence, diversity, distance):
    plan = Plan(name, 'rule', guidance.CFG(), 2.0, 25)
    means = dict(zip(MEASURES, (adherence, diversity, distance), strict=True))
    return Row.of(plan, [Measured(passes, {key: torch.tensor([mean - 0.01, mean + 0.01]) for key, mean in means.items()})] * 3)


grid = st.sampled_from([0.25, 0.5, 0.75])


@settings(deadline=None, max_examples=50)
@given(st.lists(st.tuples(st.sampled_from([25, 30, 50]), grid, grid, grid), min_size=1, max_size=8))
def test_the_front_is_what_nothing_dominates(points):
    rows = [row(str(i), *point) for i, point in enumerate(points)]

    def beats(one, other):
        mine, its = ((-p, a, d, -e) for p, a, d, e in (one, other))
        return mine != its and all(x >= y for x, y in zip(mine, its, strict=True))

    expected = {str(i) for i, point in enumerate(points) if not any(beats(other, point) for other in points)}
    assert {one.plan.name for one in front(rows)} == expected


def test_what_comes_near_the_best_at_full_cost_is_named():
    rows = [
        row('full', 50, 0.87, 0.79, 0.02),
        row('narrow', 50, 0.89, 0.49, 0.05),
        row('near', 30, 0.866, 0.78, 0.03),
        row('far', 30, 0.86, 0.79, 0.03),
    ]
    report = as_dict(rows, 25)
    assert report['best at full cost'] == 'full'
    assert report['near']['settings'] == ['near']
    lost = next(one for one in report['rows'] if one['name'] == 'near')['less than the best']
    assert lost['adherence'] == {'mean': 0.004, 'low': 0.004, 'high': 0.004}
    assert '*near' in as_table(report)
    assert '*far' not in as_table(report)


def test_every_rule_and_schedule_is_drawn_or_said_to_be_left_out():
    from cfg_demo.front import plans

    def parts(value):
        yield type(value).__name__
        for part in vars(value).values():
            if isinstance(part, guidance.Rule):
                yield from parts(part)

    drawn = {name for plan in all_plans(25, images=True) for name in parts(plan.rule)}
    families = {'Rule', 'Sum', 'OnChannels', 'Wrapper', 'MAMBOG'}  # MAMBOG is RAAG
    every = {name for name, value in vars(guidance).items() if isinstance(value, type) and issubclass(value, guidance.Rule)}
    left_out = {name for name in every if f'`{name}`' in (plans.__doc__ or '')}
    assert every - drawn - families == left_out
    names = [plan.name for plan in all_plans(25, images=False)]
    assert len(set(names)) == len(names)


def test_the_table_of_the_page_is_that_of_the_run():
    docs = Path(__file__).parents[2] / 'docs'
    rows = {one['name']: one for one in json.loads((docs / 'pictures' / 'front.json').read_text())['rows']}
    found = re.findall(r'^\| ([\d.]+) \| (\**)(.+?)\2 \| (.+ ± .+) \|$', (docs / 'guidance.md').read_text(), re.MULTILINE)
    assert len(found) > 10
    for passes, bold, name, cells in found:
        one = rows[name]
        assert (float(passes), bool(bold)) == (round(one['passes'], 1), one['on the front'])
        assert cells.split(' | ') == [f'{one[m]["mean"]:.3f} ± {one[m]["high"] - one[m]["mean"]:.3f}' for m in MEASURES]


def test_points_are_measured_and_an_interrupted_run_goes_on(tmp_path, capsys, monkeypatch):
    command = [*QUICK, '--search', '8', '--trials', '3', '--out', str(tmp_path)]
    assert cli.main(command) == 0
    shown = capsys.readouterr().out
    report = json.loads((tmp_path / 'front.json').read_text())
    assert as_table(report) in shown
    passes = {one['name']: one['passes'] for one in report['rows']}
    assert (passes['cfg 1'], passes['cfg 1.5'], passes['cfg 1, 10 steps'], passes['cfg 2, 3 steps']) == (5, 10, 10, 6)
    assert passes['reuse(2) cfg 2'] == 8
    assert 5 < passes['adaptive(.99) cfg 2'] <= 10
    assert 5 <= passes['searched(3) cfg-zero-star, 8 passes'] <= 8
    assert (tmp_path / 'front.png').read_bytes()[:4] == b'\x89PNG'

    cells = json.loads((tmp_path / 'cells.json').read_text())
    del cells['measured']['cfg 2']
    (tmp_path / 'cells.json').write_text(json.dumps(cells))
    from cfg_demo.front.points import PointsWorld

    again, measure = [], PointsWorld.measure
    monkeypatch.setattr(
        PointsWorld, 'measure', lambda self, plan, *rest: (again.append(plan.name), measure(self, plan, *rest))[1]
    )
    assert cli.main(command) == 0
    assert again == ['cfg 2']
    assert json.loads((tmp_path / 'front-2.json').read_text()) == report

    assert cli.main([*QUICK, '--train-steps', '21', '--out', str(tmp_path)]) == 2
    assert 'pass another folder as --out' in capsys.readouterr().err


def test_shapes_are_measured(tmp_path):
    pytest.importorskip('diffusers')
    only = ['--only', 'cfg 2', 'higs', 'fdg', 'cfg 1,']
    assert cli.main(['front', '--world', 'shapes', '--quick', '--quiet', '--seeds', '0', '1', *only, '--out', str(tmp_path)]) == 0
    report = json.loads((tmp_path / 'front.json').read_text())
    passes = {one['name']: one['passes'] for one in report['rows']}
    assert passes['fdg 2'] == passes['higs 2'] == passes['cfg 2'] == passes['cfg 1, 4 steps'] == 4
    for one in report['rows']:
        assert 0 <= one['adherence']['mean'] <= 1
        assert one['diversity']['mean'] > 0


@pytest.mark.parametrize(
    ('options', 'sentence'),
    [
        (['--steps', '1'], '--steps is at least 2, but got 1'),
        (['--model', 'x'], '--model is for --world shapes: the models of points are trained'),
        (['--prompts', '9'], '--prompts is for --world shapes'),
        (['--train-steps', '0'], '--train-steps counts from 1, but got 0'),
        (['--world', 'shapes', '--train-steps', '3'], '--train-steps is for --world points'),
        (['--world', 'shapes', '--model', 'nowhere'], 'nowhere'),
        (['--world', 'shapes', '--prompts', '2'], '--prompts is at least 3, but got 2'),
        (['--seeds', '1', '1'], 'every seed is measured once, but --seeds repeats one: [1, 1]'),
        (['--search', '25'], '--search takes forward passes, above the 25 steps and at most twice as many, but got 25'),
        (['--trials', '0'], '--trials counts from 1, but got 0'),
        (['--only', 'magic'], "no setting has any of ['magic'] in its name: they are cfg 1, "),
        (['--device', 'toaster'], "device 'toaster' cannot be used here"),
    ],
)
def test_refusals(options, sentence, tmp_path, capsys):
    assert cli.main(['front', '--out', str(tmp_path), *options]) == 2
    assert sentence in capsys.readouterr().err
