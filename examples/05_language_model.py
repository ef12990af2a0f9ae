"""A small decoder language model under guidance, with a key/value cache for each branch.

    python examples/05_language_model.py

Given a meaning in plain words ("a red circle above a blue square"), the model writes a caption for it, one of the many of the
picture world. Every token is read once by the conditional and once by the null branch, each with a cache of its own: that is what
`cfg_routed_kwargs` is for. Measured, per scale, on combinations of colour and shape never seen in training: how many captions
mean what was asked for, all of it and nothing else, as the world's own parser reads them. Scale 0 ignores the text.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from random import Random
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm import tqdm

from cfg_demo.shapes import Scene, draw_scene, parse, phrase
from classifier_free_guidance_pytorch import classifier_free_guidance_class_decorator, guidance
from classifier_free_guidance_pytorch.errors import ConfigError
from classifier_free_guidance_pytorch.text.mini import MiniAdapter

SCALES = (0.0, 1.0, 1.5, 2.0, 3.0)
LONGEST = 32  # tokens of a caption, the start and the end included


class Block(nn.Module):
    """Causal self-attention and an MLP, both residual."""

    def __init__(self, dim: int, heads: int, index: int) -> None:
        super().__init__()
        self.heads, self.index = heads, index
        self.norm_attention, self.norm_mlp = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.to_qkv, self.to_out = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)
        self.mlp = nn.Sequential(nn.Linear(dim, 4 * dim), nn.GELU(), nn.Linear(4 * dim, dim))

    def forward(self, hiddens: Tensor, cache: Any) -> Tensor:
        qkv = self.to_qkv(self.norm_attention(hiddens)).unflatten(-1, (3, self.heads, -1))
        queries, keys, values = qkv.permute(2, 0, 3, 1, 4)  # each (b, heads, n, dim / heads)
        if cache is not None:  # all tokens so far, of which `hiddens` holds the new ones
            keys, values = cache.update(keys, values, self.index)
        new, known = queries.shape[2], keys.shape[2]
        visible = torch.ones(new, known, dtype=torch.bool).tril(known - new)
        attended = F.scaled_dot_product_attention(queries, keys, values, attn_mask=visible)
        hiddens = hiddens + self.to_out(attended.transpose(1, 2).flatten(2))
        changed: Tensor = hiddens + self.mlp(self.norm_mlp(hiddens))
        return changed


@classifier_free_guidance_class_decorator
class CaptionWriter(nn.Module):
    """Logits of the next token, `(b, n, vocabulary)`; before each block the hiddens attend to the text."""

    def __init__(self, vocabulary: int, dim: int, depth: int, heads: int = 4) -> None:
        super().__init__()
        self.tokens = nn.Embedding(vocabulary, dim)
        self.places = nn.Parameter(0.02 * torch.randn(LONGEST, dim))
        self.blocks = nn.ModuleList([Block(dim, heads, index) for index in range(depth)])
        self.write = nn.Sequential(nn.LayerNorm(dim), nn.Linear(dim, vocabulary))

    def forward(self, tokens: Tensor, cond_fns: Sequence[Callable[[Tensor], Tensor]], cache: Any = None) -> Tensor:
        known = 0 if cache is None else cache.get_seq_length()
        hiddens = self.tokens(tokens) + self.places[known : known + tokens.shape[1]]
        for block, condition in zip(self.blocks, cond_fns, strict=True):
            hiddens = block(condition(hiddens), cache)
        logits: Tensor = self.write(hiddens)
        return logits


def build(vocabulary: int, dim: int = 96, depth: int = 3) -> Any:
    """An untrained writer whose text conditioner is cross-attention to the embedded encoder's tokens."""
    decorated: Any = CaptionWriter  # the decorator adds the text_condition_* arguments, which its type does not show
    return decorated(
        vocabulary,
        dim,
        depth,
        text_condition_type='attention',
        text_condition_model_types='mini',
        text_condition_hidden_dims=(dim,) * depth,
        text_condition_hiddens_channel_first=False,
        text_condition_attn_heads=4,
        text_condition_attn_dim_head=32,
        text_condition_cond_drop_prob=0.15,
    )


