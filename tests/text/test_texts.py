"""What counts as a batch of texts, and the cache of recent results."""

import collections
import copy
import enum
import pickle
import re
import warnings

import numpy as np
import pytest
import torch

from classifier_free_guidance_pytorch.errors import ConfigError
from classifier_free_guidance_pytorch.text import RecentCache, as_texts


class Word(str, enum.Enum):
    A = 'a'
    B = 'b'


@pytest.mark.parametrize(
    'texts',
    [
        ['a', 'b'],
        ('a', 'b'),
        collections.deque(['a', 'b']),
        np.array(['a', 'b']),
        np.array(['a', 'b'], dtype=object),
        list(np.array(['a', 'b'])),
        [np.array('a'), np.array('b')],
        [Word.A, Word.B],
    ],
)
def test_lists_tuples_and_arrays_are_texts(texts):
    assert as_texts(texts) == ('a', 'b')
    assert all(type(text) is str for text in as_texts(texts))


def columns():
    """A batch of strings as each data library hands it out."""
    pa, pd, datasets = pytest.importorskip('pyarrow'), pytest.importorskip('pandas'), pytest.importorskip('datasets')
    rows = datasets.Dataset.from_dict({'caption': ['a', 'b'], 'nested': [{'caption': 'a'}, {'caption': 'b'}]})
    return {
        'Column': rows['caption'],
        'nested Column': ['a', 'b']
        if isinstance(rows['nested'], list)
        else rows['nested']['caption'],  # older ones hand out lists
        'formatted Column': rows.with_format('numpy')['caption'],
        'Column of arrow': rows.with_format('arrow')['caption'],
        'Array': pa.array(['a', 'b']),
        'large ChunkedArray': pa.chunked_array([['a'], ['b']], pa.large_string()),
        'dictionary Array': pa.array(['a', 'b']).dictionary_encode(),
        'list of scalars': list(pa.array(['a', 'b'])),
        'Series': pd.Series(['a', 'b']),
        'categorical Series': pd.Series(['a', 'b'], dtype='category'),
        'Index': pd.Index(['a', 'b']),
        'extension array': pd.array(['a', 'b'], dtype='string'),
        'StringDType': np.array(['a', 'b'], dtype=np.dtypes.StringDType()) if hasattr(np.dtypes, 'StringDType') else ['a', 'b'],
    }


def test_columns_of_data_libraries_are_texts():
    for name, texts in columns().items():
        assert as_texts(texts) == ('a', 'b'), name
        assert all(type(text) is str for text in as_texts(texts)), name
    with pytest.raises(ConfigError, match=re.escape('texts[1] is None')):
        as_texts(pytest.importorskip('pyarrow').array(['a', None]))


@pytest.mark.parametrize(
    ('text', 'read', 'warned'),
    [
        ('a red \ud83d circle', 'a red \ufffd circle', True),
        ('cut \ud83d', 'cut \ufffd', True),
        ('\ude00 cut', '\ufffd cut', True),
        ('bytes \udcff', 'bytes \ufffd', True),
        ('both halves \ud83d\ude00', 'both halves \U0001f600', False),
        ('whole \U0001f600', 'whole \U0001f600', False),
    ],
)
def test_half_a_surrogate_pair_becomes_the_replacement_character(text, read, warned):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter('always')
        assert as_texts(['a', text, None], 'negative_texts', allow_none=True) == ('a', read, None)
    assert [str(one.message).partition(',')[0] for one in caught] == ['negative_texts[1] holds half a surrogate pair'] * warned
    assert [one.filename for one in caught] == [__file__] * warned


@pytest.mark.parametrize(
    ('texts', 'sentence'),
    [
        ('a dog', "texts is a batch of strings, but got the string 'a dog': wrap it in a list, ['a dog']"),
        (np.array('a dog'), "texts is a batch of strings, but got the string 'a dog'"),
        ([], 'texts is empty: pass at least one string'),
        (np.array([], dtype=str), 'texts is empty'),
        (['a', None], 'texts[1] is None, but every text is a string'),
        (['a', 3], 'texts[1] is a int, but every text is a string: got 3'),
        (['a', float('nan')], 'texts[1] is a float, but every text is a string: got nan'),
        ([['a', 'b']], "texts[0] is a list, but every text is a string, so choose one of its captions for every sample: got ['a"),
        (b'a dog', 'but got bytes'),
        ({'a': 1}, 'but got dict'),
        (torch.zeros(1, 1000), 'texts[0] is a list'),
        (np.array([['a']]), 'texts[0] is a list'),
        ({'a'}, 'texts is a list, a tuple or a NumPy array of strings, but got set'),
        (None, 'but got NoneType'),
        ((text for text in 'ab'), 'but got generator'),
    ],
)
def test_everything_else_gets_its_own_sentence(texts, sentence):
    with pytest.raises(ConfigError, match=re.escape(sentence)):
        as_texts(texts)


def test_the_cache_computes_each_of_the_last_few_keys_once():
    cache, computed = RecentCache(size=2), []

    def ask(key):
        return cache.get(key, lambda: computed.append(key) or key)

    assert [ask(key) for key in 'abababab'] == list('abababab')
    assert computed == ['a', 'b']
    ask('c')  # drops 'a', the oldest
    ask('b')
    ask('a')
    assert computed == ['a', 'b', 'c', 'a']
    cache.clear()
    ask('a')
    assert computed[-1] == 'a'
    assert len(computed) == 5


@pytest.mark.parametrize('duplicate', [copy.deepcopy, lambda cache: pickle.loads(pickle.dumps(cache))])
def test_copies_of_a_cache_are_empty(duplicate):
    cache = RecentCache(size=3)
    cache.get('a', lambda: 1)
    other = duplicate(cache)
    assert other.size == 3
    assert other.get('a', lambda: 2) == 2
