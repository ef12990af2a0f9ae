"""The same job on Ray Data: shards are distributed to actors, each of which builds the encoders once and writes its files."""

from __future__ import annotations

import logging
import os
import shutil
from dataclasses import replace
from typing import Any

from classifier_free_guidance_pytorch import errors
from classifier_free_guidance_pytorch.corpus.encode.job import Job
from classifier_free_guidance_pytorch.corpus.encode.progress import SharedBar, progress_bar
from classifier_free_guidance_pytorch.corpus.scan.first_pass import scratch_path
from classifier_free_guidance_pytorch.errors import CFGError, ConfigError, MissingDependencyError, UsageError

_PROCESSORS_PER_WORKER = 4  # on machines without a GPU
_DIED = {'RayActorError', 'WorkerCrashedError', 'OutOfMemoryError', 'NodeDiedError'}  # of ray.exceptions
_AFTER_DEATH = (
    'The machine may lack memory: pass fewer workers or a smaller batch_size. What was written is kept: the same command goes on '
    'from there'
)
_STARTS = 4  # of a shard, by actors that died at it; Ray Data itself would start actors for ever


class ShardWriter:
    """An actor: encodes the shards that a batch names, and returns how many captions each has, or why it could not.

    Our own errors are returned and not raised: on its way out of an actor Ray wraps an error, and in some versions loses it.
    """

    def __init__(self, job: Job) -> None:
        self.job = job

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Encode the shards of `{'shard': numbers}`; return the same with the number of captions of each, and an error or ''."""
        shards = [int(shard) for shard in batch['shard']]
        error = ''
        try:
            self._encode(shards)
        except CFGError as raised:
            error = f'{type(raised).__name__}: {raised}'
        return {**batch, 'captions': [self.job.plan.rows_of(shard) for shard in shards], 'error': [error] * len(shards)}

    def _encode(self, shards: list[int]) -> None:
        for shard in shards:
            self._start(shard)
        items = [item for item in self.job.items(shards) if not self.job.is_done(item)]
        with progress_bar('encoding', None, quiet=True) as bar:
            self.job.encode_items(items, SharedBar(bar, 1))

    def _start(self, shard: int) -> None:
        """Count in the folder how often a shard was begun, since an actor that dies forgets it.

        Raises:
            UsageError: Actors died at it again and again.
        """
        path = scratch_path(self.job.directory) / f'started-{shard}'
        path.parent.mkdir(exist_ok=True)
        with path.open('ab') as file:
            file.write(b'.')
            starts = file.tell()
        if starts > _STARTS:
            raise UsageError(f'workers of Ray died {_STARTS} times while they encoded shard {shard}. {_AFTER_DEATH}')


def encode_with_ray(job: Job, address: str | None, workers: int | None, quiet: bool) -> None:
    """Encode every shard that is not complete. All machines of the cluster need the folder under the same path.

    Args:
        job: What is to be encoded.
        address: The address of a running cluster; None takes `RAY_ADDRESS`, or starts a cluster here and ends it.
        workers: The number of actors; None for one per GPU, or one per four processors if there are no GPUs.
        quiet: Show no progress bar.

    Raises:
        CFGError: An actor raised it.
        UsageError: Actors died again and again.
        ConfigError: No cluster answers at the address.
        MissingDependencyError: Ray is not installed.
    """
    ray = _import_ray()
    todo = [shard for shard in range(job.plan.shards) if not all(job.is_done(item) for item in job.items([shard]))]
    if not todo:
        return
    started = not ray.is_initialized()
    if started:
        # unlike None, 'local' never joins the cluster that last ran on this machine, which may no longer exist
        address = address or os.environ.get('RAY_ADDRESS') or 'local'
        dashboard = False if address == 'local' else None
        try:
            ray.init(address=address, log_to_driver=False, logging_level='ERROR', include_dashboard=dashboard)
        except (ConnectionError, ValueError) as error:
            raise ConfigError(f'no Ray cluster answers at ray_address={address!r} ({error})') from error
    try:
        _encode(ray, job, todo, workers, quiet)
    finally:
        shutil.rmtree(scratch_path(job.directory), ignore_errors=True)
        if started:
            ray.shutdown()


def _encode(ray: Any, job: Job, todo: list[int], workers: int | None, quiet: bool) -> None:
    ray.data.DataContext.get_current().enable_progress_bars = False  # there is one bar, over captions
    logging.getLogger('ray.data').setLevel(logging.ERROR)
    resources = ray.cluster_resources()
    gpus, processors = int(resources.get('GPU', 0)), int(resources.get('CPU', 1))
    workers = min(len(todo), workers or gpus or max(1, processors // _PROCESSORS_PER_WORKER))
    written = ray.data.from_items([{'shard': shard} for shard in todo], override_num_blocks=len(todo)).map_batches(
        ShardWriter,
        # pinned, or machines with a GPU would compute in a different precision when the run was started on one without
        fn_constructor_kwargs={'job': replace(job, embedder=job.embedder.pinned())},
        batch_size=1,
        compute=ray.data.ActorPoolStrategy(size=workers),
        num_gpus=min(1, gpus / workers) if gpus else None,
    )
    left = sum(job.plan.rows_of(shard) for shard in todo)
    try:
        with progress_bar(f'encoding on {workers} workers', job.plan.unique, quiet, job.plan.unique - left) as bar:
            for row in written.iter_rows():
                if row['error']:
                    raise _raised(row['error'])
                bar.update(row['captions'])
    except ray.exceptions.RayError as error:
        raise _cause(error) from error


def _raised(described: str) -> CFGError:
    """Return the error that an actor described, of the class that it was of."""
    name, _, message = described.partition(': ')
    made: CFGError = getattr(errors, name, UsageError)(message)
    return made


def _cause(error: BaseException) -> BaseException:
    """Return our own error if actors died; else the error, which no code of ours raised."""
    inner: BaseException | None = error
    while inner is not None:
        if {cls.__name__ for cls in type(inner).__mro__} & _DIED:
            first = next((line.strip() for line in str(inner).splitlines() if line.strip()), '')
            return UsageError(f'a worker of Ray died ({type(inner).__name__}: {first[:200]}). {_AFTER_DEATH}')
        inner = getattr(inner, 'cause', None) or inner.__cause__
    return error


def _import_ray() -> Any:
    try:
        import ray.data
        import ray.exceptions
    except ImportError as error:
        raise MissingDependencyError(
            f"engine='ray' needs Ray Data ({error}): pip install 'classifier-free-guidance-pytorch[ray]'"
        ) from error
    return ray
