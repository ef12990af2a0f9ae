"""The embedded encoder: a small CLIP-style text model whose weights are part of the package, so it needs no download."""

from __future__ import annotations

import hashlib
from functools import cache
from pathlib import Path

from torch import Tensor

from classifier_free_guidance_pytorch.errors import MissingDependencyError, warn
from classifier_free_guidance_pytorch.text.hugging_face import TransformersEncoder
from classifier_free_guidance_pytorch.text.texts import shorten

_WEIGHTS = Path(__file__).parent / 'mini_weights'
_MOST_NAMED = 20  # unknown words in one warning


@cache
def _digest_of_weights() -> str:
    """Return the revision of the shipped weights: a later release may ship others under the same name."""
    return hashlib.sha256((_WEIGHTS / 'model.safetensors').read_bytes()).hexdigest()[:16]


class MiniAdapter(TransformersEncoder):
    """The encoder in the package; pooled is the mean of the last hidden state over the real tokens.

    It knows only the few hundred words of the captions it was trained on. It encodes any other text too, and warns of every word
    that it does not know, once.

    Example:
        >>> encoding = MiniAdapter().encode(['a red circle', 'a small blue square above a green triangle'])
        >>> encoding.mask.sum(dim=1).tolist()  # words, and the start and end tokens
        [5, 10]
    """

    default_name = 'mini'

    @property
    def _source(self) -> str:
        """The folder in the package; the name stays 'mini', so that a pickled encoder works on another machine."""
        return str(_WEIGHTS) if self.name == self.default_name else self.name

    def _read(self, max_length: int | None) -> None:
        if not Path(self._source).is_dir():
            raise MissingDependencyError(
                f"model_types='mini' reads its weights from {self._source!r}, which this installation lacks: "
                'reinstall the package, or pass a folder with such a model as model_names'
            )
        super()._read(max_length)
        self._named: frozenset[str] = frozenset()
        if self.name == self.default_name:
            self.revision = _digest_of_weights()

    def _tokenize(self, texts: tuple[str, ...]) -> tuple[Tensor, Tensor]:
        ids, mask = super()._tokenize(texts)  # (b, n)
        unknown = mask & (ids == self.tokenizer.unk_token_id)
        rows = unknown.any(dim=1).nonzero().flatten().tolist()
        words = dict.fromkeys(word for row in rows for word in self._unknown_words(texts[row]))
        new = [word for word in words if word not in self._named]
        if new:
            self._named |= set(new)
            named = ', '.join(shorten(word, 30) for word in new[:_MOST_NAMED])
            more = f' and {len(new) - _MOST_NAMED} more' if len(new) > _MOST_NAMED else ''
            warn(
                f"the encoder 'mini' does not know {named}{more}, and cannot tell them apart: it was trained on captions of "
                "coloured shapes, so for free text use a different encoder, such as 't5' or 'clip'. Every word is named once"
            )
        return ids, mask

    def _unknown_words(self, text: str) -> list[str]:
        """Return the words of a text, as far as it is read, that have no token."""
        read = self.tokenizer(text, truncation=True, max_length=self.max_text_len, return_offsets_mapping=True)
        places = zip(read['input_ids'], read['offset_mapping'], strict=True)
        return [text[start:stop].lower() for token, (start, stop) in places if token == self.tokenizer.unk_token_id]
