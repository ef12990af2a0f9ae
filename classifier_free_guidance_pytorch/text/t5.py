"""T5 and its relatives: T5 v1.1, Flan-T5, mT5, UMT5 and ByT5, encoder only."""

from __future__ import annotations

from typing import Any

from classifier_free_guidance_pytorch.errors import ConfigError
from classifier_free_guidance_pytorch.text.hugging_face import TransformersEncoder

_TYPES = ('t5', 'mt5', 'umt5')


class T5Adapter(TransformersEncoder):
    """The encoder of a T5 model; pooled is the mean of its last hidden state over the real tokens.

    The default is `google/t5-v1_1-base`. Its limit of 256 tokens can be raised with `max_length`: T5 has relative
    positions. In float16 some layers stay in float32, because T5's activations overflow (bfloat16 has no such limit).

    Papers: https://arxiv.org/abs/1910.10683 (T5), https://arxiv.org/abs/2205.11487 (T5 for text to image).
    """

    default_name = 'google/t5-v1_1-base'

    def _text_config(self, config: Any) -> Any:
        if config.model_type not in _TYPES:
            raise ConfigError(
                f'T5Adapter reads models of type {", ".join(_TYPES)}, but {self.name!r} is of type {config.model_type!r}: '
                "use model_types='hf'"
            )
        return config

    def _token_limit(self, text_config: Any, max_length: int | None) -> int:
        return max_length or 256  # relative positions set no limit; 256 tokens are what 0.7.1 and Imagen use

    def _settings(self) -> dict[str, Any]:
        return {'subfolder': self.subfolder} if self.subfolder else {}  # one pooling and one layer, which stores do not state