def train(model: Any, tokenizer: Any, steps: int, seed: int, batch: int = 64) -> None:
    """Teacher forcing: the plainest words for a scene are the condition, one of its captions is the target."""
    rng = Random(seed)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3, betas=(0.9, 0.98))
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, total_steps=max(steps, 1), pct_start=0.1)
    model.train()
    bar = tqdm(range(steps), desc='train')
    for _ in bar:
        scenes = [draw_scene(rng) for _ in range(batch)]
        ids = tokenizer([phrase(scene, rng) for scene in scenes], padding=True, return_tensors='pt')['input_ids'][:, :LONGEST]
        logits = model(ids[:, :-1], texts=[phrase(scene) for scene in scenes])
        loss = F.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten(), ignore_index=tokenizer.pad_token_id)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        bar.set_postfix(loss=f'{loss.item():.3f}', refresh=False)


@torch.no_grad()
def write(
    model: Any, tokenizer: Any, texts: list[str], scale: float, generator: torch.Generator | None, longest: int = LONGEST
) -> Tensor:
    """Tokens `(b, n)` of a caption per text; greedy without a generator."""
    from transformers import DynamicCache

    model.eval()
    prepared = model.prepare(texts)
    caches = {'cache': (DynamicCache(), DynamicCache())}  # for the conditional and for the null branch; both grow in place
    tokens = torch.full((len(texts), 1), tokenizer.bos_token_id)
    while tokens.shape[1] < longest and not (tokens == tokenizer.eos_token_id).any(dim=1).all():
        logits = model(
            tokens[:, -1:],
            text_condition=prepared,
            cond_scale=scale,
            guidance=guidance.Logits(),
            cfg_routed_kwargs=caches,
        )[:, -1]
        drawn = logits.argmax(dim=1) if generator is None else logits.softmax(dim=1).multinomial(1, generator=generator)[:, 0]
        tokens = torch.cat((tokens, drawn[:, None]), dim=1)
    return tokens


def read(tokenizer: Any, tokens: Tensor) -> list[str]:
    """The captions in words, each up to its end."""
    ends = [(*row, tokenizer.eos_token_id).index(tokenizer.eos_token_id) for row in tokens.tolist()]
    return [tokenizer.decode(row[:end], skip_special_tokens=True) for row, end in zip(tokens, ends, strict=True)]


def means(caption: str, scene: Scene) -> bool:
    """Whether a caption says a scene, all of it and nothing else."""
    try:
        return parse(caption).canonical() == scene.canonical()
    except ConfigError:  # no caption of this world
        return False


def main(steps: int = 900, captions: int = 200, seed: int = 0) -> dict[float, float]:
    """Train, write captions at every scale, and print some of them and the shares.

    Args:
        steps: Training steps.
        captions: Captions per scale, for scenes of held-out combinations.
        seed: Of everything.

    Returns:
        By scale: the share of captions that mean what was asked for.
    """
    torch.manual_seed(seed)
    tokenizer = MiniAdapter().tokenizer
    model = build(len(tokenizer))
    train(model, tokenizer, steps, seed)
    rng = Random(seed + 1)
    scenes = [draw_scene(rng, 'held_out') for _ in range(captions)]
    texts = [phrase(scene) for scene in scenes]
    shares = {}
    for scale in SCALES:
        written = read(tokenizer, write(model, tokenizer, texts, scale, torch.Generator().manual_seed(seed)))
        shares[scale] = sum(means(*pair) for pair in zip(written, scenes, strict=True)) / captions
        print(f'\ncond_scale {scale:g}: {shares[scale]:6.1%} of {captions} captions mean what was asked for')
        for text, caption, scene in [*zip(texts, written, scenes, strict=True)][:4]:
            print(f'  {"+" if means(caption, scene) else "-"} {text}  ->  {caption}')
    return shares


if __name__ == '__main__':
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--steps', type=int, default=900, help='training steps')
    parser.add_argument('--captions', type=int, default=200, help='captions per scale')
    parser.add_argument('--seed', type=int, default=0)
    main(**vars(parser.parse_args()))
