"""The work of `cfg-demo distil --world shapes`: distil the text-to-image model, draw with both, and have the checker read it."""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from torch import Tensor

from cfg_demo.folders import needs, unused, use_threads, writable
from cfg_demo.image.batches import StepSampler, batches
from cfg_demo.image.checkpoint import load_model
from cfg_demo.image.data import collate, open_data
from cfg_demo.image.diffusion import TIMES
from cfg_demo.image.distil import Distiller, TermError
from cfg_demo.image.drawing import SHIPPED, Request, sample_batches
from cfg_demo.image.grid import save_columns
from cfg_demo.image.rules import Guided
from cfg_demo.image.sampling import result_of
from cfg_demo.image.scores import PROMPTS, Prompts, Share, held_out_prompts, percent
from cfg_demo.image.settings import TRAINING_FILE, ModelSettings, TrainSettings
from cfg_demo.image.training import train
from cfg_demo.image.watchers import SaveCheckpoint
from cfg_demo.intervals import Estimate
from cfg_demo.learning import check_scales
from cfg_demo.shapes import check_all
from classifier_free_guidance_pytorch import guidance
from classifier_free_guidance_pytorch.errors import ConfigError

SCALES = (1.5, 2.0, 3.0, 4.0)
STEPS, BATCH, LEARNING_RATE, SAMPLE_STEPS, ASKED = 500, 16, 0.004, 20, 256
QUICK = {'student_steps': 20, 'sample_steps': 8, 'prompts': 16}
COMPARED = 32  # pictures on which the error of the guidance term is followed
RULES = {'two passes': guidance.CFG(), 'one pass': None}  # of the teacher and of the student


@dataclass(frozen=True)
class Read:
    """What a model drew at one scale, and which pictures show the whole caption: `(n, 3, s, s)` and `(n,)`."""

    images: Tensor
    holds: Tensor
    seconds: float


def run_shapes(arguments: argparse.Namespace) -> None:
    """Run the command; all that can be refused is refused before the first step."""
    needs('matplotlib', 'the picture is drawn')
    needs('diffusers', 'images are sampled')
    for name, value in QUICK.items() if arguments.quick else ():
        if getattr(arguments, name) is None:
            setattr(arguments, name, value)
    scales = tuple(arguments.scales or SCALES)
    use_threads(arguments.threads or 1)
    folder = writable(arguments.out)
    teacher, settings = load_model(arguments.teacher[0] if arguments.teacher else SHIPPED, arguments.device or 'cpu')
    steps = SAMPLE_STEPS if arguments.sample_steps is None else arguments.sample_steps
    check(scales, steps, settings)
    prompts = asked(ASKED if arguments.prompts is None else arguments.prompts, settings)
    first = arguments.seed or 0
    seeds = range(first, first + (arguments.repeat or 1))
    folders = [folder if arguments.repeat is None else writable(folder / f'seed{seed}') for seed in seeds]
    distillers = [start(arguments, teacher, settings, max(scales), *own) for own in zip(seeds, folders, strict=True)]

    runs: list[dict[str, Any]] = []
    two = {scale: read(teacher, settings, prompts, 'two passes', scale, steps) for scale in scales}  # the same for all seeds
    for seed, distiller, own in zip(seeds, distillers, folders, strict=True):
        errors = learn(distiller, own)
        one = {scale: read(distiller.average, settings, prompts, 'one pass', scale, steps) for scale in scales}
        drawn = {(name, scale): by[scale] for scale in scales for name, by in zip(RULES, (two, one), strict=True)}
        runs.append({'seed': seed, 'term_error': errors, 'rows': as_rows(drawn)})
        picture = unused(own / 'distil.png')
        save_columns(picture, columns_of(drawn), shown(prompts))
        about = {
            'settings': {**asdict(distiller.model_settings), **asdict(distiller.settings), 'train': distiller.part},
            'prompts': len(prompts.captions),
            'sample_steps': steps,
            'torch': torch.__version__,
        }
        _write(picture.with_suffix('.json'), {**about, **runs[-1]})
        print(f'\n{as_table(runs[-1]["rows"])}\nPicture: {picture}  Numbers: {picture.with_suffix(".json")}')
    if arguments.repeat is not None:
        numbers = unused(folder / 'distil-repeat.json')
        rows = summary(runs)
        _write(numbers, {**about, 'summary': rows, 'runs': runs})
        print(f'\nOver {len(seeds)} seeds:\n{as_table(rows)}\nNumbers: {numbers}')


def _write(file: Path, report: Mapping[str, Any]) -> None:
    file.write_text(json.dumps(report, indent=1) + '\n', encoding='utf-8')


def check(scales: Sequence[float], steps: int, settings: ModelSettings) -> None:
    """Raise `ConfigError` for scales, sampling steps and teachers with which this cannot work."""
    check_scales(scales)
    if not 1 <= steps <= TIMES:
        raise ConfigError(f'--steps is a number from 1 to {TIMES}, but got {steps}')
    if settings.reads_scale:
        raise ConfigError('the teacher has been distilled itself: pass a model that is guided in two passes')


def start(arguments: argparse.Namespace, teacher: Any, settings: ModelSettings, top: float, seed: int, folder: Path) -> Distiller:
    """A student, fresh or resumed.

    Raises:
        ConfigError: values that cannot work, or a folder that holds a run already.
    """
    own = TrainSettings(
        steps=STEPS if arguments.student_steps is None else arguments.student_steps,
        batch_size=BATCH if arguments.batch_size is None else arguments.batch_size,
        learning_rate=LEARNING_RATE if arguments.learning_rate is None else arguments.learning_rate,
        warm_up=20,
        ema_decay=0.99,
        device=arguments.device or 'cpu',
        seed=seed,
    )
    distiller = Distiller(teacher, settings, own, top=top, part=arguments.part or 'all')
    if arguments.resume:
        distiller.resume(folder)
    elif (folder / TRAINING_FILE).exists():
        raise ConfigError(f'{str(folder)!r} holds a run already: pass --resume to go on with it, or another folder as --out')
    return distiller


