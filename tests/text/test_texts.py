"""What counts as a batch of texts, and the cache of recent results."""

import copy
import pickle
import re

import numpy as np
import pytest

from classifier_free_guidance_pytorch.errors import ConfigError
from classifier_free_guidance_pytorch.text import RecentCache, as_texts


@pytest.mark.parametrize('texts', [['a', 'b'], ('a', 'b'), np.array(['a', 'b']), np.array(['a', 'b'], dtype=object)])
def test_lists_tuples_and_arrays_are_texts(texts):
    assert as_texts(texts) == ('a', 'b')
    assert all(type(text) is str for text in as_texts(texts))


@pytest.mark.parametrize(
    ('texts', 'sentence'),
    [
        ('a dog', "texts is a batch of strings, but got the string 'a dog': wrap it in a list, ['a dog']"),
        (np.array('a dog'), "texts is a batch of strings, but got the string 'a dog'"),
        ([], 'texts is empty: pass at least one string'),
        (np.array([], dtype=str), 'texts is empty'),
        (['a', None], 'texts[1] is None, but every text is a string'),
        (['a', 3], 'texts[1] is a int, but every text is a string: got 3'),
        ([['a']], 'texts[0] is a list'),
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
