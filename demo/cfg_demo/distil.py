"""`cfg-demo distil`: teach a model to guide in one pass, and hold it against the two passes that it learned from."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from cfg_demo.folders import needs, unused, writable
from cfg_demo.points.command import QUICK, Clock
from cfg_demo.points.settings import CONDITIONS, RULES, Settings
from classifier_free_guidance_pytorch.errors import ConfigError

EPILOG = """\
Trains the model of `cfg-demo points` (or loads that of an earlier run with --teacher), then a student that reads the scale,
and draws both at equal scales, guided at all times. Writes distil.png, distil.json and teacher.pt to --out; a
second run writes distil-2.png, and teacher-2.pt if it trains one.

examples:
  cfg-demo distil
  cfg-demo distil --teacher runs/distil/teacher.pt --guidance apg
  cfg-demo distil --teacher runs/distil/teacher.pt --from-data
  cfg-demo distil --quick --out /tmp/distil
"""
SCALES = (1.0, 1.5, 2.0, 3.0, 4.0)
STUDENT_STEPS = 800
QUICK_STUDENT_STEPS = 200


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of the command."""
    parser.add_argument('--teacher', type=Path, metavar='FILE', help='teacher.pt of an earlier run with the same --condition')
    parser.add_argument(
        '--condition', help=f'how the text enters the models: {", ".join(CONDITIONS)} (default: {Settings.condition})'
    )
    parser.add_argument(
        '--train-steps', dest='steps', type=int, metavar='N', help=f'training steps of the teacher (default: {Settings.steps})'
    )
    parser.add_argument('--student-steps', type=int, metavar='N', help=f'steps of the student (default: {STUDENT_STEPS})')
    parser.add_argument('--from-data', action='store_true', help='the student learns from the data (model guidance), no teacher')
    parser.add_argument('--guidance', dest='rule', metavar='RULE', help=f'the rule that is distilled: {", ".join(RULES)}')
    parser.add_argument(
        '--scales',
        nargs='+',
        type=float,
        metavar='S',
        help=f'guidance scales, at least 1 (default: {" ".join(f"{scale:g}" for scale in SCALES)})',
    )
    parser.add_argument('--samples', type=int, metavar='N', help=f'points per prompt and scale (default: {Settings.samples})')
    parser.add_argument(
        '--steps', dest='sample_steps', type=int, metavar='N', help=f'sampling steps, of Euler (default: {Settings.sample_steps})'
    )
    parser.add_argument('--device', help=f'cpu, cuda, cuda:1, mps (default: {Settings.device})')
    parser.add_argument('--seed', type=int, help=f'the same seed gives the same numbers (default: {Settings.seed})')
    parser.add_argument('--threads', type=int, metavar='N', help=f'CPU threads (default: {Settings.threads})')
    parser.add_argument('--quick', action='store_true', help='a first look in seconds, with few steps')
    parser.add_argument('--out', type=Path, default=Path('runs/distil'), help='folder for the results (default: %(default)s)')


def read_settings(arguments: argparse.Namespace) -> Settings:
    """The settings that the command line spells.

    Raises:
        ConfigError: a value that cannot work, or a scale below 1, which this demo does not teach.
    """
    given = {name: value for name, value in vars(arguments).items() if name in vars(Settings()) and value is not None}
    quick = QUICK if arguments.quick else {}
    settings = replace(Settings(scales=SCALES, interval=(0.0, 1.0)), **{**quick, **given})
    if min(settings.scales) < 1 or max(settings.scales) == 1:
        raise ConfigError(f'--scales are at least 1, and one of them is above it, but got {list(settings.scales)}')
    if arguments.from_data and settings.rule != 'cfg':
        raise ConfigError(f'data teach classifier-free guidance alone: leave --from-data or --guidance {settings.rule} out')
    if arguments.student_steps is not None and arguments.student_steps < 1:
        raise ConfigError(f'--student-steps counts from 1, but got {arguments.student_steps}')
    if arguments.teacher is not None and not arguments.teacher.is_file():
        raise ConfigError(f'there is no file {str(arguments.teacher)!r}: leave --teacher out to train one')
    return settings


def run(arguments: argparse.Namespace) -> None:
    """Run the command; all that can be refused is refused before the training starts."""
    settings = read_settings(arguments)
    needs('matplotlib', 'the picture is drawn')
    picture = unused(writable(arguments.out) / 'distil.png')
    steps = arguments.student_steps or (QUICK_STUDENT_STEPS if arguments.quick else STUDENT_STEPS)
    report = run_distil(settings, steps, picture, arguments.teacher, from_data=arguments.from_data)
    from cfg_demo.points.distil import as_table

    print(f'\n{as_table(report["rows"])}')
    print(f'{sum(report["seconds"].values()):.0f} s in all. Picture: {picture}  Numbers: {picture.with_suffix(".json")}')


def run_distil(
    settings: Settings, steps: int, picture: Path, teacher_file: Path | None, *, from_data: bool = False
) -> dict[str, Any]:
    """Train or load the teacher, train the student, draw and score both; write the picture, the numbers and the teacher.

    Returns:
        What the JSON file holds.
    """
    import torch

    from cfg_demo.points.distil import as_rows, distilled, drawn, guidance_free
    from cfg_demo.points.measure import prompts
    from cfg_demo.points.model import build_model
    from cfg_demo.points.picture import save_pair
    from cfg_demo.points.train import train

    torch.set_num_threads(settings.threads)
    torch.manual_seed(settings.seed)
    clock = Clock()
    teacher = build_model(settings)
    if teacher_file is None:
        teacher = train(teacher, settings)
        torch.save(teacher.state_dict(), unused(picture.parent / 'teacher.pt'))
    else:
        teacher.load_state_dict(torch.load(teacher_file, map_location=settings.device))
        teacher.eval()
    clock.lap('teacher')
    student = (guidance_free if from_data else distilled)(teacher, settings, steps)
    clock.lap('student')
    asked = prompts()
    models = {
        'two passes': drawn(teacher, asked, settings, one_pass=False),
        'one pass': drawn(student, asked, settings, one_pass=True),
    }
    clock.lap('sampling')
    save_pair(picture, {name: (one.scores, one.clouds) for name, one in models.items()})
    rows = as_rows(models)
    chosen = {'student_steps': steps, 'from_data': from_data, **asdict(settings)}
    report = {'settings': chosen, 'torch': torch.__version__, 'rows': rows, 'seconds': clock.laps}
    picture.with_suffix('.json').write_text(json.dumps(report, indent=1, default=str) + '\n', encoding='utf-8')
    return report
