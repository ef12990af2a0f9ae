"""The page: its code runs, and its figures are those of the example."""

from pathlib import Path

import torch

from classifier_free_guidance_pytorch.text.torchvision_repair import repair_torchvision
from tests.test_readme import blocks

PAGE = (Path(__file__).parents[2] / 'docs' / 'modules.md').read_text(encoding='utf-8')


def test_every_block_runs(tmp_path, monkeypatch):
    repair_torchvision()
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    names: dict[str, object] = {}
    found = blocks('python', PAGE)
    assert len(found) >= 8
    for line, block in found:
        exec(compile('\n' * line + block, 'docs/modules.md', 'exec'), names)
