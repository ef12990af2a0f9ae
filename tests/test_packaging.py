"""What is built: the wheels and sdists of the library and of its demo, made here, offline; their contents and metadata."""

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
from importlib import import_module
from importlib.metadata import distribution
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.test_layering import imports_of

ROOT = Path(__file__).parents[1]
LIBRARY, DEMO = 'classifier_free_guidance_pytorch', 'cfg_demo'
FOLDERS = {LIBRARY: '.', DEMO: 'demo'}  # where the package and its setup.py are
REQUIREMENTS = {
    LIBRARY: {
        'torch', 'transformers', 'open_clip_torch', 'beartype', 'sentencepiece', 'protobuf', 'safetensors', 'tqdm', 'numpy',
        'typing_extensions',
    },
    DEMO: {
        'classifier-free-guidance-pytorch', 'diffusers', 'einops', 'gradio', 'matplotlib', 'pillow', 'scikit-learn', 'starlette',
    },
}  # fmt: skip
LARGEST_WHEEL = 2_500_000  # bytes, of the library, without the weights of its embedded encoder


def build(source: Path, hook: str) -> Path:
    """Run a hook of the build system as pip would, in a process of its own, and return the file it made."""
    out = source.parent / f'{hook}-of-{source.name}'
    code = f'from setuptools import build_meta; print(build_meta.{hook}({str(out)!r}))'
    out.mkdir()
    run = subprocess.run([sys.executable, '-c', code], cwd=source, capture_output=True, text=True, check=True)
    return out / run.stdout.splitlines()[-1]


@pytest.fixture(scope='module')
def repository(tmp_path_factory) -> Path:
    """The part of the repository that the builds read, copied, so that building leaves nothing behind."""
    copy = tmp_path_factory.mktemp('build') / 'repository'
    for package, folder in FOLDERS.items():
        ignored = shutil.ignore_patterns('__pycache__', '*.egg-info', 'build')
        shutil.copytree(ROOT / folder / package, copy / folder / package, ignore=ignored)
        for name in ('setup.py', 'pyproject.toml', 'README.md', 'LICENSE'):
            shutil.copy(ROOT / folder / name, copy / folder)
    return copy


@pytest.fixture(scope='module')
def wheels(repository) -> dict[str, zipfile.ZipFile]:
    return {package: zipfile.ZipFile(build(repository / folder, 'build_wheel')) for package, folder in FOLDERS.items()}


@pytest.fixture(scope='module')
def metadata(wheels) -> dict[str, Message]:
    return {package: metadata_of(wheel) for package, wheel in wheels.items()}


def metadata_of(wheel: zipfile.ZipFile) -> Message:
    (name,) = (name for name in wheel.namelist() if name.endswith('.dist-info/METADATA'))
    return Parser().parsestr(wheel.read(name).decode())


def package_files(root: Path, package: str) -> set[str]:
    files = (path for path in (root / package).rglob('*') if path.is_file() and '__pycache__' not in path.parts)
    return {path.relative_to(root).as_posix() for path in files}


def pins() -> list[Requirement]:
    lines = (ROOT / 'constraints.txt').read_text(encoding='utf-8').splitlines()
    return [Requirement(line) for line in lines if line and not line.startswith('#')]


both = pytest.mark.parametrize(('package', 'folder'), FOLDERS.items())


@both
def test_a_wheel_holds_its_whole_package_and_nothing_else(repository, wheels, package, folder):
    inside = {name for name in wheels[package].namelist() if '.dist-info/' not in name}
    assert inside == package_files(repository / folder, package)
    assert f'{package}/py.typed' in inside


def test_the_library_is_small_and_holds_nothing_of_its_demo(wheels):
    wheel = wheels[LIBRARY]
    assert [name for name in wheel.namelist() if 'demo' in name] == []
    weights = sum(one.compress_size for one in wheel.infolist() if one.filename.endswith('.safetensors'))
    assert Path(wheel.filename).stat().st_size - weights <= LARGEST_WHEEL


@both
def test_the_sdist_builds_the_same_wheel(repository, wheels, tmp_path, package, folder):
    with tarfile.open(build(repository / folder, 'build_sdist')) as sdist:
        sdist.extractall(tmp_path, filter='data')
    (unpacked,) = tmp_path.iterdir()
    assert package_files(unpacked, package) == package_files(repository / folder, package)
    with zipfile.ZipFile(build(unpacked, 'build_wheel')) as again:
        assert sorted(again.namelist()) == sorted(wheels[package].namelist())


