"""`cfg-demo distil --world shapes`: a step of the student, the error that is followed, the command from teacher to table."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from cfg_demo import cli
from cfg_demo.image.checkpoint import load_model, save_model
from cfg_demo.image.distil import Distiller, TermError
from cfg_demo.image.distil_run import LEARNING_RATE, Read, as_rows, summary
from cfg_demo.image.scores import percent
from cfg_demo.image.settings import MODEL_FILE, TRAINING_FILE
from demo.tests.image.tiny import TEXTS, pictures, short_training, tiny_model, tiny_settings

IMAGES = pictures(3)


def distiller(part='all', top=4.0):
    return Distiller(tiny_model(), tiny_settings(), short_training(batch_size=3), top=top, part=part)


def by_hand(one, noisy, times, scales):
    """The teacher's conditional and null prediction, combined sample by sample: `(guided, cond)`."""
    with torch.no_grad():
        cond, null = (one.teacher(noisy, times, texts=TEXTS, cond_scale=scale) for scale in (1.0, 0.0))
    return null + scales[:, None, None, None] * (cond - null), cond


def test_a_step_learns_what_two_passes_are_combined_into():
    """A student that has not learned yet is the conditional prediction, so the first loss is known from the teacher alone."""
    one = distiller()
    generator = one._generator()
    noisy, times, _ = one._noised(IMAGES, generator)
    scales = 4 ** torch.rand(3, generator=generator)
    scales[0] = 4.0
    guided, cond = by_hand(one, noisy, times, scales)
    loss = one.learn(IMAGES, TEXTS)
    errors = (cond - guided).square().mean(dim=(1, 2, 3))
    assert 0 < loss == pytest.approx((errors / (0.25 + (scales - 1) ** 2)).mean().item(), rel=1e-3)
    low, high = one.model.text_conditioner.learned_scales
    assert (low, high) == (1.0, 4.0)


def test_the_error_is_1_before_anything_is_learned():
    one, errors = distiller(), TermError(IMAGES, TEXTS, every=1)
    one.average.text_conditioner.learn_scales(torch.tensor([1.0, 4.0]))  # without which it would guide in two passes
    one.step = 1
    errors(one, 0.0)
    assert errors.errors[1] == pytest.approx(1.0, rel=1e-4)


def test_an_adapter_leaves_the_network_as_it_is():
    one = distiller('conditioner')
    before = {name: value.clone() for name, value in one.model.state_dict().items()}
    for _ in range(2):
        one.learn(IMAGES, TEXTS)
    changed = {name for name, value in one.model.state_dict().items() if not torch.equal(value, before[name])}
    assert 'text_conditioner.conditioners.0.attn.to_q.weight' in changed
    assert all(name.startswith('text_conditioner.') for name in changed)


def test_what_one_pass_changes_is_counted_prompt_by_prompt():
    images = torch.zeros(4, 3, 8, 8)
    two, one = torch.tensor([True, True, False, False]), torch.tensor([True, False, False, False])
    (row,) = as_rows({('two passes', 2.0): Read(images, two, 2.0), ('one pass', 2.0): Read(images, one, 1.0)})
    assert (row['two passes']['share'], row['one pass']['share'], row['change']['mean']) == (0.5, 0.25, -0.25)
    assert row['change']['low'] == pytest.approx(-0.25 - 1.96 * 0.5 / 2, abs=1e-4)


@pytest.fixture(scope='module')
def teacher(tmp_path_factory):
    path = tmp_path_factory.mktemp('teacher') / MODEL_FILE
    save_model(tiny_model(), tiny_settings(), path)
    return str(path)


SHORT = ['--world', 'shapes', '--student-steps', '2', '--batch-size', '2', '--prompts', '4', '--steps', '2']


def test_the_command_leaves_a_student_that_guides_in_one_pass(teacher, tmp_path, capsys):
    pytest.importorskip('matplotlib')
    asked = ['distil', *SHORT, '--scales', '2', '3', '--teacher', teacher, '--out', str(tmp_path)]
    assert cli.main(asked) == 0
    files = {file.name for file in tmp_path.iterdir()}
    assert files == {'distil.png', 'distil.json', MODEL_FILE, TRAINING_FILE}
    report = json.loads((tmp_path / 'distil.json').read_text())
    assert [row['cond_scale'] for row in report['rows']] == [2.0, 3.0]
    assert report['term_error'].keys() == {'2'}
    assert 'two passes %' in capsys.readouterr().out

    student, settings = load_model(tmp_path / MODEL_FILE)
    assert settings.reads_scale
    ran = []
    student.read.register_forward_hook(lambda *_: ran.append(1))
    low, high = student.text_conditioner.learned_scales
    student(IMAGES, torch.full((3,), 0.5), texts=TEXTS, cond_scale=(low + high) / 2)
    assert len(ran) == 1

    assert cli.main(asked) == 2
    assert 'holds a run already: pass --resume to go on with it' in capsys.readouterr().err
    assert cli.main([*asked, '--resume']) == 0
    assert (tmp_path / 'distil-2.json').exists()
    assert cli.main([*asked, '--resume', '--train', 'conditioner']) == 2
    assert "part was 'all' and is 'conditioner'" in capsys.readouterr().err
    assert cli.main(['distil', *SHORT, '--teacher', str(tmp_path / MODEL_FILE), '--out', str(tmp_path / 'again')]) == 2
    assert 'the teacher has been distilled itself' in capsys.readouterr().err


