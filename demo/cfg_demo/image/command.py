"""Draw a text with the model that comes with the package, at several guidance scales.

Columns of the picture are guidance scales, rows are seeds: 0 ignores the text, 1 follows it as training did, higher scales
insist. The model knows captions of one to three coloured shapes and nothing else.
"""

from __future__ import annotations

import argparse
import re
import sys
import warnings
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from cfg_demo.folders import needs, unused, use_threads, writable

if TYPE_CHECKING:
    from cfg_demo.image.drawing import Drawing, Request

PROMPT = 'a green triangle left of a red circle'
EPILOG = """\
examples:
  cfg-demo image                                            draws the prompt of the README
  cfg-demo image "three yellow stars on a navy background" --scales 1 3 5
  cfg-demo image "a red circle" --negative "a red circle at the top" --guidance apg
  cfg-demo image "a blue heart" --model runs/mine/model.safetensors

words it knows: red orange yellow green cyan blue purple pink; circle square triangle star cross ring heart diamond; small
medium large; one two three; above, below, left of, right of; at the top, in the middle, in the top left corner, ...; on a
dark, light, gray or navy background; and many synonyms of these.
"""
RULES = ('cfg', 'rescale', 'renorm', 'apg', 'interval', 'fdg', 'cfg-zero-star', 'tcfg', 'raag', 'pag', 'nag')
NOT_CHECKED = 'The prompt is not of the drawn world, so the pictures were not checked; look at them.'


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `cfg-demo image`."""
    parser.add_argument('prompt', nargs='?', default=PROMPT, help='what to draw (default: "%(default)s")')
    add_drawing_arguments(parser)
    parser.add_argument('--negative', metavar='TEXT', help='a text to steer away from')
    parser.add_argument('--model', type=Path, metavar='FILE', help='a model.safetensors of your own instead of the one shipped')
    parser.add_argument('--device', default='cpu', help='where to draw (default: %(default)s)')
    parser.add_argument('--threads', type=int, metavar='N', help="CPU threads (default: torch's own choice)")
    parser.add_argument('--out', type=Path, default=Path('runs/image'), help='folder for the picture (default: %(default)s)')


def add_drawing_arguments(
    parser: argparse.ArgumentParser, scales: Sequence[float] = (0.0, 1.0, 2.0, 4.0, 7.0), steps: int = 25
) -> None:
    """How to guide and sample, with these defaults: what every command that draws has in common."""
    shown = ' '.join(f'{scale:g}' for scale in scales)
    parser.add_argument(
        '--scales', type=float, nargs='+', default=tuple(scales), metavar='S',
        help=f'guidance scales, one column each; 1 is off (default: {shown})',
    )  # fmt: skip
    parser.add_argument('--guidance', choices=RULES, default='cfg', help='guidance rule (default: %(default)s)')
    parser.add_argument('--steps', type=int, default=steps, metavar='N', help='sampling steps (default: %(default)s)')
    parser.add_argument('--sampler', choices=('euler', 'ddim', 'ddpm', 'dpm++'), help='(default: the first that fits the model)')
    parser.add_argument('--seed', type=int, default=0, help='of the first row; the others count on (default: %(default)s)')
    parser.add_argument('--seeds', type=int, default=4, metavar='N', help='rows (default: %(default)s)')


def run(arguments: argparse.Namespace) -> None:
    """Run the command; all that can be refused is refused before anything is drawn."""
    needs('matplotlib', 'the picture is drawn')
    needs('diffusers', 'images are sampled')
    from cfg_demo.image.checkpoint import load_model
    from cfg_demo.image.drawing import draw, load_shipped
    from cfg_demo.image.grid import save_grid

    request = asked_for(arguments, arguments.prompt, arguments.negative)
    folder = writable(arguments.out)
    use_threads(arguments.threads)
    warn_of_other_worlds((arguments.prompt, arguments.negative), arguments.model)
    model, settings = load_model(arguments.model, arguments.device) if arguments.model else load_shipped(arguments.device)
    drawing = draw(model, settings, request)
    picture = unused(folder / 'image.png')
    save_grid(picture, drawing)
    print(f'\n{as_table(drawing)}\n\nPicture: {picture}')


def asked_for(arguments: argparse.Namespace, prompt: str, negative: str | None = None) -> Request:
    """What the options of `add_drawing_arguments` ask for."""
    from cfg_demo.image.drawing import Request

    return Request(
        prompt,
        negative=negative,
        scales=tuple(arguments.scales),
        rule=arguments.guidance,
        seeds=tuple(range(arguments.seed, arguments.seed + arguments.seeds)),
        steps=arguments.steps,
        sampler=arguments.sampler,
    )


def warn_of_other_worlds(texts: Iterable[str | None], own_model: Path | None = None) -> None:
    """Say, before anything is drawn, which words a model of the drawn world cannot know.

    Args:
        texts: Prompts and negatives; a text that comes again is named once.
        own_model: A model of the user's own, which may know other words: nothing is said then.
    """
    from cfg_demo.shapes import vocabulary

    if own_model:
        return
    known = set(vocabulary())
    for text in dict.fromkeys(filter(None, texts)):
        unknown = [word for word in re.findall(r"[\w'-]+", text.lower()) if word not in known]
        if unknown:
            words = ', '.join(map(repr, unknown))
            print(
                f'cfg-demo: warning: the model does not know {words} of {text!r}, and draws what it makes of the rest: it knows '
                'captions of one to three coloured shapes (cfg-demo image --help lists the words)',
                file=sys.stderr,
            )
    warnings.filterwarnings('ignore', "the encoder 'mini' does not know")  # it has been said, with the way out


def as_table(drawing: Drawing) -> str:
    """`as_rows` as text."""
    lines = as_rows(drawing)
    if not lines:
        return NOT_CHECKED
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    return '\n'.join('  '.join(cell.rjust(width) for cell, width in zip(line, widths, strict=True)) for line in lines)


def as_rows(drawing: Drawing) -> list[list[str]]:
    """For each scale the share of pictures of which the prompt holds, whole and by part, below a header; none if unchecked."""
    if drawing.verdicts is None:
        return []
    parts = list(drawing.verdicts[0][0].parts) or list(drawing.verdicts[-1][-1].parts)
    lines = [['scale', 'all', *parts, 'readable']]
    for scale, row in zip(drawing.request.scales, drawing.verdicts, strict=True):
        shares = [_share([v.holds for v in row]), *(_share([v.parts.get(p, False) for v in row]) for p in parts)]
        lines.append([f'{scale:g}', *shares, _share([v.readable for v in row])])
    return lines


def _share(held: Sequence[bool]) -> str:
    return f'{sum(held)}/{len(held)}'