def learn(distiller: Distiller, folder: Path) -> dict[int, float]:
    """Take the remaining steps on drawn scenes, save on the way, and return the errors of the guidance term by step."""
    size, settings = distiller.model_settings.image_size, distiller.settings
    scenes, count = {'size': size, 'zoom': distiller.model_settings.zoom}, settings.batch_size
    data = open_data('shapes', seed=settings.seed, **scenes)  # type: ignore[arg-type]
    apart = open_data('shapes', seed=settings.seed + 7, split='held_out', **scenes)  # type: ignore[arg-type]
    errors = TermError(*collate([apart[index] for index in range(COMPARED)]))
    order = StepSampler(len(data), batch_size=count, steps=settings.steps, start=distiller.step, seed=settings.seed)  # type: ignore[arg-type]
    try:
        train(distiller, batches(data, collate, order), [errors, SaveCheckpoint(folder, 100)])
    except KeyboardInterrupt:
        distiller.save(folder)
        print(f'\ninterrupted at step {distiller.step} and saved: go on with --resume')
        raise
    if distiller.step not in errors.errors:  # a run that was resumed at its end took no step
        errors(distiller, 0.0)
    return errors.errors


def asked(count: int, settings: ModelSettings) -> Prompts:
    """About that many held-out prompts, of each kind its share."""
    if count < 1:
        raise ConfigError(f'--prompts counts from 1, but got {count}')
    whole = sum(PROMPTS.values())
    counts = {kind: max(1, round(share * count / whole)) for kind, share in PROMPTS.items()}
    return held_out_prompts(settings.image_size, counts, zoom=settings.zoom)


def read(model: Any, settings: ModelSettings, prompts: Prompts, name: str, scale: float, steps: int) -> Read:
    """Draw one picture of every prompt, and have it read.

    Args:
        model: in eval mode.
        settings: of the teacher.
        prompts: what is drawn, each from a seed of its own.
        name: a key of `RULES`: how the model is asked.
        scale: the guidance scale.
        steps: of Euler.
    """
    begun, captions = time.perf_counter(), prompts.captions
    request = Request('the prompts held out', seeds=range(1000, 1000 + len(captions)), steps=steps)
    how = Guided(RULES[name], scale)
    images = result_of(sample_batches(model, settings, captions, request, how, f'{name} at {scale:g}'))
    seconds = time.perf_counter() - begun
    verdicts = check_all(images, captions, settings.zoom)
    return Read(images, torch.tensor([verdict.holds for verdict in verdicts]), seconds)


def as_rows(drawn: Mapping[tuple[str, float], Read]) -> list[dict[str, Any]]:
    """By scale the share of whole captions of both, and what one pass changes, prompt by prompt; ready for JSON."""
    rows = []
    for scale in dict.fromkeys(scale for _, scale in drawn):
        two, one = (drawn[name, scale] for name in RULES)
        rows.append(
            {
                'cond_scale': scale,
                **{name: Share(int(drawn[name, scale].holds.sum()), len(two.holds)).as_dict() for name in RULES},
                'change': asdict(Estimate.of(one.holds.float() - two.holds.float())),
                'seconds': [round(two.seconds, 1), round(one.seconds, 1)],
            }
        )
    return rows


def summary(runs: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The rows of several seeds summed up, a row per scale. What one pass changes has its interval over the seeds."""
    found = []
    for rows in zip(*(run['rows'] for run in runs), strict=True):
        one = Estimate.over_seeds([row['one pass']['share'] for row in rows])
        found.append(
            {
                'cond_scale': rows[0]['cond_scale'],
                'two passes': rows[0]['two passes'],
                'one pass': {'share': one.mean, 'interval': [one.low, one.high]},
                'change': asdict(Estimate.over_seeds([row['change']['mean'] for row in rows])),
                'seconds': [round(fmean(row['seconds'][at] for row in rows), 1) for at in range(2)],
            }
        )
    return found


def as_table(rows: Sequence[Mapping[str, Any]]) -> str:
    """The rows as a table for the terminal: whole captions in percent, and their change in points of percent."""
    lines = [f'{"cond_scale":>10}{"two passes %":>16}{"one pass %":>16}{"change":>16}{"seconds":>18}']
    for row in rows:
        change = row['change']
        cells = [percent(row[name], interval=True) for name in RULES]
        cells.append(f'{100 * change["mean"]:+.1f} ± {100 * (change["high"] - change["mean"]):.1f}')
        seconds = ' / '.join(map(str, row['seconds']))
        lines.append(f'{row["cond_scale"]:>10g}' + ''.join(f'{cell:>16}' for cell in cells) + f'{seconds:>18}')
    return '\n'.join(lines)


def shown(prompts: Prompts, most: int = 6) -> list[tuple[int, str]]:
    """The prompts of the picture: evenly from all, so that each kind has its share."""
    every = max(1, len(prompts.captions) // most)
    return [(index, prompts.captions[index]) for index in range(0, len(prompts.captions), every)][:most]


def columns_of(drawn: Mapping[tuple[str, float], Read]) -> dict[str, tuple[Tensor, Tensor]]:
    """For each column of the picture, by its title, all images and which of them hold."""
    return {f'scale {scale:g}\n{name}': (one.images, one.holds) for (name, scale), one in drawn.items()}
