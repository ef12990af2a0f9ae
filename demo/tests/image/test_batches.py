"""Which items a step sees: laws of the order, and the loader over it."""

from __future__ import annotations

from collections import Counter
from itertools import chain

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cfg_demo.image.batches import StepSampler, batches

sizes = {'length': st.integers(1, 30), 'batch_size': st.integers(1, 12), 'steps': st.integers(0, 12), 'seed': st.integers(0, 99)}


@settings(deadline=None)
@given(**sizes)
def test_every_step_is_full_and_every_epoch_sees_every_item_once(length, batch_size, steps, seed):
    order = list(StepSampler(length, batch_size=batch_size, steps=steps, seed=seed))
    assert [len(step) for step in order] == [batch_size] * steps
    seen = list(chain.from_iterable(order))
    for start in range(0, len(seen), length):
        epoch = seen[start : start + length]
        assert max(Counter(epoch).values()) == 1
        if len(epoch) == length:
            assert sorted(epoch) == list(range(length))


@settings(deadline=None)
@given(**sizes, start=st.integers(0, 14))
def test_a_run_that_starts_later_sees_what_it_would_have_seen(length, batch_size, steps, seed, start):
    whole = StepSampler(length, batch_size=batch_size, steps=steps, seed=seed)
    rest = StepSampler(length, batch_size=batch_size, steps=steps, start=start, seed=seed)
    assert list(rest) == list(whole)[start:]
    assert len(rest) == len(list(rest))


@settings(deadline=None)
@given(length=st.integers(8, 30), seed=st.integers(0, 99))
def test_epochs_and_seeds_differ(length, seed):
    first, second = StepSampler(length, batch_size=length, steps=2, seed=seed)
    (other,) = StepSampler(length, batch_size=length, steps=1, seed=seed + 1)
    assert first != second
    assert first != other


def test_the_loader_gives_a_batch_per_step_whatever_the_workers():
    data = [(torch.full((1,), float(index)), f'caption {index}') for index in range(5)]

    def collate(items):
        return torch.stack([image for image, _ in items]), [caption for _, caption in items]

    def order():
        return StepSampler(5, batch_size=2, steps=4, start=1, seed=3)

    alone, helped = (list(batches(data, collate, order(), workers)) for workers in (0, 1))
    assert [captions for _, captions in alone] == [[f'caption {index}' for index in step] for step in order()]
    assert [captions for _, captions in helped] == [captions for _, captions in alone]
    assert all(torch.equal(one, other) for (one, _), (other, _) in zip(alone, helped, strict=True))
