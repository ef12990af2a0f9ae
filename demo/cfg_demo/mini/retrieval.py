"""How well captions find their pictures: among 64 that no one could confuse, and between two that differ in one word."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from random import Random

import torch
from torch import Tensor

from cfg_demo.mini.pairs import Pair, also_true, draw_pairs, draw_pictures, siblings
from cfg_demo.mini.towers import JointSpace

Embed = Callable[[Sequence[str]], Tensor]  # captions to pooled features (b, d)


def distinct_pairs(
    rng: Random, count: int, split: str, worlds: dict[str, float] | None = None, related: float = 0.0
) -> list[Pair]:
    """Pairs of which no caption is true of another's picture, so that every question has one right answer."""
    chosen: list[Pair] = []
    while len(chosen) < count:
        for pair in draw_pairs(rng, count, split, worlds, related):
            if len(chosen) < count and not any(also_true(pair, other) or also_true(other, pair) for other in chosen):
                chosen.append(pair)
    return chosen


def _match(space: JointSpace, embed: Embed, pairs: list[Pair], rng: Random) -> Tensor:
    """Similarities `(captions, pictures)`."""
    with torch.no_grad():
        texts = space.place_texts(embed([pair.caption for pair in pairs]))
        return texts @ space.place_images(draw_pictures(pairs, rng)).T


def retrieval(
    space: JointSpace,
    embed: Embed,
    *,
    split: str = 'held_out',
    worlds: dict[str, float] | None = None,
    related: float = 0.0,
    among: int = 64,
    sets: int = 8,
    seed: int = 0,
) -> tuple[float, float]:
    """The share of captions that find their picture, and of pictures that find their caption, among `among`.

    Args:
        space: the joint space.
        embed: captions to pooled features.
        split: 'held_out', or 'train' for combinations seen in training (the pictures themselves are new in both).
        worlds: the share of each world; None for the mixture of training.
        related: the share of pairs that have a sibling, one word apart, among the others; 0 draws them at random.
        among: how many there are to choose from.
        sets: how many such choices are averaged.
        seed: another seed is another draw.

    Returns:
        Two numbers from 0 to 1.
    """
    rng = Random(f'retrieval/{seed}')
    own = torch.arange(among)
    found = torch.zeros(2)
    for _ in range(sets):
        match = _match(space, embed, distinct_pairs(rng, among, split, worlds, related), rng)
        found += torch.stack([(match.argmax(1) == own).float().mean(), (match.argmax(0) == own).float().mean()])
    by_caption, by_picture = (found / sets).tolist()
    return by_caption, by_picture


def one_word(space: JointSpace, embed: Embed, *, world: str, split: str = 'held_out', count: int = 300, seed: int = 0) -> float:
    """The share of right choices between two pictures whose captions differ in one word, of those where only one is right."""
    rng = Random(f'one word/{seed}')
    families = [
        (one, two) for one, two in siblings(rng, count, split, world) if not also_true(one, two) and not also_true(two, one)
    ]
    match = _match(space, embed, [pair for family in families for pair in family], rng)
    first, second = torch.arange(0, 2 * len(families), 2), torch.arange(1, 2 * len(families), 2)
    right = [match[first, first] > match[first, second], match[second, second] > match[second, first]]
    return torch.stack(right).float().mean().item()
