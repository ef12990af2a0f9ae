"""The ladders: which room of a package may import which, read from the source."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

PACKAGE = 'classifier_free_guidance_pytorch'
ROOT = Path(__file__).parents[1]

LADDER = {
    'errors': set(),
    'rows': set(),
    'guidance': {'errors', 'rows'},
    'text': {'errors', 'rows'},
    'layers': {'errors', 'rows'},
    'perturb': {'errors'},
    'weak_pass': {'perturb'},
    'conditioners': {'errors', 'rows', 'text', 'layers'},
    'decorator': {'errors', 'rows', 'guidance', 'conditioners', 'perturb'},
    'modules': {'errors', 'conditioners', 'decorator'},
    'training': {'errors', 'rows', 'guidance', 'conditioners', 'decorator'},
    'compat': {'conditioners'},
    'corpus': {'errors', 'text'},
    'mypy_plugin': set(),  # which only mypy imports
    '': {'errors', 'guidance', 'text', 'layers', 'conditioners', 'decorator', 'modules'},  # __init__.py
}
CORPUS_LADDER = {  # the rooms inside `corpus`
    'read': set(),
    'store': set(),
    'scan': {'read', 'store'},
    'encode': {'store'},
    'cluster': {'store', 'scan', 'encode'},
    'run': {'read', 'store', 'scan', 'encode', 'cluster'},
    'command': {'encode', 'run'},
    '': {'store'},  # __init__.py
}
DEMO_LADDER = {
    'folders': set(),
    'limits': set(),
    'progress': set(),
    'digits': set(),
    'muon': set(),
    'learning': set(),
    'intervals': set(),
    'shapes': set(),
    'arcs': set(),
    'fitting': {'muon', 'progress'},
    'shades': {'shapes'},
    'moving': {'shapes'},
    'writer': {'shapes'},
    'strips': {'shapes'},
    'points': {'folders', 'progress', 'learning', 'intervals'},
    'mini': {'folders', 'progress', 'muon', 'shapes', 'points'},
    'image': {'folders', 'progress', 'muon', 'learning', 'intervals', 'shapes', 'mini'},
    'english': {'folders', 'progress', 'muon', 'shapes'},
    'emoji': {'folders', 'progress', 'muon', 'mini', 'image'},
    'front': {'folders', 'progress', 'intervals', 'shapes', 'points', 'image'},
    'distil': {'folders', 'learning', 'intervals', 'points', 'image'},
    'page': {'folders', 'image', 'emoji'},
    'cli': {'limits', 'progress', 'points', 'image', 'mini', 'english', 'emoji', 'front', 'distil', 'page'},
    '': set(),  # __init__.py
}

# What a module may import when it is itself imported; anything heavier is imported in the function that needs it.
LIGHT = {'torch', 'beartype', 'typing_extensions'}
STANDARD_LIBRARY_BUT_HEAVY = {'multiprocessing', 'asyncio', 'unittest', 'tkinter', 'http', 'urllib'}


class Import(NamedTuple):
    """One import: the file and line it stands in, the dotted name of what is imported, and whether it runs on import."""

    file: str
    line: int
    name: str
    at_top: bool


def imports_of(root: Path) -> Iterator[Import]:
    """Every import in a package, at the top of a module or inside a function, with relative names resolved."""
    for path in sorted(root.rglob('*.py')):
        here = path.relative_to(root.parent).with_suffix('')
        package = here.parts[:-1]
        tree = ast.parse(path.read_text(encoding='utf-8'))
        later = {id(child) for node in ast.walk(tree) if _runs_later(node) for child in ast.walk(node)}
        for node in ast.walk(tree):
            for name in _imported(node, package, root):
                yield Import('/'.join(here.parts), node.lineno, name, id(node) not in later)


def _runs_later(node: ast.AST) -> bool:
    """Whether what a node holds is not run when its module is imported."""
    if isinstance(node, ast.If):
        return ast.unparse(node.test).endswith('TYPE_CHECKING')
    return isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)


def _imported(node: ast.AST, package: tuple[str, ...], root: Path) -> list[str]:
    """The dotted names that a node imports; `from a import b` imports `a.b` where that is a module, else `a`."""
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if isinstance(node, ast.ImportFrom):
        base = (*package[: len(package) + 1 - node.level], *(node.module or '').split('.')) if node.level else (node.module,)
        dotted = '.'.join(part for part in base if part)
        names = [alias.name for alias in node.names if alias.name != '__version__']  # a constant, which every room may state
        return [f'{dotted}.{name}' if _is_module(root.parent, dotted, name) else dotted for name in names]
    if isinstance(node, ast.Call) and ast.unparse(node.func).endswith('import_module') and isinstance(node.args[0], ast.Constant):
        return [node.args[0].value]
    return []


def _is_module(above: Path, dotted: str, name: str) -> bool:
    path = above.joinpath(*dotted.split('.'), name)
    return path.is_dir() or path.with_suffix('.py').is_file()


def room_of(dotted: str, package: str) -> str | None:
    """The room of a module of a package: `package.text.base` is in `text`, `package` itself in '', and any other in none."""
    parts, above = dotted.replace('/', '.').split('.'), package.split('.')
    return (*parts[len(above) :], '')[0] if parts[: len(above)] == above else None


def broken_rungs(root: Path, ladder: dict[str, set[str]], part: str = '') -> list[str]:
    """Every import in a package, or in the part of that name, that does not point down its ladder, in words."""
    broken, package = [], f'{root.name}.{part}'.rstrip('.')
    for found in imports_of(root):
        room = room_of(found.file.removesuffix('/__init__'), package)
        if room is None:
            continue
        if room not in ladder:
            broken.append(f'{found.file} is in no room that the ladder knows')
        elif room_of(found.name, package) not in ladder[room] | {room, None}:
            broken.append(f'{found.file}:{found.line} imports {found.name}')
    return broken


def heavy_imports(root: Path) -> list[str]:
    """Every import of something heavy that runs when a module of the library is imported."""
    import sys

    allowed = LIGHT | {root.name} | (set(sys.stdlib_module_names) - STANDARD_LIBRARY_BUT_HEAVY)
    found = (one for one in imports_of(root) if one.at_top and not one.file.endswith('/mypy_plugin'))
    return [f'{one.file}:{one.line} imports {one.name}' for one in found if one.name.split('.')[0] not in allowed]


@pytest.mark.parametrize(
    ('root', 'part', 'ladder'),
    [
        (ROOT / PACKAGE, '', LADDER),
        (ROOT / PACKAGE, 'corpus', CORPUS_LADDER),
        (ROOT / 'demo' / 'cfg_demo', '', DEMO_LADDER),
    ],
)
def test_imports_point_down_the_ladder(root, part, ladder):
    assert broken_rungs(root, ladder, part) == []


def test_the_library_does_not_know_its_demo():
    assert [one for one in imports_of(ROOT / PACKAGE) if one.name.split('.')[0] == 'cfg_demo'] == []


def test_nothing_heavy_is_imported_at_the_top_of_a_module():
    assert heavy_imports(ROOT / PACKAGE) == []


def test_the_ladder_has_no_way_round():
    """No room can reach itself through others, and the three pure rooms reach nothing but the errors."""
    for ladder in (LADDER, CORPUS_LADDER, DEMO_LADDER):
        for room in ladder:
            assert not any(room in ladder[below] for below in ladder[room])
    assert all(LADDER[room] <= {'errors', 'rows'} for room in ('guidance', 'text', 'layers', 'perturb'))


def circles(root: Path) -> list[str]:
    """Every file that reaches itself through what files import, whenever that import runs."""
    imports: dict[str, set[str]] = {}
    for one in imports_of(root):
        here = one.file.replace('/', '.').removesuffix('.__init__')
        imports.setdefault(here, set()).add(one.name)
    reached = {file: set(names) & imports.keys() - {file} for file, names in imports.items()}
    for _ in imports:
        reached = {file: names.union(*(reached[name] for name in names)) for file, names in reached.items()}
    return [file for file, names in reached.items() if file in names]


@pytest.mark.parametrize('root', [ROOT / PACKAGE, ROOT / 'demo' / 'cfg_demo'])
def test_no_file_imports_itself_through_others(root):
    assert circles(root) == []


@pytest.mark.parametrize(
    'source',
    [
        f'from {PACKAGE}.text.base import TextEncoder',
        'from .base import TextEncoder',
        'def f():\n    from . import base',
        f'from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import {PACKAGE}.text.base',
        f'import importlib\ndef f():\n    importlib.import_module("{PACKAGE}.text.base")',
    ],
)
def test_a_circle_is_found(tmp_path, source):
    root = _small_package(tmp_path)
    (root / 'text' / 'base.py').write_text('from .encoding import TextEncoding')
    (root / 'text' / 'encoding.py').write_text('from ..errors import ConfigError')
    assert circles(root) == []
    (root / 'text' / 'encoding.py').write_text(source)
    assert set(circles(root)) == {f'{PACKAGE}.text.base', f'{PACKAGE}.text.encoding'}


@pytest.mark.parametrize(
    ('file', 'source'),
    [
        ('text/a.py', f'from {PACKAGE}.layers import FiLM'),
        ('text/a.py', f'import {PACKAGE}.guidance.rules'),
        ('text/a.py', 'from ..guidance import cfg'),
        ('text/a.py', 'from .. import layers'),
        ('text/a.py', f'from {PACKAGE} import guidance'),
        ('text/a.py', f'import {PACKAGE}'),
        ('guidance/a.py', 'def f():\n    from ..conditioners import base'),
        ('guidance/a.py', f'import importlib\ndef f():\n    importlib.import_module("{PACKAGE}.text")'),
        ('layers/deep/a.py', 'from ...text import encoding'),
        ('decorator/a.py', f'from {PACKAGE}.corpus import EmbeddingStore'),
        ('errors.py', 'from .text import TextEncoding'),
        ('utils.py', 'import math'),
    ],
)
def test_the_ladder_can_break(tmp_path, file, source):
    root = _small_package(tmp_path)
    assert broken_rungs(root, LADDER) == []
    (root / file).parent.mkdir(parents=True, exist_ok=True)
    (root / file).write_text(source)
    assert len(broken_rungs(root, LADDER)) == 1


@pytest.mark.parametrize(
    ('file', 'source'),
    [
        ('store/a.py', f'from {PACKAGE}.corpus.encode import job'),
        ('read/a.py', f'from {PACKAGE}.corpus import run'),
        ('scan/a.py', f'from {PACKAGE}.corpus import embed_corpus'),
        ('rest.py', 'import math'),
    ],
)
def test_the_ladder_of_a_part_can_break(tmp_path, file, source):
    root = _small_package(tmp_path)
    for room in ('read', 'scan', 'store', 'encode'):
        (root / 'corpus' / room).mkdir()
    (root / 'corpus' / 'run.py').write_text(f'from {PACKAGE}.corpus.encode import job')
    assert broken_rungs(root, CORPUS_LADDER, 'corpus') == []
    (root / 'corpus' / file).write_text(source)
    assert len(broken_rungs(root, CORPUS_LADDER, 'corpus')) == 1


@pytest.mark.parametrize(
    ('source', 'broken'),
    [
        ('import transformers', 1),
        ('from matplotlib import pyplot', 1),
        ('try:\n    import open_clip\nexcept ImportError:\n    pass', 1),
        ('class A:\n    import diffusers', 1),
        ('def f():\n    import transformers', 0),
        ('from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import transformers', 0),
        ('import math, torch.nn.functional as F', 0),
    ],
)
def test_a_heavy_import_is_found(tmp_path, source, broken):
    root = _small_package(tmp_path)
    (root / 'text' / 'a.py').write_text(source)
    assert len(heavy_imports(root)) == broken


def _small_package(folder: Path) -> Path:
    """A package in which every import is allowed."""
    root = folder / PACKAGE
    for room in ('guidance', 'text', 'layers', 'conditioners', 'decorator', 'corpus'):
        (root / room).mkdir(parents=True)
        (root / room / '__init__.py').write_text('from ..errors import ConfigError')
    (root / 'errors.py').write_text('import torch')
    (root / 'conditioners' / 'base.py').write_text('def f():\n    from ..text import base\n    from . import pooled')
    (root / '__init__.py').write_text(f'from {PACKAGE} import guidance\nfrom {PACKAGE}.conditioners import base')
    return root
