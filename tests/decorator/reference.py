"""What a decorated model computes, written down once more in float64: one sample, one position and one head at a time.

It reads weights and the encoders' own outputs, and nothing else of the library.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F


def linear(weights, name, x):
    y = weights[f'{name}.weight'] @ x
    return y + weights[f'{name}.bias'] if f'{name}.bias' in weights else y


def norm(weights, name, x):
    x = (x - x.mean()) / (x.var(unbiased=False) + 1e-5).sqrt()
    return x * weights[f'{name}.weight'] + weights[f'{name}.bias']


def read(encoders, text):
    """The pooled features of a text, and its tokens without padding, for each encoder."""
    found = [encoder.encode([text]) for encoder in encoders]
    return torch.cat([one.pooled[0] for one in found]).double(), [one.tokens[0][one.mask[0]].double() for one in found]


def feature(kind, weights, encoders, text, null):
    """What all layers of a kind read of a text: a vector, tokens `(n, d)`; None is the null condition."""
    is_null = text is None and null != 'empty'
    pooled, tokens = read(encoders, text or '')
    if kind in ('attention', 'raw'):
        joined = [linear(weights, f'to_latent_dims.{i}', token) for i, rows in enumerate(tokens) for token in rows]
        return [] if is_null else joined
    if is_null:
        pooled = weights['null_text_embed'].reshape(-1) if null == 'learned' else torch.zeros_like(pooled)
    return F.silu(linear(weights, 'text_embed_stem_mlp.0', pooled))


def conditioned(kind, weights, layer, read_of_text, h, heads):
    """One position of the hiddens, `(d,)`, through a layer."""
    at = f'conditioners.{layer}'
    if kind == 'film':
        scale, shift = linear(weights, f'{at}.net.2', F.silu(linear(weights, f'{at}.net.0', read_of_text))).chunk(2)
        return h * (scale + 1) + shift
    if kind == 'concat':
        joint = linear(weights, f'{at}.joint_hidden', norm(weights, f'{at}.norm', h))
        return h + linear(weights, f'{at}.out', F.silu(joint + linear(weights, f'{at}.joint_text', read_of_text)))
    queries = linear(weights, f'{at}.attn.to_q', norm(weights, f'{at}.attn.norm', h)).chunk(heads)
    pairs = [
        linear(weights, f'{at}.attn.to_kv', norm(weights, f'{at}.attn.context_norm', token)).chunk(2) for token in read_of_text
    ]
    null_kv = weights.get(f'{at}.attn.null_kv')
    first = (torch.zeros_like(queries[0]),) * 2 if null_kv is None else tuple(null_kv.reshape(2, -1))
    keys, values = zip(first, *pairs, strict=True)
    attended = []
    for query in queries:
        weight = torch.stack([query @ key for key in keys]) / len(query) ** 0.5
        attended.append(sum(w * value for w, value in zip(weight.softmax(dim=0), values, strict=True)))
    return h + linear(weights, f'{at}.attn.to_out', torch.cat(attended))


def prediction(kind, weights, encoders, text, null, parts, x, heads):
    """One sample `(n, d)` through the network: parts, each a matrix and what follows it, with a layer behind each."""
    told = feature(kind, weights, encoders, text, null)
    rows = list(x.double())
    for layer, (matrix, bias) in enumerate(parts):
        rows = [torch.tanh(matrix.double() @ h + bias.double()) for h in rows]
        if kind == 'raw':
            rows = [h + (sum(told) if told else torch.zeros_like(h)) for h in rows]
        else:
            rows = [conditioned(kind, weights, layer, told, h, heads) for h in rows]
    return torch.stack(rows)


def guided(cond, null, scale):
    return null + scale * (cond - null)
