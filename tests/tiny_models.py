"""Tiny models made with the real libraries, and an encoder that needs none of them."""

from __future__ import annotations

import functools
import zlib
from pathlib import Path

import torch

from classifier_free_guidance_pytorch.text import TextEncoding

CAPTIONS = [
    f'{article} {size} {colour} {shape} {where} a {other} {thing}'
    for article in ('a', 'the', 'one')
    for size in ('small', 'large', 'tiny')
    for colour in ('red', 'green', 'blue')
    for shape in ('circle', 'square', 'dog')
    for where in ('above', 'chasing after')
    for other in ('round', 'yellow')
    for thing in ('ball', 'triangle')
]


class TinyEncoder:
    """A user's own encoder: one token per word, random but fixed features, no library behind it.

    `calls` counts the batches that were encoded.
    """

    def __init__(self, dim_latent: int = 12, dim_pooled: int = 8, max_text_len: int = 16) -> None:
        self.dim_latent = dim_latent
        self.dim_pooled = dim_pooled
        self.max_text_len = max_text_len
        self.calls = 0

    def encode(self, texts):
        self.calls += 1
        words = [text.split()[: self.max_text_len] or [''] for text in texts]
        longest = max(map(len, words))
        tokens = torch.zeros(len(texts), longest, self.dim_latent)
        mask = torch.zeros(len(texts), longest, dtype=torch.bool)
        for row, text in enumerate(words):
            mask[row, : len(text)] = True
            for column, word in enumerate(text):
                tokens[row, column] = _features(word, self.dim_latent)
        pooled = torch.stack([_features(' '.join(text), self.dim_pooled) for text in words])
        return TextEncoding(tokens, mask, pooled)


def _features(word: str, dim: int) -> torch.Tensor:
    return torch.randn(dim, generator=torch.Generator().manual_seed(zlib.crc32(word.encode())))


def seeded(make):
    """Random weights that are the same in every run, without touching the test's own random state."""

    @functools.wraps(make)
    def wrapper(*args, **kwargs):
        with torch.random.fork_rng():
            torch.manual_seed(0)
            return make(*args, **kwargs)

    return wrapper


class TinyHub:
    """A hub cache in the layout of huggingface_hub; every model is made once, on demand."""

    def __init__(self, cache: Path) -> None:
        self.cache = cache

    def folder(self, name: str) -> Path:
        """The snapshot folder of `name`, made if it is not there."""
        revision = '0' * 40
        repository = self.cache / f'models--{name.replace("/", "--")}'
        (repository / 'refs').mkdir(parents=True, exist_ok=True)
        (repository / 'refs' / 'main').write_text(revision)
        snapshot = repository / 'snapshots' / revision
        snapshot.mkdir(parents=True, exist_ok=True)
        return snapshot

    def add(self, name: str, make) -> Path:
        """The folder of `name`, filled by `make(folder)` the first time."""
        folder = self.folder(name)
        if not any(folder.iterdir()):
            make(folder)
        return folder

    def t5(self, name: str = 'google/t5-v1_1-base', model_type: str = 't5') -> Path:
        return self.add(name, functools.partial(make_t5, model_type=model_type))


@seeded
def make_t5(folder: Path, model_type: str = 't5', dim: int = 32) -> None:
    """A T5 v1.1 with a real sentencepiece model, and only that: no `tokenizer.json`, as on the hub."""
    _repair()
    import sentencepiece
    import transformers

    corpus = folder.parent / f'corpus-{folder.name}.txt'
    corpus.write_text('\n'.join(CAPTIONS))
    sentencepiece.SentencePieceTrainer.train(
        input=str(corpus), model_prefix=str(folder / 'spiece'), vocab_size=60, model_type='unigram', hard_vocab_limit=False,
        pad_id=0, eos_id=1, unk_id=2, bos_id=-1, num_threads=1, minloglevel=2,
    )  # fmt: skip
    (folder / 'spiece.vocab').unlink()
    corpus.unlink()
    config_class = {'t5': transformers.T5Config, 'mt5': transformers.MT5Config, 'umt5': transformers.UMT5Config}[model_type]
    model_class = {
        't5': transformers.T5ForConditionalGeneration,
        'mt5': transformers.MT5ForConditionalGeneration,
        'umt5': transformers.UMT5ForConditionalGeneration,
    }[model_type]
    config = config_class(
        vocab_size=256, d_model=dim, d_kv=8, d_ff=64, num_layers=2, num_decoder_layers=1, num_heads=4,
        feed_forward_proj='gated-gelu', tie_word_embeddings=False, decoder_start_token_id=0,
    )  # fmt: skip
    model_class(config).save_pretrained(folder)
    (folder / 'tokenizer_config.json').write_text(
        '{"tokenizer_class": "T5Tokenizer", "eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>", "extra_ids": 100, '
        '"model_max_length": 512}'
    )


def _repair() -> None:
    """transformers' classes import torchvision, which may be built for another torch."""
    from classifier_free_guidance_pytorch.text.torchvision_repair import repair_torchvision

    repair_torchvision()
