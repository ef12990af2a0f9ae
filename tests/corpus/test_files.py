"""Files that are whole or absent, their checksums, and what a failed write says."""

import errno
import hashlib
import json
import os
import re
import shutil
import subprocess

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save

from classifier_free_guidance_pytorch.corpus.store import files
from classifier_free_guidance_pytorch.corpus.store.files import read_json, sha256_of, write_json, write_tensors
from classifier_free_guidance_pytorch.errors import ConfigError, StoreError, UsageError


def tensors():
    return {'offsets': torch.arange(5)}, {
        'tokens': torch.randn(4, 3),
        'half': torch.randn(7).bfloat16(),
        'raw': torch.arange(5).byte(),
    }


def test_the_bytes_are_those_of_the_library(tmp_path):
    """Where the order is the library's own, by dtype and name, the file is the library's to the last byte."""
    tables = {'offsets': torch.arange(5)}
    data = {'one': torch.randn(4, 3), 'two': torch.randn(2), 'half': torch.randn(7).bfloat16(), 'raw': torch.arange(5).byte()}
    write_tensors(tmp_path / 'ours', tables, data, 4, {'made by': 'us'})
    assert (tmp_path / 'ours').read_bytes() == save({**tables, **data}, {'made by': 'us'})


@settings(deadline=None, max_examples=25)
@given(st.lists(st.integers(0, 4), min_size=1, max_size=5), st.sampled_from(['float32', 'bfloat16', 'float16', 'int64', 'uint8']))
def test_the_library_reads_what_was_written(lengths, dtype):
    import tempfile
    from pathlib import Path

    pieces = [(torch.randn(length, 3) * 9).abs().to(getattr(torch, dtype)) for length in lengths]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, 'file.safetensors')
        write_tensors(path, {'table': torch.tensor(lengths)}, {'pieces': pieces, 'strided': torch.arange(12.0).view(3, 4).T}, 5)
        found = load_file(path)
    assert torch.equal(found['pieces'], torch.cat(pieces))
    assert torch.equal(found['strided'], torch.arange(12.0).view(3, 4).T)
    assert found['table'].tolist() == lengths


def test_the_record(tmp_path):
    tables, data = tensors()
    record = write_tensors(tmp_path / 'deep' / 'file.safetensors', tables, data, 4)
    content = (tmp_path / 'deep' / 'file.safetensors').read_bytes()
    assert (record.name, record.bytes, record.rows) == ('file.safetensors', len(content), 4)
    assert record.sha256 == hashlib.sha256(content).hexdigest() == sha256_of(tmp_path / 'deep' / 'file.safetensors')
    header = 8 + int.from_bytes(content[:8], 'little')
    assert record.head_bytes == header + tables['offsets'].nbytes
    assert record.head_sha256 == hashlib.sha256(content[: record.head_bytes]).hexdigest()
    assert os.listdir(tmp_path / 'deep') == ['file.safetensors']


@pytest.mark.skipif(os.name != 'posix', reason='only POSIX systems open folders')
def test_folders_are_synced_as_their_files_are(tmp_path, monkeypatch):
    """A file is lost with the name of a folder above it."""
    synced, fsync = set(), os.fsync

    def noting(descriptor):
        synced.add(os.fstat(descriptor).st_ino)
        fsync(descriptor)

    monkeypatch.setattr(os, 'fsync', noting)
    write_json(tmp_path / 'encodings' / 't5' / '00000.json', {})
    for path in (tmp_path, tmp_path / 'encodings', tmp_path / 'encodings' / 't5', tmp_path / 'encodings' / 't5' / '00000.json'):
        assert path.stat().st_ino in synced, path


def test_large_pieces_are_written_in_parts(tmp_path, monkeypatch):
    tables, data = tensors()
    whole = write_tensors(tmp_path / 'whole', tables, data, 4)
    monkeypatch.setattr(files, '_CHUNK', 5)
    assert write_tensors(tmp_path / 'parts', tables, data, 4).sha256 == whole.sha256 == sha256_of(tmp_path / 'parts')


