"""Reading a store back: every caption, in every way, as the encoder made it; and feeding it to everything that takes text."""

import pickle
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import BatchSampler, DataLoader, RandomSampler, StackDataset

from classifier_free_guidance_pytorch.corpus import EmbeddingStore
from classifier_free_guidance_pytorch.corpus.store import shards as writing
from classifier_free_guidance_pytorch.errors import CFGError, ConfigError, ShapeError, StoreError, UnknownCaptionError
from tests.conditioners.making import KINDS, make, make_raw, noise
from tests.corpus.stores import CAPTIONS, OtherEncoder, assert_same, tiny_encoder, write_store
from tests.decorator.models import build


@pytest.fixture(scope='module')
def directory(tmp_path_factory):
    directory = tmp_path_factory.mktemp('store') / 'tiny'
    write_store(directory)
    return directory


@pytest.fixture(scope='module')
def store(directory):
    return EmbeddingStore(directory)


def encoded(captions, **dims):
    return tiny_encoder(**dims).encode(captions)


def test_every_caption_comes_back(store):
    assert len(store) == len(CAPTIONS)
    assert list(store.captions) == CAPTIONS
    assert store.captions[1:3] == CAPTIONS[1:3]
    assert (store.captions[-1], len(store.captions)) == (CAPTIONS[-1], len(CAPTIONS))
    for place, caption in enumerate(CAPTIONS):
        assert_same(store[place], encoded([caption]))
        assert_same(store[place - len(CAPTIONS)], encoded([caption]))
        assert_same(store[caption], encoded([caption]))
        assert caption in store
        assert caption in store.captions


@given(st.lists(st.integers(-len(CAPTIONS), len(CAPTIONS) - 1), min_size=1, max_size=9))
@settings(deadline=None, max_examples=25)
def test_batches_are_those_of_the_encoder(store, places):
    expected = encoded([CAPTIONS[place] for place in places])
    for index in (places, torch.tensor(places), np.array(places), [CAPTIONS[place] for place in places]):
        assert_same(store[index], expected)
    assert_same(store.collate([store[place] for place in places]), expected)


@pytest.mark.parametrize('index', [slice(None), slice(1, 3), slice(5, 1, -2), slice(-2, None)])
def test_slices(store, index):
    assert_same(store[index], encoded(CAPTIONS[index]))


@pytest.mark.parametrize('index', [3, np.int64(3), torch.tensor(3)])
def test_single_places(store, index):
    assert_same(store[index], encoded([CAPTIONS[3]]))


@pytest.mark.parametrize('dtype', ['float32', 'bfloat16', 'float16'])
def test_precisions(tmp_path, dtype):
    write_store(tmp_path, dtype=dtype, shard_rows=3)
    assert_same(EmbeddingStore(tmp_path)[:], encoded(CAPTIONS).to(dtype=getattr(torch, dtype)))


@pytest.mark.parametrize('shard_rows', [1, 5, 1000])
def test_shards_of_any_size(tmp_path, shard_rows):
    write_store(tmp_path, shard_rows=shard_rows)
    assert_same(EmbeddingStore(tmp_path)[:], encoded(CAPTIONS))


def test_what_was_skipped_shifts_the_places(tmp_path):
    write_store(tmp_path, skipped=(0, 4))
    store = EmbeddingStore(tmp_path)
    assert [store.input_position(place) for place in range(len(store))] == [1, 2, 3, 5, 6, 7, 8]


def test_many_captions_and_blocks_of_the_index(tmp_path):
    captions = [f'caption {number % 1500}' for number in range(2000)]
    write_store(tmp_path, captions, shard_rows=400, tokens=False)
    store = EmbeddingStore(tmp_path)
    for place in (0, 511, 512, 1023, 1024, 1499, 1500, 1999):
        assert store.captions[place] == captions[place]
        assert_same(store[captions[place]], store[place])
    assert all(caption in store for caption in captions[:1500:7])
    assert 'caption 1500' not in store


