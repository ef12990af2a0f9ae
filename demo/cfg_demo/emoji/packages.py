"""The packages that the pictures come from: by name and version, and only with the content that their hashes promise."""

from __future__ import annotations

import base64
import hashlib
import os
import shutil
import subprocess
import tarfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.error import URLError
from urllib.parse import quote
from urllib.request import urlopen

from cfg_demo.progress import progress_bar
from classifier_free_guidance_pytorch.errors import ConfigError, MissingDependencyError

WAIT_S = 60.0  # for an answer of the registry


@dataclass(frozen=True)
class Package:
    """One version of an npm package.

    Args:
        name: As the registry knows it.
        version: Exactly this one.
        integrity: Its hash, as a lock file writes it: 'sha512-' and the digest in base 64.
        licence: Of what is used from it.
        credit: Whom the licence names.
    """

    name: str
    version: str
    integrity: str
    licence: str
    credit: str

    @property
    def archive(self) -> str:
        """The file name that `npm pack` gives it."""
        return f'{self.name.removeprefix("@").replace("/", "-")}-{self.version}.tgz'


LABELS = Package(
    'emojibase-data',
    '17.0.0',
    'sha512-Yvgb5AWoHViHV/gq1qr5ZAarcBip+B27/ZLRsUJkbgAEaLlZ/fof9g882LTpmEpyhBNEC0m2SEmItljHsTygjA==',
    'MIT',
    'Miles Johnson; labels and tags from the Unicode CLDR (Unicode License v3)',
)
STYLES = {
    'noto': Package(
        'emoji-datasource-google',
        '16.0.0',
        'sha512-ZRexfzs7MVoLnmzZmNsO4TKhnAJp5D++Vm6PpUpH/jEQQlemp3l88CjZ+DoZ2faM9R4QxZkOPJCoT8DlPhfQ3A==',
        'Apache-2.0',
        'Noto Emoji, Google',
    ),
    'twemoji': Package(
        'emoji-datasource-twitter',
        '16.0.0',
        'sha512-7F+uCuHH+7Qnrc15P5tnbvKkg9E6tlzi4MnT2uW1RlN4pLYTza6cP/dstIfSDMtpjFLWuZewWg8jBbuL2eyELQ==',
        'CC-BY-4.0',
        'Twemoji, Twitter, Inc and other contributors',
    ),
    'fluent': Package(
        '@lobehub/fluent-emoji-3d',
        '1.1.0',
        'sha512-Wlq2lVStTnr8BDpIJ0pEnTKO4LuDxxqTEhTvRtD1DLRF0me7ogeRQjKoehDHXuVJ2Qaecgl5wRBv60lUAG3h7g==',
        'MIT',
        'Fluent Emoji, Microsoft Corporation',
    ),
}


def fetch(packages: Sequence[Package], folder: Path, given: Path | None = None, registry: str | None = None) -> list[Path]:
    """Return the archives of packages, each with its hash checked.

    An archive that is in the folder already is not fetched again.

    Args:
        packages: What is wanted.
        folder: Where archives are kept.
        given: A folder with archives that were fetched elsewhere; then nothing is asked of a registry.
        registry: The address of an npm registry. By default npm asks its own; without npm, that of `npm_config_registry`.

    Raises:
        ConfigError: An archive with a different hash, or one that `given` lacks.
        MissingDependencyError: The registry does not answer, or there is neither npm nor an address.
    """
    if given is not None:
        lacking = [package.archive for package in packages if not (given / package.archive).is_file()]
        if lacking:
            raise ConfigError(
                f'{str(given)!r} lacks {", ".join(lacking)}: they are what `npm pack NAME@VERSION` writes, of '
                + ', '.join(f'{package.name}@{package.version}' for package in packages if package.archive in lacking)
            )
    archives = []
    for package in progress_bar(packages, desc='fetch', unit='package'):
        archive = (given or folder) / package.archive
        if not archive.is_file():
            folder.mkdir(parents=True, exist_ok=True)
            _download(package, archive, registry)
        check(package, archive)
        archives.append(archive)
    return archives


def check(package: Package, archive: Path) -> None:
    """Compare an archive with the hash of its package.

    Raises:
        ConfigError: They differ.
    """
    found = 'sha512-' + base64.b64encode(hashlib.sha512(archive.read_bytes()).digest()).decode()
    if found != package.integrity:
        raise ConfigError(
            f'{str(archive)!r} is not {package.name}@{package.version}: its hash is {found}, expected {package.integrity}. '
            'Delete it, and fetch it again'
        )


def members(archive: Path, wanted: Iterable[str]) -> Iterator[tuple[str, bytes]]:
    """Yield the names and the contents of the files of an archive whose name begins with one of `wanted`.

    Raises:
        ConfigError: The archive cannot be read.
    """
    prefixes = tuple(f'package/{name}' for name in wanted)
    try:
        with tarfile.open(archive, 'r:gz') as opened:
            for member in opened:
                if member.isfile() and member.name.startswith(prefixes):
                    file = opened.extractfile(member)
                    assert file is not None
                    yield member.name.removeprefix('package/'), file.read()
    except (tarfile.TarError, OSError, EOFError) as error:
        raise ConfigError(f'{str(archive)!r} cannot be read as an archive ({error}): fetch it again') from error


def _download(package: Package, archive: Path, registry: str | None) -> None:
    wanted = f'{package.name}@{package.version}'
    npm = shutil.which('npm')
    if npm is not None:
        chosen = [] if registry is None else ['--registry', registry]
        command = [npm, 'pack', wanted, '--loglevel=error', '--pack-destination', str(archive.parent), *chosen]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode == 0 and archive.is_file():
            return
        told = (done.stderr.strip() or done.stdout.strip()).splitlines()[:2]
        raise MissingDependencyError(f'npm could not fetch {wanted} ({"; ".join(told)}): {_ELSE}')
    address = registry or os.environ.get('npm_config_registry')  # noqa: SIM112  (npm's own spelling)
    if not address:
        raise MissingDependencyError(
            f'{wanted} is fetched by npm, which is not installed, or from the address of a registry, which is not set: install '
            f'npm, set npm_config_registry, pass --registry, or {_ELSE}'
        )
    unscoped = package.name.rpartition('/')[2]
    url = f'{address.rstrip("/")}/{quote(package.name, safe="@/")}/-/{unscoped}-{package.version}.tgz'
    part = archive.with_suffix('.part')
    try:
        with urlopen(url, timeout=WAIT_S) as answer, part.open('wb') as file:
            shutil.copyfileobj(answer, file)
    except (URLError, OSError, ValueError) as error:
        part.unlink(missing_ok=True)
        raise MissingDependencyError(f'{wanted} could not be fetched from {url} ({error}): {_ELSE}') from error
    part.replace(archive)


_ELSE = 'fetch the archives elsewhere and pass their folder as --from'
