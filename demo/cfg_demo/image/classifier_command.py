"""A classifier's gradient beside classifier-free guidance, from the same noise, as `cfg_demo.image.classifier` explains.

Trains a small classifier of noisy pictures first, unless --classifier holds one. The exact checker of the drawn world says which
pictures show the one thing that was asked for.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from itertools import cycle, islice, product
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any

from cfg_demo.folders import needs, unused, use_threads, writable_file
from classifier_free_guidance_pytorch.errors import ConfigError

if TYPE_CHECKING:
    from torch import Tensor

    from cfg_demo.image.classifier import NoisyClassifier, Predict
    from cfg_demo.shapes import Verdict

EPILOG = """\
Writes the picture and a table; --classifier is read, or trained and written.

examples:
  cfg-demo classifier-guidance
  cfg-demo classifier-guidance --pictures 200 --out runs/classifier_guidance/more.png
"""
CLASSIFIER_SCALES, FREE_SCALES = (1.0, 3.0, 10.0, 30.0), (1.0, 2.0, 4.0, 7.0)
PARTS = ('holds', 'count', 'colour', 'shape', 'readable')  # of a verdict; the first is the next three at once


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `cfg-demo classifier-guidance`."""
    runs = Path('runs/classifier_guidance')
    parser.add_argument('--model', type=Path, metavar='FILE', help='a flow model of your own instead of the one shipped')
    parser.add_argument(
        '--classifier', type=Path, default=runs / 'classifier.safetensors', metavar='FILE', help='(default: %(default)s)'
    )
    parser.add_argument('--train-steps', type=int, default=1500, metavar='N', help='of the classifier (default: %(default)s)')
    parser.add_argument('--pictures', type=int, default=56, metavar='N', help='for each way (default: %(default)s)')
    parser.add_argument('--steps', type=int, default=25, metavar='N', help='sampling steps (default: %(default)s)')
    parser.add_argument('--seed', type=int, default=0, help='of the classifier and of the first picture (default: %(default)s)')
    parser.add_argument('--threads', type=int, metavar='N', help="CPU threads (default: torch's own choice)")
    parser.add_argument(
        '--out',
        type=Path,
        default=runs / 'picture.png',
        help='the picture (default: %(default)s; a second run writes picture-2.png)',
    )


def run(arguments: argparse.Namespace) -> dict[str, float]:
    """Get the classifier, sample every way from the same noise, print, draw; return the share of right pictures by way."""
    needs('matplotlib', 'the picture is drawn')
    needs('diffusers', 'images are sampled')
    import torch

    from cfg_demo.image.checkpoint import load_model
    from cfg_demo.image.classifier import load_or_train, sample
    from cfg_demo.image.drawing import SHIPPED
    from cfg_demo.shapes import check_all

    if arguments.steps < 1:
        raise ConfigError(f'--steps counts from 1, but got {arguments.steps}')
    use_threads(arguments.threads)
    for path, option in ((arguments.classifier, '--classifier'), (arguments.out, '--out')):
        writable_file(path, option)
    denoiser, settings = load_model(arguments.model or SHIPPED)
    if settings.prediction != 'flow':
        raise ConfigError(
            f'the formula here is that of a flow model, but {str(arguments.model)!r} predicts {settings.prediction!r}: '
            'pass a model that was trained with --prediction flow'
        )
    judge = load_or_train(arguments.classifier, steps=arguments.train_steps, seed=arguments.seed, size=settings.image_size)
    texts, labels = asked(arguments.pictures)
    shape = (3, settings.image_size, settings.image_size)
    seeds = range(arguments.seed, arguments.seed + arguments.pictures)
    noise = torch.stack([torch.randn(shape, generator=torch.Generator().manual_seed(seed)) for seed in seeds])
    drawn = {way: sample(predict, noise, arguments.steps, way) for way, predict in ways(denoiser, judge, texts, labels).items()}
    verdicts = {way: check_all(images, texts) for way, images in drawn.items()}
    print('\n' + as_table(judge, drawn, verdicts, labels))
    picture = unused(arguments.out)
    save_picture(picture, drawn, verdicts, texts[:6])
    print(f'\nPicture: {picture}')
    return {way: share(found, 'holds') for way, found in verdicts.items()}


