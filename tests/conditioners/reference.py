"""The contract's formulas, written out in float64 with plain loops, and checkpoints in the shape of the 0.7.1 release."""

import math

import torch

STEM = 'text_embed_stem_mlp.0'


def film_checkpoint(dims_pooled, hidden_dims, mult=2):
    dim = sum(dims_pooled)
    shapes = {'null_text_embed': (dim,), f'{STEM}.weight': (dim * mult, dim), f'{STEM}.bias': (dim * mult,)}
    for i, hidden in enumerate(hidden_dims):
        shapes |= {
            f'conditioners.{i}.net.0.weight': (hidden * 4, dim * mult),
            f'conditioners.{i}.net.0.bias': (hidden * 4,),
            f'conditioners.{i}.net.2.weight': (hidden * 2, hidden * 4),
            f'conditioners.{i}.net.2.bias': (hidden * 2,),
        }
    return random_weights(shapes)


def attention_checkpoint(dims_latent, hidden_dims, heads=8, dim_head=64, dim_latent=None):
    dim = max(dims_latent) if dim_latent is None else dim_latent
    shapes = {}
    for e, width in enumerate(dims_latent):
        shapes |= {f'to_latent_dims.{e}.weight': (dim, width), f'to_latent_dims.{e}.bias': (dim,)}
    for i, hidden in enumerate(hidden_dims):
        attn = f'conditioners.{i}.attn'
        shapes |= {
            f'{attn}.null_kv': (2, 1, dim_head),
            f'{attn}.norm.weight': (hidden,),
            f'{attn}.norm.bias': (hidden,),
            f'{attn}.context_norm.weight': (dim,),
            f'{attn}.context_norm.bias': (dim,),
            f'{attn}.to_q.weight': (heads * dim_head, hidden),
            f'{attn}.to_kv.weight': (2 * dim_head, dim),
            f'{attn}.to_out.weight': (hidden, heads * dim_head),
        }
    return random_weights(shapes)


def random_weights(shapes, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return {name: torch.randn(shape, generator=generator) / math.sqrt(shape[-1]) for name, shape in shapes.items()}


def film(weights, feature, hiddens, index, channel_first):
    """`h * (scale + 1) + shift`, with `feature` `(b, d)` for each sample."""
    w = {name: tensor.double() for name, tensor in weights.items()}
    net = f'conditioners.{index}.net'
    stem = silu(linear(w, STEM, feature.double()))
    scale, shift = linear(w, f'{net}.2', silu(linear(w, f'{net}.0', stem))).chunk(2, dim=-1)
    rows = positions(hiddens, channel_first)
    return restored(torch.stack([h * (scale[b] + 1) + shift[b] for b, h in enumerate(rows)]), hiddens, channel_first)


def attention(weights, tokens, masks, hiddens, index, channel_first, heads=8, dim_head=64):
    """One query, one head and one sample at a time; `tokens` and `masks` have one entry per encoder."""
    w = {name: tensor.double() for name, tensor in weights.items()}
    attn = f'conditioners.{index}.attn'
    null_key, null_value = w[f'{attn}.null_kv'][:, 0]
    outputs = []
    for b, rows in enumerate(positions(hiddens, channel_first)):
        real = [
            linear(w, f'to_latent_dims.{e}', encoded[b, n].double())
            for e, encoded in enumerate(tokens)
            for n in range(encoded.shape[1])
            if masks[e][b, n]
        ]
        pairs = [w[f'{attn}.to_kv.weight'] @ norm(w, f'{attn}.context_norm', token) for token in real]
        keys, values = [null_key, *(p[:dim_head] for p in pairs)], [null_value, *(p[dim_head:] for p in pairs)]
        for row in rows:
            queries = (w[f'{attn}.to_q.weight'] @ norm(w, f'{attn}.norm', row)).split(dim_head)
            features = []
            for query in queries:
                odds = [math.exp(float(query @ key) * dim_head**-0.5) for key in keys]
                features.append(sum(o / sum(odds) * value for o, value in zip(odds, values, strict=True)))
            assert len(features) == heads
            outputs.append(row + w[f'{attn}.to_out.weight'] @ torch.cat(features))
    stacked = torch.stack(outputs).unflatten(0, (hiddens.shape[0], -1))
    return restored(stacked, hiddens, channel_first)


def silu(x):
    return x / (1 + torch.exp(-x))


def linear(weights, name, x):
    return x @ weights[f'{name}.weight'].T + weights[f'{name}.bias']


def norm(weights, name, x):
    centred = x - x.mean(-1, keepdim=True)
    return centred / (centred.pow(2).mean(-1, keepdim=True) + 1e-5).sqrt() * weights[f'{name}.weight'] + weights[f'{name}.bias']


def positions(hiddens, channel_first):
    """Hiddens of any layout as `(b, positions, channels)`, in float64."""
    last = hiddens.double().movedim(1, -1) if channel_first else hiddens.double()
    return last.reshape(hiddens.shape[0], -1, last.shape[-1])


def restored(rows, hiddens, channel_first):
    """Back from `(b, positions, channels)`."""
    last = hiddens.movedim(1, -1) if channel_first else hiddens
    return rows.reshape(last.shape).movedim(-1, 1) if channel_first else rows.reshape(last.shape)
