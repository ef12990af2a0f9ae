"""How much memory a process takes that embeds ever larger corpora, or reads what was embedded; a part of `corpus_embed`.

Every figure is one of a process of its own:

    python -m benchmarks.corpus_memory embed CAPTIONS STORE
    python -m benchmarks.corpus_memory read CAPTIONS STORE

prints the seconds that it took, the most private memory, and the most resident memory, which counts the pages of mapped files.
The system knows them; `getrusage` would tell of the process that started this one too.
"""

from __future__ import annotations

import random
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch

from benchmarks.encoders import TEXTS
from benchmarks.results import Figure, counted
from benchmarks.settings import Settings
from benchmarks.timing import seconds
from classifier_free_guidance_pytorch import TextEncoding
from classifier_free_guidance_pytorch.corpus import EmbeddingStore, TextEmbedder, embed_corpus

CORPORA = (10_000, 100_000, 1_000_000, 10_000_000)
MEDIAN_WORDS, SIGMA = 6, 0.8  # of the log-normal lengths
BATCH, READ = 256, 200  # captions in a batch, and batches that are read


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


def memory(settings: Settings, folder: Path, most: int = CORPORA[-1]) -> list[Figure]:
    """The most memory of the processes that embed corpora of growing size, and that read them; the encoder is free."""
    sizes = [count for count in CORPORA if count <= most]
    figures, base = [], {'embed': 0.0, 'read': 0.0}
    for count in sizes:
        path, store = write_captions(folder / 'captions.txt', count), folder / 'store'
        for what, captions in (('embed', count), ('read', BATCH * READ)):
            command = [sys.executable, '-m', 'benchmarks.corpus_memory', what, str(path), str(store)]
            answer = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout.split()
            spent, private, resident = (float(part) for part in answer)
            base[what] = base[what] or private
            note = f'{captions / spent:,.0f} captions/s; {resident / 2**20:,.0f} MiB with the pages of mapped files'
            case = f'{count:,} captions, {"embedded" if what == "embed" else "batches of them read at random"}'
            way = 'embed_corpus' if what == 'embed' else 'store[rows]'
            figures.append(counted(case, way, f'{sizes[0]:,} captions', private, base[what], 'bytes', note=note))
        shutil.rmtree(store)
    return figures


def embed(path: Path, out: Path) -> None:
    """Embed, and assert that everything is there."""
    manifest = embed_corpus(path, out, TextEmbedder(FreeEncoder(), batch_size=BATCH), quiet=True)
    assert manifest is not None
    with path.open('rb') as file:
        assert manifest.plan.captions == manifest.plan.unique == sum(1 for _ in file)


def read(path: Path, out: Path) -> None:
    """Read batches at random places, and assert that they hold what the encoder says."""
    store, generator = EmbeddingStore(out), random.Random(0)
    for _ in range(READ):
        encoding = store[[generator.randrange(len(store)) for _ in range(BATCH)]]
        assert encoding.pooled.shape == (BATCH, 4)
        assert bool((encoding.pooled == 1).all())


def status(entry: str) -> int:
    """Bytes of memory that Linux states of this process."""
    lines = Path('/proc/self/status').read_text(encoding='utf-8').splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(entry))


@contextmanager
def watched(most: list[int]) -> Iterator[None]:
    """Put the most private memory of this process into the list."""
    done = threading.Event()

    def watch() -> None:
        while not done.wait(0.01):
            most[0] = max(most[0], status('RssAnon'))

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield
    finally:
        done.set()
        watcher.join()


def main() -> None:
    """Do one thing, and print what it took."""
    what, most = {'embed': embed, 'read': read}[sys.argv[1]], [0]
    with watched(most):
        spent = seconds(lambda: what(Path(sys.argv[2]), Path(sys.argv[3])))
    print(spent, most[0], status('VmHWM'))


if __name__ == '__main__':
    main()
