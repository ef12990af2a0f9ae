"""The pages on conditions and on code for 0.7.1: every block runs, in order."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from classifier_free_guidance_pytorch import compat

DOCS = Path(__file__).parents[2] / 'docs'


@pytest.mark.parametrize(('page', 'least'), [('conditioning.md', 8), ('migration.md', 3)])
def test_every_block_runs(page, least, tmp_path, monkeypatch, tiny_clip):
    monkeypatch.chdir(tmp_path)  # where the page writes a file
    blocks = re.findall(r'```python\n(.*?)```', (DOCS / page).read_text(encoding='utf-8'), re.DOTALL)
    assert len(blocks) >= least
    names: dict[str, object] = {}
    try:
        for block in blocks:
            exec(compile(block, f'docs/{page}', 'exec'), names)
    finally:
        compat.like_0_7_1(False)
