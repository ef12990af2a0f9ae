"""The console script `cfg-demo`: one subcommand per demo.

A demo is a module with `EPILOG`, `add_arguments(parser)` and `run(arguments)`; a line in `DEMOS` is all it takes. Only the demo
that is asked for is imported, and it must be light, so that `--help` answers at once: heavy imports belong inside `run`.
"""

from __future__ import annotations

import argparse
import os
import sys
import warnings
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module

from cfg_demo import __version__
from cfg_demo.limits import check_options
from cfg_demo.progress import be_quiet
from classifier_free_guidance_pytorch.errors import CFGError

DEMOS = {
    'image': ('image.command', 'draw a text at several guidance scales with the model that comes along'),
    'emoji': ('emoji.command', 'draw an emoji from words that anyone would type'),
    'points': (
        'points.command',
        'train on points of the plane and count what cond_scale does (a minute and a half on two CPU cores)',
    ),
    'distil': ('distil', 'teach a model of points or shapes to guide in one pass, and compare it with two'),
    'front': ('front.command', 'what every rule, schedule and saver gives for its forward passes, and what nothing dominates'),
    'train': ('image.train_command', 'train a small text-to-image model from scratch in about three minutes'),
    'page': ('page.command', 'play with prompts, scales and rules in the browser'),
    'train-on': ('image.train_on_command', 'train a model on the drawn world or on captioned pictures of your own'),
    'sample': ('image.sample_command', 'draw many prompts with a trained model at one scale'),
    'evaluate': ('image.evaluate_command', 'adherence, diversity and fidelity of a model for every rule and scale'),
    'classifier-guidance': ('image.classifier_command', "a classifier's gradient beside classifier-free guidance"),
    'emoji-data': ('emoji.data_command', 'fetch emoji in three styles as captioned pictures'),
    'emoji-evaluate': ('emoji.evaluate_command', 'right, style, diversity and copying of the emoji model, by rule and scale'),
    'train-judge': ('emoji.judge_command', 'train the judge of emoji: which of a thousand names a picture has'),
    'train-english': ('english.command', "distil the library's embedded encoder of English"),
    'train-mini': ('mini.command', "train the library's embedded encoder"),
}

DESCRIPTION = 'Classifier-free guidance, shown: each demo trains or loads a small text-conditioned model and samples it.'
EPILOG = """\
cfg-demo DEMO --help lists the options of a demo. In all of them --steps are sampling steps, and --train-steps training steps.
Progress bars are shown in a terminal only."""


def build_parser(demos: Collection[str] = tuple(DEMOS)) -> argparse.ArgumentParser:
    """Return the parser of `cfg-demo`.

    Args:
        demos: Whose options it knows. Every demo is a subcommand; the others are listed, and not imported.
    """
    layout = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(prog='cfg-demo', description=DESCRIPTION, epilog=EPILOG, formatter_class=layout)
    parser.add_argument('--version', action='version', version=f'%(prog)s {__version__}')
    subcommands = parser.add_subparsers(title='demos', metavar='DEMO', required=True)
    for name, (path, line) in DEMOS.items():
        if name not in demos:
            subcommands.add_parser(name, help=line)
            continue
        demo = import_module(f'cfg_demo.{path}')
        subparser = subcommands.add_parser(name, help=line, description=demo.__doc__, epilog=demo.EPILOG, formatter_class=layout)
        demo.add_arguments(subparser)
        subparser.add_argument('--quiet', action='store_true', help='no progress bars')
        subparser.set_defaults(run=demo.run)
    return parser


@contextmanager
def warnings_as_lines() -> Iterator[None]:
    """Show every warning in one line, without the line of code that it points to."""
    with warnings.catch_warnings():
        warnings.showwarning = lambda message, *_, **__: print(f'cfg-demo: warning: {message}', file=sys.stderr)
        yield


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a demo.

    Args:
        arguments: The command line without the program's name; that of the process by default.

    Returns:
        The exit code: 0, 2 for a user error, 130 when interrupted.
    """
    line = sys.argv[1:] if arguments is None else list(arguments)
    asked = [word for word in line if not word.startswith('-')][:1]
    parsed = build_parser(asked).parse_args(line)
    be_quiet(parsed.quiet)
    if parsed.quiet or not sys.stderr.isatty():
        os.environ.setdefault('HF_HUB_DISABLE_PROGRESS_BARS', '1')  # of transformers too, read when it is imported
    try:
        check_options(parsed)
        with warnings_as_lines():
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
