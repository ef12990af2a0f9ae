"""What a bare machine may lack, as wheels in a folder: packed where there is a network, installed where there is none.

torch and what belongs to it (torchvision, CUDA) are never packed: the machine's own are used, whatever their version.
"""

from __future__ import annotations

import importlib.util
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / '.wheels'
LIMIT = 63 * 2**20  # bytes of the working tree and the wheels together, for machines that take 64 MiB at once
PYTHONS = ('3.12', '3.11')  # the most likely first: where not all fits, what comes last is left out
PLATFORMS = [f'manylinux_2_{minor}_x86_64' for minor in (17, 24, 26, 27, 28, 31, 34)] + [
    'manylinux2014_x86_64',
    'manylinux1_x86_64',
]

# Distribution and module; what a machine with a torch for a GPU is most likely to lack comes first.
SMALL = {
    'beartype': 'beartype', 'open_clip_torch': 'open_clip', 'ftfy': 'ftfy', 'wcwidth': 'wcwidth', 'diffusers': 'diffusers',
    'importlib_metadata': 'importlib_metadata', 'zipp': 'zipp', 'lazy-importer': 'lazy_importer',
    'pytest': 'pytest', 'pluggy': 'pluggy', 'iniconfig': 'iniconfig', 'hypothesis': 'hypothesis',
    'sortedcontainers': 'sortedcontainers', 'einops': 'einops',
    'typing_extensions': 'typing_extensions', 'safetensors': 'safetensors', 'tqdm': 'tqdm',
    'packaging': 'packaging', 'filelock': 'filelock', 'fsspec': 'fsspec', 'PyYAML': 'yaml', 'regex': 'regex',
    'httpx': 'httpx', 'httpcore': 'httpcore', 'httpx2': 'httpx2', 'httpcore2': 'httpcore2', 'truststore': 'truststore',
    'h11': 'h11', 'anyio': 'anyio', 'idna': 'idna', 'certifi': 'certifi',
    'requests': 'requests', 'urllib3': 'urllib3', 'charset-normalizer': 'charset_normalizer', 'click': 'click',
    'typer': 'typer', 'shellingham': 'shellingham', 'rich': 'rich', 'Pygments': 'pygments', 'markdown-it-py': 'markdown_it',
    'mdurl': 'mdurl', 'annotated-doc': 'annotated_doc', 'huggingface_hub': 'huggingface_hub', 'tokenizers': 'tokenizers',
    'transformers': 'transformers', 'sentencepiece': 'sentencepiece', 'protobuf': 'google.protobuf', 'timm': 'timm',
}  # fmt: skip
LARGE = {  # 40 MB for each Python; most machines with a torch for a GPU have them
    'numpy': 'numpy', 'pillow': 'PIL', 'matplotlib': 'matplotlib', 'contourpy': 'contourpy', 'cycler': 'cycler',
    'fonttools': 'fontTools', 'kiwisolver': 'kiwisolver', 'pyparsing': 'pyparsing', 'python-dateutil': 'dateutil',
}  # fmt: skip
PACKAGES = {**SMALL, **LARGE}


def pack(folder: Path, pythons: Sequence[str] = PYTHONS, limit: int = LIMIT) -> list[str]:
    """Fill a folder with wheels, as many as fit beside the working tree; return the names of those that did not."""
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.glob('*.whl'):
        old.unlink()
    room, left_out = limit - tree_bytes(), []
    with tempfile.TemporaryDirectory() as made:
        for python in pythons:
            download(Path(made), python)
        for wheel in in_order(list(Path(made).glob('*.whl')), pythons):
            if wheel.stat().st_size > room:
                left_out.append('-'.join(wheel.name.split('-')[:3]))
                continue
            room -= wheel.stat().st_size
            shutil.copy(wheel, folder)
    return left_out


def download(folder: Path, python: str) -> None:
    """Download a wheel of every package for one Python, in the version of constraints.txt where that has one for it."""
    wanted = list(pinned(python))
    pip = [sys.executable, '-m', 'pip', 'download', '--no-deps', '--only-binary=:all:', '--dest', str(folder)]
    pip += ['--python-version', python, '--implementation', 'cp']
    pip += [word for platform in PLATFORMS for word in ('--platform', platform)]
    if run_pip(*pip, *wanted):
        return
    for requirement in wanted:  # one of them has no wheel for this Python: which?
        if not run_pip(*pip, requirement):
            print(f'no wheel of {requirement} for Python {python}')


def pinned(python: str) -> Iterator[str]:
    """Requirements of all packages: `name==version`, or the name alone where constraints.txt has no version for this Python."""
    text = (ROOT / 'constraints.txt').read_text(encoding='utf-8')
    versions = {}
    for name, version, least in re.findall(r'^([\w.-]+)==([^;\s]+)(?:; python_version >= "([\d.]+)")?', text, re.MULTILINE):
        if not least or number(python) >= number(least):
            versions[plain(name)] = version
    for name in PACKAGES:
        yield f'{name}=={versions[plain(name)]}' if plain(name) in versions else name


def in_order(wheels: Sequence[Path], pythons: Sequence[str]) -> list[Path]:
    """Return wheels in the order in which they are packed while there is room: the small ones of every Python first."""
    names = [plain(name) for name in PACKAGES]

    def place(wheel: Path) -> tuple[bool, int, int]:
        tag = '-'.join(wheel.name.split('-')[-3:-1])  # cp312-cp312; others, such as cp310-abi3 and py3-none, are for every Python
        tags = [f'{one}-{one}' for one in (f'cp{python.replace(".", "")}' for python in pythons)]
        python = tags.index(tag) if tag in tags else 0
        package = names.index(distribution(wheel))
        return package >= len(SMALL), python, package

    return sorted(wheels, key=place)


def install(folder: Path, target: Path) -> list[str]:
    """Install what this Python lacks, and nothing else, from the folder into another; return the names.

    Needs no network, and changes nothing that is installed.
    """
    packed = {distribution(wheel) for wheel in folder.glob('*.whl')}
    lacking = [name for name, module in PACKAGES.items() if plain(name) in packed and not there(module)]
    if not lacking:
        return []
    pip = [sys.executable, '-m', 'pip', 'install', '--no-index', '--no-deps', '--no-compile', '--no-cache-dir']
    pip += ['--disable-pip-version-check', '--find-links', str(folder), '--target', str(target), '--upgrade']
    if run_pip(*pip, *lacking):
        return lacking
    return [name for name in lacking if run_pip(*pip, name)]  # those that have a wheel for this Python


def run_pip(*command: str) -> bool:
    """Run pip, and return whether it did what it was asked."""
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


def there(module: str) -> bool:
    """Return whether a module can be imported, without importing it."""
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:  # the package that it is part of is missing
        return False


def tree_bytes() -> int:
    """Return the bytes of the working tree: what git tracks, and what it neither tracks nor ignores."""
    listed = subprocess.run(
        ['git', 'ls-files', '-z', '--cached', '--others', '--exclude-standard'], cwd=ROOT, capture_output=True, check=True
    )
    paths = {ROOT / name for name in listed.stdout.decode().split('\0') if name}
    return sum(path.stat().st_size for path in paths if path.is_file())


def distribution(wheel: Path) -> str:
    """Return the plain name of the distribution that a wheel holds."""
    return plain(wheel.name.split('-')[0])


def plain(name: str) -> str:
    """Return a distribution's name as indexes compare them."""
    return re.sub(r'[-_.]+', '-', name).lower()


def number(version: str) -> tuple[int, ...]:
    """Return a version as numbers."""
    return tuple(map(int, version.split('.')))
