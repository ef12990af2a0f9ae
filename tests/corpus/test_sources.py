"""Captions from every kind of input, and what is said of entries and inputs that are no captions."""

from __future__ import annotations

import csv
import io
import json
import tarfile
from pathlib import Path

import pyarrow
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pyarrow import parquet

from classifier_free_guidance_pytorch.corpus.read.entries import Bad, caption_of, captions_of
from classifier_free_guidance_pytorch.corpus.read.formats import choose_column
from classifier_free_guidance_pytorch.corpus.read.sources import open_source
from classifier_free_guidance_pytorch.errors import ConfigError, MissingDependencyError

# Separators of every format below, quotes, letters beyond ASCII, line ends of Unicode, a character of two surrogates.
HARD = [
    'a dog, chasing "a ball"',
    'tab\there; and; {"caption": 1}',
    'ein Fuchs\u2028über\x0bdem\x85 Fluß',
    '\U0001f98a',
    "it's 'so'",
]
LONG = 'x' * 99_990 + ' the end.'


def captions(source, keep_empty=False):
    return [caption_of(value, keep_empty) for _, value in source.entries()]


def places_of_bad(source):
    return {place: value.reason for place, raw in source.entries() if isinstance(value := caption_of(raw, False), Bad)}


def write_txt(path: Path, texts) -> Path:
    path.write_text(''.join(f'{text}\n' for text in texts), encoding='utf-8', newline='')
    return path


def write_jsonl(path: Path, texts, column='caption') -> Path:
    rows = (json.dumps({'id': i, column: text}) for i, text in enumerate(texts))
    path.write_text('\n'.join(rows), encoding='utf-8')
    return path


def write_csv(path: Path, texts, column='caption') -> Path:
    with path.open('w', encoding='utf-8', newline='') as file:
        writer = csv.writer(file, delimiter='\t' if path.suffix == '.tsv' else ',')
        writer.writerows([['id', column], *([i, text] for i, text in enumerate(texts))])
    return path


def write_parquet(path: Path, texts, column='caption') -> Path:
    parquet.write_table(pyarrow.table({'id': range(len(texts)), column: pyarrow.array(texts, pyarrow.string())}), path)
    return path


def write_tar(path: Path, members: dict[str, bytes]) -> Path:
    with tarfile.open(path, 'w') as archive:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return path


def as_tar(path: Path, texts) -> Path:
    pictures = {f'{i:03}.jpg': b'no picture' for i in range(len(texts))}
    return write_tar(path, dict(sorted({**pictures, **{f'{i:03}.txt': text.encode() for i, text in enumerate(texts)}}.items())))


WRITERS = {
    'a.txt': write_txt, 'a.jsonl': write_jsonl, 'a.csv': write_csv, 'a.tsv': write_csv, 'a.parquet': write_parquet,
    'a.tar': as_tar,
}  # fmt: skip


@pytest.mark.parametrize('name', WRITERS)
def test_every_format_gives_back_what_was_written(tmp_path, name):
    assert captions(open_source(WRITERS[name](tmp_path / name, [*HARD, LONG]))) == [*HARD, LONG]


def test_line_ends_inside_a_caption_where_the_format_has_them(tmp_path):
    texts = ['two\nlines', 'and\r\ntwo', 'plain']
    for name in ('a.jsonl', 'a.csv', 'a.parquet', 'a.tar'):
        assert captions(open_source(WRITERS[name](tmp_path / name, texts))) == texts


@settings(deadline=None)
@given(st.lists(st.text(st.characters(codec='utf-8', exclude_characters='\n\0'), min_size=1), min_size=1, max_size=8))
def test_lines_of_text_are_split_at_line_feeds_alone(tmp_path_factory, texts):
    texts = [text for text in texts if not text.endswith('\r')] or ['a']
    source = open_source(write_txt(tmp_path_factory.mktemp('any') / 'a.txt', ['first', *texts]))
    assert captions(source, keep_empty=True) == ['first', *texts]


def test_files_of_windows(tmp_path):
    (tmp_path / 'a.txt').write_bytes(b'\xef\xbb\xbfa dog\r\na cat\r\n')
    assert captions(open_source(tmp_path / 'a.txt')) == ['a dog', 'a cat']
    (tmp_path / 'a.csv').write_bytes(b'\xef\xbb\xbfcaption,id\r\na dog,1\r\n')
    assert captions(open_source(tmp_path / 'a.csv')) == ['a dog']
    (tmp_path / 'b.txt').write_text('a dog\n', encoding='utf-16')
    with pytest.raises(ConfigError, match=r'b.txt is UTF-16, but captions are UTF-8: iconv'):
        open_source(tmp_path / 'b.txt')


