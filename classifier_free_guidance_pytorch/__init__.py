"""Text conditioning and guidance for any PyTorch module.

strings -> encoders -> dropout / null -> conditioning layers -> callables in your forward
        -> two predictions -> a guidance rule
"""

from classifier_free_guidance_pytorch import guidance
from classifier_free_guidance_pytorch.conditioners import (
    AttentionTextConditioner,
    ConcatTextConditioner,
    NullConditioner,
    PooledEmbeddingReturner,
    TextConditioner,
    TextEmbeddingReturner,
)
from classifier_free_guidance_pytorch.conditioners.prepared import CondFns, PreparedCondition, TextCondReturn
from classifier_free_guidance_pytorch.decorator import classifier_free_guidance, classifier_free_guidance_class_decorator
from classifier_free_guidance_pytorch.decorator.typed import CallKeywords, TextConditioned, TextConditionKeywords
from classifier_free_guidance_pytorch.modules import Part, text_conditioned
from classifier_free_guidance_pytorch.text import Precomputed, TextEncoding
from classifier_free_guidance_pytorch.text.hugging_face import BGEAdapter, HFTextAdapter
from classifier_free_guidance_pytorch.text.open_clip import OpenClipAdapter
from classifier_free_guidance_pytorch.text.t5 import T5Adapter

__version__ = '1.0.0'

__all__ = [
    'AttentionTextConditioner',
    'BGEAdapter',
    'CallKeywords',
    'ConcatTextConditioner',
    'CondFns',
    'HFTextAdapter',
    'NullConditioner',
    'OpenClipAdapter',
    'Part',
    'PooledEmbeddingReturner',
    'Precomputed',
    'PreparedCondition',
    'T5Adapter',
    'TextCondReturn',
    'TextConditionKeywords',
    'TextConditioned',
    'TextConditioner',
    'TextEmbeddingReturner',
    'TextEncoding',
    'classifier_free_guidance',
    'classifier_free_guidance_class_decorator',
    'guidance',
    'text_conditioned',
]
