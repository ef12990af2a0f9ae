"""What is built: a wheel and an sdist made here, offline, and their contents and metadata."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from email.message import Message
from email.parser import Parser
from importlib.metadata import entry_points
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
PACKAGE = 'classifier_free_guidance_pytorch'
REQUIREMENTS = {
    'torch', 'einops', 'transformers', 'open_clip_torch', 'beartype', 'sentencepiece', 'protobuf', 'safetensors', 'tqdm',
}  # fmt: skip


def build(source: Path, hook: str) -> Path:
    """Run a hook of the build system as pip would, in a process of its own, and return the file it made."""
    out = source.parent / f'{hook}-of-{source.name}'
    code = f'from setuptools import build_meta; print(build_meta.{hook}({str(out)!r}))'
    out.mkdir()
    run = subprocess.run([sys.executable, '-c', code], cwd=source, capture_output=True, text=True, check=True)
    return out / run.stdout.splitlines()[-1]


@pytest.fixture(scope='module')
def source(tmp_path_factory) -> Path:
    """The part of the repository that the build reads, copied, so that building leaves nothing behind."""
    copy = tmp_path_factory.mktemp('build') / 'repository'
    shutil.copytree(ROOT / PACKAGE, copy / PACKAGE, ignore=shutil.ignore_patterns('__pycache__'))
    for name in ('setup.py', 'pyproject.toml', 'README.md', 'LICENSE'):
        shutil.copy(ROOT / name, copy)
    return copy


@pytest.fixture(scope='module')
def wheel(source) -> zipfile.ZipFile:
    return zipfile.ZipFile(build(source, 'build_wheel'))


@pytest.fixture(scope='module')
def metadata(wheel) -> Message:
    (name,) = (name for name in wheel.namelist() if name.endswith('.dist-info/METADATA'))
    return Parser().parsestr(wheel.read(name).decode())


def package_files(root: Path) -> set[str]:
    files = (path for path in (root / PACKAGE).rglob('*') if path.is_file() and '__pycache__' not in path.parts)
    return {path.relative_to(root).as_posix() for path in files}


def pins() -> list[Requirement]:
    lines = (ROOT / 'constraints.txt').read_text(encoding='utf-8').splitlines()
    return [Requirement(line) for line in lines if line and not line.startswith('#')]


def test_the_wheel_holds_the_whole_package_and_nothing_else(source, wheel):
    inside = {name for name in wheel.namelist() if '.dist-info/' not in name}
    assert inside == package_files(source)
    assert f'{PACKAGE}/py.typed' in inside


def test_the_sdist_builds_the_same_wheel(source, wheel, tmp_path):
    with tarfile.open(build(source, 'build_sdist')) as sdist:
        sdist.extractall(tmp_path, filter='data')
    (unpacked,) = tmp_path.iterdir()
    assert package_files(unpacked) == package_files(source)
    with zipfile.ZipFile(build(unpacked, 'build_wheel')) as again:
        assert sorted(again.namelist()) == sorted(wheel.namelist())


def test_the_metadata(metadata):
    import classifier_free_guidance_pytorch as package

    assert metadata['Name'] == 'classifier-free-guidance-pytorch'
    assert metadata['Version'] == package.__version__
    assert metadata['License-Expression'] == 'MIT'
    assert metadata['License-File'] == 'LICENSE'
    assert metadata['Requires-Python'] == '>=3.10'
    assert metadata['Description-Content-Type'] == 'text/markdown'
    assert metadata.get_payload().strip() == (ROOT / 'README.md').read_text(encoding='utf-8').strip()
    assert 'Typing :: Typed' in metadata.get_all('Classifier')


def test_the_requirements_and_no_more(metadata):
    required = [Requirement(line) for line in metadata.get_all('Requires-Dist')]
    assert {one.name for one in required if one.marker is None} == REQUIREMENTS
    assert {'demo', 'corpus', 'ray', 'distributed', 'test', 'dev'} <= set(metadata.get_all('Provides-Extra'))


@pytest.mark.parametrize('name', ['cfg-demo', 'cfg-embed'])
def test_the_console_scripts_are_there(name):
    (script,) = entry_points(group='console_scripts', name=name)
    assert callable(script.load())


def test_constraints_are_exact_and_hold_everywhere():
    assert all(re.fullmatch(r'==[\w.]+', str(pin.specifier)) and pin.url is None for pin in pins())  # no local label, no path
    versions = {canonicalize_name(pin.name): str(pin.specifier) for pin in pins()}
    assert len(versions) == len(pins())
    assert (versions['torch'], versions['torchvision']) == ('==2.13.0', '==0.28.0')


def test_every_requirement_is_constrained(metadata):
    pinned = {canonicalize_name(pin.name) for pin in pins()}
    assert {canonicalize_name(Requirement(line).name) for line in metadata.get_all('Requires-Dist')} <= pinned


def test_ci_runs_on_every_python_version_that_is_promised(metadata):
    import yaml

    workflow = yaml.safe_load((ROOT / '.github' / 'workflows' / 'tests.yml').read_text(encoding='utf-8'))
    versions = workflow['jobs']['suite']['strategy']['matrix']['python']
    promised = re.findall(r'Python :: (3\.\d+)', '\n'.join(metadata.get_all('Classifier')))
    assert versions == promised
    assert any(step.get('run') == 'bash .ci/run' for step in workflow['jobs']['suite']['steps'])


def test_a_machine_without_python_is_told_what_to_do(tmp_path):
    shutil.copytree(ROOT / '.ci', tmp_path / '.ci', ignore=shutil.ignore_patterns('venv'))
    for name in ('setup.py', 'pyproject.toml', 'constraints.txt'):
        shutil.copy(ROOT / name, tmp_path)
    environment = {**os.environ, 'PYTHON': 'false'}
    run = subprocess.run(['bash', tmp_path / '.ci' / 'test'], capture_output=True, text=True, env=environment, check=False)
    assert run.returncode == 1
    assert 'No Python 3.10 to 3.13 with venv was found' in run.stderr
    assert 'Installing' not in run.stdout
