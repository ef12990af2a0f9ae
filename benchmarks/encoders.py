"""Text encoders for measurements: one that costs nothing, and T5-base and ViT-B-32 in their real sizes at random weights."""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch

from classifier_free_guidance_pytorch import TextEncoding
from classifier_free_guidance_pytorch.text.torchvision_repair import repair_torchvision

ANIMALS = ('dog', 'cat', 'fox', 'owl', 'hare', 'horse', 'heron', 'otter')
PLACES = ('in the snow', 'by the sea', 'under a tree', 'at night', 'on a hill', 'in a garden')
TEXTS = [f'a {animal} chasing after a ball {place}, oil on canvas' for animal in ANIMALS for place in PLACES]


class WordEncoder:
    """A fixed random feature for every word; as wide as T5-base, and free of charge, so that it hides no other cost."""

    def __init__(self, dim: int = 768) -> None:
        self.dim_latent = self.dim_pooled = dim
        self.max_text_len = 512

    def encode(self, texts: Sequence[str]) -> TextEncoding:
        """One token per word."""
        words = [text.split()[: self.max_text_len] or [''] for text in texts]
        longest = max(map(len, words))
        mask = torch.tensor([[column < len(row) for column in range(longest)] for row in words])
        tokens = torch.stack(
            [torch.stack([self._feature(row[i] if i < len(row) else '') for i in range(longest)]) for row in words]
        )
        tokens = tokens * mask[..., None]
        return TextEncoding(tokens, mask, tokens.sum(dim=1) / mask.sum(dim=1, keepdim=True))

    def _feature(self, word: str) -> torch.Tensor:
        return torch.randn(self.dim_latent, generator=torch.Generator().manual_seed(zlib.crc32(word.encode())))


def texts(count: int, words: int | None = None) -> list[str]:
    """Different texts, cut or repeated to a number of words if one is given."""
    chosen = [TEXTS[i % len(TEXTS)] for i in range(count)]
    if words is None:
        return chosen
    return [' '.join((text.split() * words)[:words]) for text in chosen]


BASE = {'d_model': 768, 'd_kv': 64, 'd_ff': 2048, 'num_layers': 12, 'num_heads': 12}
XXL = {'d_model': 4096, 'd_kv': 64, 'd_ff': 10240, 'num_layers': 24, 'num_heads': 64}


def save_t5(
    folder: Path, tiny: bool = False, sizes: Mapping[str, int] = BASE, dtype: torch.dtype = torch.float32, weights: bool = True
) -> Path:
    """The encoder of a T5 v1.1 in a folder that its adapter reads by path: base size, a tokenizer trained on the spot.

    Args:
        folder: to be made.
        tiny: a small width in place of that of `sizes`.
        sizes: `BASE`, `XXL`, or a part of one.
        dtype: of the weights on the disk.
        weights: whether there are any; those of XXL take 9 GB.
    """
    import sentencepiece

    repair_torchvision()
    import transformers

    folder.mkdir(parents=True)
    corpus = folder.parent / 'corpus.txt'
    corpus.write_text('\n'.join(TEXTS), encoding='utf-8')
    sentencepiece.SentencePieceTrainer.train(
        input=str(corpus), model_prefix=str(folder / 'spiece'), vocab_size=200, model_type='unigram', hard_vocab_limit=False,
        num_threads=1, minloglevel=2, pad_id=0, eos_id=1, unk_id=2, bos_id=-1,
    )  # fmt: skip
    settings = {
        'tokenizer_class': 'T5Tokenizer',
        'eos_token': '</s>',
        'unk_token': '<unk>',
        'pad_token': '<pad>',
        'extra_ids': 100,
    }
    (folder / 'tokenizer_config.json').write_text(json.dumps(settings), encoding='utf-8')
    small = {'d_model': 32, 'd_kv': 8, 'd_ff': 64, 'num_layers': min(2, sizes['num_layers']), 'num_heads': 4}
    chosen = small if tiny else dict(sizes)
    config = transformers.T5Config(vocab_size=32128, feed_forward_proj='gated-gelu', tie_word_embeddings=False, **chosen)
    if not weights:
        config.save_pretrained(folder)
        return folder
    torch.manual_seed(0)
    transformers.T5EncoderModel(config).to(dtype).save_pretrained(folder)
    return folder


def save_minilm(folder: Path, tiny: bool = False) -> Path:
    """The configuration of all-MiniLM-L6, and a tokenizer that knows the words of `TEXTS` and spells the others."""
    repair_torchvision()
    import transformers

    folder.mkdir(parents=True)
    letters = [prefix + chr(code) for prefix in ('', '##') for code in (*range(97, 123), *range(48, 58))]
    words = sorted({word.strip(',') for text in TEXTS for word in text.split() if len(word) > 1})
    vocabulary = ['[PAD]', '[UNK]', '[CLS]', '[SEP]', '[MASK]', *letters, *words]
    (folder / 'vocab.txt').write_text('\n'.join(vocabulary), encoding='utf-8')
    stated = {'tokenizer_class': 'BertTokenizer', 'do_lower_case': True, 'model_max_length': 256}
    (folder / 'tokenizer_config.json').write_text(json.dumps(stated), encoding='utf-8')
    width, layers = (32, 2) if tiny else (384, 6)
    transformers.BertConfig(
        vocab_size=30522, hidden_size=width, num_hidden_layers=layers, num_attention_heads=4 if tiny else 12,
        intermediate_size=4 * width, max_position_embeddings=512,
    ).save_pretrained(folder)  # fmt: skip
    return folder


def save_clip(folder: Path, tiny: bool = False) -> Path:
    """A ViT-B-32 of open_clip in a folder that is read as `local-dir:<folder>`."""
    repair_torchvision()
    import open_clip
    from safetensors.torch import save_file

    folder.mkdir(parents=True)
    config = open_clip.get_model_config('ViT-B-32')
    if tiny:
        config = {
            'embed_dim': 32,
            'vision_cfg': {'image_size': 32, 'layers': 1, 'width': 64, 'patch_size': 16},
            'text_cfg': {'context_length': 77, 'vocab_size': 49408, 'width': 32, 'heads': 2, 'layers': 2},
        }
    torch.manual_seed(0)
    network = open_clip.CLIP(**config)
    save_file(
        {name: weight.contiguous() for name, weight in network.state_dict().items()}, folder / 'open_clip_model.safetensors'
    )
    stored = {'model_cfg': config, 'preprocess_cfg': {'mean': [0.5] * 3, 'std': [0.5] * 3}}
    (folder / 'open_clip_config.json').write_text(json.dumps(stored), encoding='utf-8')
    return folder
