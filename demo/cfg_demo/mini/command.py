"""Train `mini`, the encoder embedded in the library, and the image tower that measures pictures with it.

A text tower and an image tower learn to place each caption of the drawn worlds beside its own picture.
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

from cfg_demo.folders import check_device, writable

EPILOG = """\
Writes to --out: mini_weights/ (transformers format, half precision, with its tokenizer and a README that states its
scores), image_tower.safetensors, and checkpoint.pt. An interrupted run goes on with --resume, to the same weights.

examples:
  cfg-demo train-mini --out runs/mini
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `cfg-demo train-mini`."""
    parser.add_argument('--train-steps', type=int, default=1600, metavar='N', help='training steps (default: %(default)s)')
    parser.add_argument('--batch-size', type=int, default=128, metavar='N', help='pairs in a step (default: %(default)s)')
    parser.add_argument('--seed', type=int, default=0, help='of weights and pictures (default: %(default)s)')
    parser.add_argument(
        '--learning-rate', type=float, default=0.02, metavar='LR', help='peak, of the matrices (default: %(default)s)'
    )
    parser.add_argument(
        '--sets', type=int, default=16, metavar='N', help='of 64 pairs for each score; 0 measures none (default: %(default)s)'
    )
    parser.add_argument('--save-every', type=int, default=200, metavar='STEPS', help='(default: %(default)s)')
    parser.add_argument('--device', default='cpu', help='where to train (default: %(default)s)')
    parser.add_argument('--out', type=Path, default=Path('runs/mini'), help='folder for the results (default: %(default)s)')
    parser.add_argument('--resume', action='store_true', help='continue from the checkpoint in --out')
    parser.add_argument('--ship', action='store_true', help='also put the results where the library and the demo read them')


def run(arguments: argparse.Namespace) -> dict[str, float]:
    """Train, measure and export; return the scores."""
    from cfg_demo.mini import training
    from cfg_demo.mini.export import export
    from cfg_demo.mini.towers import IMAGE_WEIGHTS, TEXT_WEIGHTS
    from cfg_demo.progress import progress_bar

    steps, batch, seed = arguments.train_steps, arguments.batch_size, arguments.seed
    settings = {'steps': steps, 'batch': batch, 'seed': seed, 'lr': arguments.learning_rate}
    check_device(arguments.device)
    out = writable(arguments.out)
    trained = training.build(seed, arguments.learning_rate, arguments.device)
    if arguments.resume:
        training.load_checkpoint(trained, out / 'checkpoint.pt', settings)
    with progress_bar(total=steps, initial=trained.step, desc='mini', mininterval=2) as bar:
        while trained.step < steps:
            loss, right = training.train_step(trained, steps, batch, seed)
            bar.set_postfix(loss=f'{loss:.3f}', right=f'{right:.0%}')
            bar.update()
            if trained.step % arguments.save_every == 0 or trained.step == steps:
                training.save_checkpoint(trained, out / 'checkpoint.pt', settings)
    scores = training.measure(trained, arguments.sets)
    for name, score in scores.items():
        print(f'{name:60s} {100 * score:5.1f}%')
    export(trained, out, scores, settings)
    if arguments.ship:
        shutil.copytree(out / 'mini_weights', TEXT_WEIGHTS, dirs_exist_ok=True)
        shutil.copyfile(out / 'image_tower.safetensors', IMAGE_WEIGHTS)
    return scores
