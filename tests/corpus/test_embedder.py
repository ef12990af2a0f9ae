"""`TextEmbedder` against the encoder alone, in batches by length, as a callable of other libraries."""

from __future__ import annotations

import pickle

import datasets
import numpy as np
import pytest
import torch

from classifier_free_guidance_pytorch.corpus import TextEmbedder
from classifier_free_guidance_pytorch.errors import ConfigError, UsageError
from classifier_free_guidance_pytorch.text import TextEncoding
from tests.tiny_models import CAPTIONS, TinyEncoder

# Lengths from one word to many, in no order, one of them twice.
MIXED = ['a ball', 'red', *CAPTIONS[:9], 'the tiny', CAPTIONS[3], f'{CAPTIONS[0]} and {CAPTIONS[1]}', 'a']

ENCODERS = {
    't5': ('t5', None, {}),
    'clip': ('clip', None, {}),
    'bge': ('bge', None, {}),
    'siglip': ('hf', 'tiny/siglip', {'pooling': 'last', 'max_length': 40}),
    'object': (TinyEncoder(), None, None),
}


@pytest.fixture(params=ENCODERS)
def kind(request, hub):
    """What to pass for one of the encoders."""
    if request.param != 'object':
        getattr(hub, request.param)()
    return ENCODERS[request.param]


@pytest.mark.parametrize('batch_size', [1, 4, 100])
def test_batches_by_length_change_nothing(kind, batch_size):
    embedder = TextEmbedder(*kind, dtype='fp32', batch_size=batch_size, device='cpu')
    (embedded,) = embedder.embed(MIXED).values()
    for row, caption in enumerate(MIXED):
        alone = embedder.encoders[0].encode([caption])
        torch.testing.assert_close(embedded.pooled[row], alone.pooled[0], rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(embedded.tokens[row], alone.tokens[0], rtol=1e-4, atol=1e-5)


def test_a_batch_holds_captions_of_about_one_length_the_longest_first():
    class Watching(TinyEncoder):
        seen: list[list[int]] = []  # noqa: RUF012

        def encode(self, texts):
            self.seen.append([len(text) for text in texts])
            return super().encode(texts)

    encoder = Watching()
    TextEmbedder(encoder, batch_size=3).embed(MIXED)
    lengths = [length for batch in encoder.seen for length in batch]
    assert lengths == sorted(map(len, MIXED), reverse=True)
    assert [len(batch) for batch in encoder.seen] == [3] * (len(MIXED) // 3) + [len(MIXED) % 3] * (len(MIXED) % 3 > 0)


def test_what_is_not_asked_for_is_not_there(tiny_t5):
    only_pooled = TextEmbedder('t5', tokens=False).embed(['a dog'])['t5']
    only_tokens = TextEmbedder('t5', pooled=False).embed(['a dog'])['t5']
    assert only_pooled.tokens is None
    assert only_tokens.pooled is None
    assert only_pooled.pooled.dtype == only_tokens.tokens[0].dtype == torch.bfloat16


@pytest.mark.parametrize(('dtype', 'stored'), [('fp32', torch.float32), ('bf16', torch.bfloat16), ('fp16', torch.float16)])
def test_what_is_stored_is_rounded_from_what_is_computed(tiny_t5, dtype, stored):
    exact = TextEmbedder('t5', dtype='fp32').embed(MIXED)['t5']
    rounded = TextEmbedder('t5', dtype=dtype).embed(MIXED)['t5']
    assert torch.equal(rounded.pooled, exact.pooled.to(stored))
    assert all(torch.equal(one, other.to(stored)) for one, other in zip(rounded.tokens, exact.tokens, strict=True))
    assert TextEmbedder('t5', dtype=dtype, device='cpu').precision == 'fp32'
    assert TextEmbedder('t5', dtype=dtype, device='cuda').precision == dtype


def test_the_precision_is_that_of_the_network(tiny_t5):
    coarse = TextEmbedder('t5', dtype='fp32', precision='bf16').embed(MIXED)['t5'].pooled
    exact = TextEmbedder('t5', dtype='fp32').embed(MIXED)['t5'].pooled
    assert not torch.equal(coarse, exact)
    torch.testing.assert_close(coarse, exact, rtol=0.1, atol=0.1)


def test_a_precision_can_travel(monkeypatch):
    """To machines with a GPU, which would compute in another."""
    embedder = TextEmbedder('mini', dtype='bf16')
    assert embedder.precision == 'fp32'
    sent, pinned = (pickle.loads(pickle.dumps(one)) for one in (embedder, embedder.pinned()))
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: True)
    monkeypatch.setattr(torch.cuda, 'device_count', lambda: 1)
    assert (sent.precision, pinned.precision) == ('bf16', 'fp32')


@pytest.mark.parametrize(
    ('device', 'message'),
    [('gpu', "device is a name such as 'cpu', 'cuda' or 'cuda:1', but got 'gpu'"), ('meta:7:7', "but got 'meta:7:7'")],
)
def test_a_device_that_is_none(device, message):
    with pytest.raises(ConfigError, match=message):
        TextEmbedder('mini', device=device)


def test_a_device_that_this_machine_lacks():
    with pytest.raises(ConfigError, match=r"device='cuda:99' cannot be used on this machine \(.*\): pass another, such as 'cpu'"):
        TextEmbedder('mini', device='cuda:99').embed(['a dog'])


def test_a_feature_that_does_not_fit_is_no_feature():
    class Huge(TinyEncoder):
        def encode(self, texts):
            encoding = super().encode(texts)
            return TextEncoding(encoding.tokens * 1e6, encoding.mask, encoding.pooled)

    with pytest.raises(UsageError, match='a feature is not finite in fp16, computed in fp32: store and compute in bf16 or fp32'):
        TextEmbedder(Huge(), dtype='fp16', device='cpu').embed(['a dog'])
    TextEmbedder(Huge(), dtype='bf16').embed(['a dog'])


def test_labels(hub, tiny_t5, tiny_clip):
    hub.t5('google/flan-t5-small')
    assert TextEmbedder(['t5', 'clip']).labels == ('t5', 'clip')
    two = TextEmbedder(['t5', 't5'], ['google/t5-v1_1-base', 'google/flan-t5-small'])
    assert two.labels == ('t5-t5-v1_1-base', 't5-flan-t5-small')
    assert [record.label for record in two.records()] == list(two.labels)
    with pytest.raises(ConfigError, match=r"two encoders have one name, 't5-t5-v1_1-base': each is embedded once"):
        TextEmbedder(['t5', 't5']).labels


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        ({'dtype': 'float32'}, "dtype is one of 'fp32', 'bf16', 'fp16', but got 'float32'"),
        ({'precision': 'int8'}, "precision is one of 'fp32', 'bf16', 'fp16', but got 'int8'"),
        ({'batch_size': 0}, 'batch_size counts captions and is at least 1, but got 0'),
        ({'pooled': False, 'tokens': False}, 'nothing would be embedded: choose pooled=True, tokens=True or both'),
        ({'batch_size': 'many'}, "batch_size='many' is of the wrong type: expected int"),
        ({'batch_size': True}, 'batch_size=True is of the wrong type: expected int, a whole number'),
    ],
)
def test_arguments_that_cannot_work(arguments, message):
    with pytest.raises(ConfigError) as caught:
        TextEmbedder('mini', **arguments)
    assert message in str(caught.value)


