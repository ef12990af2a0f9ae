"""Random models and random calls, from seeds: right to rounding beside a reference in float64, or refused in words, and soon.

`CFG_FUZZ=1000` tries a thousand of each.
"""

from __future__ import annotations

import os
import random
import sys
import threading
import time
from dataclasses import fields
from itertools import pairwise

import pytest
import torch
from torch import nn

from classifier_free_guidance_pytorch import classifier_free_guidance_class_decorator, guidance
from classifier_free_guidance_pytorch.decorator.keywords import GUIDANCE_KEYWORDS, TextKeywords
from classifier_free_guidance_pytorch.errors import CFGError
from classifier_free_guidance_pytorch.modules import Part, text_conditioned
from tests.conditioners.making import noise, randomised
from tests.decorator import reference
from tests.decorator.models import build
from tests.tiny_models import TinyEncoder

CASES = int(os.environ.get('CFG_FUZZ', '0'))
SLOW = 10.0  # seconds that one call may take
WORDS = ['a', 'dog', 'red', 'blue', 'circle', 'above', 'tiny', '']


class Block(nn.Module):
    """A linear layer and tanh over the channels, of any layout."""

    def __init__(self, before, after, channel_first):
        super().__init__()
        self.linear, self.channel_first = nn.Linear(before, after), channel_first

    def forward(self, x):
        if self.channel_first:
            return self.linear(x.movedim(1, -1)).tanh().movedim(-1, 1)
        return self.linear(x).tanh()


class Fold(nn.Module):
    """Several equal frames for every sample, folded into the batch."""

    def __init__(self, frames):
        super().__init__()
        self.frames = frames

    def forward(self, x):
        return x.repeat_interleave(self.frames, dim=0)


class Unfold(Fold):
    """The last of the frames of every sample."""

    def forward(self, x):
        return x[self.frames - 1 :: self.frames]


@classifier_free_guidance_class_decorator
class Net(nn.Module):
    """Blocks, with a condition behind each; or, of raw tokens, their sum."""

    def __init__(self, widths, channel_first, raw):
        super().__init__()
        pairs = pairwise(widths)
        self.blocks = nn.ModuleList(Block(before, after, channel_first) for before, after in pairs)
        self.channel_first, self.raw = channel_first, raw

    def forward(self, x, cond_fns, raw_text_cond):
        for i, block in enumerate(self.blocks):
            x = block(x)
            if self.raw:
                embed, mask = raw_text_cond
                added = (embed * mask.unsqueeze(-1)).sum(dim=1)  # (b, d)
                x = x + (added.view(*added.shape, *[1] * (x.ndim - 2)) if self.channel_first else added.unsqueeze(1))
            else:
                x = cond_fns[i](x)
        return x


