"""Inputs that are damaged, that stop too early or that were made to do harm: refused by name, or read right."""

from __future__ import annotations

import bz2
import gzip
import io
import json
import lzma
import os
import tarfile

import pyarrow
import pytest
from pyarrow import parquet

from classifier_free_guidance_pytorch.corpus import EmbeddingStore
from classifier_free_guidance_pytorch.corpus.read.entries import Bad
from classifier_free_guidance_pytorch.corpus.read.sources import open_source
from classifier_free_guidance_pytorch.errors import ConfigError, StoreError
from tests.corpus.test_sources import WRITERS, as_tar, captions, write_csv, write_tar, write_txt

TEXTS = ['a dog', 'a cat, asleep', 'an owl']


def zst(content: bytes) -> bytes:
    return pyarrow.compress(content, 'zstd', asbytes=True)


COMPRESS = {'.gz': gzip.compress, '.bz2': bz2.compress, '.xz': lzma.compress, '.zst': zst}


# archives


def headers_of(path):
    with tarfile.open(path) as archive:
        return [member.offset for member in archive.getmembers()]


def test_an_archive_that_stops_at_a_header_is_not_complete(tmp_path):
    path = as_tar(tmp_path / 'a.tar', TEXTS)
    whole, starts = path.read_bytes(), headers_of(path)
    for start, key in zip(starts[1:], ['000', '000', '001', '001', '002'], strict=True):
        path.write_bytes(whole[:start])
        with pytest.raises(ConfigError, match=rf"a.tar is not a tar archive, or is damaged: .* at byte {start:,} after '{key}'"):
            captions(open_source(path, 'txt'))


def test_a_damaged_header_does_not_end_an_archive(tmp_path):
    path = as_tar(tmp_path / 'a.tar', TEXTS)
    content, starts = bytearray(path.read_bytes()), headers_of(path)
    content[starts[3] + 150] ^= 1  # in the checksum
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=rf"damaged: it breaks off at byte {starts[3]:,} after '001' \(bad checksum\)"):
        captions(open_source(path))


def test_archives_that_were_joined_are_not_read_in_part(tmp_path):
    first, second = (as_tar(tmp_path / name, TEXTS).read_bytes() for name in ('1.tar', '2.tar'))
    (tmp_path / 'a.tar').write_bytes(first + second)
    with pytest.raises(ConfigError, match='data follow the end of the archive, as where archives were joined'):
        captions(open_source(tmp_path / 'a.tar'))


def header(size: int, kind: bytes = tarfile.REGTYPE, name: str = '1.txt') -> bytes:
    info = tarfile.TarInfo(name)
    info.size, info.type = size, kind
    return info.tobuf(tarfile.GNU_FORMAT)


@pytest.mark.parametrize('size', [2**40, 2**59, 2**62, 2**63, 2**63 - 1, 2**64, -1, -512, -1024])
@pytest.mark.parametrize('kind', [tarfile.REGTYPE, tarfile.XHDTYPE, tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_SPARSE])
@pytest.mark.parametrize('suffix', ['.tar', '.tar.gz', '.tar.zst'])
def test_sizes_that_no_member_has(tmp_path, size, kind, suffix):
    path = tmp_path / f'a{suffix}'
    content = header(5, name='0.txt') + b'a dog'.ljust(512, b'\0') + header(size, kind) + bytes(2048)
    path.write_bytes(COMPRESS.get(suffix[4:], bytes)(content))
    with pytest.raises(ConfigError, match='is not a tar archive, or is damaged'):
        captions(open_source(path))


@pytest.mark.parametrize('field', ['size=-512', f'size={2**63}', 'size=x', 'GNU.sparse.major=1\nGNU.sparse.minor=0', 'path='])
def test_fields_of_pax_headers(tmp_path, field):
    records = b''.join(
        next(record for n in range(3, 99) if len(record := f'{n} {line}\n'.encode()) == n) for line in field.split('\n')
    )
    content = header(len(records), tarfile.XHDTYPE) + records.ljust(512, b'\0') + header(5) + b'a dog'.ljust(512, b'\0')
    (tmp_path / 'a.tar').write_bytes(content + bytes(1024))
    try:
        found = captions(open_source(tmp_path / 'a.tar'))
    except ConfigError as error:
        found = str(error)
    assert found == ['a dog'] or 'a.tar' in found