def test_several_seeds_leave_a_student_each_and_what_they_have_in_common(teacher, tmp_path, capsys):
    pytest.importorskip('matplotlib')
    asked = ['distil', *SHORT, '--scales', '2', '--teacher', teacher, '--out', str(tmp_path), '--repeat', '2', '--seed', '5']
    assert cli.main(asked) == 0
    assert 'Over 2 seeds:' in capsys.readouterr().out
    weights = [load_model(tmp_path / f'seed{seed}' / MODEL_FILE)[0].state_dict() for seed in (5, 6)]
    assert any(not torch.equal(value, weights[1][name]) for name, value in weights[0].items())
    report = json.loads((tmp_path / 'distil-repeat.json').read_text())
    alone = [json.loads((tmp_path / f'seed{seed}' / 'distil.json').read_text()) for seed in (5, 6)]
    assert [run['rows'] for run in report['runs']] == [run['rows'] for run in alone]
    assert report['summary'] == summary(alone)

    assert cli.main(asked) == 2
    assert "seed5' holds a run already: pass --resume" in capsys.readouterr().err
    assert cli.main([*asked, '--resume']) == 0
    again = json.loads((tmp_path / 'distil-repeat-2.json').read_text())
    assert [run['term_error'] for run in again['runs']] == [run['term_error'] for run in report['runs']]
    assert cli.main([*asked, '--teacher', teacher, teacher]) == 2
    assert '--teacher is one file, from which every seed starts, but got 2' in capsys.readouterr().err


def test_the_interval_over_seeds_is_that_of_their_changes():
    """Three students that lose 2, 4 and 6 points: the mean is 4, and t(2) * 2 / sqrt(3) to both sides."""
    share = {'share': 0.6, 'interval': [0.5, 0.7]}
    runs = [
        {
            'rows': [
                {
                    'cond_scale': 2.0,
                    'two passes': share,
                    'one pass': {'share': 0.6 - loss},
                    'change': {'mean': -loss},
                    'seconds': [2, 1],
                }
            ]
        }
        for loss in (0.02, 0.04, 0.06)
    ]
    (row,) = summary(runs)
    half = 4.3027 * 0.02 / 3**0.5
    assert row['change'] == pytest.approx({'mean': -0.04, 'low': -0.04 - half, 'high': -0.04 + half}, abs=1e-4)
    assert row['one pass']['share'] == pytest.approx(0.56)
    assert row['two passes'] == share


@pytest.mark.parametrize(
    ('options', 'sentence'),
    [
        (['--scales', '0.5'], '--scales are at least 1, and one of them is above it'),
        (['--steps', '0'], '--steps is a number from 1 to 1000, but got 0'),
        (['--prompts', '0'], '--prompts counts from 1, but got 0'),
        (['--train', 'half'], "train is one of all, conditioner, scale, but got 'half'"),
        (['--student-steps', '0'], 'steps counts from 1, but got 0'),
        (['--condition', 'film'], '--condition has no meaning for --world shapes: leave it out'),
    ],
)
def test_refusals(options, sentence, teacher, tmp_path, capsys):
    assert cli.main(['distil', *SHORT, '--teacher', teacher, '--out', str(tmp_path), *options]) == 2
    assert sentence in capsys.readouterr().err


def test_the_figures_of_the_page_are_those_of_the_runs():
    docs = Path(__file__).parents[3] / 'docs'
    page = (docs / 'one_pass.md').read_text(encoding='utf-8')
    report = json.loads((docs / 'pictures' / 'one_pass_shapes.json').read_text(encoding='utf-8'))
    rows, runs = report['summary'], report['runs']
    assert rows == summary(runs)
    assert f'| two passes | {" | ".join(percent(row["two passes"]) for row in rows)} |' in page
    shares = ' | '.join(f'{100 * row["one pass"]["share"]:.1f}' for row in rows)
    assert f'| one pass | {shares} |' in page
    changes = [row['change'] for row in rows]
    cells = ' | '.join(f'{100 * one["mean"]:+.1f} ± {100 * (one["high"] - one["mean"]):.1f}' for one in changes)
    assert f'| change | {cells} |' in page
    first, last = (sum(list(run['term_error'].values())[at] for run in runs) / len(runs) for at in (0, -1))
    assert f'fell from {first:.2f} to {last:.2f}' in page.replace('\n', ' ')
    asked = f'--repeat {len(runs)} --student-steps {report["settings"]["steps"]} --prompts {report["prompts"]}'
    assert asked in page
    assert (LEARNING_RATE, report['settings']['learning_rate']) == (0.004, 0.004)
