"""Text meets layers: texts or embeddings in, one callable per hidden dimension out."""

from classifier_free_guidance_pytorch.conditioners.base import Conditioner
from classifier_free_guidance_pytorch.conditioners.null import NullConditioner
from classifier_free_guidance_pytorch.conditioners.pooled import ConcatTextConditioner, TextConditioner
from classifier_free_guidance_pytorch.conditioners.prepared import BranchCondition, PreparedCondition, TextCondReturn
from classifier_free_guidance_pytorch.conditioners.raw import TextEmbeddingReturner
from classifier_free_guidance_pytorch.conditioners.text_source import Encodings, ModelTypes
from classifier_free_guidance_pytorch.conditioners.tokens import AttentionTextConditioner
from classifier_free_guidance_pytorch.conditioners.vector import PooledEmbeddingReturner
from classifier_free_guidance_pytorch.text import Batch

__all__ = [
    'AttentionTextConditioner',
    'Batch',
    'BranchCondition',
    'ConcatTextConditioner',
    'Conditioner',
    'Encodings',
    'ModelTypes',
    'NullConditioner',
    'PooledEmbeddingReturner',
    'PreparedCondition',
    'TextCondReturn',
    'TextConditioner',
    'TextEmbeddingReturner',
]