def test_a_file_without_data_is_all_head(tmp_path):
    record = write_tensors(tmp_path / 'file', {'table': torch.arange(3)}, {}, 3)
    assert (record.head_bytes, record.head_sha256) == (record.bytes, record.sha256)


@pytest.mark.skipif(not hasattr(os, 'fork'), reason='needs processes that can be forked')
@pytest.mark.parametrize('number', [0, 1, 3, 5])
def test_a_kill_leaves_the_old_file(tmp_path, monkeypatch, number):
    """A process that dies while it writes: the file is the old one, whole, and the next write takes the same name."""
    path = tmp_path / 'file'
    write_tensors(path, {}, {'old': torch.arange(9)}, 1)
    before = path.read_bytes()
    monkeypatch.setattr(files, '_CHUNK', 64)
    child = os.fork()
    if child == 0:
        chunks = files._chunks

        def dying(header, contents):
            for reached, chunk in enumerate(chunks(header, contents)):
                if reached == number:
                    os._exit(9)
                yield chunk

        files._chunks = dying
        write_tensors(path, {}, {'new': torch.arange(40)}, 1)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9
    assert path.read_bytes() == before
    write_tensors(path, {}, {'new': torch.arange(40)}, 1)
    assert load_file(path).keys() == {'new'}
    assert os.listdir(tmp_path) == ['file']


# failed writes


class Failing:
    """A file that takes so many bytes and then fails."""

    def __init__(self, file, room, number):
        self.file, self.room, self.number = file, room, number

    def __getattr__(self, name):
        return getattr(self.file, name)

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        self.file.close()

    def write(self, chunk):
        if self.file.tell() + len(chunk) > self.room:
            raise OSError(self.number, os.strerror(self.number))
        return self.file.write(chunk)


def fail(monkeypatch, room, number):
    opened = files.Path.open

    def failing(path, mode='r', *rest, **options):
        file = opened(path, mode, *rest, **options)
        return Failing(file, room, number) if 'w' in mode else file

    monkeypatch.setattr(files.Path, 'open', failing)


