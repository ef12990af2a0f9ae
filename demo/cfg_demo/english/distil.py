"""The whole distillation: gather, ask the teacher, train, measure, export."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch

from cfg_demo.english import training
from cfg_demo.english.export import export, ship
from cfg_demo.english.measure import measure
from cfg_demo.english.student import build_student, build_tokenizer, start_from_pieces
from cfg_demo.english.teacher import taught
from cfg_demo.english.texts import gather, read_captions
from cfg_demo.english.wordnet import counted_words, first_senses, read_senses
from cfg_demo.progress import progress_bar
from classifier_free_guidance_pytorch.text.hugging_face import HFTextAdapter

CHECKPOINT, CURVE = 'checkpoint.pt', 'curve.json'


def distil(arguments: argparse.Namespace, out: Path) -> dict[str, float]:
    """Run `cfg-demo train-english`."""
    steps, batch_size, seed = arguments.train_steps, arguments.batch_size, arguments.seed
    captions, wordnet = read_captions(arguments.captions), arguments.wordnet
    texts = gather(read_senses(wordnet), counted_words(wordnet), first_senses(wordnet), captions, arguments.split_seed)
    teacher = HFTextAdapter(arguments.teacher)
    sets = {'words': texts.words, 'held_out': texts.held_out, 'train': texts.train}
    vectors = {name: taught(each, teacher, out / 'teacher' / name, arguments.device) for name, each in sets.items()}

    torch.manual_seed(seed)
    tokenizer, places = build_tokenizer(teacher.tokenizer, texts.train)
    student = build_student(tokenizer)
    run = training.start(student, vectors['train'].shape[1], arguments.learning_rate)
    settings = {'steps': steps, 'batch_size': batch_size, 'seed': seed, 'learning_rate': arguments.learning_rate}
    if arguments.resume:
        training.resume(run, out / CHECKPOINT, settings)
    elif arguments.start_from is not None:
        training.start_from(run, arguments.start_from)
    else:
        start_from_pieces(student, teacher, places)
    for module in run.modules().values():
        module.to(arguments.device)
    tokens = training.Tokens(tokenizer, texts.train)
    curve = json.loads((out / CURVE).read_text()) if arguments.resume and (out / CURVE).is_file() else []
    losses = []
    with progress_bar(total=steps, initial=run.step, desc='train', unit='step') as bar:
        while run.step < steps:
            student.train()
            losses.append(training.train_step(run, tokens, vectors['train'], steps, batch_size, seed))
            bar.set_postfix(loss=f'{losses[-1]:.3f}', refresh=False)
            bar.update()
            if run.step % arguments.save_every == 0 or run.step == steps:
                scores = measure(student, tokenizer, texts, vectors, teacher=None, seed=arguments.split_seed)
                curve.append({'step': run.step, 'loss': sum(losses) / len(losses)} | scores)
                losses.clear()
                (out / CURVE).write_text(json.dumps(curve, indent=1) + '\n')
                training.save(run, out / CHECKPOINT, settings)
    scores = measure(student.to('cpu'), tokenizer, texts, vectors, teacher, arguments.split_seed)
    for name, score in scores.items():
        print(f'{name:40s} {score:10,.3f}')
    names = ' '.join(str(path) for path in arguments.captions)
    said = f'cfg-demo train-english --teacher {Path(arguments.teacher).name}' + (f' --captions {names}' if names else '')
    said += f' --train-steps {steps} --batch-size {batch_size} --learning-rate {arguments.learning_rate} --seed {seed}'
    said += f' --start-from {arguments.start_from.name}' if arguments.start_from is not None else ''
    folder = export(student, tokenizer, out, scores, said)
    if arguments.ship:
        ship(folder)
    print(f'Encoder: {folder}  Curve: {out / CURVE}')
    return scores
