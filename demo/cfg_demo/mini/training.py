"""Training `mini`, the library's embedded encoder, and the image tower that measures pictures with it.

Captions and pictures of coloured shapes, of shapes on the move and of clouds of points are drawn as they are needed; a text
tower and an image tower learn to place each caption beside its own picture (CLIP, arXiv 2103.00020, figure 3).
What a caption is placed by is the mean of the last hidden state over its tokens, the same feature that `MiniAdapter` pools.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cfg_demo.mini.hints import Hints
from cfg_demo.mini.pairs import draw_pairs, draw_pictures
from cfg_demo.mini.questions import Examiner
from cfg_demo.mini.retrieval import one_word, retrieval
from cfg_demo.mini.towers import (
    CHANNELS,
    MIND,
    WIDTH,
    JointSpace,
    build_text_tower,
    build_tokenizer,
    pool,
)
from cfg_demo.muon import muon_and_adam
from cfg_demo.shapes import Scene
from classifier_free_guidance_pytorch.errors import ConfigError

FORGOTTEN = 0.015  # share of words hidden as [UNK] in training, so that an unknown word does little harm
SHARPEST = 100.0


@dataclass
class Run:
    """Everything that learns, and where it stands."""

    text_tower: Any
    tokenizer: Any
    space: JointSpace
    teachers: Any  # a module of modules that have a method `loss`
    optimizers: list[torch.optim.Optimizer]
    device: torch.device
    step: int = 0

    def embed(self, captions: Sequence[str], forget: float = 0.0, seed: int = 0) -> Tensor:
        """Captions to pooled features `(b, 128)`; a share of the words may be hidden."""
        batch = self.tokenizer(list(captions), padding=True, truncation=True, return_tensors='pt')
        ids, mask = batch['input_ids'], batch['attention_mask']
        if forget:
            hidden = torch.rand(ids.shape, generator=torch.Generator().manual_seed(seed)) < forget
            ids = ids.masked_fill(hidden & (ids > self.tokenizer.eos_token_id), self.tokenizer.unk_token_id)
        ids, mask = ids.to(self.device), mask.to(self.device)
        order = mask.sum(1).argsort()
        parts = []
        for rows in order.chunk(2):  # the shorter and the longer half apart: less padding to compute
            length = int(mask[rows].sum(1).max())
            own_ids, own_mask = ids[rows, :length], mask[rows, :length]
            parts.append(pool(self.text_tower(input_ids=own_ids, attention_mask=own_mask).last_hidden_state, own_mask))
        return torch.cat(parts)[order.argsort()]


def build(seed: int, lr: float, device: str) -> Run:
    """Fresh towers and their optimizers: Muon for matrices, AdamW for the rest."""
    torch.manual_seed(seed)
    tokenizer = build_tokenizer()
    text_tower = build_text_tower(len(tokenizer)).to(device)
    space = JointSpace().to(device)
    space.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # convolves a quarter faster on a CPU
    teachers = nn.ModuleDict({'map': Hints(CHANNELS), 'picture': Examiner(MIND), 'text': Examiner(WIDTH)}).to(device)
    optimizers = muon_and_adam(text_tower, space, teachers, lr=lr)
    return Run(text_tower, tokenizer, space, teachers, optimizers, torch.device(device))


def learning_rate(step: int, steps: int) -> float:
    """A share of the peak: up over the first 5%, at most 100 steps, then down along a cosine."""
    warmup = max(1, min(100, steps // 20))
    if step < warmup:
        return (step + 1) / warmup
    return 0.01 + 0.99 * (1 + math.cos(math.pi * (step - warmup) / max(1, steps - warmup))) / 2


def contrastive_loss(space: JointSpace, features: Tensor, pooled: Tensor) -> tuple[Tensor, Tensor]:
    """Each caption should choose its picture among the batch's, and each picture its caption; also the share that do."""
    sharpness = space.log_sharpness.exp().clamp(max=SHARPEST)
    match = sharpness * space.place_texts(pooled) @ F.normalize(features, dim=-1).T
    own = torch.arange(len(match), device=match.device)
    loss = (F.cross_entropy(match, own) + F.cross_entropy(match.T, own)) / 2
    return loss, (match.argmax(1) == own).float().mean()


