"""Handwritten digits from a model that knew nothing of text: its parts are named, and follow captions.

    python examples/08_text_into_any_model.py

First an unconditional network learns to draw scikit-learn's digits, as a model from elsewhere would have. Then it is frozen,
`text_conditioned` adds layers at the parts that are named, and only those learn, from captions such as 'a bold seven'. Printed,
per scale: how many drawings a classifier, fitted to the real digits, reads as the digit that was asked for.
"""

import torch
import torch.nn.functional as F
from torch import nn

from cfg_demo.digits import NAMES, Reader, WordEncoder, captioned_digits
from cfg_demo.fitting import fit
from cfg_demo.strips import save_strips
from classifier_free_guidance_pytorch import text_conditioned

SCALES = (0.0, 1.0, 2.0, 3.0, 5.0)
SHOWN = ('a thin three', 'a bold three', 'a thin seven', 'a bold seven')


class Block(nn.Module):
    def __init__(self, dim):
        super().__init__()
        self.inside = nn.Sequential(nn.LayerNorm(dim), nn.Linear(dim, 2 * dim), nn.SiLU(), nn.Linear(2 * dim, dim))

    def forward(self, hiddens):
        return hiddens + self.inside(hiddens)


class Denoiser(nn.Module):
    """The model from elsewhere: residual blocks over the pixels `(b, 64)` and the time `(b,)`. Not a word of text in it."""

    def __init__(self, dim=128, depth=3):
        super().__init__()
        self.pixels, self.time, self.leave = nn.Linear(64, dim), nn.Linear(32, dim), nn.Linear(dim, 64)
        self.blocks = nn.ModuleList([Block(dim) for _ in range(depth)])

    def forward(self, x, t):
        waves = t[:, None] * 2 ** torch.linspace(0, 6, 16)
        hiddens = self.pixels(x) + self.time(torch.cat((waves.sin(), waves.cos()), dim=1))  # (b, dim)
        for block in self.blocks:
            hiddens = block(hiddens)
        return self.leave(F.layer_norm(hiddens, hiddens.shape[1:]))


def train(model, pictures, steps, text=(), batch=128):
    """Flow matching (arXiv 2210.02747): predict the direction from a picture to noise, anywhere between the two."""

    def loss():
        chosen = torch.randint(len(pictures), (batch,))
        clean, noise, t = pictures[chosen], torch.randn(batch, 64), torch.rand(batch)
        given = {'text_embeds': [encoding[chosen] for encoding in text]} if text else {}
        return F.mse_loss(model(torch.lerp(clean, noise, t[:, None]), t, **given), noise - clean)

    fit(model, loss, steps)


@torch.no_grad()
def draw(velocity, count, steps=20, seed=1):
    """Pictures `(count, 64)`, by Euler's method from noise. A sampler that knows nothing of text."""
    x = torch.randn(count, 64, generator=torch.Generator().manual_seed(seed))
    for t in torch.linspace(1, 0, steps + 1)[:-1]:
        x = x - velocity(x, t.expand(count)) / steps
    return x.clamp(-1, 1)


def main(pretraining=2500, steps=2000, each=20, out='runs/examples/text_into_any_model.png'):
    """Pretrain, add text, train what was added, draw and score at every scale; return the share that is right by scale."""
    torch.manual_seed(0)
    pictures, captions = captioned_digits()
    net = Denoiser()
    train(net, pictures, pretraining)

    example = pictures[:2], torch.rand(2)
    model = text_conditioned(net, 'blocks.*', example=example, model_types=WordEncoder(), cond_drop_prob=0.15).only_text_trains()
    train(model, pictures, steps, model.encode_texts(captions))  # encoded once: the encoder is frozen

    texts = [f'a {stroke} {name}' for stroke in ('thin', 'bold') for name in NAMES for _ in range(each)]
    drawn = {scale: draw(model.bind(texts=texts, cond_scale=scale), len(texts)) for scale in SCALES}
    reader, shares = Reader(), {}
    for scale, some in drawn.items():
        shares[scale] = reader.share(some, texts)
        thin, bold = [(half.mean() / 2 + 0.5).item() for half in some.chunk(2)]
        print(f'cond_scale {scale:g}: {shares[scale]:6.1%} read as asked; ink {thin:.2f} thin, {bold:.2f} bold')
    rows = torch.cat([torch.arange(texts.index(text), texts.index(text) + min(6, each)) for text in SHOWN])
    strips = {scale: (some[rows] / 2 + 0.5).view(-1, 1, 8, 8).expand(-1, 3, 8, 8) for scale, some in drawn.items()}
    save_strips(out, SHOWN, strips)
    return shares


if __name__ == '__main__':
    main()
