"""Text conditioning and guidance for any PyTorch module."""

from classifier_free_guidance_pytorch.conditioners import (
    AttentionTextConditioner,
    ConcatTextConditioner,
    NullConditioner,
    TextConditioner,
    TextEmbeddingReturner,
)
from classifier_free_guidance_pytorch.text import TextEncoding

__version__ = '1.0.0'
