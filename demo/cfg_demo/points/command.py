"""`cfg-demo points`: train a decorated model on described point clouds, sample it at several scales, draw and count."""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from cfg_demo.folders import needs, unused, writable
from cfg_demo.points.settings import CONDITIONS, RULES, Settings

EPILOG = """\
Writes points.png (prompts against guidance scales) and points.json (all numbers) to --out; a second run writes points-2.png.
The scale follows guided = null + cond_scale * (cond - null): 1 is off, 0 ignores the text.
Scales above 1 act in the second half of sampling only; --interval 0 1 makes them act always.

examples:
  cfg-demo points
  cfg-demo points --quick --out /tmp/points
  cfg-demo points --model-types t5 clip --condition attention
  cfg-demo points --guidance apg --scales 0 1 2 4 8
  cfg-demo points --interval 0 1
"""
QUICK = {'steps': 300, 'samples': 64, 'sample_steps': 15}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of the command; their defaults are those of `Settings`."""
    text = parser.add_argument_group('text')
    text.add_argument('--model-types', nargs='+', metavar='TYPE', help='text encoders: mini, english, t5, clip, bge, hf')
    text.add_argument('--model-names', nargs='+', metavar='NAME', help='a model name or local path for each encoder')
    text.add_argument('--condition', metavar='KIND', help=f'how the text enters the model: {", ".join(CONDITIONS)}')
    training = parser.add_argument_group('training')
    training.add_argument('--train-steps', dest='steps', type=int, metavar='N', help='training steps')
    training.add_argument('--batch-size', type=int, metavar='N', help='captions per step')
    training.add_argument('--cond-drop-prob', type=float, metavar='P', help='share of captions dropped; 0 makes guidance useless')
    training.add_argument('--caption-noise', type=float, metavar='P', help='share of clouds with the caption of another')
    sampling = parser.add_argument_group('sampling')
    sampling.add_argument('--scales', nargs='+', type=float, metavar='S', help='guidance scales, one column of the picture each')
    sampling.add_argument('--guidance', dest='rule', metavar='RULE', help=f'guidance rule: {", ".join(RULES)}')
    sampling.add_argument('--rescale-phi', type=float, metavar='PHI', help='share of the prediction that is rescaled')
    sampling.add_argument(
        '--interval',
        nargs=2,
        type=float,
        metavar=('LO', 'HI'),
        help='scales above 1 act only at flow times in (LO, HI]; 0 1 is always',
    )
    sampling.add_argument('--negative', metavar='TEXT', help='steer away from this text instead of the null condition')
    sampling.add_argument('--samples', type=int, metavar='N', help='points per prompt and scale')
    sampling.add_argument('--steps', dest='sample_steps', type=int, metavar='N', help='sampling steps, of Euler')
    parser.add_argument('--device', help='cpu, cuda, cuda:1, mps')
    parser.add_argument('--seed', type=int, help='the same seed gives the same numbers')
    parser.add_argument('--threads', type=int, metavar='N', help='CPU threads; more is faster only on an idle machine')
    parser.add_argument('--quick', action='store_true', help=f'a first look in seconds: {_listed(QUICK)}, where not given')
    parser.add_argument('--out', type=Path, default=Path('runs/points'), help='folder for the results (default: %(default)s)')
    for action in parser._actions:
        default = _DEFAULTS.get(action.dest)
        if default is not None:
            values = default if isinstance(default, tuple) else (default,)
            shown = ' '.join(f'{value:g}' if isinstance(value, float) else str(value) for value in values)
            action.help = f'{action.help} (default: {shown})'


_DEFAULTS: dict[str, Any] = {field.name: field.default for field in fields(Settings)}


def _listed(options: dict[str, Any]) -> str:
    spelled = {'steps': 'train-steps', 'sample_steps': 'steps'}  # as in every demo
    return ' '.join(f'--{spelled.get(name, name)} {value}' for name, value in options.items())


def read_settings(arguments: argparse.Namespace) -> Settings:
    """The settings that the command line spells: what was given, else `--quick`'s, else the defaults.

    Raises:
        ConfigError: a value that cannot work.
    """
    given = {name: value for name, value in vars(arguments).items() if name in _DEFAULTS and value is not None}
    chosen = {**(QUICK if arguments.quick else {}), **given}
    if 'interval' in chosen:
        chosen['interval'] = tuple(chosen['interval'])
    return replace(Settings(), **chosen)


def run(arguments: argparse.Namespace) -> None:
    """Run the command; all that can be refused is refused before the training starts."""
    settings = read_settings(arguments)
    needs('matplotlib', 'the picture is drawn')
    folder = writable(arguments.out)
    picture = unused(folder / 'points.png')
    report = run_points(settings, picture)
    from cfg_demo.points.report import as_sentence, as_table

    print(f'\n{as_table(report)}\n\n{as_sentence(report)}')
    print(f'{sum(report["seconds"].values()):.0f} s in all. Picture: {picture}  Numbers: {picture.with_suffix(".json")}')


def run_points(settings: Settings, picture: Path, *, progress: bool = True) -> dict[str, Any]:
    """Train, sample, score and draw; write the picture, and beside it a JSON file of the same name.

    Args:
        settings: what to train and how to sample.
        picture: a PNG file in an existing folder.
        progress: show progress bars.

    Returns:
        What the JSON file holds.
    """
    import torch

    from cfg_demo.points.measure import Scores, prompts
    from cfg_demo.points.model import build_model
    from cfg_demo.points.picture import save_picture
    from cfg_demo.points.report import as_dict
    from cfg_demo.points.sample import draw
    from cfg_demo.points.train import train

    torch.set_num_threads(settings.threads)
    torch.manual_seed(settings.seed)
    clock = Clock()
    model = build_model(settings)
    trained = train(model, settings, progress=progress)
    clock.lap('training')
    asked = prompts()
    clouds = draw(trained, [prompt.text for prompt in asked], settings, progress=progress)
    clock.lap('sampling')
    scores = Scores.of(asked, clouds)
    save_picture(picture, scores, clouds)
    clock.lap('scoring')
    parameters = sum(parameter.numel() for parameter in model.parameters())
    report = as_dict(scores, settings, parameters, clock.laps)
    picture.with_suffix('.json').write_text(json.dumps(report, indent=1) + '\n', encoding='utf-8')
    return report


class Clock:
    """Seconds of each part of the work, by name."""

    def __init__(self) -> None:
        self.laps: dict[str, float] = {}
        self._last = time.perf_counter()

    def lap(self, name: str) -> None:
        """End a part."""
        now = time.perf_counter()
        self.laps[name], self._last = now - self._last, now