def test_equal_hashes_are_told_apart_by_the_captions(tmp_path, monkeypatch):
    from classifier_free_guidance_pytorch.corpus.store import index

    monkeypatch.setattr(writing, 'BLOCK', 4)
    monkeypatch.setattr(index, 'BLOCK', 4)
    monkeypatch.setattr('classifier_free_guidance_pytorch.corpus.store.reading.BLOCK', 4)
    for module in (writing, index):  # three hashes in all: every one fills more than a block
        monkeypatch.setattr(module, 'caption_hash', lambda caption: len(caption) % 3 - 1)
    captions = [str(10**number) for number in range(30)]
    write_store(tmp_path, captions, shard_rows=7)
    store = EmbeddingStore(tmp_path)
    assert_same(store[captions], store[:])
    assert 'abc' not in store


def test_only_a_part_is_read(tmp_path):
    encoders = {'one': tiny_encoder('tiny/one'), 'two': tiny_encoder('tiny/two', dim_latent=7, dim_pooled=5)}
    write_store(tmp_path, encoders=encoders)
    one, two = EmbeddingStore(tmp_path)[:]
    assert_same(one, encoded(CAPTIONS))
    assert_same(two, encoded(CAPTIONS, dim_latent=7, dim_pooled=5))
    assert_same(EmbeddingStore(tmp_path, ['two'])[:], two)
    assert_same(EmbeddingStore(tmp_path, ('two', 'one'))[:][0], two)
    pooled = EmbeddingStore(tmp_path, ['two'], tokens=False)[1:3]
    assert (pooled.tokens.shape, pooled.mask.shape, pooled.pooled.shape) == ((2, 0, 7), (2, 0), (2, 5))
    tokens = EmbeddingStore(tmp_path, ['two'], pooled=False)[1:3]
    assert (tokens.tokens.shape[::2], tokens.pooled.shape) == ((2, 7), (2, 0))


# feeding it


@pytest.mark.parametrize('workers', [0, 2])
def test_a_data_loader(store, workers):
    loader = DataLoader(store, batch_size=3, collate_fn=store.collate, num_workers=workers)
    for _ in range(2):
        batches = list(loader)
        assert [len(batch) for batch in batches] == [3, 3, 1]
        for number, batch in enumerate(batches):
            assert_same(batch, encoded(CAPTIONS[3 * number : 3 * number + 3]))
            assert batch.origin == store[0].origin


def test_a_data_loader_that_asks_for_batches(store):
    sampler = BatchSampler(RandomSampler(store), batch_size=2, drop_last=False)
    found = sum(len(batch) for batch in DataLoader(store, sampler=sampler, batch_size=None))
    assert found == len(CAPTIONS)


def test_beside_another_data_set(store):
    pairs = DataLoader(
        StackDataset(torch.arange(7), store), batch_size=4, collate_fn=lambda items: list(zip(*items, strict=True))
    )
    numbers, encodings = next(iter(pairs))
    assert_same(store.collate(encodings), store[[int(number) for number in numbers]])


def test_workers_that_are_spawned(store):
    loader = DataLoader(store, batch_size=7, collate_fn=store.collate, num_workers=1, multiprocessing_context='spawn')
    assert_same(next(iter(loader)), encoded(CAPTIONS))


def test_a_pickle_holds_no_data(store):
    store[:]
    pickled = pickle.dumps(store)
    assert_same(pickle.loads(pickled)[:], store[:])
    assert len(pickled) < 10_000


@pytest.mark.skipif(not Path('/proc/self/status').exists(), reason='asks Linux for the memory of the process')
def test_reading_takes_no_memory_of_its_own(tmp_path):
    """The anonymous memory of the process stays, whatever was read; mapped pages belong to the system."""
    captions = [f'word {number}' for number in range(600)]
    write_store(tmp_path, captions, encoders={'wide': tiny_encoder(dim_latent=4000, dim_pooled=4000)}, shard_rows=100)
    store = EmbeddingStore(tmp_path)

    def anonymous():
        lines = Path('/proc/self/status').read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith('RssAnon')) * 1024

    size = sum(record.bytes for record in store.manifest.files.values())
    store[0]
    before = anonymous()
    for place in range(len(store)):
        store[place]
    assert size > 25e6
    assert anonymous() - before < size / 5