def test_a_bad_entry_is_named_and_spoils_no_other(tmp_path):
    (tmp_path / 'a.txt').write_bytes(b'a dog\n \n\xff\xfe\x00\na cat')
    assert places_of_bad(open_source(tmp_path / 'a.txt')) == {2: 'empty', 3: 'not UTF-8'}
    lines = [
        b'{"text": "a dog"}', b'{"text": null}', b'{"text": 7}', b'{"other": 1}', b'["a"]', b'{"text": "a', b'\xff', b'',
        rb'{"text": "\ud800"}', b'[' * 100_000, b'{"text": "a cat"}',
    ]  # fmt: skip
    (tmp_path / 'a.jsonl').write_bytes(b'\n'.join(lines))
    assert captions(open_source(tmp_path / 'a.jsonl')) == [
        'a dog', Bad('missing'), Bad('not a string'), Bad('missing'), Bad('not a JSON object'), Bad('not a JSON object'),
        Bad('not UTF-8'), Bad('not a JSON object'), Bad('not UTF-8'), Bad('not a JSON object'), 'a cat',
    ]  # fmt: skip
    (tmp_path / 'a.csv').write_bytes(
        b'id,text\n1,a dog\n2,a cat, asleep\n\n3\n4,"a ""fox"" b" c\n5,\xff\n6,"two\nlines"\n7,\n8,an owl\n'
    )
    assert captions(open_source(tmp_path / 'a.csv'))[::7] == ['a dog', 'an owl']
    assert places_of_bad(open_source(tmp_path / 'a.csv')) == {
        3: 'not as many cells as the header', 5: 'not as many cells as the header', 6: 'not CSV', 7: 'not UTF-8', 10: 'empty',
    }  # fmt: skip


def test_bad_rows_of_arrow(tmp_path):
    raw = pyarrow.array([b'a dog', b'\xff\xfe', None, b'', b'a cat'], pyarrow.binary())
    as_strings = pyarrow.StringArray.from_buffers(len(raw), raw.buffers()[1], raw.buffers()[2], raw.buffers()[0])
    for kind in (pyarrow.string(), pyarrow.large_string()):
        parquet.write_table(
            pyarrow.table({'text': as_strings.cast(kind) if kind != as_strings.type else as_strings}), tmp_path / 'a.parquet'
        )
        assert places_of_bad(open_source(tmp_path / 'a.parquet')) == {1: 'not UTF-8', 2: 'missing', 3: 'empty'}
    words = pyarrow.array(['a dog', 'a cat', 'a dog']).dictionary_encode()
    parquet.write_table(pyarrow.table({'text': words}), tmp_path / 'b.parquet')
    assert captions(open_source(tmp_path / 'b.parquet')) == ['a dog', 'a cat', 'a dog']


@pytest.mark.parametrize('kind', ['jsonl', 'list', 'large list', 'fixed list', 'dictionary', 'dataset'])
def test_a_column_of_lists_holds_several_captions_for_every_entry(tmp_path, kind):
    rows = [['a dog', 'a fox'], ['a cat', None], ['', 'two cats']]
    if kind == 'jsonl':
        path = write_jsonl(tmp_path / 'a.jsonl', [*rows, []])
    elif kind == 'dataset':
        datasets = pytest.importorskip('datasets')
        datasets.Dataset.from_dict({'id': [1, 2, 3, 4], 'caption': [*rows, []]}).save_to_disk(path := tmp_path / 'saved')
    else:
        text = pyarrow.dictionary(pyarrow.int32(), pyarrow.string()) if kind == 'dictionary' else pyarrow.string()
        lists = {'large list': pyarrow.large_list(text), 'fixed list': pyarrow.list_(text, 2)}.get(kind, pyarrow.list_(text))
        parquet.write_table(
            pyarrow.table({'id': range(3), 'caption': pyarrow.array(rows, lists)}), path := tmp_path / 'a.parquet'
        )
    found = [captions_of(value, keep_empty=False) for _, value in open_source(path).entries()]
    expected = [['a dog', 'a fox'], ['a cat', Bad('missing')], [Bad('empty'), 'two cats']]
    assert found == expected + [[Bad('an empty list')]] * (kind in ('jsonl', 'dataset'))


def test_a_sample_without_a_caption_is_counted(tmp_path):
    members = {
        '00/1.jpg': b'', '00/1.txt': b'a dog', '00/1.json': b'', '00/2.jpg': b'', '00/3.seg.txt': b'not this',
        '01/3.txt': b'a cat', '01/4.txt': b'\xff', '01/5.caption': b'a fox',
    }  # fmt: skip
    path = write_tar(tmp_path / 'a.tar', members)
    bad = {'00/2': 'no .txt member', '00/3': 'no .txt member', '01/4': 'not UTF-8', '01/5': 'no .txt member'}
    assert places_of_bad(open_source(path)) == bad
    assert [text for text in captions(open_source(path)) if isinstance(text, str)] == ['a dog', 'a cat']
    assert captions(open_source(path, column='caption'))[-1] == 'a fox'


