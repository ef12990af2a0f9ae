"""The parts of the distributed example that need no processes."""

from __future__ import annotations

import json

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from classifier_free_guidance_pytorch.errors import ConfigError
from tests.distributed.conftest import load_example

EXAMPLE = load_example()


def shares(world, rank, *, items=10, size=3, parts=4, steps=range(6), seed=0):
    return list(EXAMPLE.data.MicroBatches(items, size, parts, steps, rank, world, seed))


@settings(deadline=None)
@given(
    items=st.integers(1, 12), size=st.integers(1, 5), per_rank=st.integers(1, 3), world=st.sampled_from([1, 2, 3]),
    start=st.integers(0, 4), seed=st.integers(0, 3),
)  # fmt: skip
def test_any_number_of_processes_trains_on_the_same_batches_from_any_step(items, size, per_rank, world, start, seed):
    same = {'items': items, 'size': size, 'parts': per_rank * world, 'seed': seed}
    alone = shares(1, 0, **same)
    ours = [shares(world, rank, **same, steps=range(start, 6)) for rank in range(world)]
    together = [ours[part % world][part // world] for part in range((6 - start) * per_rank * world)]
    assert together == alone[start * per_rank * world :]
    assert [len(EXAMPLE.data.MicroBatches(**same, steps=range(start, 6), rank=0, world=world))] == [len(ours[0])]


def test_every_epoch_holds_every_item_once_in_another_order():
    positions = [item for batch in shares(1, 0, size=5, parts=2, steps=range(3)) for item in batch]
    epochs = [positions[start : start + 10] for start in (0, 10, 20)]
    assert all(sorted(epoch) == list(range(10)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 3
    assert shares(1, 0) != shares(1, 0, seed=1)


def test_seeds_of_neighbours_are_not_shared():
    seeds = {EXAMPLE.data.seed_of(seed, step, part) for seed in range(20) for step in range(20) for part in range(20)}
    assert len(seeds) == 8000
    assert EXAMPLE.data.seed_of(0, 1) != EXAMPLE.data.seed_of(1, 0)
    assert max(seeds) < 2**32  # the generator of the CPU reads no more bits of a seed


def test_pictures_are_made_batches_for_the_decorated_model():
    pictures = EXAMPLE.data.shapes(6)
    images, text = EXAMPLE.data.collate(pictures.__getitems__([4, 1]))
    assert images.shape == (2, 3, 16, 16)
    assert images.min() < 0 <= images.max() <= 1
    assert text == {'texts': [pictures[4].caption, pictures[1].caption]}


def test_the_average_against_a_loop():
    torch.manual_seed(0)
    model = nn.Linear(2, 1)
    ema = EXAMPLE.checkpoint.EMA(model, decay=0.5)
    expected = model.weight.detach().double()
    for step in range(30):
        with torch.no_grad():
            model.weight.add_(torch.randn(1, 2))
        ema.update(step)
        decay = min(0.5, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * model.weight.detach().double()
    torch.testing.assert_close(ema.gathered()['weight'].double(), expected, rtol=1e-5, atol=1e-6)


def test_only_complete_checkpoints_count(tmp_path):
    assert EXAMPLE.checkpoint.latest(tmp_path) is None
    for step in (9, 10, 11):
        (tmp_path / f'step-{step:07d}').mkdir()
    (tmp_path / 'step-0000009' / '.metadata').touch()
    (tmp_path / 'step-0000010' / '.metadata').touch()
    assert EXAMPLE.checkpoint.latest(tmp_path).name == 'step-0000010'


def test_a_run_is_neither_overwritten_nor_mixed_with_another(tmp_path):
    claim = EXAMPLE.checkpoint.claim
    assert claim(tmp_path, {'seed': 0}, resume=False) is None
    assert claim(tmp_path, {'seed': 0}, resume=True) is None
    (tmp_path / 'run.json').write_text(json.dumps({'seed': 0, 'cond_drop_prob': 0.1}))
    with pytest.raises(ConfigError, match='holds a run already: pass --resume to go on with it, or another --out'):
        claim(tmp_path, {'seed': 0, 'cond_drop_prob': 0.1}, resume=False)
    with pytest.raises(ConfigError, match=r'was begun with --cond-drop-prob 0.1 \(now 0.2\): pass the same'):
        claim(tmp_path, {'seed': 0, 'cond_drop_prob': 0.2}, resume=True)
    assert claim(tmp_path, {'seed': 0, 'cond_drop_prob': 0.1}, resume=True) is None


@pytest.mark.parametrize(('batch', 'micro', 'world'), [(16, 5, 1), (16, 8, 4), (4, 8, 1), (24, 8, 2)])
def test_a_batch_that_cannot_be_shared_out_is_refused(tmp_path, batch, micro, world):
    settings = EXAMPLE.train.arguments().parse_args(
        ['--out', str(tmp_path / 'run'), '--batch', str(batch), '--micro-batch', str(micro)]
    )
    with pytest.raises(ConfigError, match=f'--batch {batch} is no multiple of --micro-batch {micro} times {world} process'):
        EXAMPLE.train.check(settings, world)


def test_the_help_says_what_every_option_does_and_its_default():
    for action in EXAMPLE.train.arguments()._actions:
        assert action.help, action.dest
    assert '(default: 0.15)' in ' '.join(EXAMPLE.train.arguments().format_help().split())


def test_gradient_checkpointing_changes_nothing_but_the_cost():
    found = []
    for checkpointing in (False, True):
        torch.manual_seed(0)
        model = EXAMPLE.denoiser.build(16, 2, 'attention', 'mini', 0.5, checkpointing)
        nn.init.normal_(model.text_conditioner.conditioners[0].attn.to_out.weight)
        torch.manual_seed(1)
        EXAMPLE.denoiser.flow_loss(model, torch.randn(4, 3, 16, 16), texts=['a red circle', 'two', 'a', 'blue']).backward()
        found.append({name: weight.grad for name, weight in model.named_parameters()})
    torch.testing.assert_close(*found)
