"""The guidance page: its code runs, and every rule, schedule and preset convention is on it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from classifier_free_guidance_pytorch import guidance
from classifier_free_guidance_pytorch.guidance.combine import Rule
from tests.guidance.cases import ABSTRACT

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / 'docs' / 'guidance.md').read_text(encoding='utf-8')


def test_every_block_runs():
    blocks = re.findall(r'```python\n(.*?)```', PAGE, re.DOTALL)
    assert len(blocks) >= 5
    names: dict[str, object] = {}
    for block in blocks:
        exec(compile(block, 'docs/guidance.md', 'exec'), names)


def test_every_rule_has_its_row():
    rules = {name for name, value in vars(guidance).items() if isinstance(value, type) and issubclass(value, Rule)}
    for name in rules - {cls.__name__ for cls in ABSTRACT}:
        assert re.search(rf'^\|.*`{name}[(`]', PAGE, re.MULTILINE), f'{name} has no row'


@pytest.mark.parametrize(
    'name',
    [
        'constant',
        'linear',
        'cosine',
        'power_cosine',
        'clamp_linear',
        'piecewise',
        'interval',
        'cfg_plus_plus',
        'beta',
        'exponential',
    ],
)
def test_every_schedule_has_its_row(name):
    assert f'| `{name}(' in PAGE


def test_links_inside_the_repository_lead_somewhere():
    for target in re.findall(r'\]\((?!https?:)([^)#]+)\)', PAGE):
        assert (ROOT / 'docs' / target).is_file(), target
    for target in re.findall(r'`((?:tests|examples)/[\w/.]+\.py)`', PAGE):
        assert (ROOT / target).is_file(), target
