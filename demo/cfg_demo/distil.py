"""`cfg-demo distil`: teach a model to guide in one pass, and hold it against the two passes that it learned from."""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from cfg_demo.folders import needs, unused, use_threads, writable
from cfg_demo.intervals import MOST_SEEDS
from cfg_demo.learning import check_scales
from cfg_demo.points.command import QUICK
from cfg_demo.points.settings import CONDITIONS, RULES, Settings
from classifier_free_guidance_pytorch.errors import ConfigError

if TYPE_CHECKING:
    from cfg_demo.points.distil import Lessons

EPILOG = """\
The points: trains the model of `cfg-demo points` (or loads that of an earlier run with --teacher), then a student that reads
the scale, and draws both at equal scales, guided at all times unless --interval says otherwise. Writes distil.png, distil.json
and teacher.pt to --out; a second run writes distil-2.png, and teacher-2.pt if it trains one. --repeat 3 does so for three
seeds, a teacher each, and prints means over them with 95% intervals.

The shapes: distils the text-to-image model that ships (or --teacher model.safetensors), and has the checker of the drawn world
read what both draw. Writes distil.png, distil.json, model.safetensors and training.safetensors, from which --resume goes on.
--repeat 3 does so for three seeds of one teacher, in a folder each, and writes means over them to distil-repeat.json.

examples:
  cfg-demo distil
  cfg-demo distil --repeat 3 --out runs/three
  cfg-demo distil --repeat 3 --teacher runs/three/teacher*.pt --guidance apg
  cfg-demo distil --teacher runs/distil/teacher.pt --train conditioner
  cfg-demo distil --teacher runs/distil/teacher.pt --from-data
  cfg-demo distil --world shapes --repeat 3 --out runs/shapes
  cfg-demo distil --quick --out /tmp/distil
"""
WORLDS = ('points', 'shapes')
# What has a meaning in one world alone: its option on the command line, by the name of its value.
OF_POINTS = {
    'condition': '--condition',
    'steps': '--train-steps',
    'from_data': '--from-data',
    'rule': '--guidance',
    'interval': '--interval',
    'samples': '--samples',
}
OF_SHAPES = {'batch_size': '--batch-size', 'learning_rate': '--learning-rate', 'prompts': '--prompts', 'resume': '--resume'}
SCALES = (1.0, 1.5, 2.0, 3.0, 4.0)
STUDENT_STEPS = 1600
QUICK_STUDENT_STEPS = 200


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of the command."""
    parser.add_argument('--world', default='points', metavar='WORLD', help=f'{" or ".join(WORLDS)} (default: %(default)s)')
    parser.add_argument(
        '--teacher', type=Path, nargs='+', metavar='FILE',
        help='what earlier runs have left, with the same --condition: one for each seed; or one model.safetensors of shapes',
    )  # fmt: skip
    parser.add_argument('--train', dest='part', metavar='PART', help='what learns: all (default), conditioner, or scale')
    parser.add_argument(
        '--student-steps', type=int, metavar='N', help=f'steps of the student (default: {STUDENT_STEPS}; 500 for shapes)'
    )
    parser.add_argument(
        '--scales', nargs='+', type=float, metavar='S',
        help=f'guidance scales, at least 1 (default: {" ".join(f"{scale:g}" for scale in SCALES)}; without 1 for shapes)',
    )  # fmt: skip
    parser.add_argument(
        '--steps', dest='sample_steps', type=int, metavar='N',
        help=f'sampling steps, of Euler (default: {Settings.sample_steps}; 20 for shapes)',
    )  # fmt: skip
    parser.add_argument('--device', help=f'cpu, cuda, cuda:1, mps (default: {Settings.device})')
    parser.add_argument('--seed', type=int, help=f'the same seed gives the same numbers (default: {Settings.seed})')
    parser.add_argument('--repeat', type=int, metavar='N', help='seeds, from --seed on: means over them with intervals')
    parser.add_argument('--threads', type=int, metavar='N', help=f'CPU threads (default: {Settings.threads})')
    parser.add_argument('--quick', action='store_true', help='a first look, with few steps')
    parser.add_argument('--out', type=Path, default=Path('runs/distil'), help='folder for the results (default: %(default)s)')
    _add_points(parser.add_argument_group('the points'))
    _add_shapes(parser.add_argument_group('the shapes'))


def _add_points(points: argparse._ArgumentGroup) -> None:
    points.add_argument(
        '--condition', help=f'how the text enters the models: {", ".join(CONDITIONS)} (default: {Settings.condition})'
    )
    points.add_argument(
        '--train-steps', dest='steps', type=int, metavar='N', help=f'training steps of the teacher (default: {Settings.steps})'
    )
    points.add_argument('--from-data', action='store_true', help='the student learns from the data (model guidance), no teacher')
    points.add_argument('--guidance', dest='rule', metavar='RULE', help=f'the rule that is distilled: {", ".join(RULES)}')
    points.add_argument(
        '--interval', nargs=2, type=float, metavar=('LO', 'HI'), help='distil guidance at flow times in (LO, HI] (default: 0 1)'
    )
    points.add_argument('--samples', type=int, metavar='N', help=f'points per prompt and scale (default: {Settings.samples})')


def _add_shapes(shapes: argparse._ArgumentGroup) -> None:
    shapes.add_argument('--batch-size', type=int, metavar='N', help='pictures per step (default: 16)')
    shapes.add_argument('--learning-rate', type=float, metavar='LR', help='of Muon, its peak (default: 0.004)')
    shapes.add_argument('--prompts', type=int, metavar='N', help='held-out prompts that are read (default: 256)')
    shapes.add_argument('--resume', action='store_true', help='go on with the run in --out')


def read_settings(arguments: argparse.Namespace) -> Settings:
    """The settings of the points that the command line spells.

    Raises:
        ConfigError: a value that cannot work, or a scale below 1, which this demo does not teach.
    """
    given = {name: value for name, value in vars(arguments).items() if name in vars(Settings()) and value is not None}
    if 'interval' in given:
        given['interval'] = tuple(given['interval'])
    quick = QUICK if arguments.quick else {}
    settings = replace(Settings(scales=SCALES, interval=(0.0, 1.0)), **{**quick, **given})
    check_scales(settings.scales)
    if arguments.from_data and (settings.rule, settings.interval) != ('cfg', (0.0, 1.0)):
        other = '--interval' if settings.rule == 'cfg' else f'--guidance {settings.rule}'
        raise ConfigError(f'data teach classifier-free guidance alone: leave --from-data or {other} out')
    return settings


def read_lessons(arguments: argparse.Namespace) -> Lessons:
    """How the student of the points learns, as the command line says.

    Raises:
        ConfigError: a value that cannot work.
    """
    from cfg_demo.points.distil import Lessons

    fewest = QUICK_STUDENT_STEPS if arguments.quick else STUDENT_STEPS
    steps = fewest if arguments.student_steps is None else arguments.student_steps
    return Lessons(steps, arguments.part or 'all', arguments.from_data)


def check_options(arguments: argparse.Namespace) -> None:
    """Raise `ConfigError` for an unknown world, options of the other one, and files that are not there."""
    if arguments.world not in WORLDS:
        raise ConfigError(f'--world is {" or ".join(WORLDS)}, but got {arguments.world!r}')
    others = OF_SHAPES if arguments.world == 'points' else OF_POINTS
    if strange := [option for name, option in others.items() if getattr(arguments, name) not in (None, False)]:
        raise ConfigError(f'{strange[0]} has no meaning for --world {arguments.world}: leave it out')
    seeds = 1 if arguments.repeat is None else arguments.repeat
    if not 1 <= seeds <= MOST_SEEDS:
        raise ConfigError(f'--repeat counts seeds from 1 to {MOST_SEEDS}, but got {seeds}')
    files, shapes = arguments.teacher or [], arguments.world == 'shapes'
    if files and len(files) != (1 if shapes else seeds):
        told = 'one file, from which every seed starts' if shapes else f'one file for each seed, {seeds} in all'
        raise ConfigError(f'--teacher is {told}, but got {len(files)}')
    if missing := [file for file in files if not file.is_file()]:
        raise ConfigError(f'there is no file {str(missing[0])!r}: leave --teacher out to train one')


def run(arguments: argparse.Namespace) -> None:
    """Run the command; all that can be refused is refused before the training starts."""
    check_options(arguments)
    if arguments.world == 'shapes':
        from cfg_demo.image.distil_run import run_shapes

        run_shapes(arguments)
        return
    settings, lessons = read_settings(arguments), read_lessons(arguments)
    needs('matplotlib', 'the picture is drawn')
    folder = writable(arguments.out)
    use_threads(settings.threads)
    from cfg_demo.points.distil_run import run_distil, run_repeated, words_of

    if arguments.repeat is None:
        teacher = arguments.teacher[0] if arguments.teacher else None
        report = run_distil(settings, lessons, unused(folder / 'distil.png'), teacher)
    else:
        report = run_repeated(settings, lessons, folder, arguments.repeat, arguments.teacher)
    print(words_of(report))