@both
def test_the_metadata(metadata, package, folder):
    found = metadata[package]
    assert found['Name'] == {LIBRARY: 'classifier-free-guidance-pytorch', DEMO: 'cfg-demo'}[package]
    assert found['Version'] == import_module(package).__version__
    assert found['License-Expression'] == 'MIT'
    assert found['License-File'] == 'LICENSE'
    assert found['Requires-Python'] == '>=3.10'
    assert found['Description-Content-Type'] == 'text/markdown'
    page, shown = (ROOT / folder / 'README.md').read_text(encoding='utf-8'), found.get_payload()
    assert shown.splitlines()[0] == page.splitlines()[0]
    links = re.findall(r'\]\(([^)]*)\)', shown)
    assert [link for link in links if not link.startswith(('http', '#'))] == [], 'dead on an index'
    here = [link.partition(f'/v{found["Version"]}/')[2] for link in links if '/blob/v' in link or '/raw/v' in link]
    assert [path for path in here if not (ROOT / path).exists()] == []
    assert any('/raw/v' in link for link in links) or package == DEMO, 'the picture is shown'
    assert found['Author'] == 'the classifier-free-guidance-pytorch maintainers'
    assert found['Home-page'] or found.get_all('Project-URL')
    assert 'Typing :: Typed' in found.get_all('Classifier')
    assert (ROOT / folder / 'LICENSE').read_text(encoding='utf-8') == (ROOT / 'LICENSE').read_text(encoding='utf-8')


@both
def test_the_requirements_and_no_more(metadata, package, folder):
    required = [Requirement(line) for line in metadata[package].get_all('Requires-Dist')]
    assert {one.name for one in required if one.marker is None} == REQUIREMENTS[package]


def test_the_extras(metadata):
    assert set(metadata[LIBRARY].get_all('Provides-Extra')) == {'corpus', 'ray', 'distributed', 'docs', 'test', 'dev'}


def test_the_demo_is_for_this_library(metadata):
    (needed,) = (Requirement(line) for line in metadata[DEMO].get_all('Requires-Dist') if 'guidance' in line)
    assert needed.name == metadata[LIBRARY]['Name']
    assert needed.specifier.contains(metadata[LIBRARY]['Version'])


@both
def test_what_is_imported_at_the_top_is_required(metadata, package, folder):
    """Of the packages that modules import when they are imported, every one is a requirement, or one of the library's."""
    names = {'PIL': 'pillow', 'sklearn': 'scikit-learn'}
    required = {
        one.name.replace('-', '_') for one in map(Requirement, metadata[LIBRARY].get_all('Requires-Dist')) if not one.marker
    }
    required |= {Requirement(line).name.replace('-', '_') for line in metadata[package].get_all('Requires-Dist')}
    found = (one for one in imports_of(ROOT / folder / package) if one.at_top and not one.file.endswith('/mypy_plugin'))
    tops = {one.name.split('.')[0] for one in found} - set(sys.stdlib_module_names)
    assert {names.get(top, top) for top in tops - {package}} - required == set()


@pytest.mark.parametrize(('installed', 'name'), [('cfg-demo', 'cfg-demo'), ('classifier-free-guidance-pytorch', 'cfg-embed')])
def test_the_console_scripts_are_there(installed, name):
    (script,) = distribution(installed).entry_points.select(group='console_scripts')
    assert script.name == name
    assert callable(script.load())


def test_constraints_are_exact_and_hold_everywhere():
    assert all(re.fullmatch(r'==[\w.]+', str(pin.specifier)) and pin.url is None for pin in pins())  # no local label, no path
    versions = {canonicalize_name(pin.name): str(pin.specifier) for pin in pins()}
    assert len(versions) == len(pins())
    assert (versions['torch'], versions['torchvision']) == ('==2.13.0', '==0.28.0')


def test_every_requirement_is_constrained(metadata):
    known = {canonicalize_name(pin.name) for pin in pins()} | {metadata[LIBRARY]['Name']}
    required = [line for package in FOLDERS for line in metadata[package].get_all('Requires-Dist')]
    assert {canonicalize_name(Requirement(line).name) for line in required} <= known


def test_ci_runs_on_every_python_version_that_is_promised(metadata):
    import yaml

    workflow = yaml.safe_load((ROOT / '.github' / 'workflows' / 'tests.yml').read_text(encoding='utf-8'))
    versions = workflow['jobs']['suite']['strategy']['matrix']['python']
    for package in FOLDERS:
        promised = re.findall(r'Python :: (3\.\d+)', '\n'.join(metadata[package].get_all('Classifier')))
        assert versions == promised
    assert any(step.get('run') == 'bash .ci/run' for step in workflow['jobs']['suite']['steps'])
    for job, python, runs in (('oldest', versions[0], 'bash scripts/oldest'), ('newest', versions[-1], '-m pytest')):
        steps = workflow['jobs'][job]['steps']
        assert [step['with']['python-version'] for step in steps if 'with' in step] == [python]
        assert any(runs in step.get('run', '') for step in steps)
        assert not any('constraints.txt' in step.get('run', '').partition('#')[0] for step in steps)


def copied_scripts(folder: Path) -> Path:
    shutil.copytree(ROOT / 'scripts', folder / 'scripts')
    (folder / 'demo').mkdir()
    for name in ('setup.py', 'pyproject.toml', 'constraints.txt', 'no_deps.txt', 'demo/setup.py', 'demo/pyproject.toml'):
        shutil.copy(ROOT / name, folder / name)
    return folder / 'scripts'


