"""What a text encoder returns: tokens, a mask that marks the real ones, and one pooled vector per text.

The mask comes from the tokenizer and stays with the tokens. Nothing infers it from values.
"""

from __future__ import annotations

import json
import operator
from collections.abc import Sequence
from dataclasses import dataclass
from os import PathLike
from typing import SupportsIndex

import torch
import torch.nn.functional as F
from torch import Tensor

from classifier_free_guidance_pytorch.errors import ConfigError, ShapeError
from classifier_free_guidance_pytorch.rows import Rows
from classifier_free_guidance_pytorch.text.identity import EncoderIdentity


@dataclass(frozen=True, eq=False)
class TextEncoding(Rows):
    """The frozen features of a batch of texts.

    Attributes:
        tokens: One feature per token, `(b, n, dim_latent)`; `n` is 0 where only pooled features were stored.
        mask: `(b, n)`, boolean, True where the token is real and False where it is padding.
        pooled: One feature per text, `(b, dim_pooled)`; of width 0 where only tokens were stored.
        origin: The encoder that made it, where that is known. Conditioners for a different encoder refuse it.

    Raises:
        ShapeError: The three tensors do not describe the same batch.
        ConfigError: The mask is not boolean.

    Example:
        >>> encoding = TextEncoding(torch.randn(2, 5, 8), torch.ones(2, 5, dtype=torch.bool), torch.randn(2, 8))
        >>> len(encoding), encoding[:1].tokens.shape
        (2, torch.Size([1, 5, 8]))
    """

    tokens: Tensor
    mask: Tensor
    pooled: Tensor
    origin: EncoderIdentity | None = None

    def __post_init__(self) -> None:
        tokens, mask, pooled = self.tokens, self.mask, self.pooled
        if tokens.ndim != 3 or pooled.ndim != 2 or mask.shape != tokens.shape[:2] or len(pooled) != len(tokens):
            raise ShapeError(
                'a TextEncoding needs tokens (b, n, d), mask (b, n) and pooled (b, d) of one batch, '
                f'but got {tuple(tokens.shape)}, {tuple(mask.shape)} and {tuple(pooled.shape)}'
            )
        if mask.dtype != torch.bool:
            raise ConfigError(
                f'the mask of a TextEncoding is boolean, True = a real token, but got {mask.dtype}: pass mask.bool()'
            )

    @staticmethod
    def of(tokens: Tensor | None = None, pooled: Tensor | None = None, mask: Tensor | None = None) -> TextEncoding:
        """Return an encoding of features that were made in any other way: labels, vectors, images.

        Args:
            tokens: `(b, n, d)`; left out where there are none.
            pooled: `(b, d)`; left out where there are none.
            mask: `(b, n)`, boolean; by default every token is real.

        Raises:
            ConfigError: Nothing is given.
            ShapeError: The tensors do not describe the same batch.

        Example:
            >>> TextEncoding.of(pooled=torch.eye(10)[[3, 7]]).pooled.shape
            torch.Size([2, 10])
        """
        given = pooled if tokens is None else tokens
        if given is None:
            raise ConfigError('TextEncoding.of needs tokens (b, n, d), pooled (b, d), or both')
        tokens = given.new_zeros(len(given), 0, 0) if tokens is None else tokens
        pooled = given.new_zeros(len(given), 0) if pooled is None else pooled
        return TextEncoding(tokens, tokens.new_ones(tokens.shape[:2], dtype=torch.bool) if mask is None else mask, pooled)

    def __len__(self) -> int:
        return len(self.tokens)

    def __getitem__(self, index: SupportsIndex | slice | Sequence[int] | Tensor) -> TextEncoding:
        """Return some of the texts, always as a batch: `encoding[3]` is a batch of one.

        Raises:
            IndexError: There is no such text.
        """
        if isinstance(index, slice) or (isinstance(index, Tensor) and index.ndim):
            return self.index(index)
        # A list always: a bare number would drop the batch, and a tuple would index the other dimensions.
        places = [operator.index(index)] if isinstance(index, SupportsIndex) else list(index)
        for place in places:
            if not -len(self) <= place < len(self):
                raise IndexError(f'text {place} of an encoding of {len(self)} texts')
        return self.index(places)

    def pin_memory(self) -> TextEncoding:
        """Copy to page-locked memory, as a `DataLoader` with `pin_memory=True` asks of what it collates."""
        return self.map(lambda t: t.pin_memory())

    def padded(self, length: int) -> TextEncoding:
        """Return the same encoding with room for `length` tokens; the new ones are zeros, and masked out.

        Raises:
            ShapeError: It has more tokens than that.
        """
        missing = length - self.tokens.shape[1]
        if missing < 0:
            raise ShapeError(f'cannot pad an encoding of {self.tokens.shape[1]} tokens to {length}')
        return TextEncoding(F.pad(self.tokens, (0, 0, 0, missing)), F.pad(self.mask, (0, missing)), self.pooled, self.origin)

    @staticmethod
    def collate(encodings: Sequence[TextEncoding]) -> TextEncoding:
        """Join batches into one, padded to the longest text; fits a `DataLoader` as `collate_fn`.

        Raises:
            ConfigError: There is nothing to join, or different encoders made the encodings.
        """
        if not encodings:
            raise ConfigError('TextEncoding.collate needs at least one encoding, but got an empty sequence')
        origins = dict.fromkeys(encoding.origin for encoding in encodings)
        if len(origins) > 1:
            names = ', '.join('an unknown one' if origin is None else str(origin) for origin in origins)
            raise ConfigError(f'TextEncoding.collate joins encodings of one encoder, but got those of {names}')
        longest = max(encoding.tokens.shape[1] for encoding in encodings)
        padded = [encoding.padded(longest) for encoding in encodings]
        tokens, mask, pooled = (torch.cat([getattr(e, name) for e in padded]) for name in ('tokens', 'mask', 'pooled'))
        return TextEncoding(tokens, mask, pooled, encodings[0].origin)

    def save(self, path: str | PathLike[str]) -> None:
        """Write the encoding to one safetensors file, with its origin."""
        from safetensors.torch import save_file

        # Clones, because pooled may be a view of the tokens, and safetensors refuses tensors that share memory.
        tensors = {'tokens': self.tokens, 'mask': self.mask, 'pooled': self.pooled}
        tensors = {name: tensor.clone(memory_format=torch.contiguous_format) for name, tensor in tensors.items()}
        save_file(tensors, path, None if self.origin is None else {'origin': json.dumps(self.origin.as_json())})

    @staticmethod
    def load(path: str | PathLike[str], device: str | int = 'cpu') -> TextEncoding:
        """Read what `save` wrote.

        Raises:
            ConfigError: The file holds something else.
        """
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(path, 'pt', device=device) as file:
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
                stated = (file.metadata() or {}).get('origin')
        except SafetensorError as error:
            raise ConfigError(f'{path} is not a safetensors file, as TextEncoding.save writes it ({error})') from error
        if tensors.keys() != {'tokens', 'mask', 'pooled'}:
            raise ConfigError(f'{path} holds {sorted(tensors)}, not the tokens, mask and pooled of a saved TextEncoding')
        return TextEncoding(**tensors, origin=None if stated is None else EncoderIdentity.from_json(json.loads(stated)))
