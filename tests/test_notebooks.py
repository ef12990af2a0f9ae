"""The notebooks: every cell runs, with few steps; their stored outputs are of one run from top to bottom."""

from __future__ import annotations

import base64
import importlib.util
import json
import re
from pathlib import Path

import pytest
import torch

from classifier_free_guidance_pytorch.text.torchvision_repair import repair_torchvision

ROOT = Path(__file__).parents[1]
NOTEBOOKS = sorted((ROOT / 'docs' / 'notebooks').glob('*.ipynb'))
LARGEST = 400_000  # bytes of a file, its pictures included

each = pytest.mark.parametrize('path', NOTEBOOKS, ids=[path.stem for path in NOTEBOOKS])


def cells(path: Path, kind: str) -> list[dict]:
    return [cell for cell in json.loads(path.read_text(encoding='utf-8'))['cells'] if cell['cell_type'] == kind]


def outputs(path: Path) -> list[dict]:
    return [output for cell in cells(path, 'code') for output in cell['outputs']]


def run(code: list[dict], name: str) -> dict[str, object]:
    """Run cells in one namespace; a traceback names the cell."""
    names: dict[str, object] = {'__name__': name}
    for number, cell in enumerate(code, start=1):
        exec(compile(''.join(cell['source']), f'{name}, code cell {number}', 'exec'), names)
    return names


@each
def test_every_cell_runs(path, tmp_path, monkeypatch):
    pyplot = pytest.importorskip('matplotlib.pyplot')
    pyplot.switch_backend('Agg')
    repair_torchvision()  # which diffusers imports
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv('CFG_NOTEBOOK_QUICK', '1')
    monkeypatch.setenv('HF_HUB_OFFLINE', '1')
    torch.manual_seed(0)
    try:
        with pyplot.rc_context():
            assert run(cells(path, 'code'), path.stem)['QUICK'] is True
    finally:
        pyplot.close('all')


def test_a_cell_that_fails_is_noticed():
    with pytest.raises(ZeroDivisionError) as caught:
        run([{'source': ['x = 1']}, {'source': ['x / 0']}], 'notebook')
    assert str(caught.traceback[-1].path).endswith('notebook, code cell 2')


@each
def test_the_outputs_are_of_one_run_from_top_to_bottom(path):
    code = cells(path, 'code')
    assert [cell['execution_count'] for cell in code] == list(range(1, len(code) + 1))
    assert [output for output in outputs(path) if output['output_type'] == 'error'] == []
    drawn = [output['data']['image/png'] for output in outputs(path) if 'image/png' in output.get('data', {})]
    assert len(drawn) >= 2
    assert all(base64.b64decode(''.join(one)).startswith(b'\x89PNG') for one in drawn)
    assert path.stat().st_size < LARGEST


@each
def test_the_outputs_name_no_place_of_the_machine(path):
    told = json.dumps([output.get('text', output.get('data', {}).get('text/plain', '')) for output in outputs(path)])
    assert re.search(r'site-packages|/(?:home|root|tmp|work|Users)/', told) is None


@each
def test_it_says_how_to_run_it_quickly_and_its_links_lead_somewhere(path):
    words = '\n'.join(''.join(cell['source']) for cell in cells(path, 'markdown'))
    assert 'CFG_NOTEBOOK_QUICK=1' in words
    links = [link for link in re.findall(r'\]\(([^)#]+)', words) if '://' not in link]
    assert links
    assert [link for link in links if not (path.parent / link).exists()] == []


@each
def test_the_site_shows_the_code_and_every_picture(path):
    pytest.importorskip('mkdocs')
    spec = importlib.util.spec_from_file_location('notebook_pages', ROOT / 'docs' / 'notebook_pages.py')
    spec.loader.exec_module(pages := importlib.util.module_from_spec(spec))
    page = pages.as_markdown(json.loads(path.read_text(encoding='utf-8')))
    assert page.count('```python') == len(cells(path, 'code'))
    assert page.count('<img ') == sum('image/png' in output.get('data', {}) for output in outputs(path))


@each
def test_it_is_in_the_menu_of_the_site_and_among_the_examples(path):
    assert f'notebooks/{path.name}' in (ROOT / 'mkdocs.yml').read_text(encoding='utf-8')
    assert f'(notebooks/{path.name})' in (ROOT / 'docs' / 'examples.md').read_text(encoding='utf-8')
