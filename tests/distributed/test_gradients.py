"""Two processes that share a batch have the gradients of one process on the whole of it; and each draws its own dropout."""

from __future__ import annotations

from contextlib import nullcontext
from datetime import timedelta

import torch
import torch.distributed as dist
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel
from torch.utils.checkpoint import checkpoint

from tests.conditioners.making import make_raw, noise, two_encoders
from tests.decorator.models import build
from tests.distributed.conftest import in_two_processes
from tests.releases import OLDER_TORCH

KINDS = ('film', 'attention', 'concat')
TEXTS = ['a small red circle', 'a dog', 'the large blue square above a triangle', 'two words']
DROPPED = torch.tensor([1.0, 0.0, 0.0, 1.0])
DROPOUTS = {'none': 0.0, 'all': 1.0, 'some': DROPPED}
MANY = 64


def make(kind, **more):
    """A model in training, with the same random weights in every process."""
    model = build(kind, training=True, text_condition_model_types=two_encoders(), text_condition_cond_drop_prob=0.3, **more)
    model.read_text.requires_grad_(kind == 'attention')  # only attention hands it tokens to read
    return model


# what a model may be wrapped in


def ddp(model):
    return DistributedDataParallel(model)


def fsdp(model, **options):
    fully_shard(model, **options)
    return model


def fsdp_layers(model):
    """Every conditioning layer in a group of its own, as docs/training.md shows it."""
    for layer in model.text_conditioner.conditioners:
        fully_shard(layer)
        for method in ('condition', 'null_condition'):
            if hasattr(layer, method):
                register_fsdp_forward_method(layer, method)
    return fsdp(model)


WRAPPERS = {'ddp': ddp, 'fsdp': fsdp}
if not OLDER_TORCH:  # torch 2.9 does not gather the weights of such a layer for the backward pass
    WRAPPERS['fsdp_layers'] = fsdp_layers


def loss_of(model, rows, dropout, stored):
    drop_prob = dropout[rows] if isinstance(dropout, torch.Tensor) else dropout
    text = {'text_embeds': [encoding[rows] for encoding in stored]} if stored else {'texts': TEXTS[rows]}
    return model(noise(4, 6)[rows], cond_drop_prob=drop_prob, **text).square().mean()


def gradients(model):
    """By name, of the whole weights; the prefix that DDP adds is taken off."""
    found = {name.removeprefix('module.'): p.grad for name, p in model.named_parameters() if p.grad is not None}
    return {name: (g.full_tensor() if isinstance(g, DTensor) else g).clone() for name, g in found.items()}


def encodings():
    return [encoder.encode(TEXTS) for encoder in two_encoders()]


def shared_step(rank, kind, wrapper, dropout, stored):
    """The gradients of a step; of the second under DDP, which complains of unused parameters at the next step only."""
    model = WRAPPERS[wrapper](make(kind))
    rows = slice(rank * 2, rank * 2 + 2)
    for _ in range(2 if wrapper == 'ddp' else 1):
        model.zero_grad()
        loss_of(model, rows, DROPOUTS[dropout], encodings() if stored else None).backward()
    return gradients(model)


def accumulated(rank, wrapper):
    """Every process takes its two samples one by one, and speaks to the other at the second."""
    model = WRAPPERS[wrapper](make('attention'))
    for row, last in ((rank * 2, False), (rank * 2 + 1, True)):
        if wrapper != 'ddp':
            model.set_requires_gradient_sync(last)
        with model.no_sync() if wrapper == 'ddp' and not last else nullcontext():
            (loss_of(model, slice(row, row + 1), DROPPED, None) / 2).backward()
    return gradients(model)


def guided(wrapper):
    """Evaluation in the middle of a training, and the training going on."""
    model = WRAPPERS[wrapper](make('attention'))
    prediction = model.eval()(noise(4, 6), texts=TEXTS, cond_scale=3.0).detach()
    loss_of(model.train(), slice(None), DROPPED, None).backward()
    return prediction, gradients(model)


def checkpointed(wrapper, recomputed):
    """A model whose whole forward is computed again in the backward pass, dropout included."""
    model = WRAPPERS[wrapper](make('film'))
    torch.manual_seed(3)
    x = noise(4, 6).requires_grad_()
    output = checkpoint(model, x, texts=TEXTS, use_reentrant=False) if recomputed else model(x, texts=TEXTS)
    output.square().mean().backward()
    return gradients(model)


def drawn(seed):
    """Which of many samples lose their text."""
    torch.manual_seed(seed)
    returner = make_raw(cond_drop_prob=0.5).train()
    torch.manual_seed(seed)
    _, (_, mask) = returner(['a red circle'] * MANY)
    return ~mask.any(dim=1)


def low_precision():
    """Mixed precision: what the encoder is asked for, and what the weights, gradients and the state are."""
    model = fsdp(make('film'), mp_policy=MixedPrecisionPolicy(torch.bfloat16, torch.float32))
    output = model(noise(4, 6), texts=TEXTS, cond_drop_prob=DROPPED)
    output.float().square().mean().backward()
    return output.dtype, {p.grad.dtype for p in model.parameters() if p.grad is not None}, gradients(model)


