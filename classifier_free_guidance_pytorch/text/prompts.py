"""Prompts of CLIP that are longer than its context, and words in them that count more or less. Both are asked for.

A long prompt is cut into chunks. Each has its own start and end token, as CLIP was trained, and is encoded by itself; the tokens
of all are joined. The pooled feature is that of the first chunk: CLIP pools at one end token, and a prompt that fits into one
chunk is encoded as without chunks. The web UI of Stable Diffusion (`sd_hijack_clip.py`) and ComfyUI (`sd1_clip.py`) do the same.

A weight `w` moves the feature `z` of a token along the line from `z0`, which the empty prompt has at the same position:
`z0 + w * (z - z0)`, the rule of ComfyUI (`encode_token_weights` in `sd1_clip.py`). The web UI's rule, `w * z` scaled back to the
mean of the prompt, changes every other token too, and does little to an attention that normalises its tokens, as that of the
conditioners does.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from classifier_free_guidance_pytorch.errors import ConfigError
from classifier_free_guidance_pytorch.text.base import TextEncoder
from classifier_free_guidance_pytorch.text.encoding import TextEncoding
from classifier_free_guidance_pytorch.text.networks import Device
from classifier_free_guidance_pytorch.text.texts import as_texts
from classifier_free_guidance_pytorch.text.word_weights import (
    Part,
    WordWeights,
    checked_weights,
    find_words,
    read_written,
)


class PromptEncoder(TextEncoder):
    """Base of the adapters that read the prompts of CLIP: in chunks, and with weights of words, where that is asked for.

    An adapter calls `_check_prompts` before it reads its model and `_begin_prompts` after. `_token_ids`, `_around` and `_is_clip`
    say what its tokenizer and its tower do.

    Attributes:
        chunks: The largest number of chunks of a text; 1 for the model's own limit.
        parse_weights: Whether `(word:1.3)` in a text is a weight.
    """

    chunks: int = 1
    parse_weights: bool = False
    _length: int  # of a chunk, start and end token included

    def _token_ids(self, text: str) -> list[int]:
        """Return the token ids of a text, however many, without those of start and end."""
        raise NotImplementedError

    def _around(self) -> tuple[int, int, int]:
        """Return the ids of the start, of the end and of the padding of a chunk."""
        raise NotImplementedError

    def _is_clip(self) -> bool:
        """Return whether the tower is causal, with one token at the start and one at the end of a text, as CLIP's is."""
        raise NotImplementedError

    def _check_prompts(self, chunks: int, parse_weights: bool) -> None:
        """Take the options."""
        if chunks < 1:
            raise ConfigError(f'chunks is the largest number of chunks that a text is cut into, at least 1, but got {chunks}')
        self.chunks, self.parse_weights = chunks, parse_weights

    def _begin_prompts(self) -> None:
        """Refuse options that the model cannot follow, and set the limit of a text."""
        asked = {'chunks': self.chunks > 1, 'parse_weights': self.parse_weights}
        self._check_is_clip(next((name for name, is_asked in asked.items() if is_asked), None))
        self._length = self.max_text_len
        if any(asked.values()) and self._length < 3:
            raise ConfigError(f'max_length={self._length} leaves no token for the words between start and end: it is at least 3')
        self.max_text_len *= self.chunks
        if self._is_clip():
            self._how_to_read_more = 'raise chunks, to read them in parts'

    def _check_is_clip(self, option: str | None) -> None:
        if option is not None and not self._is_clip():
            raise ConfigError(
                f'{option} is for the text towers of CLIP, which read one start, the words and one end, in order, but '
                f'{self.name!r} is another kind of model: leave it out'
            )

    @property
    def _reads_prompts(self) -> bool:
        """Whether texts are read here, and not by the tokenizer alone."""
        return self.chunks > 1 or self.parse_weights

    def _settings_of_prompts(self) -> dict[str, Any]:
        """Return what was asked for, if anything: encodings from before there were options keep their identity."""
        asked = {'chunks': self.chunks if self.chunks > 1 else None, 'parse_weights': self.parse_weights or None}
        return {name: value for name, value in asked.items() if value is not None}

    def encode(
        self,
        texts: Sequence[str],
        *,
        word_weights: WordWeights | None = None,
        device: Device | None = None,
        dtype: torch.dtype | None = None,
    ) -> TextEncoding:
        """Return the features of a batch of texts, padded to the longest of them and zero at the padding.

        Args:
            texts: A list, tuple or NumPy array of strings.
            word_weights: For each text a dict of words and their weights, or None: `[{'red ball': 1.3}, None]`. With 1 nothing
                changes, with 0 a word has the features of an empty prompt, and more than 1 insists on it. The pooled feature
                has no weights: CLIP makes it at the end token.
            device: The caller's device. The network moves there, unless the encoder was given a device of its own.
            dtype: The caller's precision; likewise.

        Returns:
            Tokens `(b, n, dim_latent)`, mask `(b, n)` and pooled `(b, dim_pooled)`, on the caller's device in the caller's dtype.

        Raises:
            ConfigError: `texts` is not a batch of strings, or a weighted word is not in its text.
            MissingDependencyError: The weights cannot be read.
        """
        if word_weights is None:
            return super().encode(texts, device=device, dtype=dtype)
        self._check_is_clip('word_weights')
        texts = as_texts(texts)
        given = checked_weights(word_weights, len(texts))
        with self._tokenizer_lock:
            parts = self._tokenize_prompts(texts, given)
        return self.encode_ids(*parts, device=device, dtype=dtype)

    def _tokenize_prompts(self, texts: Sequence[str], given: Sequence[Any] = ()) -> tuple[Tensor, ...]:
        """Return token ids and mask, both `(b, chunks * length)`, and the weights, where there can be some.

        A chunk in the middle is full. The last one of a text is padded to the length of a chunk, and so are those that it lacks.
        """
        room = self._length - 2
        start, end, pad = self._around()
        rows, cut = [], []
        for place, text in enumerate(texts):
            plain, parts = read_written(text) if self.parse_weights else (text, [])
            parts += find_words(plain, given[place], f'word_weights[{place}]') if given else []
            ids = self._token_ids(plain)
            weights = self._weights_of(ids, plain, parts)
            cut.append(len(ids) > room * self.chunks)
            first = range(0, min(max(len(ids), 1), room * self.chunks), room)  # of every chunk
            rows.append([([start, *ids[i : i + room], end], [1.0, *weights[i : i + room], 1.0]) for i in first])
        self._warn_of_truncated(texts, torch.tensor(cut), lambda _: True)
        shape = len(rows), max(map(len, rows)), self._length
        ids_of_all = torch.full(shape, pad)  # (b, c, n)
        mask, weights_of_all = torch.zeros(shape, dtype=torch.bool), torch.ones(shape)
        for i, row in enumerate(rows):
            for j, (ids, weights) in enumerate(row):
                ids_of_all[i, j, : len(ids)] = torch.tensor(ids)
                weights_of_all[i, j, : len(ids)] = torch.tensor(weights)
                mask[i, j, : len(ids)] = True
        found = (ids_of_all, mask, weights_of_all) if given or self.parse_weights else (ids_of_all, mask)
        return tuple(one.flatten(1) for one in found)  # (b, c * n)

    def _weights_of(self, ids: list[int], text: str, parts: Sequence[Part]) -> list[float]:
        """Return the weight of every token of a text: the product of those of the parts that it is in, wholly or in part.

        A part's tokens are counted by tokenizing what stands before it and what stands before its end. The ids stay those of the
        whole text: a weight of 1 changes nothing, wherever a part begins.
        """
        weights = [1.0] * len(ids)
        for part in parts:
            if not self._token_ids(text[part.start : part.stop]):
                continue
            before = self._token_ids(text[: part.start])
            first = next((i for i, (one, other) in enumerate(zip(before, ids, strict=False)) if one != other), len(before))
            last = max(first + 1, len(self._token_ids(text[: part.stop])))
            weights[first:last] = [weight * part.weight for weight in weights[first:last]]
        return weights

    def _features(self, network: Any, ids: Tensor, mask: Tensor, weights: Tensor | None = None) -> TextEncoding:
        is_long = self.chunks > 1 and ids.shape[1] > self._length
        read = self._join(network, ids, mask) if is_long else self._forward(network, ids, mask)  # (b, n, d)
        if weights is None or bool((weights == 1).all()):
            return read
        weights = weights[:, : read.tokens.shape[1], None].to(read.tokens)  # (b, n, 1)
        empty = self._empty_prompt(network, ids).repeat(1, -(-weights.shape[1] // self._length), 1)[
            :, : weights.shape[1]
        ]  # (1, n, d)
        moved = torch.where(weights == 1, read.tokens, torch.lerp(empty, read.tokens, weights))
        return TextEncoding(moved, read.mask, read.pooled)

    def _join(self, network: Any, ids: Tensor, mask: Tensor) -> TextEncoding:
        """Encode all chunks at once, and join those of a text."""
        count, length = len(ids), self._length
        ids, flat = ids.view(-1, length), mask.view(-1, length)  # (b * c, n)
        real = flat.any(dim=1)
        read = self._forward(network, ids[real], flat[real])
        tokens = read.tokens.new_zeros(len(ids), length, read.tokens.shape[-1])
        tokens[real, : read.tokens.shape[1]] = read.tokens
        longest = int(mask.sum(dim=1).max())
        tokens = tokens.view(count, -1, tokens.shape[-1])[:, :longest]  # (b, n of the longest text, d)
        first = real.cumsum(dim=0).view(count, -1)[:, 0] - 1  # (b,); among the chunks that were read
        return TextEncoding(tokens, mask[:, :longest], read.pooled[first])

    def _empty_prompt(self, network: Any, like: Tensor) -> Tensor:
        """Return what the empty prompt has at every position of a chunk, `(1, n, d)`: behind its end too, as CLIP was trained."""
        start, end, pad = self._around()
        ids = like.new_tensor([[start, end, *[pad] * (self._length - 2)]])
        return self._forward(network, ids, torch.ones_like(ids, dtype=torch.bool)).tokens
