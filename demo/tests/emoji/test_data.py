"""From archives to a folder that training reads, with names, captions and held-out pictures as they should be."""

from __future__ import annotations

import json

import pytest
import torch

from cfg_demo import cli
from cfg_demo.emoji.captions import captions, with_article, with_style
from cfg_demo.emoji.concepts import Concept, code_of, read_concepts
from cfg_demo.emoji.data import CONCEPT, SEEN, STYLE, Split
from cfg_demo.emoji.packages import LABELS
from cfg_demo.emoji.reading import read_pictures_of
from cfg_demo.image.data import open_data
from classifier_free_guidance_pytorch.errors import ConfigError
from demo.tests.emoji.packages_of_ours import pack, png, use_archives, write_archives

OWL = Concept('owl', ('bird', 'wise'), 'nature', '1f989')


@pytest.fixture
def archives(tmp_path, monkeypatch):
    folder = tmp_path / 'archives'
    folder.mkdir()
    write_archives(folder)
    use_archives(folder, monkeypatch)
    return folder


def emoji_data(out, archives, *options):
    return cli.main(['emoji-data', '--out', str(out), '--from', str(archives), *options])


def test_concepts_are_named_as_one_says_them(tmp_path, archives):
    names = [concept.name for concept in read_concepts(archives / LABELS.archive)]
    assert names == ['red apple', 'owl', 'keycap 1', 'person with red hair']  # no flag, no part, no variant of a person


def test_variation_selectors_do_not_matter():
    assert code_of('0031-fe0f-20e3.webp') == code_of('31-20E3.png') == '31-20e3'


@pytest.mark.parametrize(
    ('name', 'category', 'said'),
    [('owl', 'nature', 'an owl'), ('grapes', 'food', 'grapes'), ('unicorn', 'nature', 'a unicorn'), ('glass', 'food', 'a glass'),
     ('Aries', 'symbols', 'Aries'), ('hippopotamus', 'nature', 'a hippopotamus'), ('nut and bolt', 'objects', 'nut and bolt')],
)  # fmt: skip
def test_names_take_an_article(name, category, said):
    assert with_article(Concept(name, (), category, '0')) == said


def test_captions_differ_and_mostly_say_the_style():
    said = captions(OWL, 'noto')
    assert len(said) == len(set(said)) >= 8
    assert sum('noto' in caption for caption in said) > len(said) / 2
    assert {'owl', 'an owl', 'an owl in noto style'} <= set(said)
    assert said == captions(OWL, 'noto') != captions(OWL, 'fluent')
    assert with_style('an owl', None) == 'an owl'


def test_the_folder_is_what_training_reads(archives, tmp_path, capsys):
    out = tmp_path / 'emoji'
    assert (
        emoji_data(out, archives, '--held-out-styles', '0', '--held-out-concepts', '0', '--sheet', str(tmp_path / 'sheet.png'))
        == 0
    )
    assert 'seen' in capsys.readouterr().out
    data = open_data(str(out), size=32)
    assert data.captions.count('an owl in noto style') == 1
    image = data[data.captions.index('an owl in noto style')].image
    assert image[:, 0, 0].tolist() == [1.0, 1.0, 1.0]  # white, where it is transparent
    assert image[0, 16, 16] > image[2, 16, 16]  # brown
    assert (tmp_path / 'sheet.png').stat().st_size > 1000
    manifest = json.loads((out / 'manifest.json').read_text())
    assert manifest['pictures'] == {SEEN: 12}
    assert manifest['packages']['emoji-datasource-twitter']['licence'] == 'CC-BY-4.0'


def test_what_is_held_out_is_not_in_training(archives, tmp_path):
    out = tmp_path / 'emoji'
    emoji_data(out, archives, '--held-out-styles', '0.5', '--held-out-concepts', '0.3', '--seed', '3')
    pictures = read_pictures_of(out)
    assert pictures.images.shape == (12, 3, 32, 32)
    assert set(pictures.groups) == {SEEN, STYLE, CONCEPT}
    train = {(row['concept'], row['style']) for row in map(json.loads, (out / 'train/metadata.jsonl').open())}
    for group, concept, style in zip(pictures.groups, pictures.concept, pictures.style, strict=True):
        name = pictures.concepts[concept].name
        assert ((name, pictures.styles[style]) in train) == (group == SEEN)
        assert group != CONCEPT or name not in {known for known, _ in train}
    for row in pictures.of_groups(STYLE):  # known in the other two styles
        assert sum(name == pictures.concepts[pictures.concept[row]].name for name, _ in train) == 2


def test_a_concepts_fate_does_not_depend_on_the_others():
    many = [Concept(f'c{at}', (), 'food', f'{at:x}') for at in range(2000)]
    split = Split(styles=0.12, concepts=0.05, seed=1)
    whole, part = (split.held_out(some, ('noto', 'fluent')) for some in (many, many[:500]))
    assert part == {pair: group for pair, group in whole.items() if int(pair[0], 16) < 500}
    concepts = sum(group == CONCEPT for group in whole.values()) / 2
    styles = sum(group == STYLE for group in whole.values())
    assert abs(concepts / 2000 - 0.05) < 0.02
    assert abs(styles / 2000 - 0.12) < 0.03


def test_a_style_that_a_folder_lacks(archives, tmp_path):
    emoji_data(tmp_path / 'emoji', archives, '--styles', 'noto')
    with pytest.raises(ConfigError, match='lacks the style fluent: it has noto'):
        read_pictures_of(tmp_path / 'emoji', ('noto', 'fluent'))


def test_a_folder_of_something_else(tmp_path):
    with pytest.raises(ConfigError, match=r'is no folder of emoji .*: make one with `cfg-demo emoji-data --out'):
        read_pictures_of(tmp_path)


@pytest.mark.parametrize('share', ['1', '-0.1'])
def test_shares_are_shares(archives, tmp_path, capsys, share):
    assert emoji_data(tmp_path / 'emoji', archives, '--held-out-styles', share) == 2
    assert '--held-out-styles is a share from 0 to below 1, but got' in capsys.readouterr().err


def test_a_damaged_picture_is_named(archives, tmp_path, monkeypatch, capsys):
    noto = next(path for path in archives.iterdir() if 'google' in path.name)
    pack(noto, {'img/google/64/1f34e.png': png('red')[:40]})
    use_archives(archives, monkeypatch)
    assert emoji_data(tmp_path / 'emoji', archives) == 2
    assert "'img/google/64/1f34e.png' of" in capsys.readouterr().err


def test_pictures_come_as_floats(archives, tmp_path):
    emoji_data(tmp_path / 'emoji', archives)
    pictures = read_pictures_of(tmp_path / 'emoji')
    some = pictures.floats(torch.tensor([0, 3]))
    assert some.shape == (2, 3, 32, 32)
    assert 0 <= some.min() < some.max() <= 1
