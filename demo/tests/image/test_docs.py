"""The page about text to image: its code runs, its commands parse, and its figures are those of the files beside it."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import pytest
import torch

from cfg_demo import cli
from cfg_demo.image.models import build_model, count_parameters
from cfg_demo.image.scores import as_table
from cfg_demo.image.settings import CONDITIONS, NETWORK_SIZES, NETWORKS, ModelSettings

DOCS = Path(__file__).parents[3] / 'docs'
PAGE = (DOCS / 'text_to_image.md').read_text(encoding='utf-8')
SCORES = json.loads((DOCS / 'pictures' / 'image_scores.json').read_text(encoding='utf-8'))


def commands(program: str) -> list[list[str]]:
    """The arguments of each command of the page that runs a program."""
    joined = PAGE.replace('\\\n', ' ')
    return [shlex.split(line)[1:] for line in re.findall(rf'^    ({re.escape(program)}.*)$', joined, re.MULTILINE)]


def test_every_block_runs():
    (block,) = re.findall(r'```python\n(.*?)```', PAGE, re.DOTALL)
    exec(compile(block, 'docs/text_to_image.md', 'exec'), {})


def test_the_scores_are_those_of_the_evaluation():
    assert as_table(SCORES['scores']) in PAGE
    (asked,) = (cli.build_parser().parse_args(one) for one in commands('cfg-demo') if one[0] == 'evaluate')
    assert asked.steps == SCORES['setup']['steps']
    assert f'one picture each, {asked.steps} Euler steps' in PAGE
    scales = {rule: asked.scales if rule == 'cfg' else asked.other_scales for rule in asked.rules}
    assert [(one['rule'], one['scale']) for one in SCORES['scores']] == [(r, s) for r, own in scales.items() for s in own]
    assert sum(SCORES['setup']['prompts'].values()) >= 500


@pytest.mark.parametrize('network', NETWORKS)
def test_the_sizes_are_those_of_the_networks(network):
    cells = []
    for size in NETWORK_SIZES:
        with torch.device('meta'):
            models = [
                build_model(ModelSettings(network=network, network_size=size, condition=condition))
                for condition in sorted(CONDITIONS, key='attention concat film'.index)
            ]
        cells.append(' / '.join(f'{count_parameters(model) / 1e6:.1f}' for model in models))
    assert f'| `{network}`, attention / concat / film | {" | ".join(cells)} |' in PAGE


def test_links_inside_the_repository_lead_somewhere():
    targets = re.findall(r'\]\((?!https?:)([^)#]+)\)', PAGE)
    assert len(targets) >= 4
    for target in targets:
        assert (DOCS / target).is_file(), target
