"""Train a small text-to-image model from scratch on pictures of one coloured shape, close up, and draw with it.

Watch `samples.png`: it is drawn anew as training goes on, and sharpens. At the end the model draws a prompt at several guidance
scales, and a table tells how many of its pictures of captions never seen in training are right at each.

Captions say everything: what, in which colour, how large, where, and on what. A shape is learned soonest where its place and its
size are known; captions that leave them open teach the same in many times the steps.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from cfg_demo.folders import needs, use_threads, writable
from cfg_demo.image.command import add_drawing_arguments, as_table, asked_for, warn_of_other_worlds
from cfg_demo.image.settings import CONDITIONS, MODEL_FILE, TRAINING_FILE
from classifier_free_guidance_pytorch.errors import ConfigError

if TYPE_CHECKING:
    from cfg_demo.image.training import Trainer

PROMPT = 'a large red diamond in the center on a dark background'  # a pair of colour and shape never seen in training
IMAGE_SIZE, ZOOM, TOLD = 16, 1.5, 1.0
EPILOG = """\
Writes to --out: model.safetensors, training.safetensors (to resume), samples.png, image.png, curve.png.

examples:
  cfg-demo train
  cfg-demo train --train-steps 4000 --condition film
  cfg-demo train --resume                                   goes on where an interrupted run stopped
  cfg-demo image "a small blue star at the top on a light background" --model runs/train/model.safetensors
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `cfg-demo train`."""
    parser.add_argument('--train-steps', type=int, default=1200, metavar='N', help='training steps (default: %(default)s)')
    parser.add_argument('--batch-size', type=int, default=32, metavar='N', help='images per step (default: %(default)s)')
    parser.add_argument('--condition', choices=CONDITIONS, default='attention', help='how the text enters (default: %(default)s)')
    parser.add_argument(
        '--cond-drop-prob', type=float, default=0.15, metavar='P', help='share of captions dropped (default: %(default)s)'
    )
    parser.add_argument('--prompt', default=PROMPT, help='what to draw at the end (default: "%(default)s")')
    add_drawing_arguments(parser)
    parser.add_argument('--resume', action='store_true', help='go on with the run in --out')
    parser.add_argument('--device', default='cpu', help='where to train (default: %(default)s)')
    parser.add_argument('--threads', type=int, metavar='N', help="CPU threads (default: torch's own choice)")
    parser.add_argument('--out', type=Path, default=Path('runs/train'), help='folder for the results (default: %(default)s)')


def run(arguments: argparse.Namespace) -> None:
    """Run the command; all that can be refused is refused before the training starts."""
    needs('matplotlib', 'the pictures are drawn')
    needs('diffusers', 'images are sampled')
    from cfg_demo.image.drawing import draw
    from cfg_demo.image.grid import save_curve, save_grid
    from cfg_demo.image.scores import as_table as scores_table
    from cfg_demo.image.scores import held_out_prompts, measure
    from cfg_demo.image.settings import ModelSettings, TrainSettings
    from cfg_demo.image.training import Trainer

    request = asked_for(arguments, arguments.prompt)
    settings = TrainSettings(
        steps=arguments.train_steps,
        batch_size=arguments.batch_size,
        learning_rate=0.012,
        time_mean=0.4,
        time_spread=1.0,
        cond_drop_prob=arguments.cond_drop_prob,
        device=arguments.device,
        seed=arguments.seed,
    )
    folder = writable(arguments.out)
    use_threads(arguments.threads)
    warn_of_other_worlds([arguments.prompt])
    trainer = Trainer(
        ModelSettings(network_size='mini', image_size=IMAGE_SIZE, condition=arguments.condition, zoom=ZOOM), settings
    )
    if arguments.resume:
        trainer.resume(folder)
    elif (folder / TRAINING_FILE).exists():
        raise ConfigError(f'{str(folder)!r} holds a run already: pass --resume to go on with it, or another folder as --out')
    rehearsal = replace(request, seeds=request.seeds[:1], steps=1)  # refuses what this model cannot be drawn with
    draw(trainer.average, trainer.model_settings, rehearsal, progress=False)
    prompts = held_out_prompts(IMAGE_SIZE, {'single': 64}, told=TOLD, zoom=ZOOM)
    train_on_one_thing(trainer, folder, prompts.captions[:16])
    save_curve(folder / 'curve.png', trainer.losses)
    drawing = draw(trainer.average, trainer.model_settings, request)
    save_grid(folder / 'image.png', drawing)
    scores = [measure(trainer.average, trainer.model_settings, prompts, request, scale).as_dict() for scale in request.scales]
    print(f'\n"{request.prompt}":\n{as_table(drawing)}\n\n64 captions never seen in training:\n{scores_table(scores)}')
    print(f'\nPictures: {folder / "image.png"}, {folder / "samples.png"}, {folder / "curve.png"}  Model: {folder / MODEL_FILE}')


def train_on_one_thing(trainer: Trainer, folder: Path, captions: Sequence[str]) -> None:
    """Train on pictures of one thing each, saving and drawing on the way."""
    from cfg_demo.image.batches import StepSampler, batches
    from cfg_demo.image.training import train
    from cfg_demo.image.watchers import DrawSamples, SaveCheckpoint
    from cfg_demo.shapes import ShapesDataset, collate

    settings = trainer.settings
    data = ShapesDataset(size=IMAGE_SIZE, kinds=('single',), seed=settings.seed, told=TOLD, zoom=ZOOM)
    order = StepSampler(len(data), batch_size=settings.batch_size, steps=settings.steps, start=trainer.step, seed=settings.seed)
    try:
        train(trainer, batches(data, collate, order), [SaveCheckpoint(folder), DrawSamples(folder, captions)])
    except KeyboardInterrupt:
        trainer.save(folder)
        raise
