"""The embedded encoder of drawn shapes: a small CLIP-style text model whose weights are part of the package."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor

from classifier_free_guidance_pytorch.text.embedded import EmbeddedEncoder


class MiniAdapter(EmbeddedEncoder):
    """The smallest encoder in the package; pooled is the mean of the last hidden state over the real tokens.

    It knows only the few hundred words of the captions it was trained on. It encodes any other text too, and warns of every word
    that it does not know, once.

    Example:
        >>> encoding = MiniAdapter().encode(['a red circle', 'a small blue square above a green triangle'])
        >>> encoding.mask.sum(dim=1).tolist()  # words, and the start and end tokens
        [5, 10]
    """

    default_name = 'mini'
    weights = Path(__file__).parent / 'mini_weights'
    advice = (
        'and cannot tell them apart: it was trained on captions of coloured shapes, so for free text use a different encoder, '
        "such as 'english', 't5' or 'clip'"
    )

    def _suspects(self, ids: Tensor, mask: Tensor) -> list[int]:
        unknown = mask & (ids == self.tokenizer.unk_token_id)
        return [int(row) for row in unknown.any(dim=1).nonzero()]

    def _unread_words(self, text: str) -> list[str]:
        return [text[start:stop].lower() for token, start, stop in self._pieces(text) if token == self.tokenizer.unk_token_id]
