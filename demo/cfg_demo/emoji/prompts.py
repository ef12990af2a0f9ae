"""What a model of emoji is asked to draw when it is measured, by how far it is from what training showed."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from random import Random

import torch
from torch import Tensor

from cfg_demo.emoji.captions import with_article, with_style
from cfg_demo.emoji.data import CONCEPT, SEEN, STYLE
from cfg_demo.emoji.reading import Pictures

PARAPHRASE = 'paraphrase'
GROUPS = (SEEN, STYLE, PARAPHRASE, CONCEPT)


@dataclass(frozen=True)
class Prompts:
    """Prompts, and what they should show.

    Args:
        texts: What the model is given.
        groups: Of each, one of `GROUPS`.
        concept: Places `(n,)` of the concepts.
        style: Places `(n,)` of the styles.
    """

    texts: tuple[str, ...]
    groups: tuple[str, ...]
    concept: Tensor
    style: Tensor

    def __len__(self) -> int:
        return len(self.texts)


def draw_prompts(pictures: Pictures, each: int = 140, seed: int = 0) -> Prompts:
    """Return `each` prompts of every group, or as many as there are.

    Args:
        pictures: What there is.
        each: How many.
        seed: Of the choice.
    """
    generator = Random(seed)
    found: list[tuple[str, str, int, int]] = []
    for group in (SEEN, STYLE, CONCEPT):
        rows = pictures.of_groups(group).tolist()
        for row in sorted(generator.sample(rows, min(each, len(rows)))):
            concept, style = int(pictures.concept[row]), int(pictures.style[row])
            text = with_style(with_article(pictures.concepts[concept]), pictures.styles[style])
            found.append((text, group, concept, style))
    held_out = {int(pictures.concept[row]) for row in pictures.of_groups(CONCEPT)}
    called = paraphrases()
    known = [(at, concept.name) for at, concept in enumerate(pictures.concepts) if at not in held_out]
    others = [(at, other) for at, name in known for other in called.get(name, ())]
    for at, name in sorted(generator.sample(others, min(each, len(others)))):
        style = generator.randrange(len(pictures.styles))
        found.append((with_style(f'{"an" if name[0] in "aeiou" else "a"} {name}', pictures.styles[style]), PARAPHRASE, at, style))
    texts, groups, concepts, styles = zip(*found, strict=True)
    return Prompts(texts, groups, torch.tensor(concepts), torch.tensor(styles))


def paraphrases() -> dict[str, list[str]]:
    """Return other names of concepts, by their names: synonyms of WordNet and of everyday speech, chosen by hand for the sense.

    No caption of any picture has one of them: 'automobile' is called a motorcar here, because its captions say car, and the cat
    is missing, because they say feline.
    """
    found: dict[str, list[str]] = json.loads((Path(__file__).parent / 'paraphrases.json').read_text(encoding='utf-8'))
    return found
