"""What the encoders have in common whose weights are part of the package."""

from __future__ import annotations

import hashlib
from functools import cache
from pathlib import Path

from torch import Tensor

from classifier_free_guidance_pytorch.errors import MissingDependencyError, warn
from classifier_free_guidance_pytorch.text.hugging_face import TransformersEncoder
from classifier_free_guidance_pytorch.text.texts import shorten

_MOST_NAMED = 20  # words in one warning
_MOST_REMEMBERED = 1000  # unknown words; a stream of texts has new ones without an end


@cache
def _digest(folder: Path) -> str:
    """Return the revision of shipped weights: a later release may ship others under the same name."""
    return hashlib.sha256((folder / 'model.safetensors').read_bytes()).hexdigest()[:16]


class EmbeddedEncoder(TransformersEncoder):
    """Base of the encoders that need no download; words that they cannot read are named in one warning each.

    Attributes:
        weights: The folder in the package.
        advice: What the warning says after the words, of what the encoder reads and what to use instead.
    """

    weights: Path
    advice: str

    @property
    def _source(self) -> str:
        """The folder in the package; the name stays the default's, so that a pickled encoder works on another machine."""
        return str(self.weights) if self.name == self.default_name else self.name

    def _read(self, max_length: int | None) -> None:
        if not Path(self._source).is_dir():
            raise MissingDependencyError(
                f'model_types={self.default_name!r} reads its weights from {self._source!r}, which this installation lacks: '
                'reinstall the package, or pass a folder with such a model as model_names'
            )
        super()._read(max_length)
        self._named: frozenset[str] = frozenset()
        if self.name == self.default_name:
            self.revision = _digest(self.weights)

    def _tokenize(self, texts: tuple[str, ...]) -> tuple[Tensor, Tensor]:
        ids, mask = super()._tokenize(texts)  # (b, n)
        words = dict.fromkeys(word for row in self._suspects(ids, mask) for word in self._unread_words(texts[row]))
        new = [word for word in words if word not in self._named][: _MOST_REMEMBERED - len(self._named)]
        if new:
            self._named |= set(new)
            named = ', '.join(shorten(word, 30) for word in new[:_MOST_NAMED])
            end = '' if len(self._named) < _MOST_REMEMBERED else ', and no more are named'
            more = f' and {len(new) - _MOST_NAMED} more' if len(new) > _MOST_NAMED else ''
            warn(f'the encoder {self.default_name!r} does not know {named}{more}, {self.advice}. Every word is named once{end}')
        return ids, mask

    def _suspects(self, ids: Tensor, mask: Tensor) -> list[int]:
        """Return the rows of `(b, n)` ids that may have a word which the encoder cannot read."""
        raise NotImplementedError

    def _unread_words(self, text: str) -> list[str]:
        """Return the words of a text, as far as it is read, that the encoder cannot read."""
        raise NotImplementedError

    def _pieces(self, text: str) -> list[tuple[int, int, int]]:
        """Return token, start and stop of every piece of a text, as far as it is read."""
        read = self.tokenizer(text, truncation=True, max_length=self.max_text_len, return_offsets_mapping=True)
        return [(token, *place) for token, place in zip(read['input_ids'], read['offset_mapping'], strict=True)]
