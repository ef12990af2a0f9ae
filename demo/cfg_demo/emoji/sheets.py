"""Pictures of an evaluation: rows of what was drawn, and scores over scales."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cfg_demo.emoji.judge import Judge
from cfg_demo.emoji.prompts import GROUPS, Prompts
from cfg_demo.emoji.reading import Pictures
from cfg_demo.image.grid import FAINT, INK, MARKERS, TILE, new_figure, show

COLUMNS = 10


@torch.no_grad()
def save_rows(path: Path, images: Tensor, prompts: Prompts, judge: Judge, title: str) -> None:
    """Write a PNG of six rows: the first pictures of each group, then the best and the worst, as the judge sees it.

    Args:
        path: Where.
        images: `(n, 3, s, s)` from 0 to 1, of the prompts.
        prompts: What they should show.
        judge: Trained.
        title: Above all.
    """
    names, _ = judge(images)
    fit = names.log_softmax(1)[torch.arange(len(images)), prompts.concept]
    rows = {group: [at for at, own in enumerate(prompts.groups) if own == group][:COLUMNS] for group in GROUPS}
    order = fit.argsort(descending=True).tolist()
    rows |= {'best': order[:COLUMNS], 'worst': order[::-1][:COLUMNS]}
    figure = new_figure(COLUMNS * TILE + 0.8, len(rows) * (TILE + 0.45) + 0.5)
    cells = figure.subplots(len(rows), COLUMNS, squeeze=False)
    for line, (name, places) in zip(cells, rows.items(), strict=True):
        line[0].set_ylabel(name, color=INK, fontsize=9)
        for cell, place in zip(line, places, strict=False):
            show(cell, images[place], FAINT)
            cell.set_xlabel(textwrap.fill(prompts.texts[place], 22), color=INK, fontsize=6, parse_math=False)
        for cell in line[len(places) :]:
            cell.set(xticks=[], yticks=[], frame_on=False)
    figure.suptitle(title, color=INK, fontsize=11)
    figure.savefig(path)


def save_pictures(path: Path, pictures: Pictures, seed: int = 0) -> None:
    """Write a PNG of some concepts, a column each, in every style that there is of them."""
    generator = torch.Generator().manual_seed(seed)
    chosen = torch.randperm(len(pictures.concepts), generator=generator)[:COLUMNS].tolist()
    figure = new_figure(COLUMNS * TILE + 0.8, len(pictures.styles) * TILE + 0.9)
    cells = figure.subplots(len(pictures.styles), COLUMNS, squeeze=False)
    for cell in cells.flat:
        cell.set(xticks=[], yticks=[], frame_on=False)
    for row, style in enumerate(pictures.styles):
        cells[row][0].set_ylabel(style, color=INK, fontsize=9)
        for column, concept in enumerate(chosen):
            of_both = ((pictures.concept == concept) & (pictures.style == row)).nonzero().flatten()
            if len(of_both):
                cells[row][column].set_frame_on(True)
                show(cells[row][column], pictures.floats(of_both)[0], FAINT)
    for column, concept in enumerate(chosen):
        name = textwrap.fill(pictures.concepts[concept].name, 22)
        cells[-1][column].set_xlabel(name, color=INK, fontsize=6, parse_math=False)
    figure.savefig(path)


def save_scores(path: Path, scores: Sequence[Mapping[str, Any]]) -> None:
    """Write a PNG: how often a prompt is right over the scales of plain guidance, by group, and what that costs in diversity."""
    figure = new_figure(11.0, 4.5)
    left, right = figure.subplots(1, 2)
    plain = sorted((one for one in scores if one['rule'] == 'cfg'), key=lambda one: one['scale'])
    for number, group in enumerate(group for group in GROUPS if plain and group in plain[0]['right']):
        x = [one['scale'] for one in plain]
        share = [100 * one['right'][group]['share'] for one in plain]
        low, high = ([100 * one['right'][group]['interval'][end] for one in plain] for end in (0, 1))
        left.plot(x, share, MARKERS[number] + '-', label=group)
        left.fill_between(x, low, high, alpha=0.12)
    left.set(xlabel='guidance scale', ylabel='right among 100 concepts, %', ylim=(0, 100))
    for number, rule in enumerate(dict.fromkeys(one['rule'] for one in scores)):
        own = sorted((one for one in scores if one['rule'] == rule), key=lambda one: one['scale'])
        x, y = [one['diversity'] for one in own], [100 * one['right']['all']['share'] for one in own]
        right.plot(x, y, MARKERS[number % len(MARKERS)], linestyle='-', label=rule)
    right.set(xlabel='diversity (more is better)', ylabel='right, all groups, %')
    for axis in (left, right):
        axis.grid(alpha=0.3)
        axis.legend(fontsize=8)
    figure.savefig(path)
