"""The picture: adherence, diversity and distance against forward passes, and what nothing dominates."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cfg_demo.front.worlds import MEASURES

COLOURS = {'rule': '#1f6f8b', 'schedule': '#e09f3e', 'saver': '#6a994e', 'searched': '#b5179e'}
WORDS = {
    'adherence': 'adherence (more is better)',
    'diversity': 'diversity (more is better)',
    'distance': 'energy distance to true samples (less is better)',
}
INK = '#26323f'


def save_front(path: Path, report: Mapping[str, Any]) -> None:
    """Write a PNG: a panel per measure; what is on the front is filled and named by the number in the list on the right."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    with rc_context({'font.family': 'DejaVu Sans', 'text.color': INK, 'axes.labelcolor': INK}):
        figure = Figure(figsize=(15, 5.6), dpi=110, facecolor='white', layout='constrained')
        *panels, words = figure.subplots(1, 4, gridspec_kw={'width_ratios': (1, 1, 1, 0.8)})
        kept = [row for row in report['rows'] if row['on the front']]
        for axis, name in zip(panels, MEASURES, strict=True):
            for row in report['rows']:
                estimate, is_kept = row[name], row['on the front']
                half, colour = estimate['high'] - estimate['mean'], COLOURS[row['kind']]
                style = {'markerfacecolor': colour if is_kept else 'white', 'alpha': 1.0 if is_kept else 0.45}
                axis.errorbar(row['passes'], estimate['mean'], half, fmt='o', ms=5, color=colour, lw=0.6, **style)
            for number, row in enumerate(kept, start=1):
                at = (row['passes'], row[name]['mean'])
                axis.annotate(str(number), at, fontsize=7, xytext=(4, 3), textcoords='offset points')
            axis.set(xlabel='forward passes of a sample', title=WORDS[name])
            axis.title.set_fontsize(10)
            axis.grid(alpha=0.25)
        words.axis('off')
        listed = [f'{number:2}  {row["passes"]:4.0f}  {row["name"]}' for number, row in enumerate(kept, start=1)]
        size = min(8.0, 330 / max(1, len(listed)))
        words.text(
            0, 1, '\n'.join(['on the front (passes, setting)', *listed]), va='top', fontsize=size, transform=words.transAxes
        )
        for kind, colour in COLOURS.items():
            panels[0].plot([], [], 'o', color=colour, label=kind)
        panels[0].legend(frameon=False, fontsize=8, loc='lower right')
        figure.suptitle('Filled: no other is as good in all three for as few passes. Bars: 95% over prompts.', fontsize=11)
        figure.savefig(path)
