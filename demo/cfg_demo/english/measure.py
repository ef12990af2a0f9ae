"""How much of the teacher is in the student, on texts that training never saw."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from cfg_demo.english.student import pool
from cfg_demo.english.training import Tokens, embed

PAIRED = 2000  # texts of which all pairs are compared
TIMED = 1000  # captions


@torch.no_grad()
def embed_all(student: Any, tokens: Tokens, batch_size: int = 512) -> Tensor:
    """Return unit vectors `(n, WIDTH)` of texts."""
    places = list(range(len(tokens)))
    student.eval()
    parts = [embed(student, tokens, places[first : first + batch_size]) for first in range(0, len(places), batch_size)]
    return F.normalize(torch.cat(parts), dim=-1).cpu()


def rank_correlation(ours: Tensor, theirs: Tensor, generator: np.random.Generator) -> float:
    """Return Spearman's correlation of the cosines of all pairs of some texts, in both spaces."""
    from scipy.stats import spearmanr  # type: ignore[import-untyped]

    rows = torch.from_numpy(generator.permutation(len(ours))[:PAIRED])
    above = torch.triu_indices(len(rows), len(rows), offset=1)
    pairs = [(units[rows].float() @ units[rows].float().T)[above[0], above[1]] for units in (ours, theirs)]
    return float(spearmanr(*pairs).statistic)


def synonym_ranks(units: Tensor, synonyms: Sequence[tuple[int, int]]) -> Tensor:
    """Return at which place, from 1, each first word finds its second among all other words."""
    first, second = torch.tensor(synonyms).T
    cosines = units[first].float() @ units.float().T
    cosines[torch.arange(len(first)), first] = -torch.inf  # a word is no answer to itself
    own = cosines[torch.arange(len(first)), second]
    return (cosines > own.unsqueeze(1)).sum(1) + 1


def captions_per_second(encode: Callable[[Sequence[str]], object], texts: Sequence[str], repeats: int = 3) -> float:
    """Return the best of a few timings."""
    encode(texts[:64])
    timings = []
    for _ in range(repeats):
        started = time.perf_counter()
        encode(texts)
        timings.append(time.perf_counter() - started)
    return len(texts) / min(timings)


def measure(
    student: Any, tokenizer: Any, texts: Any, vectors: dict[str, Tensor], teacher: Any, seed: int = 0
) -> dict[str, float]:
    """Return the scores of a student.

    Args:
        student: The encoder.
        tokenizer: Its tokenizer.
        texts: Of `texts.gather`.
        vectors: The teacher's unit vectors of 'held_out' and 'words'.
        teacher: To be timed; None for no timing.
        seed: Of the texts that are compared.
    """
    held_out, words = (embed_all(student, Tokens(tokenizer, each)) for each in (texts.held_out, texts.words))
    ours, theirs = (synonym_ranks(units, texts.synonyms).float() for units in (words, vectors['words']))
    scores = {
        'spearman': rank_correlation(held_out, vectors['held_out'], np.random.default_rng(seed)),
        'synonym rank': float(ours.median()),
        'synonym rank of the teacher': float(theirs.median()),
        'synonym among ten': float((ours <= 10).float().mean()),
        'synonym among ten of the teacher': float((theirs <= 10).float().mean()),
    }
    if teacher is not None:
        sample = texts.held_out[:TIMED]

        @torch.no_grad()
        def encode(captions: Sequence[str]) -> None:
            for first in range(0, len(captions), 64):
                batch = tokenizer(list(captions[first : first + 64]), padding=True, truncation=True, return_tensors='pt')
                pool(student, batch['input_ids'], batch['attention_mask'])

        def encode_by_teacher(captions: Sequence[str]) -> None:
            for first in range(0, len(captions), 64):
                teacher.encode(captions[first : first + 64])

        scores['captions per second'] = captions_per_second(encode, sample)
        scores['captions per second of the teacher'] = captions_per_second(encode_by_teacher, sample)
    return scores
