"""What mypy and pyright, both strict, find in files of users: every marked line, by its code, and nothing else.

A mark is a comment, `# E: mypy[call-arg] pyright[reportCallIssue]`. A checker without a mark has to be silent there: what is
marked for mypy alone is what the language of pyright cannot express.
"""

from __future__ import annotations

import importlib.util
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
USERS = sorted((HERE / 'users').glob('*.py'))
DERIVED = [HERE / 'users' / 'derived.py']
MARK = re.compile(r'(\w+)\[([^\]]+)\]')


class Found(NamedTuple):
    """One error: where, and the code of the checker."""

    file: str
    line: int
    code: str


def marked(checker: str, files: list[Path]) -> set[Found]:
    """The errors that the comments of some files expect of a checker."""
    lines = [(path, at, line) for path in files for at, line in enumerate(path.read_text(encoding='utf-8').splitlines(), 1)]
    marks = [(path, at, mark) for path, at, line in lines for mark in MARK.findall(line.partition('# E: ')[2])]
    return {Found(path.name, at, code) for path, at, (name, codes) in marks for code in codes.split(', ') if name == checker}


def run(command: list[str]) -> str:
    """The output of a checker, which finds the library of this repository first."""
    paths = {'PYTHONPATH': str(ROOT), 'MYPYPATH': str(ROOT)}
    ran = subprocess.run(
        [sys.executable, '-m', *command], capture_output=True, text=True, cwd=ROOT, env={**os.environ, **paths}, check=False
    )
    assert ran.returncode in (0, 1), ran.stdout + ran.stderr
    return ran.stdout


def found_by_mypy(output: str) -> set[Found]:
    """The errors in the output of mypy; one without a line or a code is an assertion of ours that fails."""
    errors = [line for line in output.splitlines() if ': error: ' in line]
    matches = [re.fullmatch(r'(.+?):(\d+): error: .*\[([\w-]+)\]', line) for line in errors]
    assert all(matches), output
    return {Found(Path(match[1]).name, int(match[2]), match[3]) for match in matches if match}


def mypy(files: list[Path], config: Path, cache: str) -> set[Found]:
    """What mypy finds in some files, in a configuration and with its cache."""
    options = ['--config-file', str(config), '--cache-dir', str(ROOT / '.mypy_cache' / cache), '--no-pretty']
    found = found_by_mypy(run(['mypy', *options, *map(str, files)]))
    return {one for one in found if one.file in {path.name for path in files}}


def pyright() -> set[Found]:
    """What pyright finds in all files of users; an unknown type on a line with an error follows from the error."""
    command = ['basedpyright', '--project', str(HERE), '--pythonpath', sys.executable, '--outputjson']
    errors = [one for one in json.loads(run(command))['generalDiagnostics'] if one['severity'] == 'error']
    found = {Found(Path(one['file']).name, one['range']['start']['line'] + 1, one.get('rule', one['message'])) for one in errors}
    causes = {one[:2] for one in found if not one.code.startswith('reportUnknown')}
    return {one for one in found if not one.code.startswith('reportUnknown') or one[:2] not in causes}


def difference(found: set[Found], expected: set[Found]) -> dict[str, list[Found]]:
    return {'not found': sorted(expected - found), 'not expected': sorted(found - expected)}


NOTHING: dict[str, list[Found]] = {'not found': [], 'not expected': []}


def needs(checker: str) -> pytest.MarkDecorator:
    """Skip where a checker, which the extra `test` does not bring, is not installed."""
    return pytest.mark.skipif(importlib.util.find_spec(checker) is None, reason=f'{checker} is not installed: pip install .[dev]')


@needs('mypy')
@pytest.mark.timeout(900)  # without a cache mypy reads all of torch first
def test_mypy_with_the_plugin():
    assert difference(mypy(USERS, HERE / 'mypy.ini', 'with_plugin'), marked('mypy', USERS)) == NOTHING


@needs('mypy')
@pytest.mark.timeout(900)
def test_mypy_without_the_plugin_knows_a_class_that_derives():
    """In the configuration of this repository, whose own types are checked without the plugin, and with that cache."""
    config = ROOT / 'pyproject.toml'
    assert 'plugins =' not in config.read_text(encoding='utf-8')
    assert difference(mypy(DERIVED, config, ''), marked('mypy', DERIVED)) == NOTHING


@needs('basedpyright')
def test_pyright():
    assert difference(pyright(), marked('pyright', USERS)) == NOTHING


def test_every_file_has_marks_for_every_checker():
    for path in USERS:
        assert marked('mypy', [path])
        assert marked('pyright', [path])


def test_marks_and_findings_are_compared_by_line_and_code(tmp_path):
    file = tmp_path / 'a.py'
    file.write_text("x = 1\nf(txt='a')  # E: mypy[call-arg] pyright[reportCallIssue, reportUnknown]\n")
    assert marked('mypy', [file]) == {Found('a.py', 2, 'call-arg')}
    assert marked('pyright', [file]) == {Found('a.py', 2, 'reportCallIssue'), Found('a.py', 2, 'reportUnknown')}
    found = found_by_mypy('a.py:2: error: Unexpected [x]  [call-arg]\na.py:2: note: see above\nFound 1 error in 1 file')
    assert difference(found, marked('mypy', [file])) == NOTHING
    assert difference(set(), marked('mypy', [file])) == {**NOTHING, 'not found': [Found('a.py', 2, 'call-arg')]}
    with pytest.raises(AssertionError):
        found_by_mypy('mypy.ini: error: Error importing plugin')


@pytest.mark.parametrize('name', ['derived', 'decorated', 'conditioners'])
def test_what_the_files_show_runs(name):
    """The lines without typos run, so that no checker is promised what the library does not do."""
    spec = importlib.util.spec_from_file_location(name, HERE / 'users' / f'{name}.py')
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert module.use().shape == (2, 8)
