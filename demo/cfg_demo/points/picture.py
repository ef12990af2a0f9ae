"""The picture: rows are prompts, columns are guidance scales, and two curves sum them up."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from os import PathLike
from typing import Any

import torch
from torch import Tensor

from cfg_demo.points import world
from cfg_demo.points.measure import Prompt, Scores

INK, FAINT, SHAPE = '#26323f', '#8a96a3', '#e3e9ef'
HOLDS, FAILS = '#1f6f8b', '#e4572e'
COLOURS = {'seen': '#1f6f8b', 'held_out': '#e09f3e'}
NAMES = {'seen': 'seen in training', 'held_out': 'held out'}

# The rows: shapes that look different from one another, three seen in training and three new combinations.
SHOWN = {'seen': ('star', 'wave', 'square'), 'held_out': ('zigzag', 'right moon', 'right spiral')}
TILE, MARGIN = 1.15, 2.05  # inches: the side of a tile, and the room for words on the left


def shown(prompts: Sequence[Prompt]) -> list[int]:
    """The prompts in the picture: of each shape of `SHOWN` the first that is large, drawn with the thick pen where it has one."""
    chosen = []
    for split, shapes in SHOWN.items():
        for shape in shapes:
            fitting = [i for i, p in enumerate(prompts) if p.scene.shape == shape and p.split == split]
            chosen.append(max(fitting, key=lambda i: (prompts[i].scene.size == 'large', prompts[i].scene.pen == 'thick')))
    return chosen


def save_picture(path: str | PathLike[str], scores: Scores, clouds: Mapping[float, Tensor]) -> None:
    """Draw the scores and the clouds they were computed from, and write a PNG."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    rows = shown(scores.prompts)
    columns = 1 + len(scores.scales)
    width = MARGIN + TILE * columns
    with rc_context({'font.family': 'DejaVu Sans', 'text.color': INK, 'axes.edgecolor': FAINT, 'axes.labelcolor': INK}):
        figure = Figure(figsize=(width, TILE * len(rows) + 3.9), dpi=120, facecolor='white')
        halves: Any = figure.subfigures(2, 1, height_ratios=(TILE * len(rows) + 1.1, 2.8))
        tiles, curves = halves
        _draw_tiles(tiles, rows, columns, scores, clouds, left=MARGIN / width)
        _draw_curves(curves, scores)
        tiles.suptitle('What cond_scale does to points drawn from a text', x=0.5, y=0.985, fontsize=14, fontweight='bold')
        for x, words, colour in (
            (0.34, '● satisfies the prompt', HOLDS),
            (0.52, '● does not', FAILS),
            (0.66, '■ the described shape', '#b9c4cf'),
        ):
            tiles.text(x, 0.938, words, ha='center', fontsize=10, color=colour)
        figure.savefig(path)


