"""`embed_corpus`: from an input to a finished store, resumable at any point, in one process or several."""

from __future__ import annotations

import shutil
import tempfile
from dataclasses import dataclass
from os import PathLike, fspath
from pathlib import Path

from classifier_free_guidance_pytorch import __version__
from classifier_free_guidance_pytorch.corpus.cluster.disk import check_renames
from classifier_free_guidance_pytorch.corpus.cluster.ranks import Rank, lock_folder, lock_plan, wait_for_plan
from classifier_free_guidance_pytorch.corpus.cluster.repair import reopen_if_incomplete
from classifier_free_guidance_pytorch.corpus.encode.embedder import TextEmbedder, check_device
from classifier_free_guidance_pytorch.corpus.encode.job import Job
from classifier_free_guidance_pytorch.corpus.encode.progress import log, progress_bar
from classifier_free_guidance_pytorch.corpus.read.sources import Source, open_source
from classifier_free_guidance_pytorch.corpus.scan.first_pass import scan, scratch_path
from classifier_free_guidance_pytorch.corpus.store.files import DTYPES
from classifier_free_guidance_pytorch.corpus.store.layout import (
    CAPTIONS,
    captions_name,
    encodings_name,
    manifest_path,
    plan_path,
    remedy,
)
from classifier_free_guidance_pytorch.corpus.store.manifest import Manifest, Plan, finish
from classifier_free_guidance_pytorch.errors import ConfigError, StoreError, checked

DEFAULT_SHARD_ROWS = 8192
ENGINES = ('local', 'ray')
_PROBE = '.cfg-embed-'  # begins the names of short-lived files, which other ranks may see


@checked
def embed_corpus(
    source: str | PathLike[str],
    out: str | PathLike[str],
    embedder: TextEmbedder,
    *,
    column: str | None = None,
    split: str | None = None,
    limit: int | None = None,
    keep_empty: bool = False,
    shard_rows: int = DEFAULT_SHARD_ROWS,
    engine: str = 'local',
    ray_address: str | None = None,
    workers: int | None = None,
    quiet: bool = False,
) -> Manifest | None:
    """Encode the captions of an input into a store, which `EmbeddingStore(out)` reads.

    A run that ended early, for any reason, continues where it stopped when it is called again with the same arguments. Its files
    are then the same as those of an uninterrupted run. Under `torchrun` every process encodes its part of the shards.

    Args:
        source: The input; see `open_source`.
        out: The folder of the store; new, empty, or that of the same run.
        embedder: The encoders, and how to use them.
        column: The column of the captions; None for the usual names.
        split: The split of a dataset.
        limit: Read at most this many entries.
        keep_empty: Encode captions without a visible character too; else they are skipped and counted.
        shard_rows: The number of different captions in a shard, the unit that is written, or lost, as a whole.
        engine: `'local'`, this process (and the other ranks), or `'ray'`.
        ray_address: The address of a running Ray cluster; None takes `RAY_ADDRESS`, or starts one here.
        workers: The number of Ray's processes; None for one per GPU, or one per four processors if there are no GPUs.
        quiet: Show no progress bar and no messages.

    Returns:
        The manifest of the finished store; None if other ranks are not done yet, the last of which writes it.

    Raises:
        ConfigError: An argument that cannot work, or a folder that holds a different run or cannot be written to.
        UsageError: The disk is full, or another run is using the folder.
        StoreError: A file of the resumed run is damaged.
        MissingDependencyError: An encoder or a library cannot be read.
    """
    rank = Rank.from_environment()
    _check_arguments(out, shard_rows, engine, ray_address, workers, rank)
    if engine == 'local':  # the workers of Ray may be on other machines
        check_device(embedder.device)
    run = Run(Path(out), open_source(source, column, split, limit), embedder, rank, shard_rows, keep_empty, quiet)
    embedder.records()  # builds the encoders
    run.check_folder()
    with lock_folder(run.directory, rank):
        plan = run.resume() or run.start()
        job = Job(run.directory, plan, embedder)
        if rank.is_leader:
            shutil.rmtree(scratch_path(run.directory), ignore_errors=True)
        if manifest_path(run.directory).exists():
            reopen_if_incomplete(run.directory, rank)
        if not manifest_path(run.directory).exists():
            run.check_version(plan)
            run.check_room(plan)
            if engine == 'ray':
                from classifier_free_guidance_pytorch.corpus.cluster.ray_engine import encode_with_ray

                encode_with_ray(job, ray_address, workers, quiet)
            else:
                job.encode(rank.share(range(plan.shards)), rank.title('encoding'), quiet or not rank.is_leader)
        return run.finish(job)


def _check_arguments(
    out: str | PathLike[str], shard_rows: int, engine: str, ray_address: str | None, workers: int | None, rank: Rank
) -> None:
    """Refuse what cannot work together."""
    if not fspath(out).strip() or '\0' in fspath(out):
        raise ConfigError(f'out is the folder of the store, but got the name {fspath(out)!r}')
    if shard_rows < 1:
        raise ConfigError(f'shard_rows counts captions and is at least 1, but got {shard_rows}')
    if engine not in ENGINES:
        raise ConfigError(f'engine is one of {", ".join(map(repr, ENGINES))}, but got {engine!r}')
    if engine == 'local' and (ray_address is not None or workers is not None):
        raise ConfigError("ray_address and workers are for engine='ray'; several local processes are started with torchrun")
    if workers is not None and workers < 1:
        raise ConfigError(f'workers counts processes and is at least 1, but got {workers}')
    if engine == 'ray' and rank.count > 1:
        raise ConfigError(f"engine='ray' starts its own processes, but this is one of {rank.count} ranks: use one of the two")


