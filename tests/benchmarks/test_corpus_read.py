"""The benchmark of the store with tiny files: both sides read the same. Nothing is asked of the times."""

import pytest
import torch

from benchmarks import corpus_read
from benchmarks.settings import Settings
from benchmarks.timing import Pace

TINY = Settings(Pace(rounds=1, sample_seconds=1e-5, warm_up=1), tiny=True, quiet=True)


def test_both_sides_read_the_same():
    figures = corpus_read.measure(TINY)
    assert [figure.case for figure in figures] == [
        *(f'64 captions, {what}' for what in ('pooled', 'tokens', 'both') for _ in range(2)),
        'first touch',
    ]
    assert all(figure.value > 0 and figure.base > 0 for figure in figures)


def test_sides_that_differ_are_not_timed(monkeypatch):
    monkeypatch.setattr(corpus_read.Raw, 'pooled_of', lambda raw, rows: torch.zeros(len(rows), 16).bfloat16())
    with pytest.raises(AssertionError, match=r'pooled, store\[rows\]'):
        corpus_read.measure(TINY)
