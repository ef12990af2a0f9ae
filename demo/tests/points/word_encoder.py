"""An encoder that reads words and needs no weights: a fixed random vector per word, pooled as their mean."""

from __future__ import annotations

import re
import zlib
from functools import lru_cache

import torch

from classifier_free_guidance_pytorch.text import TextEncoding

DIM = 128


@lru_cache
def _vector(word: str) -> torch.Tensor:
    return torch.randn(DIM, generator=torch.Generator().manual_seed(zlib.crc32(word.encode())))


class WordEncoder:
    """A bag of words: enough to understand captions whose word order does not matter."""

    dim_latent = dim_pooled = DIM
    max_text_len = 32

    def encode(self, texts):
        words = [[_vector(word) for word in re.findall(r'\w+', text)] for text in texts]
        tokens = torch.nn.utils.rnn.pad_sequence([torch.stack(vectors) for vectors in words], batch_first=True)
        mask = torch.arange(tokens.shape[1]) < torch.tensor([len(vectors) for vectors in words]).unsqueeze(1)
        return TextEncoding(tokens, mask, torch.stack([torch.stack(vectors).mean(dim=0) for vectors in words]))