class Case:
    """A random model, its texts and its input, from a seed."""

    def __init__(self, seed):
        self.dice = dice = random.Random(seed)
        self.kind = dice.choice(['film', 'attention', 'concat', 'raw'])
        self.null = dice.choice(['zeros', 'empty'] if self.kind == 'raw' else ['learned', 'zeros', 'empty'])
        self.channel_first, self.by_hooks = dice.random() < 0.5, self.kind != 'raw' and dice.random() < 0.4
        sizes = [(dice.randint(2, 9), dice.randint(2, 9)) for _ in range(dice.choice([1, 1, 2]))]
        self.encoders = [TinyEncoder(latent, pooled) for latent, pooled in sizes]
        self.heads, self.repeat = dice.randint(1, 3), dice.choice([1, 1, 2, 3])
        width = dice.randint(2, 7)
        self.widths = [width, *(width if self.kind == 'raw' else dice.randint(2, 7) for _ in range(dice.randint(1, 3)))]
        self.batch, self.places = dice.randint(1, 4), dice.randint(1, 4)
        self.texts = [self.text() for _ in range(dice.choice([1, self.batch]))]
        shape = (self.widths[0], self.places) if self.channel_first else (self.places, self.widths[0])
        self.x = noise(self.batch * self.repeat, *shape, seed=seed)
        self.model = self.built().eval()

    def text(self):
        return ' '.join(self.dice.choice(WORDS) for _ in range(self.dice.randint(0, 6))).strip()

    def built(self):
        given = {'model_types': self.encoders, 'null': self.null}
        if self.kind == 'attention':
            given |= {'attn_heads': self.heads, 'attn_dim_head': 3, 'flash': self.dice.random() < 0.5}
        if self.kind in ('attention', 'raw'):
            given['dim_latent'] = self.widths[0] if self.kind == 'raw' else self.dice.randint(2, 6)
        if self.by_hooks:
            frames = self.dice.choice([1, 2, 3]) if self.repeat == 1 else 1
            blocks = [Block(before, after, self.channel_first) for before, after in pairwise(self.widths)]
            how = {'channel_first': self.channel_first, 'repeat_batch': frames}
            at = {str(1 + i): Part(self.kind, dim=width, **how) for i, width in enumerate(self.widths[1:])}
            return randomised(text_conditioned(nn.Sequential(Fold(frames), *blocks, Unfold(frames)), at=at, **given))
        given |= {'hidden_dims': () if self.kind == 'raw' else tuple(self.widths[1:])}
        given |= {} if self.kind == 'raw' else {'hiddens_channel_first': self.channel_first}
        given = {f'text_condition_{name}': value for name, value in given.items()}
        return randomised(Net(self.widths, self.channel_first, self.kind == 'raw', text_condition_type=self.kind, **given))

    def expected(self, scale, negatives=None):
        """The guided prediction `(b, n, d)` of the reference."""
        state = {name: value.double() for name, value in self.model.state_dict().items()}
        weights = {name.partition('text_conditioner.')[2]: value for name, value in state.items() if 'text_conditioner.' in name}
        blocks = [block for block in self.model.modules() if isinstance(block, Block)]
        parts = [(block.linear.weight, block.linear.bias) for block in blocks]
        rows = self.x.movedim(1, -1) if self.channel_first else self.x
        found = []
        for i, x in enumerate(rows):
            sample = i // self.repeat

            def predict(text, x=x):
                return reference.prediction(self.kind, weights, self.encoders, text, self.null, parts, x, self.heads)

            cond = predict(self.texts[sample % len(self.texts)])
            null = predict(None if negatives is None else negatives[sample])
            found.append(reference.guided(cond, null, scale[sample]))
        return torch.stack(found)

    def keywords(self):
        """A call, and the scales and negatives that it is expected to follow."""
        dice = self.dice
        scales = [dice.choice([0.0, 1.0, dice.uniform(-2, 9)])] * self.batch
        if dice.random() < 0.4:
            scales = [dice.choice([0.0, 1.0, dice.uniform(-2, 9)]) for _ in scales]
        call = {'cond_scale': scales[0] if len(set(scales)) == 1 else torch.tensor(scales).repeat_interleave(self.repeat)}
        negatives = [dice.choice([None, self.text()]) for _ in scales] if dice.random() < 0.4 else None
        call['cfg_batched'] = dice.random() < 0.4
        if self.repeat > 1:
            call['repeat_batch'] = self.repeat
        if dice.random() < 0.4 and len(self.texts) == self.batch and None not in (negatives or ()):
            return {**call, 'text_condition': self.model.prepare(self.texts, negatives)}, scales, negatives
        if dice.random() < 0.3:
            call['text_embeds'] = self.model.encode_texts(self.texts)
        else:
            call['texts'] = self.texts
        return {**call, **({} if negatives is None else {'negative_texts': negatives})}, scales, negatives


@pytest.mark.parametrize('block', range(4))
def test_random_models_are_those_of_the_reference(block):
    for seed in range(block, CASES or 40, 4):
        case = Case(seed)
        for _ in range(3):
            call, scales, negatives = case.keywords()
            with torch.no_grad():
                found = case.model(case.x, **call)
            found = found.movedim(1, -1) if case.channel_first else found
            difference = (found - case.expected(scales, negatives).float()).abs().max()
            assert difference < 2e-4 * (1 + max(map(abs, scales))), (seed, vars(case), call)


# calls


VALUES = [
    None, True, False, 0, 1, -1, 3, 0.5, -2.5, float('nan'), float('inf'), 10**30,
    '', 'x', 'a dog', b'a', [], [''], [None], ['a'], ['a', 'b'], ['a', 'b', 'c'], [['a'], ['b']], ('a', 'b'), ['a'] * 2000,
    {}, {'a': 1}, {'cond': 1, 'null': 2}, {'x': 3}, {'progress': 0.5}, object(), int, len, nn.Linear(2, 2),
    guidance.CFG(), guidance.APG(), guidance.Weak(), guidance.PerpNeg(), guidance.Compose((1.0, 0.5)), guidance.NAG(),
    guidance.interval(3.0, progress=(0.2, 0.8)), guidance.CFG().init_state(),
    torch.tensor(2.0), torch.tensor([1.0, 2.0]), torch.tensor([1, 2]), torch.tensor([True, False]), torch.ones(2, 3, 4),
    torch.zeros(0), torch.full((2,), float('nan')),
]  # fmt: skip
NAMES = [*(one.name for one in fields(TextKeywords)), *GUIDANCE_KEYWORDS, 'guidance_scale', 'nonsense', 'x']


