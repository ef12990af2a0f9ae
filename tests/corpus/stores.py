"""Small stores, written through the format alone, and what every read of one must be."""

import torch

from classifier_free_guidance_pytorch.corpus.store import manifest, shards
from classifier_free_guidance_pytorch.corpus.store.manifest import EncoderRecord, Plan
from tests.tiny_models import TinyEncoder

CAPTIONS = ['a dog', 'the red ball', 'a dog', 'ein Gänschen, "zwei" Äpfel', 'x', 'the red ball', 'one two three four five six']


class OtherEncoder(TinyEncoder):
    """As wide as the other, and not the same."""


def tiny_encoder(name='tiny/one', **dims):
    encoder = TinyEncoder(**dims)
    encoder.name = name
    return encoder


def write_store(
    directory, captions=CAPTIONS, encoders=None, *, dtype='float32', shard_rows=2, pooled=True, tokens=True, skipped=()
):
    """A finished store of captions; `skipped` are places of the input that are no part of it."""
    encoders = encoders or {'tiny': tiny_encoder()}
    unique = list(dict.fromkeys(captions))
    records = tuple(EncoderRecord.of(one, label, dtype, pooled=pooled, tokens=tokens) for label, one in encoders.items())
    plan = Plan({'path': 'captions.txt'}, records, shard_rows, len(captions), len(unique), {'empty': len(skipped)}, 8)
    plan.write(directory)
    for shard in range(plan.shards):
        part = unique[shard * shard_rows : (shard + 1) * shard_rows]
        shards.write_captions(directory, shard, part)
        for label, encoder in encoders.items():
            encoding = encoder.encode(part).to(dtype=getattr(torch, dtype))
            features = [row[mask] for row, mask in zip(encoding.tokens, encoding.mask, strict=True)]
            shards.write_encodings(
                directory, label, shard, pooled=encoding.pooled if pooled else None, tokens=features if tokens else None
            )
    write_index(directory, captions, unique, skipped)
    return manifest.finish(directory, plan)


def write_index(directory, captions, unique, skipped=()):
    rows = torch.tensor([unique.index(caption) for caption in captions])
    places = [place for place in range(len(captions) + len(skipped)) if place not in skipped]
    hashes = torch.tensor(sorted((shards.caption_hash(caption), row) for row, caption in enumerate(unique)))
    shards.write_index(directory, rows, torch.tensor(places), hashes[:, 0], hashes[:, 1])


def assert_same(encoding, expected):
    """Bit for bit, padding included."""
    for name in ('tokens', 'mask', 'pooled'):
        left, right = getattr(encoding, name), getattr(expected, name)
        assert left.dtype == right.dtype
        assert torch.equal(left, right), name
