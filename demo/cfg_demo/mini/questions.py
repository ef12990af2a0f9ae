"""A second lesson for both towers: questions about a scene that a pooled feature should answer by itself.

Contrast alone makes a bag of words: among random pictures, "red, circle, above, blue, square" is enough to find the right one,
whichever is above. So linear readers on the pooled text and on the features of the picture are asked which shape has which
colour and size, which is on top or to the left, how many there are and where. Only what the caption says is asked. The readers
are thrown away afterwards.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cfg_demo.shapes.captions import Scene
from cfg_demo.shapes.words import BACKGROUNDS, COLOURS, SHAPES, SIZES

NOT_ASKED = -100
SIDES = ('above', 'below', 'left', 'right')
_SHAPES, _COLOURS, _SIZES, _BACKGROUNDS = list(SHAPES), list(COLOURS), list(SIZES), list(BACKGROUNDS)
_ACROSS, _DOWN = ('left', 'center', 'right'), ('top', 'center', 'bottom')

# One question each, with its number of answers, in the order of the reader's channels.
QUESTIONS: dict[str, int] = (
    {f'is there a {shape}': 2 for shape in _SHAPES}
    | {f'colour of the {shape}': len(_COLOURS) for shape in _SHAPES}
    | {f'size of the {shape}': len(_SIZES) for shape in _SHAPES}
    | {f'shape {side}': len(_SHAPES) for side in SIDES}
    | {f'colour {side}': len(_COLOURS) for side in SIDES}
    | {'count': 3, 'background': len(_BACKGROUNDS), 'across': 3, 'down': 3}
)


def answers(scene: Scene) -> dict[str, int]:
    """The right answer to every question that a caption with this meaning settles."""
    right = {'count': scene.count - 1}
    if scene.background is not None:
        right['background'] = _BACKGROUNDS.index(scene.background)
    for word in (scene.place or '').split():
        if word in _ACROSS:
            right['across'] = _ACROSS.index(word)
        if word in _DOWN:
            right['down'] = _DOWN.index(word)
    shapes = [thing.shape for thing in scene.things]
    if None not in shapes:
        right |= {f'is there a {shape}': int(shape in shapes) for shape in _SHAPES}
    for thing in scene.things:
        if thing.shape is not None and shapes.count(thing.shape) == 1:
            if thing.colour is not None:
                right[f'colour of the {thing.shape}'] = _COLOURS.index(thing.colour)
            if thing.size is not None:
                right[f'size of the {thing.shape}'] = _SIZES.index(thing.size)
    scene = scene.canonical()
    if scene.relation is not None:
        for side, thing in zip(('above', 'below') if scene.relation == 'above' else ('left', 'right'), scene.things, strict=True):
            if thing.shape is not None:
                right[f'shape {side}'] = _SHAPES.index(thing.shape)
            if thing.colour is not None:
                right[f'colour {side}'] = _COLOURS.index(thing.colour)
    return right


class Examiner(nn.Module):
    """Asks features `(b, d)` of captions or pictures every question."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.reader = nn.Linear(dim, sum(QUESTIONS.values()))

    def loss(self, features: Tensor, scenes: Sequence[Scene | None]) -> Tensor:
        """Mean cross entropy of all answers.

        Args:
            features: `(b, d)`.
            scenes: what each means; None for one that is not asked.

        Returns:
            A scalar, 0 where nobody was asked.
        """
        right = torch.full((len(scenes), len(QUESTIONS)), NOT_ASKED)
        numbers = {question: number for number, question in enumerate(QUESTIONS)}
        for row, scene in zip(right, scenes, strict=True):
            for question, answer in ({} if scene is None else answers(scene)).items():
                row[numbers[question]] = answer
        right = right.to(features.device)
        said = self.reader(features).split(list(QUESTIONS.values()), dim=1)
        asked = (right != NOT_ASKED).sum()
        losses = [
            F.cross_entropy(logits, right[:, number], ignore_index=NOT_ASKED, reduction='sum')
            for number, logits in enumerate(said)
        ]
        return torch.stack(losses).sum() / asked.clamp(min=1)
