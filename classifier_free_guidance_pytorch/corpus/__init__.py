"""Corpora of captions on disk: encoded once by frozen encoders, and read by every process that trains.

captions -> scan (checked, repeated ones merged) -> shards of captions and encodings -> manifest -> `EmbeddingStore`

All files of a store are safetensors and JSON. The names below load on first use.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from classifier_free_guidance_pytorch.corpus.store.embedding_store import EmbeddingStore as EmbeddingStore

_HOMES = {'EmbeddingStore': 'store.embedding_store', 'TextEmbedder': 'encode.embedder', 'embed_corpus': 'run'}

__all__ = ['EmbeddingStore', 'TextEmbedder', 'embed_corpus']


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
    return getattr(importlib.import_module(f'{__name__}.{_HOMES[name]}'), name)
