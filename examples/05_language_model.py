"""A small decoder language model under guidance, with a key/value cache for each branch.

    python examples/05_language_model.py

Given a meaning in plain words ("a red circle above a blue square"), the model writes a caption for it. Every token is read by the
conditional and by the null branch, each with a cache of its own: that is what `cfg_routed_kwargs` is for. Printed, per scale, on
combinations of colour and shape never seen in training: how many captions mean what was asked for, and nothing else.
"""

from random import Random

import torch
import torch.nn.functional as F
from torch import nn
from transformers import DynamicCache

from cfg_demo.fitting import fit
from cfg_demo.shapes import draw_scene, phrase
from cfg_demo.writer import CausalBlock, means, read
from classifier_free_guidance_pytorch import classifier_free_guidance_class_decorator, guidance
from classifier_free_guidance_pytorch.text.mini import MiniAdapter

LONGEST = 32  # tokens of a caption, the start and the end included


@classifier_free_guidance_class_decorator
class CaptionWriter(nn.Module):
    """Logits of the next token `(b, n, vocabulary)`; before each block the hiddens attend to the text."""

    def __init__(self, vocabulary, dim, depth):
        super().__init__()
        self.tokens, self.places = nn.Embedding(vocabulary, dim), nn.Parameter(0.02 * torch.randn(LONGEST, dim))
        self.blocks = nn.ModuleList([CausalBlock(dim, heads=4, index=index) for index in range(depth)])
        self.write = nn.Sequential(nn.LayerNorm(dim), nn.Linear(dim, vocabulary))

    def forward(self, tokens, cond_fns, cache=None):
        known = 0 if cache is None else cache.get_seq_length()
        hiddens = self.tokens(tokens) + self.places[known : known + tokens.shape[1]]  # (b, n, dim)
        for block, condition in zip(self.blocks, cond_fns, strict=True):
            hiddens = block(condition(hiddens), cache)
        return self.write(hiddens)


def build(vocabulary, dim=96, depth=3):
    """An untrained writer; its conditioner is cross-attention to the tokens of the embedded encoder."""
    return CaptionWriter(
        vocabulary, dim, depth, text_condition_type='attention', text_condition_model_types='mini',
        text_condition_hidden_dims=(dim,) * depth, text_condition_hiddens_channel_first=False,
        text_condition_attn_heads=4, text_condition_attn_dim_head=32, text_condition_cond_drop_prob=0.15,
    )  # fmt: skip


def train(model, tokenizer, steps, batch=64):
    """Teacher forcing: the plainest words for a scene are the condition, one of its captions is the target."""
    rng = Random(0)

    def loss():
        scenes = [draw_scene(rng) for _ in range(batch)]
        ids = tokenizer([phrase(scene, rng) for scene in scenes], padding=True, return_tensors='pt')['input_ids'][:, :LONGEST]
        logits = model(ids[:, :-1], texts=[phrase(scene) for scene in scenes])
        return F.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten(), ignore_index=tokenizer.pad_token_id)

    fit(model, loss, steps, lr=3e-3)


@torch.no_grad()
def write(model, tokenizer, texts, scale, generator, longest=LONGEST):
    """Tokens `(b, n)` of a caption per text; greedy without a generator."""
    asked = {'text_condition': model.prepare(texts), 'cond_scale': scale, 'guidance': guidance.Logits()}
    caches = {'cache': (DynamicCache(), DynamicCache())}  # for the conditional and for the null branch; both grow in place
    tokens = torch.full((len(texts), 1), tokenizer.bos_token_id)
    while tokens.shape[1] < longest and not (tokens == tokenizer.eos_token_id).any(dim=1).all():
        logits = model(tokens[:, -1:], **asked, cfg_routed_kwargs=caches)[:, -1]
        drawn = logits.argmax(dim=1) if generator is None else logits.softmax(dim=1).multinomial(1, generator=generator)[:, 0]
        tokens = torch.cat((tokens, drawn[:, None]), dim=1)
    return tokens


def main(steps=900, captions=200):
    """Train, write captions at every scale, print some of them; return the share of right ones by scale."""
    torch.manual_seed(0)
    tokenizer, rng, shares = MiniAdapter().tokenizer, Random(1), {}
    model = build(len(tokenizer))
    train(model, tokenizer, steps)
    scenes = [draw_scene(rng, 'held_out') for _ in range(captions)]
    texts = [phrase(scene) for scene in scenes]
    for scale in (0.0, 1.0, 1.5, 2.0, 3.0):
        written = read(tokenizer, write(model, tokenizer, texts, scale, torch.Generator().manual_seed(0)))
        right = [means(*pair) for pair in zip(written, scenes, strict=True)]
        shares[scale] = sum(right) / captions
        print(f'\ncond_scale {scale:g}: {shares[scale]:6.1%} of {captions} captions mean what was asked for')
        for text, caption, good in [*zip(texts, written, right, strict=True)][:4]:
            print(f'  {"+" if good else "-"} {text}  ->  {caption}')
    return shares


if __name__ == '__main__':
    main()
