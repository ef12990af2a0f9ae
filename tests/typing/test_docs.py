"""The page on types shows lines of the files that the checkers read and that run."""

from __future__ import annotations

import re
from pathlib import Path

HERE = Path(__file__).parent
PAGE = (HERE.parents[1] / 'docs' / 'typing.md').read_text(encoding='utf-8')
SOURCES = [path.read_text(encoding='utf-8') for path in (HERE / 'users').glob('*.py')]


def test_the_blocks_are_in_files_of_users():
    blocks = re.findall(r'^```python\n(.*?)^```$', PAGE, re.MULTILINE | re.DOTALL)
    assert len(blocks) == 2
    assert [block for block in blocks if not any(block in source for source in SOURCES)] == []


def test_the_configuration_is_the_one_that_is_tested():
    (plugin,) = re.findall(r'plugins = \["(.*)"\]', PAGE)
    assert f'plugins = {plugin}\n' in (HERE / 'mypy.ini').read_text(encoding='utf-8')


def marks(function: str) -> dict[str, str]:
    """The statements of a function of users/table.py behind the first, each with its marks."""
    table = (HERE / 'users' / 'table.py').read_text(encoding='utf-8')
    body = table.partition(f'def {function}(')[2].partition('\n\n')[0]
    return {one.strip(): marked for one, _, marked in (line.partition('  # E: ') for line in body.splitlines()[2:])}


def test_the_table_says_what_the_checkers_find():
    """A cell says error where its checker has a mark, in the function of its column."""
    rows = re.findall(r'^\| `(.*?)` \| (.*) \| (.*) \| (.*) \| (.*) \|$', PAGE, re.MULTILINE)
    columns = [
        ('declared', ('mypy', 'pyright')),
        ('derived', ('pyright',)),
        ('decorated', ('mypy',)),
        ('decorated', ('pyright',)),
    ]
    assert [row[0] for row in rows] == list(marks('declared')) == list(marks('derived')) == list(marks('decorated'))
    for statement, *cells in rows:
        for cell, (function, checkers) in zip(cells, columns, strict=True):
            found = [f'{checker}[' in marks(function)[statement] for checker in checkers]
            assert found == [cell.startswith('error')] * len(checkers), (statement, function, checkers)
