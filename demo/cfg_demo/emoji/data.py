"""The folder of captioned emoji: what is in it, and what is kept out of training."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from random import Random
from typing import Any

from cfg_demo.emoji.captions import captions
from cfg_demo.emoji.concepts import Concept, by_code, read_concepts
from cfg_demo.emoji.packages import LABELS, STYLES, fetch
from cfg_demo.emoji.pictures import read_pictures
from cfg_demo.progress import progress_bar
from classifier_free_guidance_pytorch.errors import ConfigError

MANIFEST, CONCEPTS, TABLE = 'manifest.json', 'concepts.jsonl', 'metadata.jsonl'
SEEN, STYLE, CONCEPT = 'seen', 'held-out style', 'held-out concept'  # the groups of pictures


@dataclass(frozen=True)
class Split:
    """What is kept out of training.

    Args:
        styles: The share of concepts of which one style is kept out.
        concepts: The share of concepts of which every style is.
        seed: Of the choice.
    """

    styles: float = 0.12
    concepts: float = 0.05
    seed: int = 0

    def held_out(self, concepts: Sequence[Concept], styles: Sequence[str]) -> dict[tuple[str, str], str]:
        """Return the group of each pair of code points and style that is held out.

        A concept's fate depends on its code points and the seed alone, so more concepts change nothing about those there are.
        """
        found: dict[tuple[str, str], str] = {}
        for concept in concepts:
            draw = Random(f'{self.seed} {concept.code}')
            fate, style = draw.random(), draw.choice(styles)
            if fate < self.concepts:
                found |= {(concept.code, each): CONCEPT for each in styles}
            elif fate < self.concepts + self.styles and len(styles) > 1:
                found[concept.code, style] = STYLE
        return found


def write(
    folder: Path, size: int, styles: Sequence[str], split: Split, given: Path | None = None, registry: str | None = None
) -> dict[str, int]:
    """Write the folder that `cfg-demo train-on` reads, and return how many pictures each group has.

    Args:
        folder: Where; archives are kept in `packages/` beside the pictures.
        size: Width and height in pixels.
        styles: Which.
        split: What to hold out.
        given: A folder of archives; see `fetch`.
        registry: Where to fetch; likewise.

    Raises:
        ConfigError: An archive that is not what it should be.
        MissingDependencyError: One that cannot be fetched.
    """
    settings: dict[str, Any] = {'size': size, 'styles': list(styles), 'split': asdict(split)}
    packages = [LABELS, *(STYLES[style] for style in styles)]
    labels, *archives = fetch(packages, folder / '.packages', given, registry)
    concepts = read_concepts(labels)
    held_out, known = split.held_out(concepts, styles), by_code(concepts)
    rows: dict[str, list[dict[str, str]]] = {'train': [], 'held_out': []}
    counts: Counter[str] = Counter()
    with progress_bar(desc='draw', unit='picture', total=len(concepts) * len(styles)) as bar:
        for style, archive in zip(styles, archives, strict=True):
            for concept, picture in read_pictures(archive, style, known, size):
                group = held_out.get((concept.code, style), SEEN)
                part = 'train' if group == SEEN else 'held_out'
                name = f'{style}/{concept.code}.png'
                (folder / part / style).mkdir(parents=True, exist_ok=True)
                picture.save(folder / part / name)
                about = {'concept': concept.name, 'style': style, 'category': concept.category, 'group': group}
                told = captions(concept, style, split.seed)
                rows[part] += [{'file_name': name, 'caption': caption} | about for caption in told]
                counts[group] += 1
                bar.update()
    for part, table in rows.items():
        _write_lines(folder / part / TABLE, table)
    _write_lines(folder / CONCEPTS, [asdict(concept) for concept in concepts])
    about_packages = {package.name: asdict(package) for package in packages}
    manifest = settings | {'packages': about_packages, 'pictures': dict(counts), 'captions': {k: len(v) for k, v in rows.items()}}
    (folder / MANIFEST).write_text(json.dumps(manifest, indent=2) + '\n')
    return dict(counts)


def read_manifest(folder: Path) -> dict[str, Any]:
    """Return what a folder of emoji says about itself.

    Raises:
        ConfigError: It is no such folder.
    """
    try:
        manifest: dict[str, Any] = json.loads((folder / MANIFEST).read_text())
    except (OSError, ValueError) as error:
        raise ConfigError(
            f'{str(folder)!r} is no folder of emoji ({error}): make one with `cfg-demo emoji-data --out {folder}`'
        ) from error
    return manifest


def _write_lines(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text(''.join(json.dumps(row, ensure_ascii=False) + '\n' for row in rows), encoding='utf-8')
