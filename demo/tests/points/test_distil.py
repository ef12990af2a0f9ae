"""`cfg-demo distil`: what it writes, that one pass is one pass, and what it refuses."""

from __future__ import annotations

import json

import pytest

from cfg_demo import cli
from cfg_demo.points.distil import as_table

TINY = [
    *('distil', '--quiet', '--train-steps', '10', '--student-steps', '5', '--samples', '4', '--steps', '3'),
    *('--scales', '1', '2', '3', '--threads', '1'),
]


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
    for more in (['--guidance', 'apg'], ['--from-data']):
        assert cli.main([*TINY, '--teacher', str(tmp_path / 'teacher.pt'), '--out', str(tmp_path), *more]) == 0
    assert (tmp_path / 'distil-3.json').exists()


def test_a_second_run_leaves_the_teacher_of_the_first(tmp_path):
    teachers = []
    for seed in ('0', '1'):
        assert cli.main([*TINY, '--seed', seed, '--out', str(tmp_path)]) == 0
        teachers.append((tmp_path / 'teacher.pt').read_bytes())
    assert teachers[0] == teachers[1]
    assert (tmp_path / 'teacher-2.pt').exists()


@pytest.mark.parametrize(
    ('options', 'sentence'),
    [
        (['--scales', '0', '2'], '--scales are at least 1, and one of them is above it'),
        (['--scales', '1'], '--scales are at least 1, and one of them is above it'),
        (['--from-data', '--guidance', 'apg'], 'data teach classifier-free guidance alone'),
        (['--student-steps', '0'], '--student-steps counts from 1, but got 0'),
        (['--teacher', 'nowhere.pt'], "there is no file 'nowhere.pt'"),
        (['--guidance', 'none'], 'guidance is one of cfg'),
    ],
)
def test_refusals(options, sentence, tmp_path, capsys):
    assert cli.main(['distil', '--out', str(tmp_path), *options]) == 2
    assert sentence in capsys.readouterr().err
