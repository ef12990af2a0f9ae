"""Mutated inputs of every format, and mutated stores, from seeds: right, or refused by name, and soon.

Where a format has checksums, what is read is what was written, or nothing is. `CFG_FUZZ=10000` tries ten thousand of each.
"""

import random
import time

import pytest

from classifier_free_guidance_pytorch.corpus import EmbeddingStore
from classifier_free_guidance_pytorch.corpus.read.entries import Bad, captions_of
from classifier_free_guidance_pytorch.corpus.read.sources import open_source
from classifier_free_guidance_pytorch.corpus.store.files import read_json, sha256_of, write_json
from classifier_free_guidance_pytorch.errors import ConfigError, StoreError
from tests.corpus import mutations
from tests.corpus.mutations import CASES, SLOW, damage
from tests.corpus.stores import write_store
from tests.corpus.test_hostile_inputs import COMPRESS
from tests.corpus.test_sources import HARD, WRITERS

TEXTS = [*HARD, *(f'caption {i}' for i in range(30))]
STRUCTURE = {'.tar': mutations.tar_header, '.jsonl': mutations.json_line, '.csv': mutations.csv_line, '.tsv': mutations.csv_line}
CHECKED = ('.gz', '.bz2', '.xz')  # pyarrow writes .zst without a checksum
NAMES = [*WRITERS, *(f'{name}{suffix}' for name in WRITERS if name != 'a.parquet' for suffix in COMPRESS)]


@pytest.fixture(scope='module')
def sound(tmp_path_factory):
    """Every kind of file as it should be."""
    home = tmp_path_factory.mktemp('inputs')
    plain = {name: write(home / name, TEXTS).read_bytes() for name, write in WRITERS.items()}
    packed = {f'{n}{s}': pack(plain[n]) for n in plain if n != 'a.parquet' for s, pack in COMPRESS.items()}
    return plain | packed


def read(path):
    """All captions of an input and its fingerprint; the sentence, if it is refused."""
    start = time.monotonic()
    try:
        source = open_source(path)
        found = [caption for _, value in source.entries() for caption in captions_of(value, keep_empty=False)]
        source.fingerprint()
    except ConfigError as error:
        found = str(error)
        assert path.name in found
    assert time.monotonic() - start < SLOW
    return found


@pytest.mark.parametrize('name', NAMES)
def test_mutated_inputs(sound, tmp_path, name):
    path = tmp_path / name
    mutate = STRUCTURE.get(path.suffix, damage)
    for seed in range(CASES // len(NAMES) + 1 if CASES else 12):
        dice = random.Random(f'{name} {seed}')
        content = dice.choice([damage, mutate])(sound[name], dice)
        path.write_bytes(content)
        found = read(path)
        if isinstance(found, str):
            continue
        assert all(isinstance(caption, str | Bad) for caption in found), (name, seed)
        if path.suffix in CHECKED and len(content) < 1.5 * len(sound[name]):  # else the stream may be there twice, sound
            assert found == TEXTS, (name, seed)


@pytest.mark.parametrize('suffix', COMPRESS)
def test_mutated_content_of_compressed_inputs(sound, tmp_path, suffix):
    """The stream is sound, and what is in it is not: as with plain files."""
    plain = [name for name in WRITERS if name != 'a.parquet']
    for seed in range(CASES // 20 + 1 if CASES else 8):
        dice = random.Random(f'{suffix} {seed}')
        name = dice.choice(plain)
        path = tmp_path / f'{name}{suffix}'
        path.write_bytes(COMPRESS[suffix](STRUCTURE.get(path.with_suffix('').suffix, damage)(sound[name], dice)))
        read(path)


def test_files_under_names_of_another_kind(sound, tmp_path):
    for content in sound.values():
        for other in NAMES:
            path = tmp_path / other
            path.write_bytes(content)
            found = read(path)
            assert isinstance(found, str | list)
            path.unlink()


@pytest.mark.parametrize('kind', ['txt', 'jsonl', 'csv'])
def test_one_line_that_is_damaged_spoils_no_other(sound, tmp_path, kind):
    lines = sound[f'a.{kind}'].split(b'\n')
    for seed in range(CASES // 10 + 1 if CASES else 30):
        dice = random.Random(f'{kind} {seed}')
        place = dice.randrange(8, 30)  # a line of its own, below the header
        changed = damage(lines[place], dice).replace(b'\n', b'').replace(b'\r', b'')
        (tmp_path / f'a.{kind}').write_bytes(b'\n'.join([*lines[:place], changed, *lines[place + 1 :]]))
        found = read(tmp_path / f'a.{kind}')
        lost = [text for text in TEXTS if text not in found]
        assert len(lost) <= 1, (kind, seed, lost)


# stores


@pytest.fixture(scope='module')
def store(tmp_path_factory):
    home = tmp_path_factory.mktemp('store')
    write_store(home)
    names = sorted(path.relative_to(home).as_posix() for path in home.rglob('*') if path.is_file())
    return home, {name: (home / name).read_bytes() for name in names}, everything(home)


def everything(folder):
    store = EmbeddingStore(folder)
    found = store[:]
    read = [store.captions[place] for place in range(len(store))]
    return read, found.tokens.tolist(), found.mask.tolist(), found.pooled.tolist(), [caption in store for caption in read]


def checked(folder, seed):
    """What is read of a store, None if it is refused; and the same of `verify`."""
    start = time.monotonic()
    found, sound, said = None, False, str(folder)
    try:
        found = everything(folder)
        sound = EmbeddingStore(folder).verify() is None
    except StoreError as error:
        said = str(error)
    assert str(folder) in said, seed
    assert time.monotonic() - start < SLOW, seed
    return found, sound


def restore(home, files):
    for name, content in files.items():
        (home / name).parent.mkdir(exist_ok=True)
        (home / name).write_bytes(content)


def test_mutated_stores(store):
    home, files, expected = store
    for seed in range(CASES or 60):
        dice = random.Random(seed)
        for name in dice.sample(sorted(files), dice.choice([1, 1, 2])):
            (home / name).write_bytes(damage(files[name], dice))
        found, _ = checked(home, seed)
        assert found in (None, expected), seed
        restore(home, files)


def test_mutated_and_sealed_stores(store):
    """Whoever writes a store can make all checksums right: nothing then tells its data from others, but it harms no reader."""
    home, files, expected = store
    for seed in range(CASES or 60):
        dice = random.Random(f'sealed {seed}')
        if dice.random() < 0.5:
            path = home / dice.choice(['manifest.json', 'plan.json'])
            content = mutations.odd_json(read_json(path), dice)
            write_json(path, content if isinstance(content, dict) else {'a': content})
            found, _ = checked(home, seed)
            assert found is None or found[:2] == expected[:2], seed
        else:
            name = dice.choice([name for name in files if name.endswith('.safetensors')])
            (home / name).write_bytes(damage(files[name], dice))
            seal(home, name)
            checked(home, seed)
        restore(home, files)


def seal(home, name):
    """Make the checksums in the manifest those of a file as it is."""
    manifest, path = read_json(home / 'manifest.json'), home / name
    for record in manifest['files']:
        if record['name'] == name:
            head = sha256_of(path, record['head_bytes'])
            record.update(bytes=path.stat().st_size, sha256=sha256_of(path), head_sha256=head)
    write_json(home / 'manifest.json', manifest)
