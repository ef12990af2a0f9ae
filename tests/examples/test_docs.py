"""The page of the examples names all of them, and they are short, as it says."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / 'docs' / 'examples.md').read_text(encoding='utf-8')
EXAMPLES = sorted((ROOT / 'examples').glob('0*.py'))
MAX_CODE = 62  # lines, without docstrings, imports and empty ones


def lines_of_code(source: str) -> int:
    left_out: set[int] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import | ast.ImportFrom):
            left_out |= set(range(node.lineno, node.end_lineno + 1))
        elif isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and ast.get_docstring(node):
            left_out |= set(range(node.body[0].lineno, node.body[0].end_lineno + 1))
    return sum(bool(line.strip()) and number not in left_out for number, line in enumerate(source.splitlines(), start=1))


def test_lines_are_counted():
    assert lines_of_code('"""Two\nlines."""\nimport a\n\ndef f():\n    """One."""\n    return (\n        1)\n') == 3


@pytest.mark.parametrize('path', EXAMPLES, ids=lambda path: path.stem)
def test_an_example_is_short_and_on_the_page(path):
    source = path.read_text(encoding='utf-8')
    assert lines_of_code(source) <= MAX_CODE
    assert f'(../examples/{path.name})' in PAGE
    assert f'    python examples/{path.name}\n' in source


def test_every_link_and_command_of_the_page_names_a_file():
    names = re.findall(r'\]\((?!https?:)([^)#]+)\)', PAGE) + [
        f'../{name}' for name in re.findall(r'^    python (\S+)', PAGE, re.M)
    ]
    assert len(names) > 10
    assert [name for name in names if not (ROOT / 'docs' / name).is_file()] == []
