"""Train a text-conditioned denoiser on one process or on many: the same script, the same loss curve.

    python examples/distributed/train.py --out runs/one
    torchrun --nproc-per-node 2 examples/distributed/train.py --strategy fsdp --out runs/two
    accelerate launch --num_processes 2 examples/distributed/train.py --strategy accelerate --out runs/three

Each of them goes on from its last checkpoint with `--resume`, also on another number of processes or with another strategy.

A batch is cut into micro-batches, and every micro-batch seeds itself by (seed, step, its number): its noise, its times and its
conditional dropout are the same whichever process gets it. So a run depends on its seed, and not on the number of processes,
on gradient accumulation or on interruptions; and two processes never draw the same dropout.

The encoder runs in every process, unless the captions were encoded beforehand:

    python examples/distributed/data.py --items 1024 > captions.txt
    cfg-embed captions.txt --out embeddings --model-types mini
    torchrun --nproc-per-node 2 examples/distributed/train.py --embeddings embeddings --out runs/stored
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
from checkpoint import EMA, SETTINGS, Run, claim
from data import MicroBatches, collate, seed_of, shapes
from denoiser import build, flow_loss
from safetensors.torch import save_file
from strategies import DDP, STRATEGIES
from torch.optim.lr_scheduler import LambdaLR
from torch.utils.data import DataLoader
from tqdm import tqdm

from classifier_free_guidance_pytorch.corpus import EmbeddingStore
from classifier_free_guidance_pytorch.errors import ConfigError

# What may differ when a run is resumed. All other settings decide its curve.
FREE = ('strategy', 'out', 'resume', 'save_every', 'workers', 'checkpointing')


class Help(argparse.ArgumentDefaultsHelpFormatter, argparse.RawDescriptionHelpFormatter):
    """The page as it is written, and the default of every option."""


def arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=Help)
    parser.add_argument('--strategy', choices=STRATEGIES, default='ddp', help='how the processes share the model')
    parser.add_argument('--out', type=Path, required=True, help='a folder for checkpoints, losses.jsonl and ema.safetensors')
    parser.add_argument('--resume', action='store_true', help='go on from the last checkpoint in --out, if there is one')
    parser.add_argument('--steps', type=int, default=500, help='steps of the optimizer, in all')
    parser.add_argument('--save-every', type=int, default=100, help='steps from one checkpoint to the next')
    parser.add_argument('--batch', type=int, default=64, help='samples in a step, over all processes')
    parser.add_argument('--micro-batch', type=int, default=16, help='samples in a forward pass of one process')
    parser.add_argument('--items', type=int, default=1024, help='pictures in the data set')
    parser.add_argument(
        '--embeddings', type=Path, help='a store of their captions, made by cfg-embed; else the encoder runs along'
    )
    parser.add_argument('--encoder', default='mini', help='a type of text encoder, such as t5 or clip')
    parser.add_argument(
        '--condition', choices=('film', 'attention', 'concat'), default='film', help='how the text enters the network'
    )
    parser.add_argument('--cond-drop-prob', type=float, default=0.15, help='share of the samples that lose their text')
    parser.add_argument('--dim', type=int, default=64, help='width of the network')
    parser.add_argument('--depth', type=int, default=4, help='its blocks')
    parser.add_argument('--rate', type=float, default=2e-3, help='the highest learning rate')
    parser.add_argument('--ema', type=float, default=0.99, help='decay of the moving average of the weights')
    parser.add_argument('--bf16', action='store_true', help='mixed precision')
    parser.add_argument('--checkpointing', action='store_true', help='gradient checkpointing')
    parser.add_argument('--workers', type=int, default=0, help='processes that draw pictures, for each that trains')
    parser.add_argument('--seed', type=int, default=0, help='of weights, order, noise and dropout')
    return parser


def rate_at(step: int, steps: int, warm_up: int = 50) -> float:
    """Linear warm-up, then a cosine down to zero, as a share of the highest rate."""
    return min(1.0, (step + 1) / warm_up) * (1 + math.cos(math.pi * step / steps)) / 2


def new_run(settings: argparse.Namespace, strategy: DDP) -> Run:
    """The model, wrapped for its processes, with all that belongs to it."""
    torch.manual_seed(settings.seed)  # the same weights in every process
    model = build(
        settings.dim, settings.depth, settings.condition, settings.encoder, settings.cond_drop_prob, settings.checkpointing
    )
    wrapped, optimizer = strategy.prepare(model, partial(torch.optim.AdamW, lr=settings.rate, betas=(0.9, 0.99)))
    schedule = LambdaLR(optimizer, partial(rate_at, steps=settings.steps))
    return Run(wrapped.train(), optimizer, schedule, EMA(model, settings.ema))


def train_step(run: Run, strategy: DDP, batches: Iterator, settings: argparse.Namespace) -> torch.Tensor:
    """One step of the optimizer on this process's micro-batches; returns the mean loss of the whole batch."""
    parts = settings.batch // settings.micro_batch
    mine = range(strategy.rank, parts, strategy.world)
    total = torch.zeros((), device=strategy.device)
    run.optimizer.zero_grad()
    for part in mine:
        images, text = next(batches)
        torch.manual_seed(seed_of(settings.seed, run.steps_done, part))  # noise, times and conditional dropout
        with strategy.accumulating(run.model, last=part == mine[-1]):
            with strategy.precision():
                loss = flow_loss(run.model, images.to(strategy.device), **text) / len(mine)
            strategy.backward(loss)
        total += loss.detach()
    torch.nn.utils.clip_grad_norm_(run.model.parameters(), 1.0)
    run.optimizer.step()
    run.schedule.step()
    run.ema.update(run.steps_done)
    run.steps_done += 1
    return strategy.mean(total)


