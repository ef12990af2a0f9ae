"""Fetch emoji in three styles, with their names and keywords, and write them as a folder of captioned pictures.

The packages are named with their versions and their hashes, and only what has those hashes is used. Pictures are drawn on white.
A style of some concepts, and some concepts altogether, are kept out of the training pictures to measure with.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from cfg_demo.emoji import STYLE_NAMES
from cfg_demo.folders import needs, writable, writable_file
from classifier_free_guidance_pytorch.errors import ConfigError

EPILOG = """\
Writes to --out:
  train/, held_out/     pictures by style, with metadata.jsonl: file_name, caption, concept, style, category, group
  concepts.jsonl        names, tags and categories
  manifest.json         packages, versions, hashes, licences and settings

examples:
  cfg-demo emoji-data --out emoji --sheet emoji.png
  cfg-demo emoji-data --out emoji --from archives           of npm pack, fetched elsewhere
  cfg-embed emoji/train/metadata.jsonl --column caption --out encodings --model-types english
  cfg-demo train-on emoji --encodings encodings --model-types english --out runs/emoji
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `cfg-demo emoji-data`."""
    parser.add_argument('--out', type=Path, required=True, help='folder for the pictures')
    parser.add_argument('--size', type=int, choices=(32, 64), default=32, help='pixels (default: %(default)s)')
    parser.add_argument('--styles', nargs='+', choices=STYLE_NAMES, default=STYLE_NAMES, help='(default: all)')
    parser.add_argument(
        '--held-out-styles', type=float, default=0.12, metavar='P', help='share of concepts that lack a style (default: 0.12)'
    )
    parser.add_argument(
        '--held-out-concepts', type=float, default=0.05, metavar='P', help='share of concepts never shown (default: 0.05)'
    )
    parser.add_argument('--seed', type=int, default=0, help='of what is held out, and of captions (default: %(default)s)')
    parser.add_argument('--sheet', type=Path, metavar='PNG', help='also draw some of the pictures, to look at')
    parser.add_argument('--from', type=Path, dest='given', metavar='DIR', help='archives that were fetched elsewhere')
    parser.add_argument('--registry', metavar='URL', help="of npm packages (default: npm's own)")


def run(arguments: argparse.Namespace) -> None:
    """Fetch, draw and write."""
    needs('PIL', 'pictures are drawn')
    if arguments.sheet is not None:
        needs('matplotlib', 'a sheet of them is drawn')
        writable_file(arguments.sheet, '--sheet')
    for name in ('held_out_styles', 'held_out_concepts'):
        if not 0.0 <= getattr(arguments, name) < 1.0:
            raise ConfigError(f'--{name.replace("_", "-")} is a share from 0 to below 1, but got {getattr(arguments, name)}')
    from cfg_demo.emoji.data import Split, write
    from cfg_demo.emoji.reading import read_pictures_of
    from cfg_demo.emoji.sheets import save_pictures

    folder = writable(arguments.out)
    split = Split(arguments.held_out_styles, arguments.held_out_concepts, arguments.seed)
    counts = write(folder, arguments.size, tuple(arguments.styles), split, arguments.given, arguments.registry)
    if arguments.sheet is not None:
        save_pictures(arguments.sheet, read_pictures_of(folder), arguments.seed)
    for name, count in counts.items():
        print(f'{name:20s} {count:6,}')
    print(f'Pictures: {folder}  Sources and licences: {folder / "manifest.json"}')
