# ruff: noqa: E501  the contract's examples are as long as they are
"""The README: every Python block runs, in order, and what is said of files, commands and names is so."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parents[1]
README = ROOT / 'README.md'
TEXT = README.read_text(encoding='utf-8')

# The two examples of the contract, to the letter.
SEED_EXAMPLES = [
    """\
text_conditioner = TextConditioner(model_types='t5', hidden_dims=(256, 512), hiddens_channel_first=False, cond_drop_prob=0.2).cuda()
first_condition_fn, second_condition_fn = text_conditioner(['a dog chasing after a ball'])
first_conditioned = first_condition_fn(torch.randn(1, 16, 256).cuda())
""",
    """\
model = MLP(dim=256, text_condition_type='film', text_condition_model_types=('t5', 'clip'),
            text_condition_hidden_dims=(512, 256), text_condition_cond_drop_prob=0.25)
""",
    """\
model.embed_texts(texts)
pred = model(data, texts=texts)                          # training, conditional dropout per sample
model.eval()
guided = model(data, texts=texts, cond_scale=3.)          # null + 3 * (cond - null)
""",
]


def blocks(language: str, text: str = TEXT) -> list[tuple[int, str]]:
    """The fenced blocks of a language: the line of the README on which each starts, and its content."""
    found = re.finditer(rf'^```{language}\n(.*?)^```$', text, re.MULTILINE | re.DOTALL)
    return [(text.count('\n', 0, match.start(1)), match[1]) for match in found]


def run_blocks(text: str) -> dict:
    """Run all Python blocks in one namespace; a traceback points into the README.

    The encoders are the tests' tiny ones under the names of the real ones. `.cuda()` is replaced by `.cpu()`, in the text, where
    there is no GPU.
    """
    namespace: dict = {'__name__': 'readme'}
    for line, block in blocks('python', text):
        source = block if torch.cuda.is_available() else block.replace('.cuda()', '.cpu()')
        exec(compile('\n' * line + source, str(README), 'exec'), namespace)
    return namespace


@pytest.fixture
def encoders_of_the_readme(hub, tiny_t5, tiny_clip):
    from tests.tiny_models import make_decoder

    hub.t5('google/flan-t5-small')
    hub.add('Qwen/Qwen3-0.6B', make_decoder)


def test_every_python_block_runs(encoders_of_the_readme, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = run_blocks(TEXT)
    assert names['first_conditioned'].shape == (1, 16, 256)
    assert names['guided'].shape == (2, 1)
    assert names['data'].shape == (2, 256)
    assert names['schedule'](progress=0.9) == 1.0


def test_the_readme_is_short():
    assert len(TEXT.splitlines()) <= 250


def test_the_first_block_needs_no_download_and_is_short(tmp_path, monkeypatch):
    monkeypatch.setenv('HF_HUB_OFFLINE', '1')
    _, first = blocks('python')[0]
    names: dict = {}
    exec(first, names)
    assert names['guided'].shape == (8, 2)
    assert sum(bool(line.strip()) for line in first.splitlines()) <= 15


def test_a_block_that_fails_is_noticed_with_its_line():
    with pytest.raises(ZeroDivisionError) as caught:
        run_blocks('# Title\n\n```python\nx = 1\n```\n\n```python\nx / 0\n```\n')
    assert caught.traceback[-1].lineno == 7


@pytest.mark.parametrize('example', SEED_EXAMPLES)
def test_the_examples_of_the_contract_stand_to_the_letter(example):
    assert any(example in block for _, block in blocks('python'))


def test_the_two_commands_are_those_of_ci():
    commands = [block.strip() for _, block in blocks('bash')]
    assert commands[-2:] == ['bash scripts/demo', 'bash scripts/test']
    steps = (ROOT / '.ci' / 'run').read_text(encoding='utf-8').splitlines()
    assert "step 'Tests' bash scripts/test" in steps


def test_every_command_names_a_file_that_is_there():
    scripts = re.findall(r'\b(?:bash|python) (?!-m)([\w./-]+)', TEXT)
    scripts += [f'{module}/__main__.py' for module in re.findall(r'\bpython -m (\w+)', TEXT)]
    assert {'scripts/demo', 'scripts/test', 'benchmarks/__main__.py'} <= set(scripts)
    assert [script for script in scripts if not (ROOT / script).is_file()] == []


def test_every_link_leads_somewhere():
    links = [link for link in re.findall(r'\]\(([^)#]+)', TEXT) if '://' not in link]
    assert 'docs/pictures/emoji.png' in links
    assert [link for link in links if not (ROOT / link).is_file()] == []


def table_of(report: dict) -> str:
    """The table of the numbers of a demo run: percent, with half the width of the 95% interval."""
    rows = {'`cond_scale`': [f'{one["cond_scale"]:g}' for one in report['scales']]}
    for title, split, what in (
        ('prompt satisfied, prompts seen in training', 'seen', 'adherence'),
        ('prompt satisfied, prompts held out', 'held_out', 'adherence'),
        ('shape filled, prompts held out', 'held_out', 'coverage'),
    ):
        numbers = [one[split][what] for one in report['scales']]
        rows[title] = [f'{100 * n["mean"]:.0f} ± {50 * (n["high"] - n["low"]):.0f}' for n in numbers]
    lines = [f'| {title} | {" | ".join(cells)} |' for title, cells in rows.items()]
    lines.insert(1, '|---' * (len(report['scales']) + 1) + '|')
    return '\n'.join(lines)


def test_the_numbers_are_those_of_the_picture():
    """After another run of the demo: copy its two files to docs/pictures, and the expected table into docs/points.md."""
    page = (ROOT / 'docs' / 'points.md').read_text(encoding='utf-8')
    report = json.loads((ROOT / 'docs' / 'pictures' / 'points.json').read_text(encoding='utf-8'))
    assert table_of(report) in page
    versions = report['versions']
    assert f'seed {report["settings"]["seed"]}, Python {versions["python"]}, torch {versions["torch"].partition("+")[0]}' in page


def test_the_picture_is_of_the_command_beside_it():
    """The run was one with the defaults that the demo has now."""
    from dataclasses import asdict

    from cfg_demo.points.settings import Settings

    report = json.loads((ROOT / 'docs' / 'pictures' / 'points.json').read_text(encoding='utf-8'))
    assert report['settings'] == json.loads(json.dumps(asdict(Settings())))
