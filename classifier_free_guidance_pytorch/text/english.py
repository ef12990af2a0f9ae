"""The embedded encoder of English: a small ELECTRA encoder, distilled from all-MiniLM-L6-v2, whose weights are in the package."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor

from classifier_free_guidance_pytorch.text.embedded import EmbeddedEncoder

_SHORT = 2  # characters: a piece that says next to nothing
_SCATTERED = 3  # so many short pieces, and nothing longer, are a word in letters


class EnglishAdapter(EmbeddedEncoder):
    """An encoder of English that needs no download; pooled is the mean of the last hidden state over the real tokens.

    Texts that mean the same have pooled features that lie close together. What it knows and does not know, with its scores, is in
    `text/english_weights/README.md`. It warns once of every word that falls into letters because it has no wordpieces for it:
    misspelled words, and those of other languages.

    Example:
        >>> import torch
        >>> cat, kitten, bridge = EnglishAdapter().encode(['a cat', 'a kitten', 'a bridge']).pooled
        >>> bool(torch.cosine_similarity(cat, kitten, dim=0) > torch.cosine_similarity(cat, bridge, dim=0))
        True
    """

    default_name = 'english'
    weights = Path(__file__).parent / 'english_weights'
    advice = (
        'which fall into letters: it reads English, so check the spelling, or for other languages use a different encoder, such '
        "as 'hf' with a multilingual model"
    )

    def _suspects(self, ids: Tensor, mask: Tensor) -> list[int]:
        return list(range(len(ids)))

    def _unread_words(self, text: str) -> list[str]:
        unknown, words = self.tokenizer.unk_token_id, list[list[tuple[int, int, int]]]()
        for token, start, stop in self._pieces(text):
            if start == stop:  # a start or end token
                continue
            if words and words[-1][-1][2] == start and text[start].isalpha() and text[start - 1].isalpha():
                words[-1].append((token, start, stop))
            else:
                words.append([(token, start, stop)])
        return [text[word[0][1] : word[-1][2]].lower() for word in words if _is_lost(word, unknown)]


def _is_lost(word: list[tuple[int, int, int]], unknown: int) -> bool:
    """Whether a word is unknown, or falls into pieces of which none is longer than two characters."""
    if any(token == unknown for token, *_ in word):
        return True
    return len(word) >= _SCATTERED and all(stop - start <= _SHORT for _, start, stop in word)
