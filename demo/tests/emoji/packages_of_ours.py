"""Archives as npm packs them, with three little emoji, and the packages that name them."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import tarfile
from pathlib import Path

from PIL import Image

from cfg_demo.emoji import data
from cfg_demo.emoji.packages import LABELS, STYLES, Package

LABELLED = [
    {'label': 'red apple', 'hexcode': '1F34E', 'tags': ['apple', 'fruit', 'food'], 'group': 4},
    {'label': 'owl', 'hexcode': '1F989', 'tags': ['bird', 'wise'], 'group': 3},
    {'label': 'keycap: 1', 'hexcode': '0031-FE0F-20E3', 'tags': ['keycap'], 'group': 8},
    {'label': 'person: red hair', 'hexcode': '1F9D1-200D-1F9B0', 'tags': ['adult'], 'group': 1},
    {'label': 'woman: red hair', 'hexcode': '1F469-200D-1F9B0', 'tags': ['adult'], 'group': 1},
    {'label': 'flag: Chad', 'hexcode': '1F1F9-1F1E9', 'tags': ['TD'], 'group': 9},
    {'label': 'regional indicator A', 'hexcode': '1F1E6'},
]
FILES = {'1f34e': 'red', '1f989': 'saddlebrown', '0031-fe0f-20e3': 'blue', '1f9d1-200d-1f9b0': 'orange', '1f1f9-1f1e9': 'gold'}


def png(colour: str, size: int = 64) -> bytes:
    """A disc of a colour on nothing."""
    from PIL import ImageDraw

    picture = Image.new('RGBA', (size, size), (0, 0, 0, 0))
    ImageDraw.Draw(picture).ellipse((4, 4, size - 5, size - 5), fill=colour)
    file = io.BytesIO()
    picture.save(file, 'PNG')
    return file.getvalue()


def pack(path: Path, files: dict[str, bytes]) -> None:
    """Write an archive as `npm pack` does."""
    with tarfile.open(path, 'w:gz') as archive:
        for name, content in files.items():
            entry = tarfile.TarInfo(f'package/{name}')
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))


def hashed(package: Package, archive: Path) -> Package:
    """The package with the hash of an archive."""
    digest = base64.b64encode(hashlib.sha512(archive.read_bytes()).digest()).decode()
    return Package(package.name, package.version, f'sha512-{digest}', package.licence, package.credit)


def write_archives(folder: Path) -> None:
    """All four archives."""
    pack(folder / LABELS.archive, {'en/data.json': json.dumps(LABELLED).encode(), 'package.json': b'{}'})
    for style, inside in (('noto', 'img/google/64'), ('twemoji', 'img/twitter/64'), ('fluent', 'assets')):
        pack(folder / STYLES[style].archive, {f'{inside}/{name}.png': png(colour) for name, colour in FILES.items()})


def use_archives(folder: Path, monkeypatch) -> None:
    """Let the archives of a folder be those whose hashes are known."""
    monkeypatch.setattr(data, 'LABELS', hashed(LABELS, folder / LABELS.archive))
    monkeypatch.setattr(data, 'STYLES', {style: hashed(one, folder / one.archive) for style, one in STYLES.items()})
