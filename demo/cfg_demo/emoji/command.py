"""Draw an emoji from words that anyone would type, in one of three styles, at several guidance scales.

Columns of the picture are guidance scales, rows are seeds: 0 ignores the words, 1 follows them as training did, higher scales
insist. A judge that was trained on real emoji says what it sees. The model is small; `docs/emoji.md` says how it was made.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from cfg_demo.emoji import STYLE_NAMES
from cfg_demo.folders import needs, unused, use_threads, writable
from cfg_demo.image.command import add_drawing_arguments, asked_for

PROMPT = 'a cat with heart eyes'
EPILOG = """\
examples:
  cfg-demo emoji "an automobile" --style twemoji
  cfg-demo emoji "a red apple" --negative "a green apple" --guidance apg --scales 1 3 5
  cfg-demo emoji "a grinning face" --model runs/emoji/model.safetensors --style fluent

styles: noto (Google), twemoji (Twitter), fluent (Microsoft); --style any leaves it to the model.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `cfg-demo emoji`."""
    parser.add_argument('prompt', nargs='?', default=PROMPT, help='what to draw, in English (default: "%(default)s")')
    parser.add_argument('--style', default='noto', help=f'{", ".join(STYLE_NAMES)} or any (default: %(default)s)')
    add_drawing_arguments(parser, scales=(1.0, 2.0, 3.0, 5.0, 8.0), steps=20)
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
    from cfg_demo.emoji.drawing import SHIPPED, check_style, load, tell_what_is_seen, warn_of_other_languages
    from cfg_demo.image.drawing import draw
    from cfg_demo.image.grid import save_grid

    style = check_style(arguments.style)
    prompt = arguments.prompt.strip()
    request = asked_for(arguments, prompt and with_style(prompt, style), arguments.negative)
    folder = writable(arguments.out)
    use_threads(arguments.threads)
    for text in filter(None, (arguments.prompt, arguments.negative)):
        warn_of_other_languages(text)
    model, settings = load(arguments.model or SHIPPED, arguments.device)
    drawing = draw(model, settings, request, checked=False)
    picture = unused(folder / 'emoji.png')
    save_grid(picture, drawing)
    print(f'\n{tell_what_is_seen(drawing)}\n\nPicture: {picture}')
