"""The page about corpora: its code runs, its commands parse, and the table on paper is what its arithmetic gives."""

from __future__ import annotations

import re
from pathlib import Path

from classifier_free_guidance_pytorch.corpus.command import build_parser

PAGE = (Path(__file__).parents[2] / 'docs' / 'corpus.md').read_text(encoding='utf-8')


def code_of(language: str) -> list[str]:
    """The blocks of a language; commands are in blocks of none."""
    blocks = re.findall(r'^```([^\n]*)\n(.*?)^```$', PAGE, re.MULTILINE | re.DOTALL)
    return [code for stated, code in blocks if stated == language]


def test_every_block_runs_in_order(tmp_path, monkeypatch):
    """Ray's runs in the test that has a cluster."""
    monkeypatch.chdir(tmp_path)
    blocks = code_of('python')
    assert len(blocks) >= 5
    names: dict = {'__name__': 'corpus_page'}
    for block in blocks:
        exec(compile(block, 'docs/corpus.md', 'exec'), names)
    assert table_of(names['rows']) in PAGE


def table_of(rows: list[dict]) -> str:
    """As the page has it."""
    lines = [list(rows[0]), ['---'] * len(rows[0]), *(list(row.values()) for row in rows)]
    return '\n'.join(f'| {" | ".join(cells)} |' for cells in lines)


def test_every_command_parses():
    lines = [line for block in code_of('') for line in block.splitlines()]
    commands = [line.partition('cfg-embed ')[2].split() for line in lines if 'cfg-embed ' in line]
    assert len(commands) >= 3
    for command in commands:
        assert build_parser().parse_args(command).out
    options = set(re.findall(r'`(--[\w-]+)', PAGE))
    assert options <= set(build_parser()._option_string_actions) | {'--nproc-per-node', '--no-python'}
