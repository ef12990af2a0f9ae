"""Two processes: every weight takes part in every step, and the gradients are those of the joined batch."""

import os
import tempfile
from datetime import timedelta

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch.nn.parallel import DistributedDataParallel

from tests.conditioners.making import noise, two_encoders
from tests.decorator.models import build

KINDS = ('film', 'attention', 'concat', 'raw', 'null')
TEXTS = ['a small red circle', 'a dog', 'the large blue square above a triangle', 'two words']


def make(kind, drop_prob, null='zeros'):
    encoders = two_encoders()
    more = {'text_condition_null': null} if kind in ('film', 'attention', 'concat') else {}
    model = build(kind, training=True, text_condition_model_types=encoders, text_condition_cond_drop_prob=drop_prob, **more)
    model.read_text.requires_grad_(kind in ('attention', 'raw'))  # only these hand it tokens to read
    return model


def loss_of(model, rows):
    return model(noise(4, 6)[rows], texts=TEXTS[rows]).square().mean()


def gradients(model):
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def step(rank, kind, drop_prob, null):
    """More than one step, since DDP complains of an unused parameter at the next."""
    torch.manual_seed(rank)
    model = make(kind, drop_prob, null)
    parallel = DistributedDataParallel(model, find_unused_parameters=False)
    rows = slice(rank * 2, rank * 2 + 2)
    parallel(noise(2, 6), cond_drop_prob=1.0).sum().backward()  # a step without texts uses every weight too
    for _ in range(2):
        parallel.zero_grad()
        loss_of(parallel, rows).backward()
    return gradients(model)


def run(rank, folder):
    dist.init_process_group(
        'gloo', init_method=f'file://{folder}/rendezvous', rank=rank, world_size=2, timeout=timedelta(seconds=60)
    )
    results = {}
    for kind in KINDS:
        for drop_prob in (0.0, 0.2, (0.2, 0.5)):
            for null in ('learned', 'zeros') if kind in ('film', 'attention', 'concat') else ('',):
                if kind != 'null' or isinstance(drop_prob, float):
                    results[kind, drop_prob, null] = step(rank, kind, drop_prob, null)
    torch.save(results, f'{folder}/{rank}.pt')
    dist.destroy_process_group()


def test_two_processes():
    with tempfile.TemporaryDirectory() as folder:
        before = os.environ.get('OMP_NUM_THREADS')
        os.environ['OMP_NUM_THREADS'] = '1'
        try:
            mp.spawn(run, (folder,), nprocs=2)
        finally:
            os.environ.pop('OMP_NUM_THREADS') if before is None else os.environ.update(OMP_NUM_THREADS=before)
        one, two = (torch.load(f'{folder}/{rank}.pt', weights_only=False) for rank in range(2))
    assert len(one) == 3 * 6 + 3 + 2
    for setting, ours in one.items():
        kind, drop_prob, null = setting
        torch.testing.assert_close(ours, two[setting], rtol=0, atol=0, msg=f'{setting}: the processes disagree')
        if drop_prob == 0:
            model = make(kind, 0.0, null)
            loss_of(model, slice(None)).backward()
            torch.testing.assert_close(
                ours, gradients(model), rtol=1e-4, atol=1e-6, msg=f'{setting}: not those of the joined batch'
            )