@pytest.mark.parametrize('number', [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_says_how_far_it_got(tmp_path, monkeypatch, number):
    write_json(tmp_path / 'before.json', {'a': 1})
    fail(monkeypatch, 5000, number)
    monkeypatch.setattr(files, '_CHUNK', 1000)
    with pytest.raises(UsageError) as error:
        write_tensors(tmp_path / 'shard', {}, {'data': torch.zeros(10_000)}, 1)
    assert re.fullmatch(
        rf'the disk is full \(.*\): {tmp_path}/shard got as far as 4,\d\d\d of 40,\d\d\d bytes, and [\d,]+ bytes are free. '
        'The unfinished file was removed, and every file before it is complete: make room, and run the same again',
        str(error.value),
    )
    assert os.listdir(tmp_path) == ['before.json']
    with pytest.raises(UsageError, match='the disk is full'):
        write_json(tmp_path / 'manifest.json', {'a': 'b' * 9000})


@pytest.mark.skipif(not os.path.exists('/dev/full'), reason='needs a device that is always full')
def test_a_disk_that_is_full_when_it_is_synced(tmp_path, monkeypatch):
    """What was buffered fails late, when the file is flushed."""
    opened = files.Path.open
    monkeypatch.setattr(
        files.Path, 'open', lambda path, mode, *rest: opened(files.Path('/dev/full') if 'w' in mode else path, mode)
    )
    with pytest.raises(UsageError, match=r'the disk is full \(No space left on device\): .*/plan.json got as far as'):
        write_json(tmp_path / 'plan.json', {'a': 1})


def test_a_small_disk(tmp_path):
    """A file system of 64 KiB, where the machine allows to make one."""
    mounted = tmp_path / 'disk'
    mounted.mkdir()
    mount = shutil.which('mount')
    made = mount and subprocess.run(
        [mount, '-t', 'tmpfs', '-o', 'size=64k', 'tmpfs', str(mounted)], check=False, capture_output=True
    )
    if not made or made.returncode:
        pytest.skip('no file system can be made here')
    try:
        write_tensors(mounted / 'small', {}, {'data': torch.zeros(1000)}, 1)
        with pytest.raises(UsageError, match=r'the disk is full .* got as far as [\d,]+ of 400,\d\d\d bytes'):
            write_tensors(mounted / 'large', {}, {'data': torch.zeros(100_000)}, 1)
        assert os.listdir(mounted) == ['small']
        write_tensors(mounted / 'another', {}, {'data': torch.zeros(1000)}, 1)
    finally:
        subprocess.run(['umount', str(mounted)], check=False)


@pytest.mark.parametrize('number', [errno.EROFS, errno.EACCES, errno.EPERM])
def test_a_folder_that_cannot_be_written_to(tmp_path, monkeypatch, number):
    fail(monkeypatch, 0, number)
    with pytest.raises(
        ConfigError, match=rf'^{tmp_path}/plan.json cannot be written \(.*\): pass a folder that you may write to'
    ):
        write_json(tmp_path / 'plan.json', {'a': 1})
    assert os.listdir(tmp_path) == []


@pytest.mark.skipif(os.name != 'posix' or os.geteuid() == 0, reason='root may write anywhere')
def test_a_read_only_folder(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(ConfigError, match='cannot be written'):
        write_json(tmp_path / 'plan.json', {'a': 1})


def test_a_file_in_place_of_a_folder(tmp_path):
    (tmp_path / 'captions').write_text('')
    with pytest.raises(UsageError, match=r'captions/00000.safetensors could not be written'):
        write_tensors(tmp_path / 'captions' / '00000.safetensors', {}, {'a': torch.zeros(1)}, 1)


def test_a_disk_that_breaks(tmp_path, monkeypatch):
    fail(monkeypatch, 0, errno.EIO)
    with pytest.raises(UsageError, match=r'plan.json could not be written \(.*\): every file before it is complete'):
        write_json(tmp_path / 'plan.json', {'a': 1})


def test_an_interruption_leaves_no_litter(tmp_path, monkeypatch):
    monkeypatch.setattr(files.os, 'fsync', lambda descriptor: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        write_json(tmp_path / 'plan.json', {'a': 1})
    assert os.listdir(tmp_path) == []


# JSON


def test_json_carries_its_checksum(tmp_path):
    path, content = tmp_path / 'a.json', {'b': [1, 2.5, None, True, 'ü \ud800'], 'a': {'checksum': 'x'}, 'sha256': 'y'}
    write_json(path, content)
    assert read_json(path) == content
    path.write_text(json.dumps(json.loads(path.read_text())))  # laid out otherwise, the content is the same
    assert read_json(path) == content


@pytest.mark.parametrize(
    ('text', 'message'),
    [
        (b'{"a": 1', r'a.json is damaged: it is not JSON \('),
        (b'\xff\xfe', 'a.json is damaged: it is not JSON'),
        (b'', 'a.json is damaged: it is not JSON'),
        (b'[' * 100_000, 'a.json is damaged: it is not JSON'),
        (b'[1]', 'a.json is not a file of a store: it carries no checksum of its content'),
        (b'{"a": 1}', 'a.json is not a file of a store: it carries no checksum'),
        (
            b'{"a": 1, "checksum": "0"}',
            'a.json is damaged or was edited: its content does not match the checksum that it carries',
        ),
        (b'{"a": NaN, "checksum": "0"}', 'a.json is damaged or was edited'),
    ],
)
def test_json_that_is_not_as_it_was_written(tmp_path, text, message):
    (tmp_path / 'a.json').write_bytes(text)
    with pytest.raises(StoreError, match=message):
        read_json(tmp_path / 'a.json')


def test_json_that_is_not_there(tmp_path):
    with pytest.raises(StoreError, match=r'a.json is missing'):
        read_json(tmp_path / 'a.json')
    (tmp_path / 'b.json').mkdir()
    with pytest.raises(StoreError, match=r'b.json cannot be read'):
        read_json(tmp_path / 'b.json')