def test_long_names_and_pax_headers_as_they_should_be(tmp_path):
    for form in (tarfile.PAX_FORMAT, tarfile.GNU_FORMAT):
        with tarfile.open(tmp_path / 'a.tar', 'w', format=form) as archive:
            for number, text in enumerate(TEXTS):
                info = tarfile.TarInfo(f'{"ä" * 150}/{number}.txt')
                info.size = len(text)
                archive.addfile(info, io.BytesIO(text.encode()))
        assert captions(open_source(tmp_path / 'a.tar')) == TEXTS


def test_the_ends_of_a_member_are_those_of_a_text_file(tmp_path):
    texts = [b'\xef\xbb\xbfa dog\r\n', b'a cat\n', b'two\nlines\n\n']
    path = write_tar(tmp_path / 'a.tar', {f'{i}.txt': text for i, text in enumerate(texts)})
    assert captions(open_source(path)) == ['a dog', 'a cat', 'two\nlines\n']


def test_hidden_members_and_those_without_a_suffix_are_no_samples(tmp_path):
    members = {'._1.txt': b'Mac', '1.txt': b'a dog', 'README': b'', 'a/.DS_Store': b'', 'a/._2.txt': b'Mac', 'a/2.txt': b'a cat'}
    assert captions(open_source(write_tar(tmp_path / 'a.tar', members))) == ['a dog', 'a cat']


def test_a_sample_with_two_captions_is_counted(tmp_path):
    with tarfile.open(tmp_path / 'a.tar', 'w') as archive:
        for name in ('1.txt', '1.txt', '2.txt'):
            archive.addfile(tarfile.TarInfo(name))
    assert captions(open_source(tmp_path / 'a.tar'), keep_empty=True) == [Bad('several .txt members'), '']


# compressed inputs


@pytest.mark.parametrize('compression', COMPRESS)
@pytest.mark.parametrize('name', [name for name in WRITERS if name != 'a.parquet'])
def test_compressed_files_are_read_as_what_is_in_them(tmp_path, name, compression):
    plain = WRITERS[name](tmp_path / name, TEXTS)
    (path := tmp_path / f'b{plain.suffix}{compression}').write_bytes(COMPRESS[compression](plain.read_bytes()))
    assert captions(open_source(path)) == captions(open_source(plain)) == TEXTS
    plain.unlink()
    assert captions(open_source(tmp_path)) == TEXTS


@pytest.mark.parametrize('compression', COMPRESS)
@pytest.mark.parametrize('name', ['a.txt', 'a.csv', 'a.tar'])
def test_compressed_files_that_stop_early_or_are_damaged(tmp_path, name, compression):
    plain = WRITERS[name](tmp_path / name, TEXTS * 20)
    whole = COMPRESS[compression](plain.read_bytes())
    path = tmp_path / f'b{plain.suffix}{compression}'
    for cut in (1, 3, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:cut])
        with pytest.raises(ConfigError, match=r'b\.\w+\.\w+ is .*damaged'):
            captions(open_source(path))


def test_the_checksum_of_a_compressed_archive_is_reached(tmp_path):
    plain = as_tar(tmp_path / 'a.tar', TEXTS)
    whole = bytearray(gzip.compress(plain.read_bytes()))
    whole[-8] ^= 1
    for name in ('b.tar.gz', 'b.tgz', 'b.tar'):
        (tmp_path / name).write_bytes(whole)
        with pytest.raises(ConfigError, match=r'b\.\S+ is .*damaged.*CRC'):
            captions(open_source(tmp_path / name))