def test_captions_of_any_length_in_a_cell(tmp_path):
    """The library reads 131,072 characters, unless it is told otherwise; for others it stays so."""
    limit = csv.field_size_limit()
    long = ['x' * 300_000, 'two\nlines ' + 'y' * 200_000, 'a dog']
    assert captions(open_source(write_csv(tmp_path / 'a.csv', long))) == long
    assert csv.field_size_limit() == limit


@pytest.mark.parametrize('limit', [1 << 24, 90])
def test_a_quote_that_is_not_closed_spoils_its_line_alone(tmp_path, monkeypatch, limit):
    """Also where it is found before the file ends."""
    monkeypatch.setattr('classifier_free_guidance_pytorch.corpus.read.tables._CELL', limit)
    rows = [f'{i},caption {i}' for i in range(30)]
    rows[3] = '3,"caption 3'
    (tmp_path / 'a.csv').write_text('\n'.join(['id,caption', *rows, '']))
    found, bad = captions(open_source(tmp_path / 'a.csv')), places_of_bad(open_source(tmp_path / 'a.csv'))
    assert all('a quote is not closed' in reason for reason in bad.values())
    assert [text for text in found if isinstance(text, str)] == [f'caption {i}' for i in range(30) if i != 3]
    assert list(bad) == [5]


def test_lines_that_a_bad_row_takes_with_it_are_named(tmp_path):
    (tmp_path / 'a.csv').write_text('id,caption\n1,"two\nlines" here\n2,a dog\n')
    assert places_of_bad(open_source(tmp_path / 'a.csv')) == {'2 to 3': 'not CSV'}
    assert captions(open_source(tmp_path / 'a.csv'))[1:] == ['a dog']


def test_objects_without_a_caption_may_come_first(tmp_path):
    """The first of all says too little: its identifier is not taken for a caption."""
    rows = [{'key': 'a1', 'id': 1}, {'key': 'a2', 'id': 2, 'caption': None}, {'key': 'a3', 'id': 3, 'caption': 'a dog'}]
    (tmp_path / 'a.jsonl').write_text('\n'.join(map(json.dumps, rows)))
    for column in (None, 'caption'):
        assert captions(open_source(tmp_path / 'a.jsonl', column)) == [Bad('missing'), Bad('missing'), 'a dog']
    with pytest.raises(ConfigError, match=r"no column 'id' of strings: it has 'key', 'caption'"):
        open_source(tmp_path / 'a.jsonl', 'id')


def test_an_archive_without_such_members(tmp_path):
    path = as_tar(tmp_path / 'a.tar', ['a dog'])
    with pytest.raises(
        ConfigError, match=r"a.tar has no member with the suffix 'caption' \(column says which\): it has 'jpg', 'txt'"
    ):
        open_source(path, column='.caption')
    write_tar(path, {'1.jpg': b'', '1.json': b'{}'})
    with pytest.raises(ConfigError, match=r"no member with the suffix 'txt' \(column says which\): it has 'jpg', 'json'"):
        open_source(path)


def test_suffixes_in_capitals(tmp_path):
    texts = ['a dog', 'a cat, asleep']
    for name, write in WRITERS.items():
        assert captions(open_source(write(tmp_path / name, texts).rename(tmp_path / f'B{name[1:].upper()}'))) == texts


def test_a_folder_whose_files_lie_deeper(tmp_path):
    (tmp_path / 'set' / 'data').mkdir(parents=True)
    write_txt(tmp_path / 'set' / 'data' / 'a.txt', ['a dog'])
    with pytest.raises(ConfigError, match=r'set holds no captions: .*; the folder .*set.data has one, so pass that'):
        open_source(tmp_path / 'set')


def test_a_folder_is_read_in_order_and_its_places_name_the_file(tmp_path):
    for name, texts in (('10.jsonl', ['c']), ('02.jsonl', ['a', '', 'b'])):
        write_jsonl(tmp_path / name, texts)
    (tmp_path / 'README').write_text('not a caption')
    source = open_source(tmp_path)
    assert captions(source, keep_empty=True) == ['a', '', 'b', 'c']
    assert places_of_bad(source) == {'02.jsonl:2': 'empty'}


