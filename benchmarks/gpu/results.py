"""The summary, and the few files that are taken home: a borrowed machine may hand back eight, of 16 MiB each."""

from __future__ import annotations

import json
import shutil
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.gpu.running import Outcome

LARGEST = 15 * 2**20  # bytes of one file
MODELS = ('.safetensors',)  # each a file of its own; everything else goes into one archive


def write(outcomes: Sequence[Outcome], facts: dict[str, Any], work: Path, out: Path) -> None:
    """Write what is known so far: `summary.md`, `summary.json`, `steps.zip`, and every model that was trained."""
    out.mkdir(parents=True, exist_ok=True)
    found = {**facts, **read_json(work / 'facts' / 'facts.json')}
    bars = list(bars_of(work))
    summary = {'facts': found, 'steps': [asdict(one) for one in outcomes], 'bars': bars}
    replace(out / 'summary.json', json.dumps(summary, indent=1) + '\n')
    replace(out / 'summary.md', as_page(outcomes, found, bars))
    archive(work, out / 'steps.zip')
    for model in sorted(work.rglob('*')):
        if model.suffix in MODELS and model.stat().st_size <= LARGEST:
            shutil.copy(model, out / f'{model.parent.name}-{model.name}')


def archive(work: Path, path: Path) -> None:
    """Pack all results and logs but the models, and but what would not fit."""
    partial = path.with_suffix('.partial')
    with zipfile.ZipFile(partial, 'w', zipfile.ZIP_DEFLATED) as packed:
        for file in sorted(work.rglob('*')):
            if file.is_file() and file.suffix not in MODELS and file.stat().st_size <= LARGEST:
                packed.write(file, file.relative_to(work))
    partial.replace(path)


def as_page(outcomes: Sequence[Outcome], facts: dict[str, Any], bars: Sequence[dict[str, Any]]) -> str:
    """Return the summary for people."""
    lines = ['# A run of scripts/gpu', '', *(f'- {name}: {value}' for name, value in facts.items())]
    lines += ['', '| step | what | how it ended | seconds | its last line |', '| --- | --- | --- | --- | --- |']
    for one in outcomes:
        last = one.last.replace('|', '\\|')
        lines.append(f'| {one.name} | {one.what} | {one.status} | {one.seconds:g} | {last} |')
    if bars:
        missed = sum(bar['verdict'] == 'missed' for bar in bars)
        dry = ' A dry run: its sizes are tiny, and its figures mean nothing.' if facts.get('dry run') else ''
        lines += ['', f'Bars: {len(bars) - missed} met, {missed} missed.{dry}', '']
        lines += ['| what | bar | measured | |', '| --- | --- | --- | --- |']
        lines += [f'| {bar["what"]} | {bar["bar"]} | {bar["measured"]:.3f} | {bar["verdict"]} |' for bar in bars]
    return '\n'.join(lines) + '\n'


def bars_of(work: Path) -> Iterator[dict[str, Any]]:
    """Yield every figure of the benchmarks that is held against a bar, those that were missed first."""
    found = []
    for path in sorted(work.rglob('*.json')):
        for figure in read_json(path).get('figures', ()):
            if figure['bar']:
                measured, holds, value = figure['ratio']['median'], figure['bar']['holds'], figure['bar']['value']
                met = {'at most': measured <= value, 'at least': measured >= value, 'below': measured < value}[holds]
                what = f'{figure["case"]}: {figure["way"]}, against {figure["against"]}'
                verdict = 'met' if met else 'missed'
                found.append({'what': what, 'bar': f'{holds} {value:g}', 'measured': measured, 'verdict': verdict})
    yield from sorted(found, key=lambda bar: bar['verdict'] == 'met')


def read_json(path: Path) -> dict[str, Any]:
    """Return what a file holds; nothing where a step was stopped before or while it wrote it."""
    try:
        stored = json.loads(path.read_text(encoding='utf-8'))
    except (OSError, ValueError):
        return {}
    return stored if isinstance(stored, dict) else {}


def replace(path: Path, text: str) -> None:
    """Write a file whole, or not at all."""
    partial = path.with_suffix('.partial')
    partial.write_text(text, encoding='utf-8')
    partial.replace(path)