def prepared():
    """`prepare` of a sharded model, registered as a forward method."""
    model = fsdp(make('attention')).eval()
    register_fsdp_forward_method(model, 'prepare')
    condition = model.prepare(TEXTS)
    return model(noise(4, 6), text_condition=condition, cond_scale=3.0).detach()


def work(rank, folder):
    dist.init_process_group(
        'gloo', init_method=f'file://{folder}/rendezvous', rank=rank, world_size=2, timeout=timedelta(seconds=240)
    )
    found = {
        'steps': {
            (kind, wrapper, dropout, stored): shared_step(rank, kind, wrapper, dropout, stored)
            for kind in KINDS
            for wrapper in WRAPPERS
            for dropout in DROPOUTS
            for stored in (False, True)
            if stored == (dropout == 'none') or wrapper == 'fsdp'
        },
        'accumulated': {wrapper: accumulated(rank, wrapper) for wrapper in WRAPPERS},
        'guided': {wrapper: guided(wrapper) for wrapper in WRAPPERS},
        'checkpointed': {(wrapper, again): checkpointed(wrapper, again) for wrapper in WRAPPERS for again in (False, True)},
        'drawn': {seed: drawn(seed) for seed in (rank, 0)},
        'low_precision': low_precision(),
        'prepared': prepared(),
    }
    dist.destroy_process_group()
    return found


def alone(kind, dropout, stored=False):
    """The gradients of one process, on the whole batch."""
    model = make(kind)
    loss_of(model, slice(None), DROPOUTS[dropout], encodings() if stored else None).backward()
    return gradients(model)


def close(ours, expected, what, rtol=1e-4, atol=1e-6):
    torch.testing.assert_close(ours, expected, rtol=rtol, atol=atol, msg=lambda m: f'{what}: {m}')


def test_two_processes(tmp_path):
    """One test, since two processes are slow to start."""
    found = in_two_processes(work, tmp_path)
    check_gradients(found)
    check_accumulated_gradients(found)
    check_training_after_guided_evaluation(found)
    check_recomputed_dropout(found)
    check_dropout_of_the_processes(found)
    check_mixed_precision(found)
    close(found[0]['prepared'], guided_alone(), 'prepare', atol=1e-5)


def check_gradients(found):
    """With and without texts, and with the same samples dropped: a tensor says which."""
    assert len(found[0]['steps']) == len(KINDS) * (len(WRAPPERS) + 1) * len(DROPOUTS)
    for setting in found[0]['steps']:
        kind, _, dropout, stored = setting
        for rank in range(2):
            close(found[rank]['steps'][setting], alone(kind, dropout, stored), setting)


def check_accumulated_gradients(found):
    """Two micro-batches in each process."""
    for wrapper, ours in found[0]['accumulated'].items():
        close(ours, alone('attention', 'some'), wrapper)


def guided_alone():
    return make('attention').eval()(noise(4, 6), texts=TEXTS, cond_scale=3.0).detach()


def check_training_after_guided_evaluation(found):
    for wrapper, (prediction, ours) in found[0]['guided'].items():
        close(prediction, guided_alone(), wrapper, atol=1e-5)
        close(ours, alone('attention', 'some'), wrapper)


def check_recomputed_dropout(found):
    """Gradient checkpointing round the whole model draws the same dropout again."""
    for wrapper in WRAPPERS:
        stored, recomputed = (found[0]['checkpointed'][wrapper, again] for again in (False, True))
        close(recomputed, stored, wrapper)


def check_dropout_of_the_processes(found):
    """One seed drops the same samples everywhere, which is why every process needs its own; the same one twice agrees."""
    first, second = (of_rank['drawn'] for of_rank in found)
    assert torch.equal(first[0], second[0])
    assert torch.equal(first[0], drawn(0))
    assert torch.equal(second[1], drawn(1))
    assert not torch.equal(first[0], second[1])
    assert 0.2 < second[1].float().mean() < 0.8


def check_mixed_precision(found):
    output, grads, ours = found[0]['low_precision']
    assert output == torch.bfloat16
    assert grads == {torch.float32}
    expected = alone('film', 'some')
    for name, gradient in ours.items():
        assert (gradient - expected[name]).norm() < 0.2 * expected[name].norm() + 1e-4, name


def test_the_dropouts_of_this_test_differ():
    none, some, every = (alone('film', dropout)['inner.weight'] for dropout in ('none', 'some', 'all'))
    assert not torch.allclose(none, some, rtol=1e-2)
    assert not torch.allclose(every, some, rtol=1e-2)


def test_the_encodings_of_this_test_are_what_encode_texts_returns():
    for one, other in zip(encodings(), make('film').encode_texts(TEXTS), strict=True):
        torch.testing.assert_close((one.tokens, one.mask, one.pooled), (other.tokens, other.mask, other.pooled))
