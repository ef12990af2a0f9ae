"""The chart of docs/performance.md."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from benchmarks.results import Figure, Result

COLOURS = {
    'texts': '#2a6fbb', 'embeddings': '#7aa6d8', 'prepared': '#c8553d', 'batched': '#588157', 'decorated': '#2a6fbb',
    'layer': '#2a6fbb', 'compiled, prepared': '#c8553d', 'compiled, embeddings': '#7aa6d8',
}  # fmt: skip


def draw(results: dict[str, Result], path: Path) -> None:
    """Medians as dots, quartiles as lines; left of the line at 1 the library is the cheaper side."""
    import matplotlib

    matplotlib.use('agg')
    from matplotlib import pyplot

    panels = [(title, figures) for title, figures in panels_of(results) if figures]
    rows = [len({figure.case for figure in figures}) + 1 for _, figures in panels]
    size = (8, 0.34 * sum(rows) + 0.75 * len(panels))
    drawing, axes = pyplot.subplots(len(panels), 1, figsize=size, height_ratios=rows, layout='constrained', squeeze=False)
    for axis, (title, figures) in zip(axes.flat, panels, strict=True):
        draw_panel(axis, title, figures)
    path.parent.mkdir(parents=True, exist_ok=True)
    drawing.savefig(path, dpi=150)
    pyplot.close(drawing)


def panels_of(results: dict[str, Result]) -> list[tuple[str, list[Figure]]]:
    """The panels: a title, and the figures below it."""

    def pick(part: str, against: str = '') -> list[Figure]:
        figures = results[part].figures if part in results else []
        return [one for one in figures if one.against.startswith(against) and one.unit == 'seconds']

    return [
        ('Guided step: time over two forward passes by hand', pick('steps', 'two passes')),
        ('Training step: time over the same by hand', pick('training')),
        ('Layers: time over the plain operation', pick('layers')),
        ('Compiled guided step: time over two compiled passes by hand', pick('compile', 'two passes by hand, compiled')),
        ('Sampling: time over a diffusers-style loop by hand', pick('sampling', 'a diffusers-style')),
        ('Sampling: time over the 0.7.1 release', pick('sampling', 'the 0.7.1')),
    ]


def draw_panel(axis: Any, title: str, figures: list[Figure]) -> None:
    """One panel: a row per case, a dot per way."""
    cases = list(dict.fromkeys(figure.case for figure in figures))
    ways = list(dict.fromkeys(figure.way for figure in figures))
    for number, way in enumerate(ways):
        shown = [figure for figure in figures if figure.way == way]
        heights = [cases.index(figure.case) + 0.16 * (number - (len(ways) - 1) / 2) for figure in shown]
        medians = [figure.ratio.median for figure in shown]
        below = [figure.ratio.median - figure.ratio.lower_quartile for figure in shown]
        above = [figure.ratio.upper_quartile - figure.ratio.median for figure in shown]
        axis.errorbar(medians, heights, xerr=(below, above), fmt='o', markersize=4, color=COLOURS.get(way, '#777777'), label=way)
    axis.axvline(1, color='#333333', linewidth=0.8)
    if min(figure.ratio.median for figure in figures) < 0.2:
        axis.set_xscale('log')
    axis.set_yticks(range(len(cases)), cases, fontsize=8)
    axis.set_ylim(len(cases) - 0.5, -0.5)
    axis.set_title(title, fontsize=9, loc='left')
    axis.tick_params(axis='x', labelsize=8)
    axis.grid(axis='x', color='#dddddd', linewidth=0.6)
    axis.spines[['top', 'right']].set_visible(False)
    if len(ways) > 1:
        axis.legend(fontsize=7, loc='center left', bbox_to_anchor=(1, 0.5), frameon=False)
