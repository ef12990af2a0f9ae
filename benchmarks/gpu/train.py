"""A model of the demo trained for so many seconds, and no longer; its checkpoint, in half precision, is what is taken home.

    python -m benchmarks.gpu.train shapes --seconds 480 --device cuda --out FOLDER
    python -m benchmarks.gpu.train shapes --start-from FOLDER/shapes64.safetensors --seconds 480 --device cuda --out OTHER
    python -m benchmarks.gpu.train emoji --data emoji --seconds 300 --device cuda --out FOLDER     (of cfg-demo emoji-data)

How many steps that is, is measured first: the learning rate falls along a cosine that ends with the time.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from benchmarks.gpu.running import SKIPPED

if TYPE_CHECKING:
    from cfg_demo.image.training import Trainer

SIZE, TINY_SIZE = 64, 16
MODELS = ('shapes', 'emoji')


class TimeIsUp(Exception):  # noqa: N818  (nothing is wrong)
    """The run has had its time."""


class Until:
    """A watcher of the training that ends it."""

    def __init__(self, seconds: float) -> None:
        self.end = time.monotonic() + seconds

    def __call__(self, trainer: Trainer, loss: float) -> None:
        """Raise once the time is up."""
        if time.monotonic() > self.end:
            raise TimeIsUp


def build(chosen: argparse.Namespace, steps: int) -> tuple[Trainer, Any, list[str]]:
    """Return a trainer for so many steps, its batches, and captions to draw."""
    from cfg_demo.image.batches import StepSampler, batches
    from cfg_demo.image.data import collate
    from cfg_demo.image.settings import ModelSettings, TrainSettings
    from cfg_demo.image.training import Trainer

    data, encoder = (emoji_data if chosen.model == 'emoji' else shapes_data)(chosen)
    batch = 4 if chosen.tiny else chosen.batch_size
    model = ModelSettings(
        network_size='tiny' if chosen.tiny else 'small', image_size=data[0].image.shape[-1], model_types=(encoder,)
    )
    trainer = Trainer(
        model, TrainSettings(steps=steps, batch_size=batch, ema_decay=0.999, device=chosen.device, seed=chosen.seed)
    )
    if chosen.start_from is not None:
        trainer.start_from(chosen.start_from)
    order = StepSampler(len(data), batch_size=batch, steps=steps, seed=chosen.seed)
    shown = [data[index * len(data) // 16].caption for index in range(16)]
    return trainer, batches(data, collate, order, chosen.workers), shown


def shapes_data(chosen: argparse.Namespace) -> tuple[Any, str]:
    """Return the drawn world, and the encoder that reads its captions."""
    from cfg_demo.shapes import ShapesDataset

    size = TINY_SIZE if chosen.tiny else SIZE
    return ShapesDataset(length=1_000_000, size=size, told=0.5, seed=chosen.seed), 'mini'


def emoji_data(chosen: argparse.Namespace) -> tuple[Any, str]:
    """Return the emoji that `cfg-demo emoji-data` wrote, at their own size, and the encoder that reads their captions."""
    from cfg_demo.emoji.data import read_manifest
    from cfg_demo.image.data import open_data

    size = TINY_SIZE if chosen.tiny else read_manifest(chosen.data)['size']
    return open_data(str(chosen.data), size=size), 'english'


def steps_in(chosen: argparse.Namespace, seconds: float) -> int:
    """Return how many steps fit into so many seconds, from a few steps of a model that is thrown away."""
    from cfg_demo.image.training import train

    ends: list[float] = []
    few = 4 if chosen.tiny else 40
    trainer, loader, _ = build(chosen, few)
    train(trainer, loader, [lambda *_: ends.append(time.monotonic())], progress=False)
    half = few // 2  # the first steps are slower: kernels are chosen, workers start
    return max(few, int(seconds * (few - half) / (ends[-1] - ends[half - 1])))


def train_for(chosen: argparse.Namespace) -> str:
    """Train for the time there is; return what is worth knowing."""
    from cfg_demo.image.checkpoint import save_model
    from cfg_demo.image.grid import save_curve
    from cfg_demo.image.training import train
    from cfg_demo.image.watchers import DrawSamples

    started = time.monotonic()
    least = 2.0 if chosen.tiny else 10.0  # to save and to draw
    end = started + chosen.seconds - least
    steps = steps_in(chosen, 0.5 if chosen.tiny else end - started)
    left = end - time.monotonic()
    trainer, loader, captions = build(chosen, max(1, int(steps * min(1.0, max(0.0, left) / (end - started)))))
    began = time.monotonic()
    try:
        train(trainer, loader, [Until(left)], progress=False)
    except (TimeIsUp, KeyboardInterrupt):
        print('stopped before the last step: the machine became slower')
    spent = time.monotonic() - began
    settings = trainer.settings
    about = {'steps': trainer.step, 'of': settings.steps, 'batch_size': settings.batch_size, 'seed': settings.seed}
    path = chosen.out / f'{chosen.model}{trainer.model_settings.image_size}.safetensors'
    save_model(trainer.average, trainer.model_settings, path, half=True, about={**about, 'torch': torch.__version__})
    save_curve(chosen.out / 'curve.png', trainer.losses)
    trainer.settings = replace(settings, steps=trainer.step)  # so that the drawing is made now
    DrawSamples(chosen.out, captions)(trainer, trainer.losses[-1])
    rate = trainer.step * settings.batch_size / spent
    loss = sum(trainer.losses[-100:]) / len(trainer.losses[-100:])
    return f'{trainer.step} steps of {settings.batch_size}, {rate:,.0f} images/s, loss {loss:.4f}: {path.name}'


def main(arguments: Sequence[str] | None = None) -> None:
    """Train what the command line names."""
    parser = argparse.ArgumentParser(
        'python -m benchmarks.gpu.train', description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('model', choices=MODELS, help='what to train')
    parser.add_argument('--seconds', type=float, default=480, help='for everything (default: %(default)s)')
    parser.add_argument('--data', type=Path, default=Path('emoji'), help='of the emoji (default: %(default)s)')
    parser.add_argument('--start-from', type=Path, metavar='FILE', help='begin with the weights of this model')
    parser.add_argument('--batch-size', type=int, default=128, help='images per step (default: %(default)s)')
    parser.add_argument('--workers', type=int, help='processes that draw pictures (default: one per core, less two)')
    parser.add_argument('--device', default='cuda', help='default: %(default)s')
    parser.add_argument('--seed', type=int, default=0, help='of weights, data and noise (default: %(default)s)')
    parser.add_argument('--out', type=Path, required=True, help='folder of the model and its pictures')
    parser.add_argument('--tiny', action='store_true', help='does it run? The model is of no use')
    chosen = parser.parse_args(arguments)
    if chosen.model == 'emoji' and not chosen.data.is_dir():
        print(f'there are no emoji in {str(chosen.data)!r}: make them with `cfg-demo emoji-data --out {chosen.data}`')
        sys.exit(SKIPPED)
    if chosen.workers is None:
        chosen.workers = 0 if chosen.tiny else max(0, (os.cpu_count() or 1) - 2)
    chosen.out.mkdir(parents=True, exist_ok=True)
    print(train_for(chosen))


if __name__ == '__main__':
    main()