def save_pair(path: str | PathLike[str], models: Mapping[str, tuple[Scores, Mapping[float, Tensor]]]) -> None:
    """Draw what several models made of the same prompts, side by side at equal scales, and write a PNG."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    scores = next(iter(models.values()))[0]
    rows, columns = shown(scores.prompts), len(scores.scales) * len(models)
    width, height = MARGIN + TILE * columns, TILE * len(rows) + 1
    with rc_context({'font.family': 'DejaVu Sans', 'text.color': INK}):
        figure = Figure(figsize=(width, height), dpi=120, facecolor='white')
        grid = {'left': MARGIN / width, 'right': 0.995, 'top': 1 - 0.9 / height, 'bottom': 0.01, 'wspace': 0.04, 'hspace': 0.04}
        axes = figure.subplots(len(rows), columns, squeeze=False, gridspec_kw=grid)
        for line, index in zip(axes, rows, strict=True):
            prompt, shape = scores.prompts[index], _described(scores.prompts[index])
            drawn = [clouds[scale][index] for scale in scores.scales for _, clouds in models.values()]
            for axis, points in zip(line, drawn, strict=True):
                _draw_tile(axis, prompt, points, shape, label=True)
            words = '\n'.join(textwrap.wrap(f'“{prompt.text}”', 22))
            line[0].text(-0.08, 0.5, words, va='center', ha='right', fontsize=9.5, transform=line[0].transAxes)
        titles = [(scale, name) for scale in scores.scales for name in models]
        for axis, (scale, name) in zip(axes[0], titles, strict=True):
            axis.set_title(f'cond_scale {scale:g}\n{name}', fontsize=9)
        figure.savefig(path)


def _draw_tiles(
    figure: Any, rows: Sequence[int], columns: int, scores: Scores, clouds: Mapping[float, Tensor], left: float
) -> None:
    """One tile per prompt and scale, and a column of true points before them."""
    grid = {'left': left, 'right': 0.995, 'top': 0.862, 'bottom': 0.01, 'wspace': 0.04, 'hspace': 0.04}
    axes = figure.subplots(len(rows), columns, squeeze=False, gridspec_kw=grid)
    for line, index in zip(axes, rows, strict=True):
        prompt, shape = scores.prompts[index], _described(scores.prompts[index])
        count = len(next(iter(clouds.values()))[index])
        true = world.sample([prompt.scene], count, generator=torch.Generator().manual_seed(0))[0]
        _draw_tile(line[0], prompt, true, shape, label=False)
        for axis, scale in zip(line[1:], scores.scales, strict=True):
            _draw_tile(axis, prompt, clouds[scale][index], shape, label=True)
        words = '\n'.join(textwrap.wrap(f'“{prompt.text}”', 22))
        beside = {'transform': line[0].transAxes, 'ha': 'right'}
        line[0].text(-0.08, 0.56, words, va='center', fontsize=9.5, **beside)
        line[0].text(-0.08, 0.06, NAMES[prompt.split], fontsize=8.5, color=COLOURS[prompt.split], **beside)
    axes[0][0].set_title('true points', fontsize=10, color=FAINT, pad=16)
    for axis, scale in zip(axes[0][1:], scores.scales, strict=True):
        axis.set_title(f'cond_scale {scale:g}', fontsize=9, fontweight='bold', pad=16)
        note = {0.0: 'text ignored', 1.0: 'guidance off'}.get(scale, '')
        axis.text(0.5, 1.04, note, transform=axis.transAxes, ha='center', fontsize=8.5, color=FAINT)


def _draw_tile(axis: Any, prompt: Prompt, points: Tensor, plane: Any, *, label: bool) -> None:
    """One cloud over the shape that its prompt describes, coloured by whether each point lies in it."""
    axis.contourf(*plane, levels=[0.5, 1.5], colors=[SHAPE])
    holds = world.satisfies(prompt.scene, points)
    for mask, colour in ((holds, HOLDS), (~holds, FAILS)):
        axis.scatter(*points[mask].T, s=5, color=colour, linewidths=0, alpha=0.85)
    if label:
        axis.text(0.96, 0.04, f'{100 * holds.float().mean():.0f}%', transform=axis.transAxes, ha='right', fontsize=9, color=INK)
    axis.set(xlim=(-world.EXTENT, world.EXTENT), ylim=(-world.EXTENT, world.EXTENT), xticks=[], yticks=[], aspect='equal')
    for spine in axis.spines.values():
        spine.set_color('#d5dbe1')


def _described(prompt: Prompt, resolution: int = 160) -> tuple[Tensor, Tensor, Tensor]:
    """The described shape as an image: the coordinates of its columns and rows, and 1 where a point would satisfy the prompt."""
    line = torch.linspace(-world.EXTENT, world.EXTENT, resolution)
    plane = torch.stack(torch.meshgrid(line, line, indexing='xy'), dim=-1)
    return line, line, world.satisfies(prompt.scene, plane.reshape(-1, 2)).reshape(resolution, resolution).float()


def _draw_curves(figure: Any, scores: Scores) -> None:
    """Adherence and coverage against the scale, with 95% bands."""
    left, right = figure.subplots(1, 2, gridspec_kw={'left': 0.075, 'right': 0.98, 'top': 0.86, 'bottom': 0.19, 'wspace': 0.2})
    order = sorted(scores.scales)
    for axis, what in ((left, 'adherence'), (right, 'coverage')):
        for split, colour in COLOURS.items():
            estimates = [scores.estimate(what, split, scale) for scale in order]
            axis.fill_between(
                order, [100 * e.low for e in estimates], [100 * e.high for e in estimates], color=colour, alpha=0.15, lw=0
            )
            axis.plot(order, [100 * e.mean for e in estimates], 'o-', color=colour, ms=4, lw=1.8, label=NAMES[split])
        axis.set(ylim=(0, 100), xticks=order, xlabel='cond_scale')
        axis.set_xticklabels([f'{scale:g}' for scale in order])
        axis.tick_params(labelsize=9, colors=INK)
        axis.grid(axis='y', color='#eceff2')
        axis.set_axisbelow(True)
        axis.spines[['top', 'right']].set_visible(False)
    left.set_title('points that satisfy their prompt (%)', fontsize=11, loc='left')
    right.set_title('share of the described shape that is filled (%)', fontsize=11, loc='left')
    left.legend(frameon=False, fontsize=9.5, loc='lower right')
