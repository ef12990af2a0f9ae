"""The pages of documentation that belong to no room of the library: their code runs, their links lead somewhere."""

from __future__ import annotations

import pkgutil
import re
from importlib import import_module
from pathlib import Path
from types import ModuleType

import pytest
import torch

from classifier_free_guidance_pytorch import errors
from classifier_free_guidance_pytorch.decorator.class_decorator import CONDITIONERS
from classifier_free_guidance_pytorch.text.registry import _ADAPTERS
from classifier_free_guidance_pytorch.text.torchvision_repair import repair_torchvision
from tests.test_readme import blocks, encoders_of_the_readme  # noqa: F401  a fixture

ROOT = Path(__file__).parents[1]
PAGES = sorted((ROOT / 'docs').glob('*.md'))


def page(name: str) -> str:
    return (ROOT / 'docs' / f'{name}.md').read_text(encoding='utf-8')


@pytest.mark.parametrize('name', ['conditioning', 'first_model', 'one_pass', 'other_libraries'])
def test_every_block_of_a_page_runs(name, encoders_of_the_readme, tmp_path, monkeypatch):  # noqa: F811
    repair_torchvision()  # which diffusers imports
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    names: dict[str, object] = {}
    found = blocks('python', page(name))
    assert len(found) >= 2
    for line, block in found:
        exec(compile('\n' * line + block, f'docs/{name}.md', 'exec'), names)


@pytest.mark.parametrize('path', PAGES, ids=[path.stem for path in PAGES])
def test_every_link_of_a_page_leads_somewhere(path):
    prose = re.sub(r'```.*?```|`[^`\n]*`', '', path.read_text(encoding='utf-8'), flags=re.DOTALL)
    links = [link for link in re.findall(r'\]\(([^)#]+)', prose) if '://' not in link]
    assert [link for link in links if not (path.parent / link).exists()] == []


def test_the_tables_of_encoders_and_types_are_complete():
    tables = page('conditioning').split('\n\n')
    of_encoders, of_types = [
        next(t for t in tables if t.startswith(f'| `{head}`')) for head in ('model_types', 'text_condition_type')
    ]
    for table, known in ((of_encoders, _ADAPTERS), (of_types, CONDITIONERS)):
        assert set(re.findall(r"^\| `'(\w+)'` \|", table, re.MULTILINE)) == set(known)


def test_the_table_of_errors_is_complete():
    table = dict(re.findall(r'^\| `(\w+)` \| `(\w+)` \|', page('troubleshooting'), re.MULTILINE))
    family = [one for one in vars(errors).values() if isinstance(one, type) and issubclass(one, errors.CFGError)]
    listed = {one.__name__: one.__mro__[2].__name__ for one in family if errors.CFGError in one.__bases__}
    assert table == listed


def test_the_migration_page_lists_every_error():
    named = set(re.findall(r'`(\w+Error)`', page('migration')))
    assert set(re.findall(r'^\| `(\w+)` \|', page('troubleshooting'), re.MULTILINE)) <= named


REFERENCE = '\n'.join(path.read_text(encoding='utf-8') for path in (ROOT / 'docs' / 'api').glob('*.md'))
ROOMS = ('', '.guidance', '.perturb', '.training', '.modules', '.corpus')


@pytest.mark.parametrize('room', ROOMS)
def test_the_reference_has_every_public_name(room):
    module = import_module(f'classifier_free_guidance_pytorch{room}')
    listed = set(re.findall(r'^::: [\w.]*?\.(\w+)$', REFERENCE, re.MULTILINE))
    names = {name: getattr(getattr(module, name), '__name__', name) for name in module.__all__}  # interval is Interval, for one
    missing = [name for name, own in names.items() if not {name, own, own.rpartition('.')[2]} & listed]
    assert [name for name in missing if not isinstance(getattr(module, name), ModuleType)] == []


def test_the_reference_names_what_is_there():
    for path in re.findall(r'^::: ([\w.]+)$', REFERENCE, re.MULTILINE):
        assert pkgutil.resolve_name(path) is not None


def test_every_page_is_in_the_menu_of_the_site():
    menu = re.findall(r'(\S+\.md)$', (ROOT / 'mkdocs.yml').read_text(encoding='utf-8'), re.MULTILINE)
    pages = {path.relative_to(ROOT / 'docs').as_posix() for path in (ROOT / 'docs').rglob('*.md')}
    assert set(menu) == pages