@pytest.mark.parametrize('kind', ['film', 'attention', 'concat', 'raw'])
def test_random_calls_are_answered_or_refused_in_words(kind):
    """No call changes the model and none takes long; who refuses it is this library, or Python for a name that it has."""
    model, x = build(kind), noise(2, 6)
    with torch.no_grad():
        expected = model(x, texts=['a dog', 'a red circle'], cond_scale=3.0)
    for seed in range(CASES or 150):
        dice = random.Random(f'{kind} {seed}')
        call = {'texts': ['a', 'b']} if dice.random() < 0.6 else {}
        call |= {'cond_scale': 2.0} if dice.random() < 0.5 else {}
        call |= {dice.choice(NAMES): dice.choice(VALUES) for _ in range(dice.choice([1, 1, 2, 3]))}
        model.train(dice.random() < 0.2)
        start = time.monotonic()
        refused = None
        try:
            with torch.no_grad():
                found = model(x, **call)
            found = found[0] if isinstance(found, tuple) else found
            assert found.shape[-1] == 6, (seed, call)
        except CFGError as error:
            refused = str(error)
        except TypeError as error:
            refused = str(error)
            assert 'multiple values' in refused, (seed, call)
        assert refused is None or 0 < len(refused) < 3100, (seed, call, refused)
        assert time.monotonic() - start < SLOW, (seed, call)
    model.eval()
    with torch.no_grad():
        assert torch.equal(model(x, texts=['a dog', 'a red circle'], cond_scale=3.0), expected)


# threads


class Turns:
    """Threads that take turns at every line of the library, in an order of dice: whose turn it is not waits."""

    def __init__(self, seed, count):
        self.dice, self.alive, self.turn = random.Random(seed), list(range(count)), 0
        self.changed = threading.Condition()

    def run(self, which, work):
        """Run one of the threads."""
        sys.settrace(lambda frame, event, _: self.traced(which, frame))
        try:
            self.wait(which)
            work()
        finally:
            sys.settrace(None)
            with self.changed:
                self.alive.remove(which)
                self.pass_on()

    def traced(self, which, frame):
        """Return what follows the lines of a frame: those of this library are followed."""
        if 'classifier_free_guidance_pytorch/' not in frame.f_code.co_filename:
            return None

        def line(frame, event, _):
            if event == 'line' and self.dice.random() < 0.2:
                with self.changed:
                    self.pass_on()
                self.wait(which)
            return line

        return line

    def pass_on(self):
        self.turn = self.dice.choice(self.alive) if self.alive else -1
        self.changed.notify_all()

    def wait(self, which):
        """Wait for a turn; a thread that holds a lock which the chosen one waits for goes on after a moment."""
        with self.changed:
            self.changed.wait_for(lambda: self.turn == which, timeout=0.02)


@pytest.mark.parametrize('kind', ['film', 'attention'])
def test_threads_that_take_turns_at_random_lines(kind):
    """One model, changing texts, scales, prepared conditions and weights of memory: everybody gets what one alone gets."""
    calls = [
        {'texts': ['a dog', 'a red circle'], 'cond_scale': 3.0},
        {'texts': ['blue', 'tiny'], 'negative_texts': ['dull', None], 'cond_scale': 2.0},
        {'texts': ['a dog', 'tiny'], 'cond_scale': 5.0, 'guidance': guidance.APG()},
        {'cond_scale': 1.0},
    ]
    for seed in range(CASES // 20 or 4):
        model, x = build(kind), noise(2, 6)
        with torch.no_grad():
            expected = [model(x, **call) for call in calls]
        model, found, turns = build(kind), {}, Turns(seed, len(calls))

        def sample(which, model=model, x=x, found=found):
            with torch.no_grad():
                found[which] = [model(x, **calls[which]) for _ in range(3)]

        threads = [threading.Thread(target=turns.run, args=(i, lambda i=i, work=sample: work(i))) for i in range(len(calls))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(timeout=120)
            assert not thread.is_alive(), (seed, 'a thread waits for ever')
        for which, outputs in found.items():
            assert all(torch.equal(one, expected[which]) for one in outputs), (seed, which)
        assert len(found) == len(calls), seed