def test_the_column_is_the_one_that_is_asked_for_or_the_usual_one(tmp_path):
    path = tmp_path / 'a.parquet'
    parquet.write_table(pyarrow.table({'text': ['a'], 'caption': ['b'], 'TEXT': ['c'], 'n': [1]}), path)
    assert captions(open_source(path)) == ['b']
    assert captions(open_source(path, column='TEXT')) == ['c']
    with pytest.raises(ConfigError, match=r"a.parquet has no column 'n' of strings: it has 'text', 'caption', 'TEXT'"):
        open_source(path, column='n')
    with pytest.raises(ConfigError, match="choose with column; it has 'a', 'b'"):
        choose_column('x', ['a', 'b'], None)
    for name in ('a.jsonl', 'a.csv', 'a.parquet'):
        with pytest.raises(ConfigError, match=rf"{name} has no column 'TITLE' of strings: it has .*'alt'"):
            open_source(WRITERS[name](tmp_path / name, ['a'], 'alt'), column='TITLE')


def test_every_file_of_a_folder_needs_the_column(tmp_path):
    write_csv(tmp_path / '1.csv', ['a'])
    write_csv(tmp_path / '2.csv', ['a'], 'title')
    with pytest.raises(ConfigError, match=r"2.csv has no column 'caption' of strings: it has 'id', 'title'"):
        open_source(tmp_path)


def test_the_first_entries(tmp_path):
    path = write_txt(tmp_path / 'a.txt', ['a', '', 'b', 'c'])
    assert captions(open_source(path, limit=3)) == ['a', Bad('empty'), 'b']
    assert open_source(path, limit=3).fingerprint() != open_source(path).fingerprint()
    with pytest.raises(ConfigError, match='limit counts captions and is at least 1, but got 0'):
        open_source(path, limit=0)


def make_file(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


@pytest.mark.parametrize(
    ('make', 'message'),
    [
        (lambda folder: folder / 'none.txt', 'none.txt does not exist: pass a file, a folder or the name of a dataset'),
        (lambda folder: make_file(folder / 'a.txt', b''), 'a.txt is empty: it holds no captions'),
        (lambda folder: make_file(folder / 'a.csv', b'caption\n'), 'a.csv is empty: it holds no captions'),
        (lambda folder: make_file(folder / 'a.jsonl', b'7\n'), 'that could be the captions: choose with column; it has none'),
        (lambda folder: make_file(folder / 'a.doc', b'a'), 'a.doc is of an unknown kind: captions are read from files with'),
        (lambda folder: make_file(folder / 'a.parquet', b'PAR1 and no more'), 'a.parquet is not a Parquet file, or is damaged'),
        (lambda folder: make_file(folder / 'a.tar', b'a' * 600), 'a.tar is not a tar archive, or is damaged'),
        (lambda folder: folder, 'holds no captions: it has no file with one of the suffixes .txt, .jsonl'),
    ],
)  # fmt: skip
def test_an_input_without_captions_is_refused_at_once(tmp_path, make, message):
    with pytest.raises(ConfigError) as caught:
        open_source(make(tmp_path))
    assert message in str(caught.value)


def test_a_folder_of_several_kinds_and_needless_options_are_refused(tmp_path):
    text = write_txt(tmp_path / 'a.txt', ['a'])
    with pytest.raises(ConfigError, match='text, one caption per line, and has no columns'):
        open_source(text, column='caption')
    with pytest.raises(ConfigError, match=r"split='train' chooses from a dataset of Hugging Face, but .* is not one"):
        open_source(text, split='train')
    write_csv(tmp_path / 'b.csv', ['a'])
    with pytest.raises(ConfigError, match=r'holds files of several kinds, .txt, .csv: pass one, or a folder of one kind'):
        open_source(tmp_path)


def test_an_archive_that_breaks_off(tmp_path):
    path = as_tar(tmp_path / 'a.tar', ['a dog', LONG])
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ConfigError, match=r"a.tar is not a tar archive, or is damaged: it breaks off at byte [\d,]+ after '001'"):
        captions(open_source(path))


def test_a_fingerprint_is_that_of_the_content_wherever_it_lies(tmp_path):
    first, second = tmp_path / '1', tmp_path / '2'
    for folder in (first, second):
        folder.mkdir()
        write_txt(folder / 'a.txt', ['a dog', 'a cat'])
    assert open_source(first).fingerprint() == open_source(second).fingerprint()
    write_txt(second / 'a.txt', ['a dog', 'a cow'])
    assert open_source(first).fingerprint() != open_source(second).fingerprint()


@pytest.mark.parametrize(('library', 'extra'), [('pyarrow', 'a.parquet'), ('datasets', 'some/dataset')])
def test_a_library_that_is_missing_is_named_with_its_extra(tmp_path, monkeypatch, library, extra):
    monkeypatch.setitem(__import__('sys').modules, library, None)
    path = make_file(tmp_path / extra, b'x') if '.' in extra else extra
    with pytest.raises(MissingDependencyError, match=r"pip install 'classifier-free-guidance-pytorch\[corpus\]'"):
        open_source(path)