def asked(count: int) -> tuple[list[str], Tensor]:
    """Texts of one thing each, of pairs seen in training, no pair twice before all were there; and their labels `(count, 3)`."""
    import torch

    from cfg_demo.shapes import HELD_OUT, Scene, Thing, phrase
    from cfg_demo.shapes.words import COLOURS, SHAPES

    colours, shapes = list(COLOURS), list(SHAPES)
    pairs = [pair for pair in product(colours, shapes) if pair not in HELD_OUT]
    wanted = list(islice(cycle(Random(0).sample(pairs, len(pairs))), count))
    texts = [phrase(Scene((Thing(shape, colour),))) for colour, shape in wanted]
    return texts, torch.tensor([[0, colours.index(colour), shapes.index(shape)] for colour, shape in wanted])


def ways(denoiser: Any, judge: NoisyClassifier, texts: Sequence[str], labels: Tensor) -> dict[str, Predict]:
    """Every way to predict, by its name."""
    from cfg_demo.image.classifier import classifier_free, classifier_guided

    found = {'unconditional': classifier_free(denoiser, texts, 0.0)}
    found |= {f'classifier, s = {scale:g}': classifier_guided(denoiser, judge, labels, scale) for scale in CLASSIFIER_SCALES}
    return found | {f'classifier-free, s = {scale:g}': classifier_free(denoiser, texts, scale) for scale in FREE_SCALES}


def share(found: Sequence[Verdict], part: str) -> float:
    """The share of pictures of which a part holds."""
    return sum(bool(getattr(verdict, part)) for verdict in found) / len(found)


def as_table(judge: NoisyClassifier, drawn: dict[str, Tensor], verdicts: dict[str, list[Verdict]], labels: Tensor) -> str:
    """A line for every way: what holds of its pictures, and what the classifier believes of them."""
    lines = [f'{"":24}' + ''.join(f'{part:>11}' for part in PARTS) + '   p(y) by the classifier']
    for way, found in verdicts.items():
        clean = labels.new_zeros(len(labels)).float()
        belief = judge.log_likelihood(drawn[way] * 2 - 1, clean, labels).exp().mean().item()
        shares = [*(share(found, part) for part in PARTS), belief]
        lines.append(f'{way:24}' + ''.join(f'{one:11.1%}' for one in shares))
    return '\n'.join(lines)


def save_picture(path: Path, drawn: dict[str, Tensor], verdicts: dict[str, list[Verdict]], texts: Sequence[str]) -> None:
    """A row per text, a column per way; the frame tells whether a picture shows all that was asked for and nothing else."""
    from matplotlib.figure import Figure

    from cfg_demo.image.grid import FAILS, HOLDS, INK, TILE, show

    figure = Figure((TILE * len(drawn) + 1.2, TILE * len(texts) + 0.8), dpi=80, facecolor='white', layout='constrained')
    axes = figure.subplots(len(texts), len(drawn), squeeze=False)
    for column, (way, found) in zip(axes.T, verdicts.items(), strict=True):
        column[0].set_title(way.replace(', ', '\n') + f'\n{share(found, "holds"):.0%} right', color=INK, fontsize=9)
        for cell, image, verdict in zip(column, drawn[way], found, strict=False):
            show(cell, image, HOLDS if verdict.holds else FAILS)
    for cell, text in zip(axes[:, 0], texts, strict=True):
        cell.set_ylabel(text.replace(' ', '\n'), color=INK, fontsize=9, rotation=0, ha='right', va='center')
    figure.savefig(path)
