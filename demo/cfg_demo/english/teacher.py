"""What the teacher says of every text: unit vectors, encoded once and kept in a store."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from cfg_demo.progress import progress_bar
from classifier_free_guidance_pytorch.corpus import EmbeddingStore, TextEmbedder, embed_corpus
from classifier_free_guidance_pytorch.text.hugging_face import HFTextAdapter

ROWS = 8192  # read at once


def taught(texts: Sequence[str], teacher: HFTextAdapter, folder: Path, device: str = 'cpu') -> Tensor:
    """Return the teacher's unit vectors `(n, d)` of texts, float16.

    They are kept in `folder` as texts and a store; a run that is interrupted goes on there.

    Args:
        texts: Without line breaks.
        teacher: A sentence encoder whose pooled feature is its embedding, up to its length.
        folder: Where.
        device: Where the teacher works.

    Raises:
        ConfigError: The folder holds the encodings of other texts.
    """
    folder.mkdir(parents=True, exist_ok=True)
    lines = folder / 'texts.txt'
    wanted = '\n'.join(texts) + '\n'
    if not lines.is_file() or lines.read_text(encoding='utf-8') != wanted:
        lines.write_text(wanted, encoding='utf-8')
    embedder = TextEmbedder(teacher, dtype='fp16', batch_size=128, device=device, tokens=False)
    embed_corpus(lines, folder / 'store', embedder)
    store = EmbeddingStore(folder / 'store', check_rows=False)
    vectors = []
    for first in progress_bar(range(0, len(store), ROWS), desc='read', unit='shard'):
        encoding = store[first : first + ROWS]
        assert not isinstance(encoding, tuple)
        assert encoding.pooled is not None
        vectors.append(F.normalize(encoding.pooled.float(), dim=-1).half())
    return torch.cat(vectors)
