"""Distillation: texts lie to each other in the student's space as they lie in the teacher's.

    loss = (1 - cos(head(s), t)) + RELATION * mean (S - T)^2 + NEAR * KL(softmax(T / TAU) || softmax(S / TAU))

with `s` and `t` what student and teacher make of a text, `S` and `T` the cosines of all pairs in a batch. The first term carries
the teacher's meaning over, the second its similarities (relational distillation, arXiv 1904.05068), and the third, in which only
the nearest count, who is closest to whom. Only the student is kept: the linear `head` serves the training.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cfg_demo.english.student import LONGEST, pool
from cfg_demo.muon import muon_and_adam
from classifier_free_guidance_pytorch.errors import ConfigError

RELATION, NEAR, TAU = 20.0, 1.0, 0.05
CHUNKS = 8  # texts of a batch are padded in so many groups of similar length


class Tokens:
    """The token ids of many texts, one after another in one array.

    Args:
        tokenizer: The student's.
        texts: Any number.
    """

    def __init__(self, tokenizer: Any, texts: Sequence[str]) -> None:
        ids = tokenizer(list(texts), truncation=True, max_length=LONGEST)['input_ids']
        self._ends = np.cumsum([0, *(len(each) for each in ids)])
        self._ids = torch.tensor([place for each in ids for place in each])

    def __len__(self) -> int:
        return len(self._ends) - 1

    def rows(self, indices: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Return ids and mask `(b, n)` of some texts, padded to the longest."""
        found = [self._ids[self._ends[at] : self._ends[at + 1]] for at in indices]
        ids = nn.utils.rnn.pad_sequence(found, batch_first=True)
        lengths = torch.tensor([len(each) for each in found])
        return ids, (torch.arange(ids.shape[1]) < lengths.unsqueeze(1)).long()

    def length(self, index: int) -> int:
        """Return how many tokens a text has."""
        return int(self._ends[index + 1] - self._ends[index])


@dataclass
class Run:
    """What learns, and where it stands."""

    student: Any
    head: nn.Module
    optimizers: list[torch.optim.Optimizer]
    step: int = 0

    def modules(self) -> dict[str, nn.Module]:
        """Return the modules with weights."""
        return {'student': self.student, 'head': self.head}


def start(student: Any, dim_teacher: int, learning_rate: float) -> Run:
    """Return a run at step 0: Muon for the layers' matrices, Adam for the rest."""
    head = nn.Linear(student.config.hidden_size, dim_teacher)
    optimizers = muon_and_adam(student, head, lr=learning_rate)
    return Run(student, head, optimizers)


def embed(student: Any, tokens: Tokens, indices: Sequence[int], chunks: int = CHUNKS) -> Tensor:
    """Return pooled features `(b, d)` of some texts."""
    order = sorted(range(len(indices)), key=lambda at: tokens.length(indices[at]))
    device = next(student.parameters()).device
    parts = []
    for rows in np.array_split(order, min(chunks, len(order))):
        ids, mask = tokens.rows([indices[at] for at in rows])
        parts.append(pool(student, ids.to(device), mask.to(device)))
    return torch.cat(parts)[torch.tensor(order, device=device).argsort()]


def loss_of(pooled: Tensor, head: nn.Module, targets: Tensor) -> Tensor:
    """Return the loss of a batch; see the top of the file.

    Args:
        pooled: `(b, d)` of the student.
        head: To the teacher's width.
        targets: Unit vectors `(b, d)` of the teacher.
    """
    carried = 1 - (F.normalize(head(pooled), dim=-1) * targets).sum(-1).mean()
    units = F.normalize(pooled, dim=-1)
    ours, theirs = units @ units.T, targets @ targets.T  # (b, b)
    self_pairs = torch.eye(len(units), dtype=torch.bool, device=units.device)
    relation = F.mse_loss(ours[~self_pairs], theirs[~self_pairs])
    student_near, teacher_near = ((each.masked_fill(self_pairs, -1.0) / TAU).log_softmax(-1) for each in (ours, theirs))
    near = F.kl_div(student_near, teacher_near, log_target=True, reduction='batchmean')
    return carried + RELATION * relation + NEAR * near


def train_step(run: Run, tokens: Tokens, targets: Tensor, steps: int, batch_size: int, seed: int) -> float:
    """Take one step; which texts it sees depends on the seed and the step alone."""
    generator = np.random.default_rng((seed, run.step))
    chosen = generator.choice(len(tokens), batch_size, replace=False)
    pooled = embed(run.student, tokens, chosen.tolist())
    loss = loss_of(pooled, run.head, targets[torch.from_numpy(chosen)].float().to(pooled.device))
    loss.backward()  # type: ignore[no-untyped-call]
    share = _share(run.step, steps)
    for optimizer in run.optimizers:
        for group in optimizer.param_groups:
            group['lr'] = group['initial_lr'] * share
        optimizer.step()
        optimizer.zero_grad()
    run.step += 1
    return loss.item()


def save(run: Run, path: Path, settings: dict[str, Any]) -> None:
    """Write everything that a run needs to go on."""
    state = {name: module.state_dict() for name, module in run.modules().items()}
    part = path.with_suffix('.part')
    optimizers = [optimizer.state_dict() for optimizer in run.optimizers]
    torch.save({'modules': state, 'optimizers': optimizers, 'step': run.step, 'settings': settings}, part)
    part.replace(path)


def resume(run: Run, path: Path, settings: dict[str, Any]) -> None:
    """Go on where a run stopped.

    Raises:
        ConfigError: There is none, or it has other settings.
    """
    if not path.is_file():
        raise ConfigError(f'there is no run to resume at {str(path)!r}: leave --resume out')
    saved = torch.load(path, weights_only=True)
    if saved['settings'] != settings:
        raise ConfigError(f'{str(path)!r} was made with {saved["settings"]}, not {settings}: pass the same options')
    for name, module in run.modules().items():
        module.load_state_dict(saved['modules'][name])
    for optimizer, state in zip(run.optimizers, saved['optimizers'], strict=True):
        optimizer.load_state_dict(state)
    run.step = saved['step']


def start_from(run: Run, path: Path) -> None:
    """Begin with the weights of another run, at step 0 and with fresh optimizers.

    Raises:
        ConfigError: There is none.
    """
    if not path.is_file():
        raise ConfigError(f'there is no checkpoint of another run at {str(path)!r}')
    saved = torch.load(path, weights_only=True)
    for name, module in run.modules().items():
        module.load_state_dict(saved['modules'][name])


def _share(step: int, steps: int) -> float:
    """A share of the peak learning rate: up over 2% of the steps, then down along a cosine."""
    rising = min(1.0, (step + 1) / max(1, steps // 50))
    return rising * (0.01 + 0.99 * (1 + math.cos(math.pi * step / steps)) / 2)
