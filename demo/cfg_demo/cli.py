"""The console script `cfg-demo`: one subcommand per demo.

A demo is a module with `HELP`, `EPILOG`, `add_arguments(parser)` and `run(arguments)`; adding its name to `DEMOS` is all it
takes. The module is imported whenever the script runs, so it must be light: heavy imports belong inside `run`.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from importlib import import_module

from classifier_free_guidance_pytorch.errors import CFGError

DEMOS = {
    'points': 'cfg_demo.points.command',
    'image': 'cfg_demo.image.command',
    'train': 'cfg_demo.image.train_command',
    'page': 'cfg_demo.image.page_command',
    'train-on': 'cfg_demo.image.train_on_command',
    'sample': 'cfg_demo.image.sample_command',
    'evaluate': 'cfg_demo.image.evaluate_command',
    'classifier-guidance': 'cfg_demo.image.classifier_command',
    'train-mini': 'cfg_demo.mini.command',
}

DESCRIPTION = 'Classifier-free guidance, shown: each demo trains or loads a small text-conditioned model and samples it.'


def build_parser() -> argparse.ArgumentParser:
    """The parser of `cfg-demo` with every demo as a subcommand."""
    parser = argparse.ArgumentParser(
        prog='cfg-demo', description=DESCRIPTION, epilog='cfg-demo DEMO --help lists the options of a demo.'
    )
    subcommands = parser.add_subparsers(title='demos', metavar='DEMO', required=True)
    for name, path in DEMOS.items():
        demo = import_module(path)
        subparser = subcommands.add_parser(
            name,
            help=demo.HELP,
            description=demo.__doc__,
            epilog=demo.EPILOG,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        demo.add_arguments(subparser)
        subparser.set_defaults(run=demo.run)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a demo.

    Args:
        arguments: the command line without the program's name; that of the process by default.

    Returns:
        The exit code: 0, 2 for a user error, 130 when interrupted.
    """
    parsed = build_parser().parse_args(arguments)
    try:
        parsed.run(parsed)
    except CFGError as error:
        print(f'cfg-demo: error: {error}', file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print('\ncfg-demo: interrupted', file=sys.stderr)
        return 130
    return 0


if __name__ == '__main__':
    sys.exit(main())
