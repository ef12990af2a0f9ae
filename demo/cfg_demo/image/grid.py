"""Pictures of pictures: a grid of a drawing, seeds by scales, and one of samples made while a model trains."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

from torch import Tensor

from cfg_demo.image.drawing import Drawing

INK, FAINT, HOLDS, FAILS = '#26323f', '#8a96a3', '#2a9d5c', '#e4572e'
TILE = 1.35  # inches
MARKERS = 'osD^v<>PXp*h'  # more of them than the default cycle has colours


def save_grid(path: Path | BinaryIO, drawing: Drawing) -> None:
    """Write a PNG: a column per guidance scale, a row per seed; a frame tells whether the whole prompt holds."""
    request = drawing.request
    rows, columns = len(request.seeds), len(request.scales)
    figure = new_figure(columns * TILE + 0.9, rows * TILE + 1.5)
    cells = figure.subplots(rows, columns, squeeze=False)
    for column, scale in enumerate(request.scales):
        for row, seed in enumerate(request.seeds):
            held = None if drawing.verdicts is None else drawing.verdicts[column][row].holds
            show(cells[row][column], drawing.images[column, row], FAINT if held is None else HOLDS if held else FAILS)
            if column == 0:
                cells[row][0].set_ylabel(f'seed {seed}', color=INK, fontsize=9)
        share = drawing.share(column)
        right = '' if share is None else f'\n{share:.0%} right'
        cells[0][column].set_title(f'scale {scale:g}{right}', color=INK, fontsize=10)
    words = textwrap.fill(f'"{request.prompt}"', max(24, columns * 14))
    if request.negative:
        words += '\n' + textwrap.fill(f'not "{request.negative}"', max(24, columns * 14))
    figure.suptitle(words, color=INK, fontsize=12, fontweight='bold', parse_math=False)
    figure.savefig(path)


def save_columns(path: Path, columns: Mapping[str, tuple[Tensor, Tensor]], rows: Sequence[tuple[int, str]]) -> None:
    """Write a PNG of several models or scales side by side; a frame tells whether the whole caption holds.

    Args:
        path: of the picture.
        columns: by their titles, images `(b, 3, s, s)` from 0 to 1, and which of them hold `(b,)`.
        rows: which images are shown, and their captions.
    """
    figure = new_figure(len(columns) * TILE + 1.6, len(rows) * TILE + 0.8)
    cells = figure.subplots(len(rows), len(columns), squeeze=False)
    for line, (index, caption) in zip(cells, rows, strict=True):
        for cell, (images, holds) in zip(line, columns.values(), strict=True):
            show(cell, images[index], HOLDS if holds[index] else FAILS)
        words = textwrap.fill(caption, 22)
        line[0].set_ylabel(words, color=INK, fontsize=7, rotation=0, ha='right', va='center', parse_math=False)
    for cell, title in zip(cells[0], columns, strict=True):
        cell.set_title(title, color=INK, fontsize=9)
    figure.savefig(path)


def save_samples(path: Path, images: Tensor, captions: Sequence[str], title: str, columns: int = 8) -> None:
    """Write a PNG of images `(b, 3, s, s)` from 0 to 1 with their captions below."""
    rows = -(-len(images) // columns)
    figure = new_figure(columns * TILE, rows * (TILE + 0.4) + 0.5)
    cells = figure.subplots(rows, columns, squeeze=False).flat
    for cell, image, caption in zip(cells, images, captions, strict=False):
        show(cell, image, FAINT)
        cell.set_xlabel(textwrap.fill(caption, 20), color=INK, fontsize=6, parse_math=False)
    for cell in list(cells)[len(images) :]:
        cell.axis('off')
    figure.suptitle(title, color=INK, fontsize=11)
    figure.savefig(path)


def save_curve(path: Path, losses: Sequence[float], window: int = 50) -> None:
    """Write a PNG of the losses of a run, averaged over `window` steps."""
    parts = [losses[start : start + window] for start in range(0, len(losses), window)]
    figure = new_figure(6.0, 3.5)
    axis = figure.subplots()
    axis.semilogy([window * (number + 0.5) for number in range(len(parts))], [sum(p) / len(p) for p in parts], color='#1f6f8b')
    axis.set(xlabel='step', ylabel=f'loss, mean of {window} steps')
    axis.grid(alpha=0.3, which='both')
    figure.savefig(path)


def save_tradeoff(path: Path, scores: Sequence[Mapping[str, Any]]) -> None:
    """Write a PNG of adherence against diversity and against fidelity: plain guidance as a line over its scales, other rules as
    points."""
    figure = new_figure(11.0, 5.0)
    measures = {'diversity': 'diversity (more is better)', 'fidelity': 'distance to real pictures (less is better)'}
    for axis, (measured, words) in zip(figure.subplots(1, 2), measures.items(), strict=True):
        for number, rule in enumerate(dict.fromkeys(one['rule'] for one in scores)):
            own = sorted((one for one in scores if one['rule'] == rule), key=lambda one: one['scale'])
            x, y = [one[measured] for one in own], [100 * one['whole']['all']['share'] for one in own]
            at = ', '.join(f'{one["scale"]:g}' for one in own) if len(own) < 3 else 'the scales in the plot'
            axis.plot(x, y, MARKERS[number % len(MARKERS)], label=f'{rule} at {at}', linestyle='-', linewidth=1.5)
            for one, at_x, at_y in zip(own, x, y, strict=True):
                if len(own) > 2:
                    axis.annotate(f'{one["scale"]:g}', (at_x, at_y), fontsize=8, xytext=(4, 4), textcoords='offset points')
        axis.set(xlabel=words, ylabel='whole caption right, %')
        axis.grid(alpha=0.3)
    axis.legend(fontsize=8)
    figure.savefig(path)


def show(cell: Any, image: Tensor, frame: str) -> None:
    """An image `(3, s, s)` in an axis without ticks, its pixels sharp, in a coloured frame."""
    cell.imshow(image.permute(1, 2, 0).cpu().numpy(), interpolation='nearest')
    cell.set(xticks=[], yticks=[])
    for spine in cell.spines.values():
        spine.set(color=frame, linewidth=2.0)


def new_figure(width: float, height: float) -> Any:
    """Return an empty figure of that many inches."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), dpi=110, facecolor='white', layout='constrained')
