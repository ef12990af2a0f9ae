"""Every demo is named in the README beside it, and every command that a page shows is one that the parser takes."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from cfg_demo import cli

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / 'README.md', ROOT / 'demo' / 'README.md', *sorted((ROOT / 'docs').glob('*.md'))]
PAGES += sorted((ROOT / 'demo' / 'cfg_demo').rglob('*.md'))


def commands_of(page: str) -> list[list[str]]:
    """The arguments of each `cfg-demo` command that stands on a line of its own."""
    joined = page.replace('\\\n', ' ')
    return [shlex.split(line)[1:] for line in re.findall(r'^ *(cfg-demo [a-z].*)$', joined, re.MULTILINE)]


def test_commands_are_found_over_several_lines():
    page = 'text\n\n    cfg-demo train-on a \\\n        --out b\n\nrun `cfg-demo` now'
    assert commands_of(page) == [['train-on', 'a', '--out', 'b']]


@pytest.mark.parametrize('page', PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_command_parses(page):
    for arguments in commands_of(page.read_text(encoding='utf-8')):
        cli.build_parser(arguments[:1]).parse_args(arguments)


def test_the_readme_names_every_demo():
    readme = (ROOT / 'demo' / 'README.md').read_text(encoding='utf-8')
    assert [name for name in cli.DEMOS if not re.search(rf'`(cfg-demo )?{re.escape(name)}`', readme)] == []
