"""`cfg-demo front`: adherence, diversity and fidelity against forward passes, of every rule, schedule and saver at equal cost."""

from __future__ import annotations

import argparse
import json
import platform
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cfg_demo.folders import check_device, needs, unused, use_threads, writable
from classifier_free_guidance_pytorch.errors import ConfigError

if TYPE_CHECKING:
    from cfg_demo.front.cells import Cells
    from cfg_demo.front.plans import Plan
    from cfg_demo.front.worlds import World

EPILOG = """\
Writes to --out: front.png, front.json (all means and intervals) and cells.json, from which an interrupted run goes on.
On points every seed trains a model of its own, which is kept in --out; on shapes the model is one, and seeds are of noise.
Prompts are those held out of training. --search N finds a schedule on seen prompts within N passes, and adds it.

examples:
  cfg-demo front
  cfg-demo front --search 30
  cfg-demo front --world shapes
  cfg-demo front --world shapes --model runs/mine/model.safetensors --prompts 200
  cfg-demo front --quick --out /tmp/front
"""
WORLDS = ('points', 'shapes')
# by world: sampling steps, prompts, points of a prompt, training steps
DEFAULTS = {
    'points': {'steps': 25, 'prompts': 52, 'samples': 128, 'train_steps': 2000},
    'shapes': {'steps': 12, 'prompts': 40, 'samples': 4, 'train_steps': 0},
}
QUICK = {
    'points': {'steps': 5, 'prompts': 6, 'samples': 16, 'train_steps': 20},
    'shapes': {'steps': 2, 'prompts': 3, 'samples': 4, 'train_steps': 0},
}
SEEDS = (0, 1, 2)
TRIALS = 80


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of the command."""
    parser.add_argument('--world', choices=WORLDS, default='points', help='what is drawn (default: %(default)s)')
    parser.add_argument('--model', type=Path, metavar='FILE', help='of shapes: a model.safetensors instead of the one shipped')
    parser.add_argument('--seeds', type=int, nargs='+', default=SEEDS, metavar='N', help='(default: 0 1 2)')
    parser.add_argument('--only', nargs='+', metavar='TEXT', help='only the settings whose name has one of these in it')
    parser.add_argument('--search', type=int, nargs='+', default=(), metavar='N', help='find a schedule of N forward passes')
    parser.add_argument('--trials', type=int, default=TRIALS, metavar='N', help='of a search (default: %(default)s)')
    parser.add_argument('--steps', type=int, metavar='N', help='sampling steps, of Euler (default: 25; of shapes 12)')
    parser.add_argument('--prompts', type=int, metavar='N', help='of shapes (default: 40); of points all 52 that are held out')
    parser.add_argument('--train-steps', type=int, metavar='N', help='of points, per seed (default: 2000)')
    parser.add_argument('--device', default='cpu', help='(default: %(default)s)')
    parser.add_argument('--threads', type=int, default=1, metavar='N', help='CPU threads (default: %(default)s)')
    parser.add_argument('--quick', action='store_true', help='a first look in seconds, which says nothing about guidance')
    parser.add_argument('--out', type=Path, default=Path('runs/front'), help='folder for the results (default: %(default)s)')


def read_setup(arguments: argparse.Namespace) -> dict[str, Any]:
    """What the measurements depend on, as the command line spells it.

    Raises:
        ConfigError: A value that cannot work.
    """
    chosen: dict[str, Any] = dict((QUICK if arguments.quick else DEFAULTS)[arguments.world])
    given = {name: getattr(arguments, name) for name in ('steps', 'prompts', 'train_steps')}
    chosen |= {name: value for name, value in given.items() if value is not None}
    for name, low in (('steps', 2), ('prompts', 3)):
        if chosen[name] < low:
            raise ConfigError(f'--{name} is at least {low}, but got {chosen[name]}')
    if arguments.world == 'points':
        if arguments.model is not None:
            raise ConfigError('--model is for --world shapes: the models of points are trained, and kept in --out')
        if arguments.prompts is not None:
            raise ConfigError('--prompts is for --world shapes: of points all that are held out are measured')
        if chosen['train_steps'] < 1:
            raise ConfigError(f'--train-steps counts from 1, but got {chosen["train_steps"]}')
    elif arguments.train_steps is not None:
        raise ConfigError('--train-steps is for --world points: the model of shapes is not trained here')
    if len(set(arguments.seeds)) < len(arguments.seeds):
        raise ConfigError(f'every seed is measured once, but --seeds repeats one: {list(arguments.seeds)}')
    for budget in arguments.search:
        if not chosen['steps'] < budget <= 2 * chosen['steps']:
            raise ConfigError(
                f'--search takes forward passes, above the {chosen["steps"]} steps and at most twice as many, but got {budget}'
            )
    if arguments.trials < 1:
        raise ConfigError(f'--trials counts from 1, but got {arguments.trials}')
    return {'world': arguments.world, 'model': str(arguments.model or 'shipped'), 'device': arguments.device, **chosen}


def run(arguments: argparse.Namespace) -> None:
    """Run the command; all that can be refused is refused before the first training."""
    setup = read_setup(arguments)
    check_device(arguments.device)
    needs('matplotlib', 'the picture is drawn')
    if arguments.world == 'shapes':
        needs('diffusers', 'images are sampled')
    use_threads(arguments.threads)
    folder = writable(arguments.out)
    from cfg_demo.front.cells import Cells
    from cfg_demo.front.picture import save_front
    from cfg_demo.front.plans import all_plans
    from cfg_demo.front.report import Row, as_dict, as_table

    cells = Cells(folder / 'cells.json', setup)
    plans = chosen(all_plans(setup['steps'], images=arguments.world == 'shapes'), arguments.only)
    world = build_world(setup, arguments, folder)
    plans += [searched(world, cells, budget, setup['steps'], arguments) for budget in arguments.search]
    measure_all(world, cells, plans, arguments.seeds)
    found = {plan.name: [cells.measured(plan.name, seed) for seed in arguments.seeds] for plan in plans}
    rows = [Row.of(plan, [one for one in found[plan.name] if one is not None]) for plan in plans]
    import torch

    about = {'setup': setup, 'seeds': list(arguments.seeds), 'torch': torch.__version__, 'python': platform.python_version()}
    report = {**about, **as_dict(rows, setup['steps']), 'searched': cells.content['searched']}
    picture = unused(folder / 'front.png')
    save_front(picture, report)
    picture.with_suffix('.json').write_text(json.dumps(report, indent=1) + '\n', encoding='utf-8')
    print(f'\n{as_table(report)}\nPicture: {picture}  Numbers: {picture.with_suffix(".json")}')


def chosen(plans: Sequence[Plan], only: Sequence[str] | None) -> list[Plan]:
    """The plans whose name has one of the texts in it, or all.

    Raises:
        ConfigError: There is none.
    """
    kept = [plan for plan in plans if only is None or any(text in plan.name for text in only)]
    if not kept:
        raise ConfigError(f'no setting has any of {only} in its name: they are {", ".join(plan.name for plan in plans)}')
    return kept


def build_world(setup: dict[str, Any], arguments: argparse.Namespace, folder: Path) -> World:
    """The world that was asked for."""
    if setup['world'] == 'shapes':
        from cfg_demo.front.images import ImageWorld
        from cfg_demo.image.drawing import SHIPPED

        return ImageWorld(arguments.model or SHIPPED, setup['prompts'], arguments.device)
    from cfg_demo.front.points import PointsWorld
    from cfg_demo.points.settings import Settings

    settings = replace(Settings(), steps=setup['train_steps'], samples=setup['samples'], device=arguments.device)
    return PointsWorld(settings, setup['prompts'], folder)


def measure_all(world: World, cells: Cells, plans: Sequence[Plan], seeds: Sequence[int]) -> None:
    """Measure what was not measured before; the cells are saved one by one."""
    from cfg_demo.progress import progress_bar

    todo = [(plan, seed) for seed in seeds for plan in plans if cells.measured(plan.name, seed) is None]
    for plan, seed in (bar := progress_bar(todo, desc='front', unit='setting')):
        bar.set_postfix(seed=seed, setting=plan.name)
        cells.add(plan.name, seed, world.measure(plan, seed, 'held_out'))


def searched(world: World, cells: Cells, budget: int, steps: int, arguments: argparse.Namespace) -> Plan:
    """The plan with the schedule that a search finds on seen prompts and the first seed, or found before."""
    from cfg_demo.front.plans import Plan
    from cfg_demo.front.report import WORTH
    from cfg_demo.front.worlds import Measured
    from cfg_demo.progress import progress_bar
    from classifier_free_guidance_pytorch import guidance

    rule, name = guidance.CFGZeroStar(), f'searched({arguments.trials}) cfg-zero-star, {budget} passes'
    seed = arguments.seeds[0]
    key = f'{name}, seed {seed}'

    def sample(schedule: guidance.Schedule) -> Measured:
        return world.measure(Plan(name, 'searched', rule, schedule, steps), seed, 'seen')

    def judge(measured: Measured) -> float:
        return float(measured.values['adherence'].mean() + measured.values['diversity'].mean() / WORTH)

    schedule = cells.searched(key)
    if schedule is None:
        with progress_bar(total=arguments.trials, desc=f'search {budget}', unit='trial') as bar:
            schedule = guidance.search(
                sample,
                judge,
                budget,
                steps=steps,
                pieces=min(5, steps),
                trials=arguments.trials,
                on_trial=lambda *_: bar.update(),
            )
        cells.add_searched(key, schedule)
    return Plan(name, 'searched', rule, schedule, steps)
