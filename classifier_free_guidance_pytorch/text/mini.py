"""The embedded encoder: a small CLIP-style text model whose weights are part of the package, so it needs no download."""

from __future__ import annotations

import hashlib
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

from classifier_free_guidance_pytorch.errors import MissingDependencyError
from classifier_free_guidance_pytorch.text.hugging_face import TransformersEncoder
from classifier_free_guidance_pytorch.text.texts import shorten

_WEIGHTS = Path(__file__).parent / 'mini_weights'


@cache
def _digest_of_weights() -> str:
    """Return the revision of the shipped weights: a later release may ship others under the same name."""
    return hashlib.sha256((_WEIGHTS / 'model.safetensors').read_bytes()).hexdigest()[:16]


class MiniAdapter(TransformersEncoder):
    """The encoder in the package; pooled is the mean of the last hidden state over the real tokens.

    It knows only the few hundred words of the captions it was trained on. It encodes any other text too, and warns once if it
    does not know most of the words.

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
        if self.name == self.default_name:
            self.revision = _digest_of_weights()

    def _tokenize(self, texts: tuple[str, ...]) -> tuple[Tensor, Tensor]:
        ids, mask = super()._tokenize(texts)  # (b, n)
        special = torch.isin(ids, torch.tensor(sorted(set(self.tokenizer.all_special_ids) - {self.tokenizer.unk_token_id})))
        words = (mask & ~special).sum(dim=1)  # (b,)
        unknown = (mask & (ids == self.tokenizer.unk_token_id)).sum(dim=1)
        unfamiliar = (2 * unknown > words).nonzero().flatten().tolist()
        if unfamiliar:
            self._warn_once(
                'vocabulary',
                f"the encoder 'mini' does not know most words of {shorten(texts[unfamiliar[0]])}: it was trained on captions "
                "of coloured shapes, so for free text use another, such as 't5' or 'clip'. This warning is given once",
            )
        return ids, mask
