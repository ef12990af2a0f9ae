"""The shape of the tree: short files and functions, no drawer for the rest, nothing written twice, nothing from elsewhere."""

from __future__ import annotations

import ast
import hashlib
import re
from collections import defaultdict
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SOURCES = ('classifier_free_guidance_pytorch', 'demo', 'tests', 'examples', 'benchmarks', 'docs', 'scripts', '.ci', '.github')
LICENCE = 'LICENSE'  # each distribution carries it
TEXT = {'.py', '.md', '.toml', '.txt', '.yml', '.yaml', '.json', '.cfg', '.html', '.css', ''}

MAX_LINES = 450  # where to look for two things in one file, not where to cut
MAX_FUNCTION_LINES = 60  # a screen; docstrings do not count
MIN_DUPLICATE = 6  # lines of a function body from which on two that are equal are one too many


def files_of(root: Path) -> list[Path]:
    """The files of the repository, without caches, environments and results."""
    found = [path for folder in SOURCES for path in (root / folder).rglob('*') if path.is_file()]
    found += [path for path in root.iterdir() if path.is_file() and not path.name.startswith('.git')]
    made = {'__pycache__', 'venv', 'site', 'build', 'cfg_demo.egg-info'}
    kept = (path for path in found if not made & set(path.relative_to(root).parts))
    return sorted(path for path in kept if path.suffix not in {'.pyc', '.log'})


def python_files(root: Path) -> list[Path]:
    return [path for path in files_of(root) if path.suffix == '.py']


def name_of(path: Path, root: Path) -> str:
    return path.relative_to(root).as_posix()


def long_files(root: Path) -> list[str]:
    lines = {name_of(path, root): len(path.read_text(encoding='utf-8').splitlines()) for path in python_files(root)}
    return [f'{name}: {count} lines' for name, count in lines.items() if count > MAX_LINES]


def functions(root: Path) -> list[tuple[str, ast.FunctionDef, list[ast.stmt]]]:
    """Every function: where it is, the function, and its body without the docstring."""
    found = []
    for path in python_files(root):
        for node in ast.walk(ast.parse(path.read_text(encoding='utf-8'))):
            if isinstance(node, ast.FunctionDef):
                body = node.body[1:] if ast.get_docstring(node) else node.body
                found.append((f'{name_of(path, root)}:{node.lineno} {node.name}', node, body))
    return found


def lines_of(body: list[ast.stmt]) -> int:
    return body[-1].end_lineno - body[0].lineno + 1 if body else 0


def long_functions(root: Path) -> list[str]:
    return [f'{where}: {lines_of(body)} lines' for where, _, body in functions(root) if lines_of(body) > MAX_FUNCTION_LINES]


def duplicates(root: Path) -> list[list[str]]:
    """Files with the same content, and functions with the same body, whatever they are called."""
    same = defaultdict(list)
    for path in files_of(root):
        content = path.read_bytes()
        if content.strip() and path.name != LICENCE:
            same[hashlib.sha256(content).hexdigest()].append(name_of(path, root))
    for where, _, body in functions(root):
        if lines_of(body) >= MIN_DUPLICATE:
            same['\n'.join(map(ast.unparse, body))].append(where)
    return [names for names in same.values() if len(names) > 1]


def strange_paths(root: Path) -> list[str]:
    """Lines that name a place on one particular machine, or one outside the repository."""
    absolute = re.compile(r'(?<![\w.\-}/])/(?:home|mnt|opt|root|srv|work|Users)/\w')
    upwards = re.compile(r'(?:\.\./)+[\w./-]+')
    found = []
    for path in files_of(root):
        if path.suffix not in TEXT or path == Path(__file__):
            continue
        for number, line in enumerate(path.read_text(encoding='utf-8').splitlines(), start=1):
            outside = [up for up in upwards.findall(line) if not (path.parent / up).resolve().is_relative_to(root)]
            if outside or absolute.search(line):
                found.append(f'{name_of(path, root)}:{number} {line.strip()[:80]}')
    return found


def test_no_file_is_too_long():
    assert long_files(ROOT) == []


def test_no_function_is_longer_than_a_screen():
    assert long_functions(ROOT) == []


def test_there_is_no_drawer_for_the_rest():
    drawers = {'utils', 'util', 'helpers', 'misc', 'common'}
    assert [path for path in python_files(ROOT) if drawers & set(path.with_suffix('').parts)] == []


def test_nothing_is_written_twice():
    assert duplicates(ROOT) == []


def test_no_path_of_one_machine_is_named():
    assert strange_paths(ROOT) == []


@pytest.mark.parametrize(
    ('check', 'content'),
    [
        (long_files, 'x = 1\n' * (MAX_LINES + 1)),
        (long_functions, 'def f():\n' + '    x = 1\n' * (MAX_FUNCTION_LINES + 1)),
        (duplicates, 'def f(x):\n' + '    x += 1\n' * 6 + 'def g(x):\n    "Other words."\n' + '    x  +=  1\n' * 6),
        (strange_paths, 'PATH = "/home/someone/data"'),
        (strange_paths, 'see ../../notes/plan.md, beside ../setup.py'),
    ],
)
def test_each_check_can_fail(tmp_path, check, content):
    folder = tmp_path / 'tests'
    folder.mkdir()
    (folder / 'a.py').write_text('def f(x):\n    return x\n')
    assert check(tmp_path) == []
    (folder / ('b.md' if content.startswith('see') else 'b.py')).write_text(content)
    assert len(check(tmp_path)) == 1
