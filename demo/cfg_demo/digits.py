"""Real handwriting: the 1797 digits of scikit-learn, 8 x 8 pixels each, with captions, and a classifier that reads them."""

from __future__ import annotations

from collections.abc import Sequence
from zlib import crc32

import torch
from torch import Tensor

from classifier_free_guidance_pytorch import TextEncoding

NAMES = ('zero', 'one', 'two', 'three', 'four', 'five', 'six', 'seven', 'eight', 'nine')
WORDS = 4  # in a caption, at most


class WordEncoder:
    """A text encoder for captions of a few words: a fixed random vector for each word, and their sum for the caption."""

    dim_latent = dim_pooled = 64
    max_text_len = WORDS

    def encode(self, texts: Sequence[str]) -> TextEncoding:
        """Return the vectors of the words of every text, and their sum."""
        words = [torch.stack([_vector(word) for word in text.split()[:WORDS] or ['']]) for text in texts]
        tokens = torch.nn.utils.rnn.pad_sequence(words, batch_first=True)  # (b, n, 64)
        lengths = torch.tensor([len(one) for one in words])
        return TextEncoding(tokens, torch.arange(tokens.shape[1]) < lengths[:, None], tokens.sum(dim=1))


def _vector(word: str) -> Tensor:
    return torch.randn(WordEncoder.dim_latent, generator=torch.Generator().manual_seed(crc32(word.encode())))


def captioned_digits() -> tuple[Tensor, list[str]]:
    """Return all pictures, `(1797, 64)` from -1 to 1, and a caption of each: 'a bold seven', 'a thin one', 'a handwritten six'.

    The third of them with the most ink is bold, and the third with the least is thin.
    """
    from sklearn.datasets import load_digits

    pixels, labels = load_digits(return_X_y=True)
    pictures = torch.tensor(pixels, dtype=torch.float32) / 8 - 1
    ink = pictures.mean(dim=1)
    thin, bold = ink.quantile(1 / 3), ink.quantile(2 / 3)
    strokes = ['thin' if one < thin else 'bold' if one > bold else 'handwritten' for one in ink]
    return pictures, [f'a {stroke} {NAMES[label]}' for stroke, label in zip(strokes, labels, strict=True)]


class Reader:
    """Reads digits: a support vector machine, fitted to the real ones."""

    def __init__(self) -> None:
        from sklearn.svm import SVC

        pictures, captions = captioned_digits()
        self.classifier = SVC(gamma=0.001).fit(_pixels(pictures), [caption.split()[-1] for caption in captions])

    def share(self, pictures: Tensor, texts: Sequence[str]) -> float:
        """Return the share of pictures `(b, 64)` that are read as the digit their text names."""
        read = self.classifier.predict(_pixels(pictures))
        return sum(one == text.split()[-1] for one, text in zip(read, texts, strict=True)) / len(texts)


def _pixels(pictures: Tensor) -> object:
    """Return pictures as scikit-learn has them, from 0 to 16."""
    return (8 * (pictures + 1)).clamp(0, 16).numpy()
