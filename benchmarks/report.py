"""The chart, the tables of docs/performance.md and the bars, from the results: no figure on that page is typed."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

from benchmarks.parts import ON_GPU, PARTS
from benchmarks.results import RESULTS, ROOT, Figure, Result, read_all

PAGE = ROOT / 'docs' / 'performance.md'
REAL = 'corpus_embed_minilm'  # of benchmarks.corpus_embed, whose other parts have their place in docs/corpus.md
PICTURE = ROOT / 'docs' / 'pictures' / 'performance.png'


def report(results: Path = RESULTS, page: Path = PAGE, picture: Path = PICTURE) -> None:
    """Print the bars, draw the chart, and write the tables between their markers in the page."""
    by_device = {device: read_all(results / device) for device in ('cpu', 'cuda')}
    for device, found in by_device.items():
        for line in bars(found.values()):
            print(f'{device}: {line}')
    if by_device['cpu']:
        from benchmarks.chart import draw

        draw(by_device['cpu'], picture)
    blocks = {'gpu': gpu_block(by_device['cuda'])}
    blocks['bars'] = table(('what', 'bar', 'median', 'quartiles', ''), bar_rows(by_device['cpu'].values()))
    for part in (*PARTS, REAL):
        result = by_device['cpu'].get(part)
        blocks[part] = block(result) if result else '*Not measured.*'
    page.write_text(filled(page.read_text(encoding='utf-8'), blocks), encoding='utf-8')


def filled(text: str, blocks: dict[str, str]) -> str:
    """The page with every block between `<!-- begin name -->` and `<!-- end name -->` replaced."""
    for name, content in blocks.items():
        between = re.compile(f'(<!-- begin {name} -->\n).*?(<!-- end {name} -->)', re.DOTALL)
        text = between.sub(lambda found, content=content: f'{found[1]}{content}\n{found[2]}', text)
    return text


def held(results: Iterable[Result]) -> list[Figure]:
    """The figures that are held against a bar."""
    return [figure for result in results for figure in result.figures if figure.bar is not None]


def bars(results: Iterable[Result]) -> list[str]:
    """One line per bar: what, the median, the bar, and whether it was met."""
    return [
        f'{figure.verdict:6} {figure.ratio.median:8.3f}  {figure.bar}: {figure.case}, {figure.way}, against {figure.against}'
        for figure in held(results)
    ]


def bar_rows(results: Iterable[Result]) -> list[tuple[str, ...]]:
    """The same as rows of a table."""
    return [
        (f'{one.case}: {one.way}, against {one.against}', str(one.bar), f'{one.ratio.median:.3f}', quartiles(one), one.verdict)
        for one in held(results)
    ]


def block(result: Result) -> str:
    """All figures of a part as a table, under where, when and how they were measured."""
    figures = result.figures
    has_notes = any(figure.note for figure in figures)
    head = ('on', 'way', 'against', 'ratio', 'quartiles', 'range', 'here', 'there', *(('note',) if has_notes else ()))
    rows = [
        (
            one.case, one.way, one.against, f'{one.ratio.median:.3f}', quartiles(one), spread(one),
            amount(one.value, one.unit), amount(one.base, one.unit), *((one.note,) if has_notes else ()),
        )
        for one in figures
    ]  # fmt: skip
    if all(one.ratio.count == 1 for one in figures):  # counted, not timed: the same in every run
        head, rows = (head[:4] + head[6:], [row[:4] + row[6:] for row in rows])
    return f'{provenance(result)}\n\n{table(head, rows)}'


def provenance(result: Result) -> str:
    """Where, when and how a part was measured."""
    where = result.environment
    versions = ', '.join(f'{name} {number}' for name, number in where['versions'].items() if number)
    dtype = result.settings.get('dtype', 'float32')
    device = where['processor'] if where['device'] == 'CPU' else where['device']
    return (
        f'`{result.command}`: {where["date"]}, {device}, {where["threads"]} threads on {where["cores"]} cores, '
        f'load {where["load_average"][0]} when done, Python {where["python"]}, {versions}, {dtype}, '
        f'{result.settings["minutes"]} minutes.'
    )


def gpu_block(results: dict[str, Result]) -> str:
    """The table of a GPU, if one was there."""
    if not results:
        return '*Not measured: no GPU has been had for it yet.*'
    parts = [f'**{part}**. {block(results[part])}' for part in (*PARTS, *ON_GPU) if part in results]
    return '\n\n'.join((table(('what', 'bar', 'median', 'quartiles', ''), bar_rows(results.values())), *parts))


def quartiles(figure: Figure) -> str:
    """The quartiles of a ratio; empty for what is counted, not timed."""
    return '' if figure.ratio.count == 1 else f'{figure.ratio.lower_quartile:.3f} to {figure.ratio.upper_quartile:.3f}'


def spread(figure: Figure) -> str:
    """The range of a ratio, and over how many rounds."""
    return '' if figure.ratio.count == 1 else f'{figure.ratio.min:.3f} to {figure.ratio.max:.3f} in {figure.ratio.count}'


def amount(value: float, unit: str) -> str:
    """A figure with a unit that suits its size."""
    if unit == 'seconds':
        return f'{value:.3g} s' if value >= 1 else f'{value * 1e3:.3g} ms'
    if unit.startswith('bytes'):
        return f'{value / 2**20:.3g} MiB'
    return f'{value:g} {unit}'


def table(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    """A table in Markdown."""
    lines = [head, tuple('---' for _ in head), *rows]
    return '\n'.join(f'| {" | ".join(cells)} |' for cells in lines)
