"""Draw an emoji from words that anyone would type, in one of three styles, at several guidance scales.

Columns of the picture are guidance scales, rows are seeds: 0 ignores the words, 1 follows them as training did, higher scales
insist. The model ships with this demo and learned from emoji whose licences allow it; see `emoji/weights/README.md`.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from cfg_demo.emoji import STYLE_NAMES
from cfg_demo.folders import needs, unused, use_threads, writable
from cfg_demo.image.command import RULES

PROMPT = 'a cat with heart eyes'
EPILOG = """\
examples:
  cfg-demo emoji
  cfg-demo emoji "an automobile" --style fluent --scales 1 3 5
  cfg-demo emoji "a red apple" --style noto --negative "a green apple" --guidance apg

styles: noto (Google), twemoji (Twitter), fluent (Microsoft); --style any leaves it to the model.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `cfg-demo emoji`."""
    parser.add_argument('prompt', nargs='?', default=PROMPT, help='what to draw, in English (default: "%(default)s")')
    parser.add_argument('--style', default='noto', help=f'{", ".join(STYLE_NAMES)} or any (default: %(default)s)')
    parser.add_argument(
        '--scales', type=float, nargs='+', default=(1.0, 2.0, 3.0, 5.0, 8.0), metavar='S',
        help='guidance scales, one column each; 1 is off (default: 1 2 3 5 8)',
    )  # fmt: skip
    parser.add_argument('--guidance', choices=RULES, default='cfg', help='guidance rule (default: %(default)s)')
    parser.add_argument('--steps', type=int, default=20, metavar='N', help='sampling steps (default: %(default)s)')
    parser.add_argument('--sampler', choices=('euler', 'ddim', 'ddpm', 'dpm++'), help='(default: the first that fits the model)')
    parser.add_argument('--seed', type=int, default=0, help='of the first row; the others count on (default: %(default)s)')
    parser.add_argument('--seeds', type=int, default=4, metavar='N', help='rows (default: %(default)s)')
    parser.add_argument('--negative', metavar='TEXT', help='words to steer away from')
    parser.add_argument('--model', type=Path, metavar='FILE', help='a model.safetensors of your own instead of the one shipped')
    parser.add_argument('--device', default='cpu', help='where to draw (default: %(default)s)')
    parser.add_argument('--threads', type=int, metavar='N', help="CPU threads (default: torch's own choice)")
    parser.add_argument('--out', type=Path, default=Path('runs/emoji'), help='folder for the picture (default: %(default)s)')


def run(arguments: argparse.Namespace) -> None:
    """Run the command; all that can be refused is refused before anything is drawn."""
    needs('matplotlib', 'the picture is drawn')
    needs('diffusers', 'images are sampled')
    from cfg_demo.emoji.captions import with_style
    from cfg_demo.emoji.drawing import SHIPPED, check_style, tell_what_is_seen, warn_of_other_languages
    from cfg_demo.image.checkpoint import load_model
    from cfg_demo.image.drawing import Request, draw
    from cfg_demo.image.grid import save_grid

    style = check_style(arguments.style)
    request = Request(
        with_style(arguments.prompt.strip(), style) if arguments.prompt.strip() else '',
        negative=arguments.negative,
        scales=tuple(arguments.scales),
        rule=arguments.guidance,
        seeds=tuple(range(arguments.seed, arguments.seed + arguments.seeds)),
        steps=arguments.steps,
        sampler=arguments.sampler,
    )
    folder = writable(arguments.out)
    use_threads(arguments.threads)
    for text in filter(None, (arguments.prompt, arguments.negative)):
        warn_of_other_languages(text)
    model, settings = load_model(arguments.model or SHIPPED, arguments.device)
    drawing = draw(model, settings, request)
    picture = unused(folder / 'emoji.png')
    save_grid(picture, drawing)
    print(f'\n{tell_what_is_seen(drawing)}\n\nPicture: {picture}')
