"""The work of `cfg-demo distil` on the points: for one seed, and for several."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch

from cfg_demo.folders import unused
from cfg_demo.points import repeat
from cfg_demo.points.command import Clock
from cfg_demo.points.distil import Lessons, as_rows, as_table, drawn, taught, term_error
from cfg_demo.points.measure import prompts
from cfg_demo.points.model import build_model
from cfg_demo.points.picture import save_pair
from cfg_demo.points.settings import Settings
from cfg_demo.points.train import train
from classifier_free_guidance_pytorch.errors import ConfigError


def load_teacher(teacher: Any, file: Path, settings: Settings) -> None:
    """Put the weights of an earlier run into a teacher.

    Raises:
        ConfigError: The file holds no weights, or those of a model of other settings.
    """
    try:
        teacher.load_state_dict(torch.load(file, map_location=settings.device, weights_only=True))
    except Exception as error:  # a file of other bytes raises whatever its bytes lead to
        raise ConfigError(
            f'{str(file)!r} cannot be read as a teacher of these settings ({type(error).__name__}): pass the teacher.pt of a run '
            f'with --condition {settings.condition}'
        ) from error
    teacher.eval()


def run_distil(
    settings: Settings, lessons: Lessons, picture: Path, teacher_file: Path | None, *, keep: str = 'teacher.pt'
) -> dict[str, Any]:
    """Train or load the teacher, train the student, draw and score both; write the picture, the numbers and the teacher.

    Args:
        settings: of the teacher and of the drawing.
        lessons: of the student.
        picture: a PNG in a folder that is there.
        teacher_file: a teacher's weights; None trains one.
        keep: the name under which a trained teacher is kept.

    Returns:
        What the JSON file holds.
    """
    torch.manual_seed(settings.seed)
    clock = Clock()
    teacher = build_model(settings)
    if teacher_file is None:
        teacher = train(teacher, settings)
        torch.save(teacher.state_dict(), unused(picture.parent / keep))
    else:
        load_teacher(teacher, teacher_file, settings)
    clock.lap('teacher')
    student = taught(teacher, settings, lessons)
    clock.lap('student')
    asked = prompts()
    models = {
        'two passes': drawn(teacher, asked, settings, one_pass=False),
        'one pass': drawn(student, asked, settings, one_pass=True),
    }
    clock.lap('sampling')
    held_out = [prompt.text for prompt in asked if prompt.split == 'held_out']
    errors = {scale: term_error(teacher, student, held_out, settings, scale) for scale in settings.scales}
    clock.lap('comparing')
    save_pair(picture, {name: (one.scores, one.clouds) for name, one in models.items()})
    learned = sum(parameter.numel() for parameter in student.parameters() if parameter.requires_grad)
    report = {
        'settings': {**asdict(settings), 'student': asdict(lessons)},
        'torch': torch.__version__,
        'share_trained': learned / sum(parameter.numel() for parameter in student.parameters()),
        'rows': as_rows(models, errors),
        'seconds': clock.laps,
        'picture': str(picture),
    }
    _write(picture, report)
    return report


def run_repeated(
    settings: Settings, lessons: Lessons, folder: Path, count: int, teachers: Sequence[Path] | None
) -> dict[str, Any]:
    """Run several seeds, and sum them up in `distil-repeat.json`, which is written anew after each.

    Args:
        settings: of the first seed.
        lessons: of every student.
        folder: where all is written.
        count: how many seeds.
        teachers: a file for each; None trains them.
    """
    runs: list[dict[str, Any]] = []
    picture = unused(folder / 'distil-repeat.json').with_suffix('.png')
    report: dict[str, Any] = {}
    for number in range(count):
        own = replace(settings, seed=settings.seed + number)
        file = None if teachers is None else teachers[number]
        one = unused(folder / f'distil-seed{own.seed}.png')
        runs.append(run_distil(own, lessons, one, file, keep=f'teacher-seed{own.seed}.pt'))
        report = {
            'settings': runs[0]['settings'],
            'torch': torch.__version__,
            'share_trained': runs[0]['share_trained'],
            'summary': repeat.summary([run['rows'] for run in runs]),
            'runs': [{'seed': settings.seed + at, 'rows': run['rows']} for at, run in enumerate(runs)],
            'seconds': {name: sum(run['seconds'][name] for run in runs) for name in runs[0]['seconds']},
            'picture': str(one),
        }
        _write(picture, report)
    return {**report, 'numbers': str(picture.with_suffix('.json'))}


def words_of(report: dict[str, Any]) -> str:
    """What the command prints: the table, the time, and where the files are."""
    table = repeat.as_table(report['summary']) if 'summary' in report else as_table(report['rows'])
    numbers = report.get('numbers', Path(report['picture']).with_suffix('.json'))
    learned = f'{100 * report["share_trained"]:.1f}% of the weights learned. '
    return f'\n{table}\n{learned}{sum(report["seconds"].values()):.0f} s in all. Picture: {report["picture"]}  Numbers: {numbers}'


def _write(picture: Path, report: dict[str, Any]) -> None:
    text = json.dumps(report, indent=1, default=str) + '\n'
    picture.with_suffix('.json').write_text(text, encoding='utf-8')
