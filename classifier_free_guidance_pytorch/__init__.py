"""Text conditioning and guidance for any PyTorch module.

strings -> encoders -> dropout / null -> conditioning layers -> callables in your forward
        -> two predictions -> a guidance rule

The names below load on first use, so that `import` alone costs nothing and a command can print its help at once.
"""

from __future__ import annotations

import importlib
import importlib.util
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
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

_HOMES = {
    'conditioners': (
        'AttentionTextConditioner', 'ConcatTextConditioner', 'NullConditioner', 'PooledEmbeddingReturner', 'TextConditioner',
        'TextEmbeddingReturner',
    ),
    'conditioners.prepared': ('CondFns', 'PreparedCondition', 'TextCondReturn'),
    'decorator': ('classifier_free_guidance', 'classifier_free_guidance_class_decorator'),
    'decorator.typed': ('CallKeywords', 'TextConditionKeywords', 'TextConditioned'),
    'modules': ('Part', 'text_conditioned'),
    'text': ('Precomputed', 'TextEncoding'),
    'text.hugging_face': ('BGEAdapter', 'HFTextAdapter'),
    'text.open_clip': ('OpenClipAdapter',),
    'text.t5': ('T5Adapter',),
}  # fmt: skip


def __getattr__(name: str) -> Any:
    home = next((module for module, names in _HOMES.items() if name in names), None)
    if home is not None:
        value = globals()[name] = getattr(importlib.import_module(f'{__name__}.{home}'), name)
        return value
    if name.startswith('_') or importlib.util.find_spec(f'{__name__}.{name}') is None:
        raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
    return importlib.import_module(f'{__name__}.{name}')


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
