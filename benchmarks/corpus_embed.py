"""`cfg-embed` against a plain loop over the encoder, two processes against one, and memory against the number of captions.

    python -m benchmarks.corpus_embed              # writes benchmarks/results/cpu/corpus_embed.json, minutes on two cores
    python -m benchmarks.corpus_embed speed        # one of speed, ranks, memory

The encoder is a T5 v1.1 of base size with random weights; the captions differ, so that nothing is won by encoding one only once,
and their lengths are log-normal, as those of captions from the web are. What is timed of `cfg-embed` is everything between the
input and the finished store: reading, merging, encoding, writing, syncing. The plain loop encodes batch by batch, in the order of
the input, and writes nothing. Both start with the weights in memory.
"""

from __future__ import annotations

import argparse
import os
import random
import resource
import shlex
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks.encoders import TEXTS, save_clip, save_t5
from benchmarks.results import RESULTS, Bar, Figure, Result, assert_equal, counted, environment, timed
from benchmarks.settings import Settings
from benchmarks.timing import Pace, Spread, seconds
from classifier_free_guidance_pytorch import OpenClipAdapter, T5Adapter, TextEncoding
from classifier_free_guidance_pytorch.corpus import EmbeddingStore, TextEmbedder, embed_corpus
from classifier_free_guidance_pytorch.corpus.scan import scan
from classifier_free_guidance_pytorch.corpus.sources import open_source
from classifier_free_guidance_pytorch.text import TextEncoder

BATCH = 32
MEDIAN_WORDS, SIGMA = 6, 0.8  # of the log-normal lengths
AGAINST = 'plain loop'
CORPORA = (1000, 10_000, 100_000, 1_000_000, 10_000_000)
WHOLE = 1_000_000  # larger corpora are only read: the work per caption around the encoder is the same, and takes minutes


class FreeEncoder:
    """Features that cost nothing, so that what is left is the work around them."""

    dim_latent = dim_pooled = 4
    max_text_len = 1

    def encode(self, texts: Sequence[str]) -> TextEncoding:
        """One token per text."""
        count = len(texts)
        return TextEncoding(torch.ones(count, 1, 4), torch.ones(count, 1, dtype=torch.bool), torch.ones(count, 4))


def write_captions(path: Path, count: int) -> Path:
    """Different captions of mixed length, one per line."""
    generator = random.Random(0)
    words = sorted({word for text in TEXTS for word in text.split()})
    with path.open('w', encoding='utf-8') as file:
        for number in range(count):
            length = min(60, max(2, round(generator.lognormvariate(0, SIGMA) * MEDIAN_WORDS)))
            file.write(f'{" ".join(generator.choices(words, k=length))} {number}\n')
    return path


def speed(settings: Settings, folder: Path) -> list[Figure]:
    """The whole of `cfg-embed` against a loop over the encoder: T5, and CLIP, which reads every text at its full length."""
    t5 = T5Adapter(save_t5(folder / 't5', settings.tiny))
    clip = OpenClipAdapter(f'local-dir:{save_clip(folder / "clip", settings.tiny)}')
    bar = None if settings.tiny else Bar('at most', 0.4)
    sizes = (64, 64) if settings.tiny else (384, 128)
    return [
        against_a_loop('T5-base', t5, sizes[0], settings, folder, bar),
        against_a_loop('CLIP ViT-B-32', clip, sizes[1], settings, folder),
    ]


def against_a_loop(
    name: str, encoder: TextEncoder, count: int, settings: Settings, folder: Path, bar: Bar | None = None
) -> Figure:
    """One encoder, with the same batch size on both sides. A figure is given only if both made the same features."""
    path = write_captions(folder / f'{count}.txt', count)
    captions = path.read_text(encoding='utf-8').splitlines()
    encoder.encode(captions[:2])
    out, plain, times = folder / 'none', [], {'cfg-embed': [], AGAINST: []}
    for number in range(settings.pace.rounds):
        for way in list(times)[:: 1 if number % 2 else -1]:
            started = time.perf_counter()
            if way == AGAINST:
                plain = [encoder.encode(captions[start : start + BATCH]) for start in range(0, count, BATCH)]
            else:
                out = folder / f'{name}-{number}'
                embed_corpus(path, out, TextEmbedder(encoder, dtype='fp32', batch_size=BATCH), quiet=True)
            times[way].append(time.perf_counter() - started)
    store = EmbeddingStore(out)
    for number, expected in enumerate(plain):
        found = store[number * BATCH : (number + 1) * BATCH]
        assert_equal((found.tokens, found.pooled), (expected.tokens, expected.pooled), f'batch {number}', atol=1e-4)
    real, padded = sum(int(one.mask.sum()) for one in plain), sum(one.mask.numel() for one in plain)
    rates = {way: count / Spread.of(spent).median for way, spent in times.items()}
    note = (
        f'{rates["cfg-embed"]:.2f} against {rates[AGAINST]:.2f} captions/s; {real / count:.1f} tokens a caption, and '
        f'{padded / real:.1f} times as many in the batches of the loop'
    )
    case = f'{name}, {count} captions, batch {BATCH}'
    return timed(case, 'cfg-embed', AGAINST, times['cfg-embed'], times[AGAINST], bar=bar, note=note)