def test_as_a_callable_it_adds_columns():
    embedder = TextEmbedder(['mini', TinyEncoder()], dtype='bf16', column='text')
    batch = embedder({'text': np.array(['a red circle', 'a small blue square']), 'id': [1, 2]})
    assert list(batch) == ['text', 'id', 'mini_pooled', 'mini_tokens', 'TinyEncoder_pooled', 'TinyEncoder_tokens']
    assert batch['mini_pooled'].dtype == np.float32  # which NumPy has in place of bfloat16
    assert [tokens.shape for tokens in batch['mini_tokens']] == [(5, 128), (6, 128)]
    exact = embedder.encoders[0].encode(['a red circle']).tokens[0]
    assert np.array_equal(batch['mini_tokens'][0], exact.bfloat16().float().numpy())
    with pytest.raises(ConfigError, match="a batch has no column 'text': it has 'caption'; pass column"):
        embedder({'caption': ['a']})


def test_captions_that_are_none():
    with pytest.raises(ConfigError, match=r'captions\[1\] is None, but every text is a string'):
        TextEmbedder('mini').embed(['a', None])


def test_a_pickle_is_small_and_embeds_the_same():
    embedder = TextEmbedder('mini', dtype='fp32')
    before = embedder.embed(['a red circle'])['mini']
    pickled = pickle.dumps(embedder)
    after = pickle.loads(pickled).embed(['a red circle'])['mini']
    assert len(pickled) < 1000
    assert torch.equal(before.pooled, after.pooled)


def test_in_datasets_map():
    rows = datasets.Dataset.from_dict({'caption': ['a red circle', 'a blue square', 'a small red triangle above a circle']})
    embedder = TextEmbedder('mini', dtype='fp32')
    mapped = rows.map(embedder, batched=True, batch_size=2, load_from_cache_file=False).with_format('numpy')
    expected = embedder({'caption': rows['caption'][:]})
    for row in range(3):
        np.testing.assert_allclose(mapped[row]['mini_pooled'], expected['mini_pooled'][row], rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(np.stack(mapped[row]['mini_tokens']), expected['mini_tokens'][row], rtol=1e-4, atol=1e-5)