def run_script(script: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess:
    command = ['bash', str(script), *arguments]
    return subprocess.run(command, capture_output=True, text=True, env={**os.environ, **environment}, check=False)


@pytest.mark.parametrize('name', ['demo', 'test'])
def test_a_machine_without_python_is_told_what_to_do(tmp_path, name):
    run = run_script(copied_scripts(tmp_path) / name, PYTHON='false')
    assert run.returncode == 1
    assert 'No Python 3.10 to 3.13 with venv was found' in run.stderr
    assert 'Installing' not in run.stdout


def test_the_oldest_versions_are_tested_on_the_oldest_python_only(tmp_path):
    run = run_script(copied_scripts(tmp_path) / 'oldest', PYTHON='false')
    assert run.returncode == 1
    assert "on Python 3.10, but 'false' is not one with venv: PYTHON=/path/to/python3.10" in run.stderr


def test_every_requirement_states_its_floor(metadata):
    lines = metadata[LIBRARY].get_all('Requires-Dist')
    needed = [one for one in map(Requirement, lines) if one.marker is None or one.marker.evaluate({'extra': 'test'})]
    floors = {one.name: [clause.version for clause in one.specifier if clause.operator == '>='] for one in needed}
    assert [name for name, floor in floors.items() if len(floor) != 1] == []


def test_the_help_of_the_demos_names_each_of_them_and_needs_no_environment(tmp_path):
    from cfg_demo.cli import DEMOS

    run = run_script(copied_scripts(tmp_path) / 'demo', '--help', PYTHON='false')
    assert run.returncode == 0
    assert [name for name in DEMOS if not re.search(rf'\b{name}\b', run.stdout)] == []
    assert '.ci/venv' in run.stdout


@pytest.fixture
def ready(tmp_path) -> Path:
    """Copied scripts whose environment is there: what should be a Python says what it was asked to do."""
    scripts = copied_scripts(tmp_path)
    python = tmp_path / '.ci' / 'venv' / 'bin' / 'python'
    python.parent.mkdir(parents=True)
    python.write_text('#!/bin/sh\ncase "$*" in "-m pip --version" | "-c ") ;; *) echo "Collecting asked: $*" ;; esac\n')
    python.chmod(0o755)
    return scripts


def test_both_distributions_are_installed_at_once_and_again_when_either_changes(ready):
    installing = 'pip install --constraint constraints.txt --editable .[test] --editable ./demo'
    first = run_script(ready / 'test', '-x').stdout
    assert installing in first
    assert 'pip install --quiet --no-deps --requirement no_deps.txt' in first
    again = run_script(ready / 'test', '-x').stdout
    assert installing not in again
    assert 'asked: -m pytest --numprocesses auto --maxprocesses 8 -x' in again
    for name in ('setup.py', 'demo/setup.py'):
        with (ready.parent / name).open('a', encoding='utf-8') as file:
            file.write('# changed\n')
        assert installing in run_script(ready / 'test').stdout
        assert installing not in run_script(ready / 'test').stdout


def test_the_citation_is_of_this_version():
    text = (ROOT / 'CITATION.cff').read_text(encoding='utf-8')
    assert f'version: {import_module(LIBRARY).__version__}' in text.splitlines()


def test_the_changelog_knows_this_version():
    major, minor, _ = import_module(LIBRARY).__version__.split('.')
    assert re.search(rf'^## .*\b{major}\.{minor}\b', (ROOT / 'CHANGELOG.md').read_text(encoding='utf-8'), re.MULTILINE)


def test_what_security_promises_is_tested():
    rows = re.findall(r'^\| (?!promise|---)(.+) \| (.+) \|$', (ROOT / 'SECURITY.md').read_text(encoding='utf-8'), re.MULTILINE)
    assert len(rows) >= 15
    for promise, tests in rows:
        named = re.findall(r'`(\S+\.py)`', tests)
        assert named, promise
        assert [test for test in named if not (ROOT / test).is_file()] == [], promise


def test_the_hooks_are_of_the_version_that_ci_runs():
    (pinned,) = re.findall(r'^ruff==(.+)$', (ROOT / 'constraints.txt').read_text(encoding='utf-8'), re.MULTILINE)
    assert f'rev: v{pinned}' in (ROOT / '.pre-commit-config.yaml').read_text(encoding='utf-8')


@both
def test_every_shipped_weight_has_a_model_card(package, folder):
    weights = sorted((ROOT / folder / package).glob('**/*.safetensors'))
    assert weights
    for path in weights:
        assert '## Licence' in (path.parent / 'README.md').read_text(encoding='utf-8'), (
            f'the model card of {path} names its licence'
        )


def test_actions_are_pinned_by_hash():
    used = [
        line
        for path in (ROOT / '.github' / 'workflows').glob('*.yml')
        for line in path.read_text().splitlines()
        if 'uses:' in line
    ]
    assert used
    assert [line for line in used if not re.search(r'@[0-9a-f]{40}  # v\d', line)] == []
