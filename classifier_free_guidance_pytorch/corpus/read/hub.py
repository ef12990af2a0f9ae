"""The captions of a Hugging Face dataset, from the hub or from a folder."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from os import PathLike, fspath
from pathlib import Path
from typing import Any

from classifier_free_guidance_pytorch.corpus.read.entries import Entry
from classifier_free_guidance_pytorch.corpus.read.formats import arrow_values, choose_column, digest_of, is_text
from classifier_free_guidance_pytorch.errors import ConfigError, MissingDependencyError

_BATCH_ROWS = 4096


@dataclass(frozen=True)
class DatasetSource:
    """A dataset, read as a stream of Arrow tables."""

    dataset: Any
    column: str
    identity: dict[str, Any]
    files: tuple[Path, ...] = ()
    unit: str = 'row'

    def entries(self) -> Iterator[Entry]:
        """Yield the value of every row, counted from 0."""
        number, tables = 0, None
        while True:
            try:
                tables = tables or self._tables()
                table = next(tables, None)
                values = () if table is None else self._values(table)
            except Exception as error:  # of the reader of any format, and of the network
                raise ConfigError(f'the dataset cannot be read after row {number:,} ({_first_line(error)})') from error
            if table is None:
                return
            for value in values:
                yield number, value
                number += 1

    def _tables(self) -> Iterator[Any]:
        """Yield the column in parts: tables of Arrow where the types of the columns are known."""
        rows = self.dataset.select_columns([self.column])
        tables: Iterator[Any] = (rows.with_format('arrow') if self.dataset.features else rows).iter(batch_size=_BATCH_ROWS)
        return tables

    def _values(self, table: Any) -> list[Any]:
        """Return the captions in a part; `datasets` 2 gives a dict for what it did not read as a table, too."""
        if isinstance(table, dict):
            return list(table[self.column])
        return arrow_values(table.column(0))

    def fingerprint(self, digest: str | None = None) -> dict[str, Any]:
        """Return name, configuration and split, or a digest of the tables in a folder."""
        content = {'digest': digest or digest_of(self.files)} if self.files else {}
        return {'kind': 'dataset', 'column': self.column, **self.identity, **content}


def open_dataset(source: str | PathLike[str], column: str | None, split: str | None) -> DatasetSource:
    """Open a dataset on the hub, as a stream, or in a folder, memory-mapped.

    Args:
        source: The name on the hub, `'name'` or `'name:config'`, or the folder.
        column: The column of the captions; None for one of the usual names.
        split: The split; None for `train`, or for the only one of a folder.

    Raises:
        ConfigError: The dataset has no such split or column, no rows, or cannot be read without code of its own.
        MissingDependencyError: `datasets` is not installed, or the dataset cannot be read.
    """
    try:
        import datasets
    except ImportError as error:
        raise MissingDependencyError(
            f"{str(source)!r} is read with the library datasets ({error}): pip install 'classifier-free-guidance-pytorch[corpus]'"
        ) from error
    if Path(source).is_dir():
        dataset, identity = _from_folder(datasets, Path(source), split)
    else:
        dataset, identity = _from_hub(datasets, fspath(source), split)
    features: Any
    try:
        features = dataset.features or next(iter(dataset.take(1)), {}).keys()
    except Exception as error:
        raise ConfigError(f'the first row of {source} cannot be read ({_first_line(error)})') from error
    if not features:
        raise ConfigError(f'{source} is empty: it holds no captions')
    kinds = getattr(features, 'arrow_schema', None)
    columns = [field.name for field in kinds if is_text(field.type)] if kinds is not None else list(features)
    files = tuple(Path(file['filename']) for file in getattr(dataset, 'cache_files', ()))
    return DatasetSource(dataset, choose_column(source, columns, column), identity, files)


def _from_folder(datasets: Any, folder: Path, split: str | None) -> tuple[Any, dict[str, Any]]:
    try:
        found = datasets.load_from_disk(folder)
    except Exception as error:  # broken JSON or tables, of any kind: the library does not check its files
        raise ConfigError(
            f'{folder} has the files of save_to_disk, but cannot be read as such ({type(error).__name__}: {error}): write it '
            'again, or remove state.json and dataset_dict.json if it holds files of captions'
        ) from error
    if isinstance(found, datasets.DatasetDict):
        if split is None and len(found) == 1:
            split = next(iter(found))
        if split not in found:
            raise ConfigError(f'{folder} has no split {split!r}: pass split, one of {", ".join(map(repr, found))}')
        found = found[split]
    elif split is not None:
        raise ConfigError(f'split={split!r} was passed, but the dataset in {folder} has no splits')
    return found, {'split': split, 'rows': len(found)}


def _from_hub(datasets: Any, source: str, split: str | None) -> tuple[Any, dict[str, Any]]:
    name, _, config = source.partition(':')
    split = split or 'train'
    try:
        # explicitly: before 2.20 the default of `datasets` is to run code
        found = datasets.load_dataset(name, config or None, split=split, streaming=True, trust_remote_code=False)
    except StopIteration:
        raise ConfigError(f'{source} is empty: it holds no captions') from None
    except Exception as error:  # the clients' errors have no common base
        if any(words in str(error) for words in ('trust_remote_code', 'scripts are no longer supported')):
            raise ConfigError(
                f'{source!r} cannot be read without code from its own repository, and this library never runs such code: choose '
                'a dataset of files, such as Parquet'
            ) from error
        raise MissingDependencyError(
            f'{source!r} is not a file or folder, and could not be read from the Hugging Face hub with split={split!r} '
            f'({_first_line(error)})'
        ) from error
    return found, {'name': name, 'config': config or None, 'split': split}


def _first_line(error: BaseException) -> str:
    """Return the type of an error and the first line of its message."""
    return f'{type(error).__name__}: {next(iter(str(error).splitlines()), "")[:200]}'
