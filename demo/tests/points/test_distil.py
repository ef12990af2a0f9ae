"""`cfg-demo distil`: what it writes, that one pass is one pass, what learns, how seeds are summed up, and what it refuses."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from cfg_demo import cli
from cfg_demo.intervals import MOST_SEEDS, QUANTILES, Estimate
from cfg_demo.learning import train_only
from cfg_demo.points import repeat
from cfg_demo.points.distil import Compared, Lessons, _loss_from_teacher, as_table, taught
from cfg_demo.points.model import build_model
from cfg_demo.points.sample import draw
from cfg_demo.points.settings import Settings
from cfg_demo.points.train import encode, noised, noised_alike
from classifier_free_guidance_pytorch import guidance

TINY = [
    *('distil', '--quiet', '--train-steps', '10', '--student-steps', '5', '--samples', '4', '--steps', '3'),
    *('--scales', '1', '2', '3', '--threads', '1'),
]
SMALL = Settings(steps=2, batch_size=4, samples=4, sample_steps=4, scales=(1.0, 2.0, 3.0), interval=(0.0, 1.0))
TEXTS = ['a large ring', 'a small star', 'two clusters', 'a wave']


@pytest.fixture(scope='module')
def teacher():
    """A denoiser whose text matters, as that of a fresh one does not."""
    torch.manual_seed(0)
    model = build_model(SMALL)
    for parameter in model.text_conditioner.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    return model.eval()


def test_both_models_are_drawn_scored_and_counted(tmp_path, capsys):
    pytest.importorskip('matplotlib')
    assert cli.main([*TINY, '--out', str(tmp_path)]) == 0
    report = json.loads((tmp_path / 'distil.json').read_text())
    passes = {(row['cond_scale'], row['model']): row['passes'] for row in report['rows']}
    assert passes == {
        (scale, model): 3 if model == 'one pass' or scale == 1 else 6
        for scale in (1.0, 2.0, 3.0)
        for model in ('two passes', 'one pass')
    }
    assert as_table(report['rows']) in capsys.readouterr().out
    assert (tmp_path / 'distil.png').read_bytes()[:4] == b'\x89PNG'
    loaded = ['--teacher', str(tmp_path / 'teacher.pt'), '--out', str(tmp_path)]
    for more in (['--guidance', 'apg'], ['--from-data'], ['--interval', '0', '0.5', '--train', 'scale']):
        assert cli.main([*TINY, *loaded, *more]) == 0
    assert json.loads((tmp_path / 'distil-4.json').read_text())['share_trained'] < 0.01


def test_a_second_run_leaves_the_teacher_of_the_first(tmp_path):
    teachers = []
    for seed in ('0', '1'):
        assert cli.main([*TINY, '--seed', seed, '--out', str(tmp_path)]) == 0
        teachers.append((tmp_path / 'teacher.pt').read_bytes())
    assert teachers[0] == teachers[1]
    assert (tmp_path / 'teacher-2.pt').exists()


def test_seeds_are_run_one_by_one_and_summed_up(tmp_path, capsys):
    assert cli.main([*TINY, '--repeat', '2', '--seed', '3', '--out', str(tmp_path)]) == 0
    report = json.loads((tmp_path / 'distil-repeat.json').read_text())
    alone = [json.loads((tmp_path / f'distil-seed{seed}.json').read_text())['rows'] for seed in (3, 4)]
    assert [run['rows'] for run in report['runs']] == alone
    assert alone[0] != alone[1]
    assert report['summary'] == repeat.summary(alone)
    assert repeat.as_table(report['summary']) in capsys.readouterr().out
    teachers = [str(tmp_path / f'teacher-seed{seed}.pt') for seed in (3, 4)]
    again = [*TINY, '--repeat', '2', '--seed', '3', '--teacher', *teachers, '--out', str(tmp_path)]
    assert cli.main(again) == 0
    second = json.loads((tmp_path / 'distil-repeat-2.json').read_text())
    assert [row['adherence'] for row in second['summary']] == [row['adherence'] for row in report['summary']]


def test_the_interval_over_seeds_is_students():
    stats = pytest.importorskip('scipy.stats')
    assert [stats.t.ppf(0.975, freedom) for freedom in range(1, MOST_SEEDS)] == pytest.approx(QUANTILES, abs=1e-4)
    values = [0.81, 0.85, 0.8, 0.9]
    low, high = stats.t.interval(0.95, 3, loc=sum(values) / 4, scale=stats.sem(values))
    found = Estimate.over_seeds(values)
    assert (found.low, found.high) == pytest.approx((low, high), abs=1e-4)
    assert Estimate.over_seeds([0.5]).low == 0.5


def row(model, scale, adherence, error):
    estimate = {'mean': adherence, 'low': 0.0, 'high': 1.0}
    seen = {'adherence': estimate, 'coverage': estimate, 'passes': 3, 'seconds': 1.0, 'term_error': error}
    return {'cond_scale': scale, 'model': model, **seen}


def test_what_the_student_changes_is_a_difference_within_each_seed():
    """Seeds that differ by much, students that differ from their teachers by 0.02 each: the interval of the change is zero."""
    runs = [[row('two passes', 2.0, level, None), row('one pass', 2.0, level + 0.02, 0.1)] for level in (0.2, 0.5, 0.8)]
    (found,) = repeat.summary(runs)
    assert found['adherence']['change'] == {'mean': 0.02, 'low': 0.02, 'high': 0.02}
    assert found['adherence']['one pass']['high'] > 1
    assert found['term_error']['mean'] == 0.1


def test_the_error_of_the_guidance_term_is_that_of_a_loop(teacher):
    """The student is the teacher's conditional prediction with a tenth added: against the passes of a loop made by hand."""

    class Wrong:
        def prepare(self, texts):
            return teacher.prepare(texts)

        def __call__(self, points, times, *, text_condition, cond_scale):
            assert cond_scale == 3.0
            return teacher(points, times, text_condition=text_condition) + 0.1

    settings = replace(SMALL, scales=(3.0,), interval=(0.0, 0.5))
    compared = Compared(teacher, Wrong(), 3.0)
    clouds = draw(compared, TEXTS, settings, progress=False)
    points = torch.randn(4, 4, 2, generator=torch.Generator().manual_seed(settings.seed + 1))
    gap = term = 0.0
    with torch.no_grad():
        for time in (1.0, 0.75, 0.5, 0.25):
            cond, null = (teacher(points, torch.full((4, 4), time), texts=TEXTS, cond_scale=scale) for scale in (1.0, 0.0))
            guided = null + (3.0 if time <= 0.5 else 1.0) * (cond - null)
            gap += float((cond + 0.1 - guided).double().square().sum())
            term += float((guided - cond).double().square().sum())
            points = points - 0.25 * guided
    assert compared.error == pytest.approx((gap / term) ** 0.5, rel=1e-3)
    torch.testing.assert_close(clouds[3.0], points * 0.55, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    ('rule', 'interval'), [('cfg', (0.0, 1.0)), ('cfg', (0.2, 0.54)), ('apg', (0.0, 1.0)), ('apg', (0.2, 0.54))]
)
def test_the_loss_is_that_of_points_guided_inside_the_interval(teacher, rule, interval):
    settings = replace(SMALL, rule=rule, interval=interval)
    student = build_model(settings, reads_scale=True)
    student.load_state_dict(teacher.state_dict())
    points, texts = torch.randn(4, 5, 2), encode(teacher, TEXTS, progress=False)
    loss = _loss_from_teacher(teacher, settings, student, points, texts, torch.Generator().manual_seed(4))
    generator = torch.Generator().manual_seed(4)
    noisy, times = noised_alike(points, generator) if rule == 'apg' else noised(points, generator)[:2]
    scales = 3.0 ** torch.rand(4, generator=generator)
    off = []
    with torch.no_grad():
        for i in range(4):
            one = noisy[i : i + 1], times[i : i + 1]
            cond, null = (teacher(*one, texts=[TEXTS[i]], cond_scale=scale) for scale in (1.0, 0.0))
            inside = [float(scales[i]) if interval[0] < time <= interval[1] else 1.0 for time in times[i].tolist()]
            plain = null + torch.tensor(inside).view(1, 5, 1) * (cond - null)
            guided = guidance.apg(cond, null, inside[0]) if rule == 'apg' else plain
            off.append((cond - guided).square().mean())  # the student is the conditional prediction, before it has learned
    assert (times == times[:, :1]).all() == (rule == 'apg')
    assert 0 < loss.item() == pytest.approx(float(torch.stack(off).mean()), rel=1e-3)