def ranks(settings: Settings, folder: Path) -> list[Figure]:
    """Two processes of one thread against one, from the moment when their weights are loaded."""
    model = save_t5(folder / 't5', settings.tiny)
    path = write_captions(folder / 'captions.txt', 64 if settings.tiny else 256)

    def run(count: int) -> float:
        out = Path(tempfile.mkdtemp(dir=folder)) / 'store'
        command = [sys.executable, '-m', 'benchmarks.corpus_embed', 'worker', str(path), str(out), str(model)]
        pipes: dict[str, Any] = {'stdin': subprocess.PIPE, 'stdout': subprocess.PIPE, 'text': True}
        workers = []
        for rank in range(count):
            one_thread = {**os.environ, 'RANK': str(rank), 'WORLD_SIZE': str(count), 'OMP_NUM_THREADS': '1'}
            workers.append(subprocess.Popen(command, env=one_thread, **pipes))
        for worker in workers:
            worker.stdout.readline()  # type: ignore[union-attr]  # it is ready
        started = time.perf_counter()
        for worker in workers:
            worker.communicate('go\n')
        return time.perf_counter() - started

    found = {count: [run(count) for _ in range(min(2, settings.pace.rounds))] for count in (1, 2)}
    case = 'T5-base, 256 captions, one thread per process'
    return [timed(case, 'two processes', 'one process', found[2], found[1])]


def work(path: Path, out: Path, model: Path) -> None:
    """One rank: load, say so, wait, embed."""
    torch.set_num_threads(1)
    encoder = T5Adapter(model)
    encoder.encode(['ready'])
    print('ready', flush=True)
    sys.stdin.readline()
    embed_corpus(path, out, TextEmbedder(encoder, batch_size=BATCH), shard_rows=64, quiet=True)


def memory(settings: Settings, folder: Path, most: int = 10_000_000) -> list[Figure]:
    """The most memory of a process that reads and embeds ever more captions; the encoder is free."""
    figures: list[Figure] = []
    sizes = [count for count in CORPORA if count <= most]
    base = 0.0
    for count in sizes:
        whole = count <= WHOLE
        path = write_captions(folder / 'captions.txt', count)
        command = [
            sys.executable,
            '-m',
            'benchmarks.corpus_embed',
            'measured',
            str(path),
            str(folder / f'store-{count}'),
            str(whole),
        ]
        answer = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
        spent, private, resident = (float(part) for part in answer)
        base = base or private
        note = f'{count / spent:,.0f} captions/s; {resident / 2**20:,.0f} MiB with the pages of mapped files'
        what = 'read and embedded' if whole else 'read'
        figures.append(counted(f'{count:,} captions {what}', 'cfg-embed', f'{sizes[0]:,}', private, base, 'bytes', note=note))
        subprocess.run(['rm', '-rf', str(folder / f'store-{count}')], check=True)
    return figures


def measured(path: Path, out: Path, whole: bool) -> None:
    """Embed, or only read, and print the seconds, the most private memory, and the most resident memory."""
    most, done = [0], threading.Event()

    def watch() -> None:
        while not done.wait(0.01):
            lines = Path('/proc/self/status').read_text(encoding='utf-8').splitlines()
            private = next(int(line.split()[1]) * 1024 for line in lines if line.startswith('RssAnon'))
            most[0] = max(most[0], private)

    watcher = threading.Thread(target=watch)
    watcher.start()
    spent = seconds(
        lambda: (
            embed_corpus(path, out, TextEmbedder(FreeEncoder(), batch_size=256), quiet=True)
            if whole
            else scan(open_source(path), out, 8192)
        )
    )
    done.set()
    watcher.join()
    print(spent, most[0], resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)


PARTS: dict[str, Callable[..., list[Figure]]] = {'speed': speed, 'ranks': ranks, 'memory': memory}


def main() -> None:
    """Measure, print, and write the results."""
    if sys.argv[1:2] == ['worker']:
        return work(*map(Path, sys.argv[2:5]))
    if sys.argv[1:2] == ['measured']:
        return measured(Path(sys.argv[2]), Path(sys.argv[3]), sys.argv[4] == 'True')
    arguments = argparse.ArgumentParser('python -m benchmarks.corpus_embed', description='What cfg-embed gains and needs.')
    arguments.add_argument('parts', nargs='*', choices=[[], *PARTS], help='default: all of them')
    arguments.add_argument('--rounds', type=int, default=3, help='rounds in which every call is timed once (default: 3)')
    arguments.add_argument(
        '--most', type=int, default=CORPORA[-1], help='captions of the largest corpus of memory (default: all)'
    )
    arguments.add_argument('--tiny', action='store_true', help='does it run? The figures mean nothing')
    arguments.add_argument('--out', type=Path, default=RESULTS / 'cpu', help='folder of the results')
    chosen = arguments.parse_args()
    settings = Settings(Pace(chosen.rounds, 0.0, 1), chosen.tiny)
    for part in chosen.parts or PARTS:
        started = time.perf_counter()
        with tempfile.TemporaryDirectory() as folder:
            more = {'most': min(chosen.most, 10_000 if chosen.tiny else chosen.most)} if part == 'memory' else {}
            figures = PARTS[part](settings, Path(folder), **more)
        minutes = round((time.perf_counter() - started) / 60, 2)
        stated = {'rounds': chosen.rounds, 'dtype': 'torch.float32', 'tiny': chosen.tiny, 'minutes': minutes}
        command = shlex.join(('python', '-m', 'benchmarks.corpus_embed', *sys.argv[1:]))
        result = Result(f'corpus_embed_{part}', command, figures, stated, environment(settings.device))
        for one in figures:
            print(f'{one.case:40} {one.way:14} {one.ratio.median:6.3f} x {one.against}  {one.note}')
        print(result.write(chosen.out))
    return None


if __name__ == '__main__':
    main()
