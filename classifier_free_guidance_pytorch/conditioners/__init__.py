"""Text meets layers: texts or embeddings in, one callable per hidden dimension out."""

from classifier_free_guidance_pytorch.conditioners.base import Conditioner
from classifier_free_guidance_pytorch.conditioners.null import NullConditioner
from classifier_free_guidance_pytorch.conditioners.pooled import ConcatTextConditioner, TextConditioner
from classifier_free_guidance_pytorch.conditioners.prepared import BranchCondition, PreparedCondition, TextCondReturn
from classifier_free_guidance_pytorch.conditioners.raw import TextEmbeddingReturner
from classifier_free_guidance_pytorch.conditioners.tokens import AttentionTextConditioner

__all__ = [
    'AttentionTextConditioner',
    'BranchCondition',
    'ConcatTextConditioner',
    'Conditioner',
    'NullConditioner',
    'PreparedCondition',
    'TextCondReturn',
    'TextConditioner',
    'TextEmbeddingReturner',
]