@pytest.mark.parametrize(('part', 'prefix'), [('conditioner', 'text_conditioner.'), ('scale', 'text_conditioner.scale_input.')])
def test_only_the_part_that_learns_changes(teacher, part, prefix):
    student = taught(teacher, SMALL, Lessons(3, part), progress=False)
    before = {**build_model(SMALL, reads_scale=True).state_dict(), **teacher.state_dict()}
    changed = {name for name, value in student.state_dict().items() if not torch.equal(value, before[name])}
    assert changed
    assert all(name.startswith(prefix) or name == 'text_conditioner.scale_input.scales' for name in changed)
    assert f'{prefix}to_features.0.weight' in changed or part == 'conditioner'


def test_all_of_a_student_learns_by_default(teacher):
    student = train_only(build_model(SMALL, reads_scale=True), 'all')
    assert all(parameter.requires_grad for parameter in student.parameters())


@pytest.mark.parametrize(
    ('options', 'sentence'),
    [
        (['--scales', '0', '2'], '--scales are at least 1, and one of them is above it'),
        (['--scales', '1'], '--scales are at least 1, and one of them is above it'),
        (['--from-data', '--guidance', 'apg'], 'leave --from-data or --guidance apg out'),
        (['--from-data', '--interval', '0', '0.5'], 'leave --from-data or --interval out'),
        (['--student-steps', '0'], '--student-steps counts from 1, but got 0'),
        (['--train', 'half'], "--train is one of all, conditioner, scale, but got 'half'"),
        (['--teacher', 'nowhere.pt'], "there is no file 'nowhere.pt'"),
        (['--teacher', 'a.pt', 'b.pt'], '--teacher is one file for each seed, 1 in all, but got 2'),
        (['--repeat', '0'], '--repeat counts seeds from 1 to 10, but got 0'),
        (['--guidance', 'none'], 'guidance is one of cfg'),
        (['--world', 'moon'], "--world is points or shapes, but got 'moon'"),
        (['--prompts', '4'], '--prompts has no meaning for --world points: leave it out'),
        (['--world', 'shapes', '--samples', '2'], '--samples has no meaning for --world shapes: leave it out'),
    ],
)
def test_refusals(options, sentence, tmp_path, capsys):
    assert cli.main(['distil', '--out', str(tmp_path), *options]) == 2
    assert sentence in capsys.readouterr().err