def train(run: Run, strategy: DDP, batches: Iterator, settings: argparse.Namespace) -> None:
    """Train from where the run is to its end; the first process writes the losses and shows the progress."""
    first = strategy.rank == 0
    losses = settings.out / 'losses.jsonl'
    if first:  # what was logged after the checkpoint is trained again
        settings.out.mkdir(parents=True, exist_ok=True)
        kept = losses.read_text().splitlines()[: run.steps_done] if run.steps_done else []
        losses.write_text(''.join(f'{line}\n' for line in kept))
    steps = range(run.steps_done, settings.steps)
    with tqdm(steps, desc='train', unit='step', initial=steps.start, total=settings.steps, disable=not first) as bar:
        for step in bar:
            loss = train_step(run, strategy, batches, settings).item()
            if first:
                with losses.open('a') as log:
                    log.write(json.dumps({'step': step, 'loss': loss}) + '\n')
                bar.set_postfix(loss=f'{loss:.4f}', refresh=False)
            if run.steps_done % settings.save_every == 0 or run.steps_done == settings.steps:
                if first:  # before the first checkpoint: one without settings would be neither kept nor gone on with
                    (settings.out / SETTINGS).write_text(json.dumps(decisive(settings), indent=2))
                run.save(settings.out)


def decisive(settings: argparse.Namespace) -> dict[str, Any]:
    """The settings that decide the curve, for JSON."""
    return {name: str(value) if isinstance(value, Path) else value for name, value in vars(settings).items() if name not in FREE}


def check(settings: argparse.Namespace, world: int) -> None:
    """Refuse a batch that cannot be shared out."""
    parts, rest = divmod(settings.batch, settings.micro_batch)
    if rest or not parts or parts % world:
        raise ConfigError(
            f'a batch is shared out in whole micro-batches, as many to each process: --batch {settings.batch} is no multiple of '
            f'--micro-batch {settings.micro_batch} times {world} process(es)'
        )


def open_store(settings: argparse.Namespace) -> EmbeddingStore | None:
    """The stored encodings, if any were given; refused where they are those of other captions."""
    if settings.embeddings is None:
        return None
    store = EmbeddingStore(settings.embeddings, tokens=settings.condition == 'attention')
    store[[shapes(settings.items)[index].caption for index in (0, settings.items - 1)]]  # an error names what is missing
    return store


def train_to_the_end(settings: argparse.Namespace, strategy: DDP) -> None:
    """Check, begin or go on, train, and write the averaged weights."""
    check(settings, strategy.world)
    checkpoint = claim(settings.out, decisive(settings), settings.resume)
    store = open_store(settings)
    run = new_run(settings, strategy)
    if checkpoint is not None:
        run.load(checkpoint)
    if strategy.rank == 0:
        print(f'{settings.out}: ' + (f'goes on from {checkpoint.name}' if checkpoint else 'a new run'))
    steps, parts = range(run.steps_done, settings.steps), settings.batch // settings.micro_batch
    loader = DataLoader(
        shapes(settings.items),
        batch_sampler=MicroBatches(
            settings.items, settings.micro_batch, parts, steps, strategy.rank, strategy.world, settings.seed
        ),
        collate_fn=partial(collate, store=store),
        num_workers=settings.workers,
        pin_memory=strategy.device.type == 'cuda',
    )
    train(run, strategy, iter(loader), settings)
    weights = run.ema.gathered()
    if strategy.rank == 0:
        save_file(weights, settings.out / 'ema.safetensors')


def main(settings: argparse.Namespace) -> None:
    """Join the other processes, train, and leave them."""
    strategy = STRATEGIES[settings.strategy](settings.bf16)
    try:
        train_to_the_end(settings, strategy)
    finally:  # the wrapped model is gone by now: it must not outlive its process group
        strategy.close()


if __name__ == '__main__':
    main(arguments().parse_args())