@dataclass(frozen=True)
class Run:
    """One call of `embed_corpus` in one process."""

    directory: Path
    source: Source
    embedder: TextEmbedder
    rank: Rank
    shard_rows: int
    keep_empty: bool
    quiet: bool

    def plan(self, captions: int, unique: int, skipped: dict[str, int], digest: str | None = None) -> Plan:
        """Return the plan of these arguments.

        Args:
            captions: The number of captions that a scan found.
            unique: The number of different ones.
            skipped: The number of skipped entries, by reason.
            digest: The digest of the input, where it is known; else the input is hashed.
        """
        source = {**self.source.fingerprint(digest), 'empty': 'kept' if self.keep_empty else 'skipped'}
        records, batch_size, precision = self.embedder.records(), self.embedder.batch_size, self.embedder.precision
        return Plan(source, records, self.shard_rows, captions, unique, skipped, batch_size, precision, library=__version__)

    def check_folder(self) -> None:
        """Make the folder, and refuse one that cannot be written to or that holds something else.

        Raises:
            ConfigError: The message says why.
        """
        try:
            self.directory.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=self.directory, prefix=_PROBE):
                pass
        except OSError as error:
            raise ConfigError(
                f'nothing can be written to {self.directory} ({error.strerror}): pass a folder on a disk that you may write to'
            ) from error
        captions = self.directory / CAPTIONS
        ours = {CAPTIONS} if captions.is_dir() and not any(captions.iterdir()) else set()  # of a run that just started
        found = sorted(
            path.name for path in self.directory.iterdir() if not path.name.startswith(_PROBE) and path.name not in ours
        )
        if found and not {plan_path(self.directory).name, scratch_path(self.directory).name} & set(found):
            raise ConfigError(
                f'{self.directory} is neither empty nor a store: it holds {", ".join(found[:3])}; pass a new or empty folder'
            )

    def resume(self) -> Plan | None:
        """Return the plan in the folder; None if there is none.

        Raises:
            ConfigError: The plan is of a different run. The message names the differences.
            StoreError: The plan is damaged, or has more shards than there are.
        """
        if not plan_path(self.directory).exists():
            return None
        plan = Plan.read(self.directory)
        # one rank hashes the input: the others read only captions of the store
        digest = None if self.rank.is_leader else str(plan.source.get('digest'))
        differences = self.plan(plan.captions, plan.unique, plan.skipped, digest).differences(plan)
        if differences:
            raise ConfigError(
                f'{self.directory} holds a different run: {"; ".join(differences)}. Pass a different folder, or the arguments of '
                'that run'
            )
        last = self.directory / captions_name(plan.shards - 1)
        if not last.exists():  # it was written before the plan, which may state any number of shards
            raise StoreError(f'{last} is missing or cannot be read: {remedy(last)}')
        return plan

    def start(self) -> Plan:
        """Return the plan of a new run: rank 0 reads the captions and writes the plan, and the others wait for it."""
        self.embedder.embed(['a caption'])  # what cannot be loaded fails now, not after the captions are read
        if not self.rank.is_leader:
            wait_for_plan(self.directory)
            plan = self.resume()
            assert plan is not None
            return plan
        check_renames(scratch_path(self.directory), self.directory)
        with progress_bar('reading', None, self.quiet) as bar:
            found = scan(self.source, self.directory, self.shard_rows, self.keep_empty, bar.update)
        plan = self.plan(found.captions, found.unique, dict(sorted(found.skipped.counts.items())))
        plan.write(self.directory)
        log(f'{plan.captions:,} captions, {plan.unique:,} different ones, in {plan.shards:,} shards', self.quiet)
        if plan.skipped:
            log(f'skipped: {found.skipped}', self.quiet)
        return plan

    def check_version(self, plan: Plan) -> None:
        """Refuse to go on with encodings that a different version of this library began.

        Raises:
            ConfigError: The message names both.
        """
        if plan.library not in ('', __version__):
            raise ConfigError(
                f'{self.directory} was begun by version {plan.library} of this library, and this is {__version__}: a store has '
                'the features of one version. Go on with that one, on every machine, or pass a different folder'
            )

    def check_room(self, plan: Plan) -> None:
        """Refuse a run for which the disk has no room: it writes at least one token and the pooled feature of every caption.

        Raises:
            ConfigError: The disk has less room.
        """
        missing = (
            plan.rows_of(shard) * (one.pooled * one.dim_pooled + one.tokens * one.dim_tokens)
            for one in plan.encoders
            for shard in range(plan.shards)
            if not (self.directory / encodings_name(one.label, shard)).exists()
        )
        least = sum(missing) * DTYPES[self.embedder.dtype].itemsize
        free = shutil.disk_usage(self.directory).free
        if least > free:
            raise ConfigError(
                f'{self.directory} needs room for at least {least:,} bytes more, and its disk has {free:,}: make room, pass a '
                'folder on a different disk, or store less (pooled features only, 16 bits, a limit)'
            )

    def finish(self, job: Job) -> Manifest | None:
        """Write the manifest and return it; return None if files of other ranks are missing."""
        with lock_plan(self.directory):
            was_finished = manifest_path(self.directory).exists()
            missing = 0 if was_finished else job.missing()
            if missing:
                line = f'rank {self.rank.number} is done; {missing:,} files of other ranks are yet to come'
                log(line, self.quiet or not self.rank.is_leader)
                return None
            manifest = finish(self.directory, job.plan)
        size = sum(record.bytes for record in manifest.files.values())
        line = f'{self.directory} is complete: {len(manifest.files):,} files, {size / 2**20:,.1f} MiB'
        log(line, self.quiet or (was_finished and not self.rank.is_leader))  # the rank that completed the store logs it
        return manifest