@pytest.mark.parametrize('compression', COMPRESS)
@pytest.mark.parametrize('suffix', ['.txt', '.tar'])
def test_all_streams_of_a_compressed_file_are_read_or_it_is_damaged(tmp_path, compression, suffix):
    """`pbzip2` and others compress a file in parts. A part that does not begin as one is no end of the file."""
    whole = WRITERS[f'a{suffix}'](tmp_path / f'a{suffix}', TEXTS).read_bytes()
    parts = [COMPRESS[compression](part) for part in (whole[:9], whole[9 : len(whole) // 2], whole[len(whole) // 2 :])]
    path = tmp_path / f'b{suffix}{compression}'
    path.write_bytes(b''.join(parts))
    assert captions(open_source(path)) == TEXTS
    for damaged in (b'x' + parts[1][1:], b'garbage' + parts[1], parts[1][: len(parts[1]) // 2]):
        path.write_bytes(parts[0] + damaged + parts[2])
        with pytest.raises(ConfigError, match=r'b\.\w+\.\w+ is .*damaged'):
            captions(open_source(path))
    path.write_bytes(b''.join(parts) + b'garbage')
    with pytest.raises(ConfigError, match=r'b\.\w+\.\w+ is .*damaged'):
        captions(open_source(path))


@pytest.mark.parametrize('compression', ['.gz', '.bz2', '.xz'])
def test_streams_may_be_padded_with_zeros(tmp_path, compression):
    pack = COMPRESS[compression]
    (tmp_path / f'a.txt{compression}').write_bytes(pack(b'a dog\n') + bytes(8) + pack(b'a cat\n') + bytes(1 << 17))
    assert captions(open_source(tmp_path / f'a.txt{compression}')) == ['a dog', 'a cat']


def test_a_file_that_is_not_compressed_as_its_name_says(tmp_path):
    write_txt(tmp_path / 'a.txt.gz', TEXTS)
    with pytest.raises(ConfigError, match=r'a.txt.gz is damaged, or was unpacked: its name ends in .gz'):
        open_source(tmp_path / 'a.txt.gz')
    (tmp_path / 'b.txt').write_bytes(gzip.compress(b'a dog\n'))
    assert captions(open_source(tmp_path / 'b.txt')) == ['a dog']
    write_txt(tmp_path / 'c.txt', ['BZh is how a text may begin'])
    assert captions(open_source(tmp_path / 'c.txt')) == ['BZh is how a text may begin']


def test_a_line_without_an_end_takes_no_memory(tmp_path, monkeypatch):
    from classifier_free_guidance_pytorch.corpus.read import formats

    monkeypatch.setattr(formats, '_ENTRY', 1000)
    (tmp_path / 'a.txt.gz').write_bytes(gzip.compress(b'a dog\n' + b'x' * 5000 + b'\na cat\n' + b'y' * 1000))
    assert captions(open_source(tmp_path / 'a.txt.gz')) == ['a dog', formats.TOO_LONG, 'a cat', formats.TOO_LONG]
    path = write_tar(tmp_path / 'a.tar', {'1.txt': b'x' * 1001, '2.txt': b'x' * 1000})
    assert captions(open_source(path)) == [formats.TOO_LONG, 'x' * 1000]


# tables and texts


def test_a_damaged_page_is_named(tmp_path):
    path = tmp_path / 'a.parquet'
    table = pyarrow.table({'caption': [f'caption {i}' for i in range(20_000)]})
    for options in ({'compression': 'snappy'}, {'compression': 'none', 'write_page_checksum': True}):
        parquet.write_table(table, path, use_dictionary=False, row_group_size=5000, data_page_size=20_000, **options)
        content = bytearray(path.read_bytes())
        middle = len(content) // 2
        content[middle : middle + 3000] = os.urandom(3000)
        path.write_bytes(content)
        source = open_source(path)
        with pytest.raises(ConfigError, match=r"a.parquet is damaged: its column 'caption' cannot be read after row [\d,]+ \("):
            captions(source)


def test_a_column_beside_a_struct_whose_field_has_its_name(tmp_path):
    rows = {'meta': [{'caption': 'not this', 'n': 1}] * 2, 'meta.caption': ['a dog', 'a cat']}
    parquet.write_table(pyarrow.table(rows), tmp_path / 'a.parquet')
    assert captions(open_source(tmp_path / 'a.parquet')) == ['a dog', 'a cat']
    parquet.write_table(pyarrow.table(dict(reversed(rows.items()))), tmp_path / 'a.parquet')
    assert captions(open_source(tmp_path / 'a.parquet', 'meta.caption')) == ['a dog', 'a cat']


def test_lists_of_lists_are_no_captions(tmp_path):
    parquet.write_table(pyarrow.table({'caption': [[['a dog']]], 'text': [['a cat']]}), tmp_path / 'a.parquet')
    with pytest.raises(ConfigError, match="no column 'caption' of strings: it has 'text'"):
        open_source(tmp_path / 'a.parquet', 'caption')


def test_columns_with_one_name(tmp_path):
    (tmp_path / 'a.csv').write_text('caption,caption\na,b\n')
    table = pyarrow.Table.from_arrays([pyarrow.array(['a']), pyarrow.array(['b'])], ['caption', 'caption'])
    parquet.write_table(table, tmp_path / 'a.parquet')
    for name in ('a.csv', 'a.parquet'):
        for asked in (None, 'caption'):
            with pytest.raises(ConfigError, match=rf"{name} has 2 columns 'caption': rename all but the one with the captions"):
                open_source(tmp_path / name, asked)
    lines = ['{"caption": "a", "caption": "b"}', '{"caption": "a", "meta": {"caption": "caption"}}', '{"caption": "caption"}']
    (tmp_path / 'a.jsonl').write_text('\n'.join(lines))
    assert captions(open_source(tmp_path / 'a.jsonl')) == [Bad("the key 'caption' twice"), 'a', 'caption']


def test_a_saved_dataset_that_is_broken(tmp_path):
    datasets = pytest.importorskip('datasets')
    folder = tmp_path / 'saved'
    for name in ('state.json', 'dataset_info.json', 'data-00000-of-00001.arrow'):
        datasets.Dataset.from_dict({'caption': TEXTS}).save_to_disk(folder)
        (folder / name).write_bytes((folder / name).read_bytes()[:-40])
        with pytest.raises(ConfigError, match='saved has the files of save_to_disk, but cannot be read as such'):
            captions(open_source(folder))
    datasets.DatasetDict({'train': datasets.Dataset.from_dict({'caption': TEXTS})}).save_to_disk(tmp_path / 'two')
    (tmp_path / 'two' / 'dataset_dict.json').write_text('{"splits": 3}')
    with pytest.raises(ConfigError, match='two has the files of save_to_disk, but cannot be read as such'):
        open_source(tmp_path / 'two')


@pytest.mark.parametrize('encoding', ['utf-16', 'utf-16-le', 'utf-16-be', 'utf-32', 'utf-32-le', 'utf-32-be'])
@pytest.mark.parametrize(
    'texts', [TEXTS, ['ein Fuchs'], ['\u043a\u043e\u0442 \u0438 \u043f\u0451\u0441', '\u043a\u043e\u0442'] * 9]
)
def test_other_encodings_are_recognised(tmp_path, encoding, texts):
    for path, content in (
        (tmp_path / 'a.txt', '\n'.join(texts)),
        (tmp_path / 'a.csv', '\n'.join(['caption', *texts])),
        (tmp_path / 'a.jsonl', '\n'.join(json.dumps({'caption': text}) for text in texts)),
    ):
        path.write_bytes(content.encode(encoding))
        with pytest.raises(ConfigError, match=rf'{path.name} (is {encoding[:6].upper()}|has NUL bytes in most of its lines)'):
            open_source(path)
    path = write_tar(tmp_path / 'a.tar', {f'{i}.txt': f'{text}, {i}'.encode(encoding) for i, text in enumerate(texts)})
    assert {value.reason for value in captions(open_source(path))} <= {'not UTF-8', 'NUL characters in it, as UTF-16 has'}


def test_a_mark_of_utf_32_is_not_taken_for_utf_16(tmp_path):
    (tmp_path / 'a.txt').write_bytes('a dog'.encode('utf-32'))
    with pytest.raises(ConfigError, match=r'a.txt is UTF-32, but captions are UTF-8: iconv -f UTF-32 -t UTF-8'):
        open_source(tmp_path / 'a.txt')


# names


def test_hidden_files_are_not_read(tmp_path):
    write_csv(tmp_path / 'a.csv', TEXTS)
    (tmp_path / '._a.csv').write_bytes(b'\0\5\x16\7 of a Mac')
    write_txt(tmp_path / '.a.txt', ['not this'])
    assert captions(open_source(tmp_path)) == TEXTS
    assert captions(open_source(tmp_path / '.a.txt')) == ['not this']  # asked for by name


def test_what_can_be_read_once_is_refused(tmp_path):
    os.mkfifo(tmp_path / 'a.txt')
    (tmp_path / 'b.txt').symlink_to(tmp_path / 'gone')
    for path in (tmp_path / 'a.txt', tmp_path / 'b.txt', tmp_path, '/dev/null'):
        with pytest.raises(ConfigError, match='is a pipe, a device or a broken link: captions are read more than once'):
            open_source(path)


@pytest.mark.parametrize('name', ['', ' ', 'a\0.txt'])
def test_names_of_nothing(name):
    with pytest.raises(ConfigError, match='the input is a file, a folder or the name of a dataset, but got the name'):
        open_source(name)


@pytest.mark.parametrize('name', ['a' * 5000, f'{"a" * 300}.txt', f'{"a/" * 3000}b.jsonl'])
def test_names_that_no_disk_takes(tmp_path, name):
    with pytest.raises(ConfigError, match=r'cannot be read \(File name too long\)'):
        open_source(tmp_path / name)
    with pytest.raises(StoreError, match=r'cannot be read \(File name too long\)'):
        EmbeddingStore(tmp_path / name)


def test_a_file_that_is_gone_is_named_where_its_content_is_hashed(tmp_path):
    source = open_source(write_txt(tmp_path / 'a.txt', TEXTS))
    (tmp_path / 'a.txt').unlink()
    with pytest.raises(ConfigError, match=r'a.txt cannot be read any more \(No such file'):
        source.fingerprint()


# what is resumed


@pytest.mark.parametrize('name', ['a.txt', 'a.jsonl', 'a.csv', 'a.parquet', 'a.tar', 'b.txt.gz'])
def test_a_caption_in_the_middle_that_changes_is_seen(tmp_path, name):
    texts = [f'caption {i:06}' for i in range(30_000 if name != 'a.tar' else 500)]
    write = WRITERS.get(name, lambda path, texts: make_gzip(path, texts))
    path = write(tmp_path / name, texts)
    before, size = open_source(path).fingerprint(), path.stat().st_size
    assert open_source(path).fingerprint() == before
    texts[len(texts) // 2] = 'caption 00000x'
    write(path, texts)
    assert path.stat().st_size == size or name in ('a.parquet', 'b.txt.gz')
    assert open_source(path).fingerprint()['digest'] != before['digest']


def make_gzip(path, texts):
    path.write_bytes(gzip.compress('\n'.join(texts).encode(), mtime=0))
    return path


def test_an_edited_dataset_in_a_folder_is_seen(tmp_path):
    datasets = pytest.importorskip('datasets')
    datasets.Dataset.from_dict({'caption': TEXTS}).save_to_disk(tmp_path / 'saved')
    before = open_source(tmp_path / 'saved').fingerprint()
    (table,) = (tmp_path / 'saved').glob('*.arrow')
    table.write_bytes(table.read_bytes().replace(b'a dog', b'a cow'))
    assert open_source(tmp_path / 'saved').fingerprint() != before


def test_the_pictures_of_an_archive_are_not_part_of_its_fingerprint(tmp_path):
    digests = []
    for picture in (b'one', b'two'):
        path = write_tar(tmp_path / 'a.tar', {'1.jpg': picture, '1.txt': b'a dog'})
        digests.append(open_source(path).fingerprint()['digest'])
    assert digests[0] == digests[1]
