"""Training the judge: which name a picture has, among all of them, and which style."""

from __future__ import annotations

import argparse
import math
import shutil
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from cfg_demo.emoji.captions import with_article
from cfg_demo.emoji.data import CONCEPT, SEEN, STYLE
from cfg_demo.emoji.judge import SHIPPED, Judge, Verdict, augmented, judge_pictures, save_judge
from cfg_demo.emoji.reading import Pictures, read_pictures_of
from cfg_demo.muon import muon_and_adam
from cfg_demo.progress import progress_bar
from classifier_free_guidance_pytorch.text.hugging_face import HFTextAdapter

SMOOTHING = 0.05  # of the labels: names that mean nearly the same share pictures


def train_judge(arguments: argparse.Namespace, folder: Path) -> dict[str, float]:
    """Run `cfg-demo train-judge`, and return how often the judge is right on pictures that it has not seen."""
    pictures = read_pictures_of(arguments.data)
    teacher = HFTextAdapter(arguments.teacher)
    names = [with_article(concept) for concept in pictures.concepts]
    with torch.no_grad():
        features = torch.cat([teacher.encode(names[at : at + 64]).pooled for at in range(0, len(names), 64)])
    torch.manual_seed(arguments.seed)
    judge = Judge(F.normalize(features, dim=-1), len(pictures.styles)).to(arguments.device)
    seen = pictures.of_groups(SEEN)
    with_concepts = pictures.of_groups(SEEN, CONCEPT)  # only styles are held out from the judge: it is no model
    _fit(judge, pictures, with_concepts, arguments.train_steps, arguments, 'train')
    accuracy = {}
    for name, group in (('seen', seen), ('held-out style', pictures.of_groups(STYLE))):
        verdict = _verdict(judge, pictures, group)
        accuracy[f'{name}: right among 100 concepts'] = float(verdict.right.float().mean())
        accuracy[f'{name}: style'] = float(verdict.style.float().mean())
    if arguments.more_steps:
        _fit(judge, pictures, torch.arange(len(pictures.images)), arguments.more_steps, arguments, 'train on all')
    about = {
        'concepts': [concept.name for concept in pictures.concepts],
        'styles': list(pictures.styles),
        'accuracy': accuracy,
        'training': {name: getattr(arguments, name) for name in ('train_steps', 'more_steps', 'batch_size', 'seed')},
    }
    save_judge(judge.cpu(), folder / SHIPPED.name, about)
    if arguments.ship:
        SHIPPED.parent.mkdir(exist_ok=True)
        shutil.copyfile(folder / SHIPPED.name, SHIPPED)
    return accuracy


def _verdict(judge: Judge, pictures: Pictures, rows: Tensor) -> Verdict:
    device = judge.names.device
    images = pictures.floats(rows).to(device)
    return judge_pictures(judge, images, pictures.concept[rows].to(device), pictures.style[rows].to(device))


def _fit(judge: Judge, pictures: Pictures, rows: Tensor, steps: int, arguments: argparse.Namespace, title: str) -> None:
    optimizers = muon_and_adam(judge, lr=arguments.learning_rate)
    generator = torch.Generator().manual_seed(arguments.seed)
    device = judge.names.device
    judge.train()
    for step in (bar := progress_bar(range(steps), desc=title, unit='step')):
        chosen = rows[torch.randint(len(rows), (arguments.batch_size,), generator=generator)]
        images = augmented(pictures.floats(chosen), generator).to(device)
        names, styles = judge(images)
        loss = F.cross_entropy(names, pictures.concept[chosen].to(device), label_smoothing=SMOOTHING)
        loss = loss + 0.3 * F.cross_entropy(styles, pictures.style[chosen].to(device))
        loss.backward()  # type: ignore[no-untyped-call]
        share = min(1.0, (step + 1) / (0.05 * steps)) * (1 + math.cos(math.pi * step / steps)) / 2
        for optimizer in optimizers:
            for group in optimizer.param_groups:
                group['lr'] = group['initial_lr'] * share
            optimizer.step()
            optimizer.zero_grad()
        bar.set_postfix(loss=f'{loss.item():.3f}', refresh=False)
    judge.eval()
