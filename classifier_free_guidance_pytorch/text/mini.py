"""The embedded encoder: a small CLIP-style text model whose weights are part of the package, so it needs no download."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from functools import cache
from os import PathLike
from pathlib import Path

import torch
from torch import Tensor

from classifier_free_guidance_pytorch.errors import MissingDependencyError, checked
from classifier_free_guidance_pytorch.text.hugging_face import HFTextAdapter
from classifier_free_guidance_pytorch.text.identity import EncoderIdentity
from classifier_free_guidance_pytorch.text.texts import shortened

_WEIGHTS = Path(__file__).parent / 'mini_weights'


@cache
def _digest_of_weights() -> str:
    """What tells these weights from those of another release."""
    return hashlib.sha256((_WEIGHTS / 'model.safetensors').read_bytes()).hexdigest()[:16]


class MiniAdapter(HFTextAdapter):
    """The encoder in the package; pooled is the mean of the last hidden state over the real tokens.

    It knows the few hundred words of the captions it was trained on, and nothing else: a text that is mostly outside its
    vocabulary is encoded all the same, with one warning.

    Example:
        >>> encoding = MiniAdapter().encode(['a red circle', 'a small blue square above a green triangle'])
        >>> encoding.mask.sum(dim=1).tolist()  # words, and the start and end tokens
        [5, 10]
    """

    default_name = 'mini'

    @checked
    def __init__(
        self,
        name: str | PathLike[str] | None = None,
        *,
        device: torch.device | str | int | None = None,
        dtype: torch.dtype | None = None,
        max_length: int | None = None,
        text_embed_pad_value: float | int = 0.0,
    ) -> None:
        super().__init__(
            name, pooling='mean', device=device, dtype=dtype, max_length=max_length, text_embed_pad_value=text_embed_pad_value
        )

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

    @property
    def identity(self) -> EncoderIdentity:
        """Of the shipped weights it states their digest, since a later release may ship others under the same name."""
        if self.name != self.default_name:
            return super().identity
        return replace(super().identity, revision=_digest_of_weights())

    def _tokenize(self, texts: tuple[str, ...]) -> tuple[Tensor, Tensor]:
        ids, mask = super()._tokenize(texts)
        special = torch.isin(ids, torch.tensor(sorted(set(self.tokenizer.all_special_ids) - {self.tokenizer.unk_token_id})))
        words = (mask & ~special).sum(dim=1)
        unknown = (mask & (ids == self.tokenizer.unk_token_id)).sum(dim=1)
        strange = (2 * unknown > words).nonzero().flatten().tolist()
        if strange:
            self._warn_once(
                'vocabulary',
                f"the encoder 'mini' does not know most words of {shortened(texts[strange[0]])}: it was trained on captions "
                "of coloured shapes, so for free text use another, such as 't5' or 'clip'. This warning is given once",
            )
        return ids, mask