def with_memory(items):
    """A batch, and the anonymous memory of the worker that made it."""
    lines = Path('/proc/self/status').read_text().splitlines()
    anonymous = next(int(line.split()[1]) for line in lines if line.startswith('RssAnon')) * 1024
    return EmbeddingStore.collate(items), anonymous


@pytest.mark.skipif(not Path('/proc/self/status').exists(), reason='asks Linux for the memory of the process')
def test_workers_that_read_take_no_memory_of_their_own(tmp_path):
    """Of each of them, over several passes through a store that is larger than what is allowed."""
    captions = [f'word {number}' for number in range(600)]
    write_store(tmp_path, captions, encoders={'wide': tiny_encoder(dim_latent=4000, dim_pooled=4000)}, shard_rows=100)
    store = EmbeddingStore(tmp_path)
    loader = DataLoader(store, batch_size=6, collate_fn=with_memory, num_workers=2, shuffle=True, persistent_workers=True)
    passes = [[anonymous for _, anonymous in loader] for _ in range(3)]
    assert sum(record.bytes for record in store.manifest.files.values()) > 25e6
    assert max(passes[2]) - max(passes[0][:4]) < 5e6


@pytest.mark.parametrize('kind', [*KINDS, 'raw'])
def test_every_conditioner_takes_it(store, kind):
    conditioner = make_raw([tiny_encoder()]) if kind == 'raw' else make(kind, encoders=[tiny_encoder()])
    texts = [CAPTIONS[place] for place in (3, 0, 6)]
    stored, live = conditioner(text_embeds=store[[3, 0, 6]]), conditioner(texts)
    if kind == 'raw':
        assert_close(stored[1].embed, live[1].embed)
        assert torch.equal(stored[1].mask, live[1].mask)
    else:
        assert_close(stored[0](noise(3, 6)), live[0](noise(3, 6)))


@pytest.mark.parametrize('kind', [*KINDS, 'raw'])
def test_conditioners_of_several_encoders_take_it(tmp_path, kind):
    encoders = {'one': tiny_encoder('tiny/one'), 'two': tiny_encoder('tiny/two', dim_latent=7, dim_pooled=5)}
    write_store(tmp_path, encoders=encoders)
    store, given = EmbeddingStore(tmp_path), list(encoders.values())
    conditioner = make_raw(given) if kind == 'raw' else make(kind, encoders=given)
    stored, live = conditioner(text_embeds=store.collate([store[4], store[6]])), conditioner([CAPTIONS[4], CAPTIONS[6]])
    if kind == 'raw':
        assert_close(stored[1].embed, live[1].embed)
    else:
        assert_close(stored[0](noise(2, 6)), live[0](noise(2, 6)))
    with pytest.raises(
        ConfigError, match="made by TinyEncoder 'tiny/two', but this conditioner was built for TinyEncoder 'tiny/one'"
    ):
        conditioner(text_embeds=EmbeddingStore(tmp_path, ['two', 'one'])[:2])


@pytest.mark.parametrize('kind', [*KINDS, 'raw'])
def test_a_decorated_model_trains_and_samples_on_it(store, kind):
    texts = [CAPTIONS[place] for place in (3, 0, 6)]
    model = build(kind, encoder=tiny_encoder())
    guided = model(noise(3, 6), text_embeds=store[[3, 0, 6]], cond_scale=3.0)
    assert model.encoder.calls == 0
    assert_close(guided, model(noise(3, 6), texts=texts, cond_scale=3.0))
    prepared = model.prepare(text_embeds=store[[3, 0, 6]])
    assert_close(model(noise(3, 6), text_condition=prepared, cond_scale=3.0), guided)
    model.train()
    model(noise(3, 6), text_embeds=store[[3, 0, 6]], cond_drop_prob=0.5).sum().backward()


def test_it_is_read_by_a_compiled_model(store):
    conditioner = make('film', encoders=[tiny_encoder()])
    compiled = torch.compile(lambda encoding: conditioner(text_embeds=encoding)[0](noise(2, 6)), backend='eager')
    assert_close(compiled(store[:2]), conditioner(CAPTIONS[:2])[0](noise(2, 6)))