DOCS = Path(__file__).parents[3] / 'docs'


def cells_of(estimates, form):
    """Cells of a table of the page, in percent."""
    return ' | '.join(f'{100 * one["mean"]:{form}} ± {100 * (one["high"] - one["mean"]):.1f}' for one in estimates)


def test_the_figures_of_the_page_are_those_of_the_runs():
    """`docs/pictures/one_pass.json` holds the summaries that the commands of the page wrote, by what was distilled."""
    page = (DOCS / 'one_pass.md').read_text(encoding='utf-8')
    runs = json.loads((DOCS / 'pictures' / 'one_pass.json').read_text(encoding='utf-8'))
    rows = runs.pop('cfg')['summary']
    for what, words in (('adherence', 'prompt satisfied'), ('coverage', 'shape filled')):
        for name in ('two passes', 'one pass', 'change'):
            cells = cells_of([row[what][name] for row in rows], '+.1f' if name == 'change' else '.1f')
            assert f'| {words}, {name} | {cells} |' in page
    for run in runs.values():
        changes = [cells_of([row[what]['change']], '+.1f') for row in run['summary'] for what in ('adherence', 'coverage')]
        errors = ', '.join(f'{row["term_error"]["mean"]:.2f}' for row in run['summary'])
        assert f'| {" | ".join(map(", ".join, zip(changes[::2], changes[1::2], strict=True)))} | {errors} |' in page
    assert all(row['seeds'] >= 3 for run in runs.values() for row in run['summary'])