def train_step(run: Run, steps: int, batch: int, seed: int) -> tuple[float, float]:
    """One step; what it sees depends on the seed and the number of the step alone."""
    rng = Random(f'mini/{seed}/{run.step}')
    pairs = draw_pairs(rng, batch)
    images = draw_pictures(pairs, rng).to(run.device)
    captions = [pair.caption + '.' * (rng.random() < 0.1) for pair in pairs]
    pooled = run.embed(captions, FORGOTTEN, rng.getrandbits(62))
    tower = run.space.image_tower
    seen = tower.see(images)
    understood = tower.mind(seen)
    loss, right = contrastive_loss(run.space, tower.head(understood), pooled)
    scenes = [pair.meaning if isinstance(pair.meaning, Scene) else None for pair in pairs]
    lessons = run.teachers['map'].loss(seen, [pair.plan if scene else None for pair, scene in zip(pairs, scenes, strict=True)])
    lessons = lessons + run.teachers['picture'].loss(understood, scenes) + run.teachers['text'].loss(pooled, scenes)
    (loss + lessons).backward()
    nn.utils.clip_grad_norm_([*run.text_tower.parameters(), *run.space.parameters()], 1.0)
    for optimizer in run.optimizers:
        for group in optimizer.param_groups:
            group['lr'] = group['initial_lr'] * learning_rate(run.step, steps)
        optimizer.step()
        optimizer.zero_grad()
    run.step += 1
    return loss.item(), right.item()


def save_checkpoint(run: Run, path: Path, settings: dict[str, Any]) -> None:
    """Written beside and moved into place, so that an interruption never leaves half a file."""
    state = {
        'settings': settings,
        'step': run.step,
        'text_tower': run.text_tower.state_dict(),
        'space': run.space.state_dict(),
        'teachers': run.teachers.state_dict(),
        'optimizers': [optimizer.state_dict() for optimizer in run.optimizers],
    }
    torch.save(state, path.with_suffix('.part'))
    path.with_suffix('.part').replace(path)


def load_checkpoint(run: Run, path: Path, settings: dict[str, Any]) -> None:
    """Continues where the checkpoint stopped."""
    if not path.is_file():
        raise ConfigError(f'nothing to resume: {path} does not exist. Leave out --resume, or name the run with --out.')
    state = torch.load(path, map_location=run.device, weights_only=True)
    if state['settings'] != settings:
        raise ConfigError(f'{path} was made with {state["settings"]}, not {settings}. Resume with the same settings.')
    run.text_tower.load_state_dict(state['text_tower'])
    run.space.load_state_dict(state['space'])
    run.teachers.load_state_dict(state['teachers'])
    for optimizer, saved in zip(run.optimizers, state['optimizers'], strict=True):
        optimizer.load_state_dict(saved)
    run.step = state['step']


def measure(run: Run, sets: int) -> dict[str, float]:
    """The scores that the README states; `sets` times 64 pairs for each, none at all for 0."""
    run.text_tower.eval()
    run.space.eval()
    space = run.space.cpu()
    run.text_tower, run.device = run.text_tower.cpu(), torch.device('cpu')

    @torch.no_grad()
    def embed(captions: Sequence[str]) -> Tensor:
        return run.embed(captions)

    scores = {}
    for world in ('shapes', 'points', 'moving') if sets else ():
        for split in ('held_out', 'train'):
            # so few things move, and so few clouds are held out, that 64 of them cannot all differ
            among = 64 if world == 'shapes' or (world, split) == ('points', 'train') else 16
            where = f'{world}, {split}'
            for related, what in ((0.0, ''), (0.5, ', half of them one word apart')):
                both = retrieval(space, embed, split=split, worlds={world: 1.0}, related=related, among=among, sets=sets)
                for name, score in zip(('picture of a caption', 'caption of a picture'), both, strict=True):
                    scores[f'{where}: {name} among {among}{what}'] = score
            scores[f'{where}: two pictures, one word apart'] = one_word(space, embed, world=world, split=split, count=40 * sets)
    return scores
