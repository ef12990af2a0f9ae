"""Draw texts with a trained network, guided: one picture each, or several.

The network predicts twice, once with the text and once with the null condition, and is followed where the two disagree:

    guided = null + cond_scale * (cond - null)

A scale of 1 is the plain conditional prediction, 0 ignores the text, and larger ones insist. What the texts mean to the network
is computed once for all steps (`model.prepare`), and diffusers' scheduler decides how far to go with each prediction.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from cfg_demo.folders import needs, unused, use_threads, writable
from cfg_demo.image.command import RULES, warn_of_other_worlds
from classifier_free_guidance_pytorch.errors import ConfigError

if TYPE_CHECKING:
    from torch import Tensor

EPILOG = """\
Writes to --out: grid.png, and every picture in its own size as 0000.png, 0001.png, ...; a second run writes grid-2.png and
0000-2.png, 0001-2.png, ...

examples:
  cfg-demo sample "a red circle above a blue square" --cond-scale 4
  cfg-demo sample --model runs/mine/model.safetensors --prompts prompts.txt --guidance apg
"""


def run(arguments: argparse.Namespace) -> Tensor:
    """Draw, save, and return the images `(prompts * count, 3, s, s)` from 0 to 1."""
    needs('matplotlib', 'the grid is drawn')
    needs('diffusers', 'images are sampled')
    from cfg_demo.image.checkpoint import load_model
    from cfg_demo.image.drawing import SHIPPED, Request, sample_guided
    from cfg_demo.image.grid import save_samples

    if arguments.count < 1:
        raise ConfigError(f'--count counts images of a prompt from 1, but got {arguments.count}')
    texts = [text for text in read_prompts(arguments) for _ in range(arguments.count)]
    request = Request(
        texts[0],
        negative=arguments.negative,
        scales=(arguments.cond_scale,),
        rule=arguments.guidance,
        seeds=range(arguments.seed, arguments.seed + len(texts)),
        steps=arguments.steps,
        sampler=arguments.sampler,
    )
    folder = writable(arguments.out)
    use_threads(arguments.threads)
    warn_of_other_worlds((*texts, arguments.negative), arguments.model)
    model, settings = load_model(arguments.model or SHIPPED, arguments.device)
    images = sample_guided(model, settings, texts, request, arguments.cond_scale).cpu()
    title = f'{arguments.guidance}, scale {arguments.cond_scale:g}, seeds from {arguments.seed}'
    grid = unused(folder / 'grid.png')
    save_samples(grid, images, texts, title)
    save_each(folder, images, ending=grid.stem.removeprefix('grid'))
    print(f'Grid: {grid}')
    return images


def read_prompts(arguments: argparse.Namespace) -> list[str]:
    """The prompts of the command line and of the file, in this order."""
    texts = list(arguments.prompt)
    if arguments.prompts is not None:
        if not arguments.prompts.is_file():
            raise ConfigError(
                f'there is no file {str(arguments.prompts)!r}: pass a text file with one prompt a line as --prompts'
            )
        try:
            lines = arguments.prompts.read_text(encoding='utf-8').splitlines()
        except UnicodeDecodeError as error:
            raise ConfigError(
                f'{str(arguments.prompts)!r} is not text in UTF-8 ({error.reason}): pass one prompt a line'
            ) from error
        texts += [line.strip() for line in lines if line.strip()]
    if not texts:
        raise ConfigError('nothing to draw: pass one or more prompts, or --prompts FILE with one a line')
    if not all(text.strip() for text in texts):
        raise ConfigError('a prompt is empty: say what to draw in each')
    return texts


def save_each(folder: Path, images: Tensor, ending: str = '') -> None:
    """Every image as a PNG of its own size: `0000.png`, `0001.png`, ..., the ending behind the number."""
    from PIL import Image

    for number, image in enumerate((images * 255).round().byte()):
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(folder / f'{number:04d}{ending}.png')


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `cfg-demo sample`."""
    parser.add_argument('prompt', nargs='*', help='what to draw')
    parser.add_argument('--prompts', type=Path, metavar='FILE', help='a text file with one prompt a line')
    parser.add_argument('--count', type=int, default=4, metavar='N', help='images per prompt (default: %(default)s)')
    parser.add_argument('--negative', metavar='TEXT', help='a text to steer away from')
    parser.add_argument('--cond-scale', type=float, default=3.0, metavar='S', help='guidance scale (default: %(default)s)')
    parser.add_argument('--guidance', choices=RULES, default='cfg', help='guidance rule (default: %(default)s)')
    parser.add_argument('--sampler', help='euler or dpm++ for flow; ddim, ddpm or dpm++ for v and epsilon')
    parser.add_argument('--steps', type=int, default=25, metavar='N', help='sampling steps (default: %(default)s)')
    parser.add_argument('--model', type=Path, metavar='FILE', help='a model.safetensors of your own instead of the one shipped')
    parser.add_argument('--device', default='cpu', help='where to draw (default: %(default)s)')
    parser.add_argument('--threads', type=int, metavar='N', help="CPU threads (default: torch's own choice)")
    parser.add_argument('--seed', type=int, default=0, help='of the first picture; the others count on (default: %(default)s)')
    parser.add_argument('--out', type=Path, default=Path('runs/sample'), help='folder for the images (default: %(default)s)')