def assert_close(left, right):
    torch.testing.assert_close(left, right, rtol=1e-5, atol=1e-6)


# refusing


@pytest.mark.parametrize('kind', KINDS)
def test_a_conditioner_for_another_encoder_refuses_it(directory, store, kind):
    other = OtherEncoder()
    other.name = 'tiny/large'
    message = "text_embeds were made by TinyEncoder 'tiny/one', but this conditioner was built for OtherEncoder 'tiny/large'"
    with pytest.raises(ConfigError, match=message):
        make(kind, encoders=[other])(text_embeds=store[:3])
    with pytest.raises(ConfigError, match=message):
        build(kind, encoder=other)(noise(3, 6), text_embeds=store[:3])
    trusted = EmbeddingStore(directory, check_encoders=False)[:3]
    make(kind, encoders=[other])(text_embeds=trusted)
    with pytest.raises(ConfigError, match='joins encodings of one encoder, but got those of TinyEncoder'):
        store.collate([store[0], trusted])


def test_features_that_were_not_stored_are_asked_for(tmp_path):
    write_store(tmp_path / 'pooled', tokens=False)
    write_store(tmp_path / 'tokens', pooled=False)
    pooled, tokens = EmbeddingStore(tmp_path / 'pooled')[:2], EmbeddingStore(tmp_path / 'tokens')[:2]
    for kind in ('film', 'concat'):
        make(kind, encoders=[tiny_encoder()])(text_embeds=pooled)
        with pytest.raises(ShapeError, match='reads pooled features, and these text_embeds hold tokens only: store pooled'):
            make(kind, encoders=[tiny_encoder()])(text_embeds=tokens)
    for conditioner in (make('attention', encoders=[tiny_encoder()]), make_raw([tiny_encoder()])):
        conditioner(text_embeds=tokens)
        with pytest.raises(ShapeError, match='reads tokens, and these text_embeds hold pooled features only: store tokens'):
            conditioner(text_embeds=pooled)


def test_captions_and_places_that_are_not_there(store):
    for place in (7, -8):
        with pytest.raises(IndexError, match=f'caption {place} of a store of 7 captions'):
            store[place]
        with pytest.raises(IndexError, match=f'caption {place} of a store'):
            store.captions[place]
    with pytest.raises(UnknownCaptionError, match=r"^'a cat' is not among the 5 different captions of /") as error:
        store[['a dog', 'a cat']]
    assert isinstance(error.value, KeyError)
    assert isinstance(error.value, CFGError)
    assert 'a cat' not in store
    assert '\ud800' not in store
    assert 3 not in store


@pytest.mark.parametrize(
    'index', [[], None, 1.5, [1.5], [True], {'a'}, ['a dog', 1], torch.tensor([[1]]), torch.tensor([True]), slice(3, 3)]
)
def test_other_indices(store, index):
    with pytest.raises(
        ConfigError, match='a store is indexed by a place, a slice, a caption, or a list of places or of captions'
    ):
        store[index]


def test_parts_that_are_not_there(directory, tmp_path):
    for labels in (['clip'], [], 'tiny'):
        with pytest.raises(ConfigError, match=re.escape(f"encoders lists labels out of 'tiny', but got {labels!r}")):
            EmbeddingStore(directory, labels)
    write_store(tmp_path, tokens=False)
    with pytest.raises(ConfigError, match="of encoder 'tiny' only pooled features are stored: nothing is left to read"):
        EmbeddingStore(tmp_path, pooled=False)
    with pytest.raises(ConfigError, match="of encoder 'tiny' only pooled features"):
        EmbeddingStore(tmp_path, tokens=True, pooled=False)


def test_folders_that_are_no_store(tmp_path):
    with pytest.raises(StoreError, match=r'is not a store: it has no manifest.json; cfg-embed writes a store'):
        EmbeddingStore(tmp_path / 'nowhere')
    write_store(tmp_path)
    (tmp_path / 'manifest.json').unlink()
    with pytest.raises(StoreError, match='is unfinished: run the command that started it again, and it continues'):
        EmbeddingStore(tmp_path)
    with pytest.raises(ConfigError, match='directory'):
        EmbeddingStore(3)
