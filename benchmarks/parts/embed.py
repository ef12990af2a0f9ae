"""`cfg-embed` on the device against a plain loop over the encoder, in captions per second.

Encoders have their real sizes and random weights, which are made where they run: those of T5-XXL would take minutes from a disk.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

from benchmarks.corpus_embed import against_a_loop
from benchmarks.encoders import BASE, XXL, save_clip, save_minilm, save_t5
from benchmarks.results import Figure
from benchmarks.settings import Settings
from classifier_free_guidance_pytorch import HFTextAdapter, OpenClipAdapter, T5Adapter
from classifier_free_guidance_pytorch.text import TextEncoder

BATCH = 256
CAPTIONS = {'T5-base': 8192, 'T5-XXL': 1024, 'MiniLM-L6': 16384, 'CLIP ViT-B-32': 8192}


def random_weights(adapter: type[TextEncoder], device: torch.device) -> type[TextEncoder]:
    """An adapter whose network is made on the device, from its configuration alone."""

    class Random(adapter):
        def _load(self, dtype: torch.dtype) -> Any:
            import transformers

            config = transformers.AutoConfig.from_pretrained(self._source)
            kind = transformers.T5EncoderModel if config.model_type == 't5' else transformers.BertModel
            torch.manual_seed(0)
            before = torch.get_default_dtype()
            torch.set_default_dtype(dtype)
            try:
                with device:
                    return kind(config)
            finally:
                torch.set_default_dtype(before)

    return Random


def encoders(folder: Path, settings: Settings) -> dict[str, Callable[[], TextEncoder]]:
    """How to make each of them."""
    t5, bert = (random_weights(adapter, settings.device) for adapter in (T5Adapter, HFTextAdapter))
    tiny = settings.tiny
    return {
        'T5-base': lambda: t5(save_t5(folder / 'base', tiny, BASE, weights=False)),
        'T5-XXL': lambda: t5(save_t5(folder / 'xxl', tiny, XXL, weights=False)),
        'MiniLM-L6': lambda: bert(save_minilm(folder / 'minilm', tiny)),
        'CLIP ViT-B-32': lambda: OpenClipAdapter(f'local-dir:{save_clip(folder / "clip", tiny)}'),
    }


def measure(settings: Settings) -> Iterator[Figure]:
    """Every encoder: with the features of tokens, whose writing takes time, and with those of captions alone."""
    precision = 'fp32' if settings.dtype == torch.float32 else 'bf16'
    with tempfile.TemporaryDirectory() as made:
        for name, make in encoders(Path(made), settings).items():
            try:
                encoder = make()
            except ImportError as error:  # a borrowed machine may lack torchvision, which open_clip imports
                print(f'{name} was not measured: {error}')
                continue
            count, batch = (48, 16) if settings.tiny else (CAPTIONS[name], BATCH)
            for tokens in (True, False):
                folder = Path(made) / f'{name}-{tokens}'
                folder.mkdir()
                how = {'precision': precision, 'batch': batch, 'tokens': tokens}
                yield against_a_loop(name, encoder, count, settings, folder, **how)
