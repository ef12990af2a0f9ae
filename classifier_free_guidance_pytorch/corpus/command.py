"""The console script `cfg-embed`: captions in, frozen encodings out."""

from __future__ import annotations

import argparse
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from classifier_free_guidance_pytorch import __version__
from classifier_free_guidance_pytorch.errors import CFGError, printable

DESCRIPTION = """\
Encode the captions of a corpus with frozen text encoders, once, into a folder that EmbeddingStore reads.

A run that ended early, for any reason, continues where it stopped when the same command is run again."""

EPILOG = """\
examples:
  cfg-embed captions.txt --out store --model-types english
  cfg-embed laion.parquet --column TEXT --out store --model-types t5 clip --dtype bf16 --batch-size 256
  cfg-embed shards/ --out store --model-types hf --model-names intfloat/e5-base-v2 --pooled
  cfg-embed org/dataset:config --split train --column caption --out store --model-types t5 --tokens
  torchrun --nproc-per-node 8 --no-python cfg-embed captions.jsonl --out /shared/store --model-types t5
  cfg-embed captions.jsonl --out /shared/store --model-types t5 --engine ray --ray-address auto

what is left out: entries that are not a string, not UTF-8, or without a visible character (--keep-empty keeps those) are skipped
and counted by reason, and the first are named. A caption longer than an encoder's limit is cut there, with one warning."""


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of `cfg-embed`."""
    parser = argparse.ArgumentParser(
        'cfg-embed', description=DESCRIPTION, epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    captions = parser.add_argument_group('captions')
    captions.add_argument(
        'input',
        metavar='INPUT',
        help='a .txt, .jsonl, .csv, .tsv, .parquet or WebDataset .tar file, also compressed (.txt.gz), a folder of such files of '
        'one kind or written by save_to_disk, or the name of a dataset on the Hugging Face hub',
    )
    captions.add_argument('--column', help='where the captions are (default: caption, text, prompt or the only column)')
    captions.add_argument('--split', help='which split of a dataset (default: train)')
    captions.add_argument('--limit', type=int, metavar='N', help='read at most the first N entries')
    captions.add_argument('--keep-empty', action='store_true', help='encode captions without a visible character too')

    encoders = parser.add_argument_group('encoders')
    encoders.add_argument(
        '--model-types', nargs='+', default=['t5'], metavar='TYPE', help='t5, clip, bge, hf, english, mini (default: t5)'
    )
    encoders.add_argument(
        '--model-names', nargs='+', metavar='NAME', help='a name or a folder per type (default: that of the type)'
    )
    encoders.add_argument('--batch-size', type=int, default=64, metavar='N', help='captions in a batch (default: %(default)s)')
    encoders.add_argument('--device', help='where the encoders run (default: the GPU of this process, or the CPU)')
    encoders.add_argument(
        '--precision',
        choices=('bf16', 'fp16', 'fp32'),
        help='what they compute in (default: --dtype on a GPU, fp32 on a CPU; with Ray, as on this machine)',
    )

    store = parser.add_argument_group('store')
    store.add_argument('--out', required=True, metavar='DIR', help='the folder of the store')
    store.add_argument(
        '--dtype', choices=('bf16', 'fp16', 'fp32'), default='bf16', help='of what is stored (default: %(default)s)'
    )
    store.add_argument('--pooled', action='store_true', help='store one feature per caption (default: both)')
    store.add_argument('--tokens', action='store_true', help='store one feature per token, without padding (default: both)')
    store.add_argument(
        '--shard-rows', type=int, default=8192, metavar='N', help='different captions per file (default: %(default)s)'
    )

    machines = parser.add_argument_group('machines')
    machines.add_argument(
        '--engine', choices=('local', 'ray'), default='local', help='local: this process, or torchrun (default)'
    )
    machines.add_argument('--ray-address', metavar='ADDRESS', help='a running cluster (default: RAY_ADDRESS, or start one here)')
    machines.add_argument('--workers', type=int, metavar='N', help='processes of Ray (default: one per GPU)')
    parser.add_argument('--quiet', action='store_true', help='no progress bar, no messages but errors')
    parser.add_argument('--version', action='version', version=f'%(prog)s {__version__}')
    return parser


@contextmanager
def warnings_as_lines(quiet: bool) -> Iterator[None]:
    """Show warnings of all threads in one line each, without the line of code that they point to."""
    from classifier_free_guidance_pytorch.corpus.encode.progress import log

    with warnings.catch_warnings():
        warnings.showwarning = lambda message, *where: log(f'warning: {message}', quiet)
        yield


def run(arguments: argparse.Namespace) -> None:
    """Embed what the command line asks for."""
    from classifier_free_guidance_pytorch.corpus.encode.embedder import TextEmbedder
    from classifier_free_guidance_pytorch.corpus.run import embed_corpus

    if arguments.quiet or not sys.stderr.isatty():
        from transformers.utils import logging

        logging.disable_progress_bar()  # of reading weights
    both = arguments.pooled == arguments.tokens
    embedder = TextEmbedder(
        arguments.model_types,
        arguments.model_names,
        dtype=arguments.dtype,
        precision=arguments.precision,
        pooled=arguments.pooled or both,
        tokens=arguments.tokens or both,
        batch_size=arguments.batch_size,
        device=arguments.device,
    )
    embed_corpus(
        arguments.input,
        arguments.out,
        embedder,
        column=arguments.column,
        split=arguments.split,
        limit=arguments.limit,
        keep_empty=arguments.keep_empty,
        shard_rows=arguments.shard_rows,
        engine=arguments.engine,
        ray_address=arguments.ray_address,
        workers=arguments.workers,
        quiet=arguments.quiet,
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Run `cfg-embed`.

    Args:
        arguments: The command line without the program's name; by default that of the process.

    Returns:
        The exit code: 0, 2 for a user error, 130 when interrupted.
    """
    parsed = build_parser().parse_args(arguments)
    try:
        with warnings_as_lines(parsed.quiet):
            run(parsed)
    except CFGError as error:
        print(f'cfg-embed: error: {error}', file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f'\ncfg-embed: interrupted; run the same command again to continue {printable(parsed.out)}', file=sys.stderr)
        return 130
    return 0


if __name__ == '__main__':
    sys.exit(main())
