"""WordNet's files, and texts for training and measuring that do not overlap."""

from __future__ import annotations

import pytest

from cfg_demo.english import texts
from cfg_demo.english.texts import gather, read_captions
from cfg_demo.english.wordnet import Sense, counted_words, first_senses, read_senses
from classifier_free_guidance_pytorch.errors import ConfigError, MissingDependencyError

LICENCE = '  1 This software and database is being provided to you\n'
NOUNS = """\
02121620 05 n 02 cat 0 true_cat 0 001 @ 02120997 n 0000 | feline mammal having thick soft fur; "the cat sat"; "a cat's life"
02958343 06 n 02 car 0 automobile 0 001 @ 03791235 n 0000 | a motor vehicle with four wheels; usually propelled by an engine
"""
INDEX = """\
car n 1 1 @ 1 1 02958343
cat n 2 1 @ 2 1 02121620 02958343
true_cat n 1 1 @ 1 0 02121620
"""


@pytest.fixture
def wordnet(tmp_path):
    for part in ('noun', 'verb', 'adj', 'adv'):
        (tmp_path / f'data.{part}').write_text(LICENCE + (NOUNS if part == 'noun' else ''))
        (tmp_path / f'index.{part}').write_text(LICENCE + (INDEX if part == 'noun' else ''))
    (tmp_path / 'cntlist.rev').write_text('cat%1:05:00:: 1 18\ncat%1:06:00:: 2 2\nself-made%5:00:00:: 1 4\n')
    return tmp_path


def test_senses_are_read_with_their_examples(wordnet):
    cat, car = read_senses(wordnet)
    assert cat.words == ('cat', 'true cat')
    assert cat.definition == 'feline mammal having thick soft fur'
    assert cat.examples == ('the cat sat', "a cat's life")
    assert car.definition == 'a motor vehicle with four wheels; usually propelled by an engine'


def test_counts_and_first_senses(wordnet):
    assert counted_words(wordnet) == {'cat': 20}
    assert ('cat', 'noun 02121620') in first_senses(wordnet)
    assert ('cat', 'noun 02958343') not in first_senses(wordnet)


def test_a_folder_without_wordnet(tmp_path):
    with pytest.raises(MissingDependencyError, match=r'which has no data\.noun .*: install the Debian package wordnet-base'):
        read_senses(tmp_path)


def world(count: int = 60) -> tuple[list[Sense], dict[str, int], set[tuple[str, str]]]:
    """Senses of two made-up words each, all of them common."""
    letters = 'abcdefghij'
    name = [''.join(letters[int(digit)] for digit in f'{at:03d}') for at in range(count)]
    senses = [
        Sense(f'noun {at}', (f'left{name[at]}', f'right{name[at]}'), f'what {at} is', (f'use {at}',)) for at in range(count)
    ]
    counts = {word: 5 for sense in senses for word in sense.words}
    return senses, counts, {(word, sense.key) for sense in senses for word in sense.words}


@pytest.fixture
def small(monkeypatch):
    for name, value in {'QUESTIONS': 10, 'WORDS': 40, 'COMPOSED': 50, 'SHAPE_CAPTIONS': 5, 'HELD_OUT': 0.2}.items():
        monkeypatch.setattr(texts, name, value)


def test_no_text_is_in_both(small):
    found = gather(*world(), captions=['my own caption'], seed=1)
    assert not set(found.train) & set(found.held_out)
    asked = {found.words[at] for pair in found.synonyms for at in pair}
    assert len(asked) == 20
    assert not set(found.train) & asked
    assert (set(found.words) - asked) & set(found.train)
    assert len(set(found.train)) == len(found.train)
    assert len(found.words) == len(set(found.words)) == 40
    for first, second in found.synonyms:
        assert found.words[first].removeprefix('left').removeprefix('right') == found.words[second].removeprefix(
            'left'
        ).removeprefix('right')


def test_definitions_and_examples_are_held_out_together(small):
    found = gather(*world(), seed=1)
    for at in range(60):
        assert (f'what {at} is' in found.train) == (f'use {at}' in found.train)


def test_texts_depend_on_the_seed_alone(small):
    assert gather(*world(), seed=1) == gather(*world(), seed=1) != gather(*world(), seed=2)


def test_a_word_in_another_sense_makes_no_synonym(small):
    senses, counts, firsts = world()
    with pytest.raises(ConfigError, match=r'^9 senses have two common words, but 10 are asked about: is this all of WordNet\?'):
        gather(senses, counts, {entry for entry in firsts if int(entry[1].split()[1]) < 9})


def test_captions_come_from_lines_and_json_lines(tmp_path):
    (tmp_path / 'a.txt').write_text('one\ntwo\n')
    (tmp_path / 'b.jsonl').write_text('{"caption": "three", "more": 1}\n')
    assert read_captions([tmp_path / 'a.txt', tmp_path / 'b.jsonl']) == ['one', 'two', 'three']
    (tmp_path / 'b.jsonl').write_text('{"text": "three"}\n')
    with pytest.raises(ConfigError, match=r"no captions can be read from '.*b\.jsonl' \(KeyError"):
        read_captions([tmp_path / 'b.jsonl'])
