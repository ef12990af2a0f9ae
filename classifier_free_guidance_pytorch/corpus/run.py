"""`embed_corpus`: from an input to a finished store, resumable at any point, in one process or in many."""

from __future__ import annotations

import shutil
import tempfile
from dataclasses import dataclass
from os import PathLike
from pathlib import Path

from classifier_free_guidance_pytorch.corpus.cluster.ranks import Rank, at_work, one_at_a_time, wait_for_plan
from classifier_free_guidance_pytorch.corpus.cluster.repair import reopen_if_incomplete
from classifier_free_guidance_pytorch.corpus.encode.embedder import DTYPES, TextEmbedder
from classifier_free_guidance_pytorch.corpus.encode.job import Job
from classifier_free_guidance_pytorch.corpus.encode.progress import progress_bar, say
from classifier_free_guidance_pytorch.corpus.read.sources import Source, open_source
from classifier_free_guidance_pytorch.corpus.scan.first_pass import scan, scratch_path
from classifier_free_guidance_pytorch.corpus.store.manifest import Manifest, Plan, captions_path, finish, manifest_path, plan_path
from classifier_free_guidance_pytorch.errors import ConfigError, checked

DEFAULT_SHARD_ROWS = 8192
ENGINES = ('local', 'ray')
_PROBE = '.cfg-embed-'  # a file that lasts a moment, which another rank may see


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

    A run that was ended, in whatever way, goes on where it stopped when it is called again with the same arguments, and its files
    end as those of a run that was not. Under `torchrun` every process encodes its part of the shards.

    Args:
        source: the input; see `open_source`.
        out: the folder of the store; new, empty, or that of the same run.
        embedder: the encoders, and how to use them.
        column: where the caption stands; None for the usual ones.
        split: which split of a dataset.
        limit: read no more than so many entries.
        keep_empty: encode captions without a visible character too; else they are skipped and counted.
        shard_rows: different captions in a shard, the unit that is written, and lost, as a whole.
        engine: `'local'`, this process (and its ranks), or `'ray'`.
        ray_address: the address of a Ray cluster that runs; None takes `RAY_ADDRESS`, or starts one here.
        workers: processes of Ray; None for one per GPU, or one per four processors without.
        quiet: no progress bar and no messages.

    Returns:
        The manifest of the finished store; None if other ranks are not done yet, of which the last writes it.

    Raises:
        ConfigError: an argument that cannot work; the folder holds another run, or cannot be written to.
        UsageError: the disk is full, or another run is at work in the folder.
        StoreError: a file of the run that is resumed is damaged.
        MissingDependencyError: an encoder or a library cannot be read.
    """
    rank = Rank.of_environment()
    _check_arguments(shard_rows, engine, ray_address, workers, rank)
    run = Run(Path(out), open_source(source, column, split, limit), embedder, rank, shard_rows, keep_empty, quiet)
    embedder.records()  # builds the encoders
    run.check_folder()
    with at_work(run.directory, rank):
        plan = run.resumed() or run.begun()
        job = Job(run.directory, plan, embedder)
        if rank.leads:
            shutil.rmtree(scratch_path(run.directory), ignore_errors=True)
        if manifest_path(run.directory).exists():
            reopen_if_incomplete(run.directory, rank)
        if not manifest_path(run.directory).exists():
            run.check_room(plan)
            if engine == 'ray':
                from classifier_free_guidance_pytorch.corpus.cluster.ray_engine import encode_with_ray

                encode_with_ray(job, ray_address, workers, quiet)
            else:
                job.encode(rank.share(range(plan.shards)), rank.title('encoding'), quiet or not rank.leads)
        return run.finished(job)


def _check_arguments(shard_rows: int, engine: str, ray_address: str | None, workers: int | None, rank: Rank) -> None:
    """Refuse what cannot work together."""
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

    def plan(self, captions: int, unique: int, skipped: dict[str, int]) -> Plan:
        """What these arguments ask for, with the counts of a scan."""
        source = {**self.source.fingerprint(), 'empty': 'kept' if self.keep_empty else 'skipped'}
        embedder = self.embedder
        return Plan(
            source, embedder.records(), self.shard_rows, captions, unique, skipped, embedder.batch_size, embedder.precision
        )  # fmt: skip

    def check_folder(self) -> None:
        """Make the folder, and refuse one that cannot be written to or that holds something else.

        Raises:
            ConfigError: it says why.
        """
        try:
            self.directory.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=self.directory, prefix=_PROBE):
                pass
        except OSError as error:
            raise ConfigError(
                f'nothing can be written to {self.directory} ({error.strerror}): pass a folder on a disk that you may write to'
            ) from error
        captions = captions_path(self.directory, 0).parent
        ours = {captions.name} if captions.is_dir() and not any(captions.iterdir()) else set()  # of a run that just began
        found = sorted(
            path.name for path in self.directory.iterdir() if not path.name.startswith(_PROBE) and path.name not in ours
        )
        if found and not {plan_path(self.directory).name, scratch_path(self.directory).name} & set(found):
            raise ConfigError(
                f'{self.directory} is neither empty nor a store: it holds {", ".join(found[:3])}; pass a folder of its own'
            )

    def resumed(self) -> Plan | None:
        """The plan that is there, if it is of this run; None if there is none.

        Raises:
            ConfigError: it is of another run; the differences are named.
        """
        if not plan_path(self.directory).exists():
            return None
        there = Plan.read(self.directory)
        differences = self.plan(there.captions, there.unique, there.skipped).differences(there)
        if differences:
            raise ConfigError(
                f'{self.directory} holds another run: {"; ".join(differences)}. Pass another folder, or the arguments of that run'
            )
        return there

    def begun(self) -> Plan:
        """The plan of a new run: rank 0 reads the captions and writes it, the others wait for it."""
        self.embedder.embed(['a caption'])  # what cannot be loaded fails now, and not after the captions are read
        if not self.rank.leads:
            wait_for_plan(self.directory)
            plan = self.resumed()
            assert plan is not None
            return plan
        with progress_bar('reading', None, self.quiet) as bar:
            found = scan(self.source, self.directory, self.shard_rows, self.keep_empty, bar.update)
        plan = self.plan(found.captions, found.unique, dict(sorted(found.skipped.counts.items())))
        plan.write(self.directory)
        say(f'{plan.captions:,} captions, {plan.unique:,} different ones, in {plan.shards:,} shards', self.quiet)
        if plan.skipped:
            say(f'skipped: {found.skipped}', self.quiet)
        return plan

    def check_room(self, plan: Plan) -> None:
        """Refuse to start what cannot end: a token per caption, and the pooled feature, is the least that is written.

        Raises:
            ConfigError: the disk has less room.
        """
        widths = sum(one.pooled * one.dim_pooled + one.tokens * one.dim_tokens for one in plan.encoders)
        there = sum(file.stat().st_size for file in (self.directory / 'encodings').rglob('*') if file.is_file())
        least = plan.unique * widths * DTYPES[self.embedder.dtype].itemsize - there
        free = shutil.disk_usage(self.directory).free
        if least > free:
            raise ConfigError(
                f'{self.directory} needs room for at least {least:,} bytes more, and its disk has {free:,}: make room, pass a '
                'folder on another disk, or store less (pooled features only, 16 bits, a limit)'
            )

    def finished(self, job: Job) -> Manifest | None:
        """The manifest, written if everything is there; None if other ranks are not done."""
        with one_at_a_time(self.directory):
            there = manifest_path(self.directory).exists()
            missing = 0 if there else job.missing()
            if missing:
                say(
                    f'rank {self.rank.number} is done; {missing:,} files of other ranks are yet to come',
                    self.quiet or not self.rank.leads,
                )
                return None
            manifest = finish(self.directory, job.plan)
        size = sum(record.bytes for record in manifest.files.values())
        say(
            f'{self.directory} is complete: {len(manifest.files):,} files, {size / 2**20:,.1f} MiB',
            self.quiet or (there and not self.rank.leads),  # the rank that completed it says so, whichever that is
        )
        return manifest
