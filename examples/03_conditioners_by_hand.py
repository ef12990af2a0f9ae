"""Conditioners inside a U-Net of your own, without any decorator: dropout and guidance by hand, with the library's functions.

    python examples/03_conditioners_by_hand.py

FiLM adds what the whole text says to the time, and cross-attention lets every place look up single words, both from one encoding
of the text. A sample that loses its text must lose it in both: that is why dropout is drawn by hand.
"""

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader

from cfg_demo.fitting import fit
from cfg_demo.image.unet import Block, wave_features
from cfg_demo.shapes import collate
from cfg_demo.strips import close_ups, compare_scales
from classifier_free_guidance_pytorch import AttentionTextConditioner, TextConditioner, guidance

SIZE = 16


class TextUNet(nn.Module):
    """The velocity of pictures `(b, 3, SIZE, SIZE)`, from data towards noise."""

    def __init__(self, dim=48):
        super().__init__()
        self.film = TextConditioner(hidden_dims=(dim,), model_types='mini')
        self.attend = AttentionTextConditioner(hidden_dims=(2 * dim,), model_types='mini', attn_heads=4, attn_dim_head=32)
        self.place = nn.Parameter(0.5 * torch.randn(dim, SIZE // 2, SIZE // 2))
        self.read, self.write = nn.Conv2d(3, dim, 2, stride=2), nn.ConvTranspose2d(dim, 3, 2, stride=2)
        self.down, self.up = nn.Conv2d(dim, 2 * dim, 2, stride=2), nn.ConvTranspose2d(2 * dim, dim, 2, stride=2)
        self.before, self.middle, self.after = Block(dim, dim, dim), Block(2 * dim, 2 * dim, dim), Block(dim, dim, dim)

    def forward(self, images, time, encodings, drop):
        (modulate,) = self.film(text_embeds=encodings, cond_drop_prob=drop)
        (look_up,) = self.attend(text_embeds=encodings, cond_drop_prob=drop)
        when = modulate(wave_features(time, self.place.shape[0]))  # (b, dim), which modulates every block
        skip = self.before(self.read(images) + self.place, when)  # (b, dim, h / 2, w / 2)
        inner = self.middle(look_up(self.down(skip)), when)  # (b, 2 * dim, h / 4, w / 4)
        return self.write(self.after(self.up(inner) + skip, when))


def train(unet, steps, batch=32, drop_prob=0.1):
    """Flow matching (arXiv 2210.02747); every tenth sample loses its text, in both conditioners at once."""
    batches = iter(DataLoader(close_ups(SIZE, steps * batch), batch, collate_fn=collate))

    def loss():
        images, captions = next(batches)
        clean, noise, time = 2 * images - 1, torch.randn(images.shape), torch.rand(batch)
        drop = (torch.rand(batch) < drop_prob).float()  # one decision per sample, for both conditioners
        noisy = torch.lerp(clean, noise, time[:, None, None, None])
        return F.mse_loss(unet(noisy, time, unet.film.encode_texts(captions), drop), noise - clean)

    fit(unet, loss, steps)


def guided(unet, images, time, encodings, scale):
    """Two passes and one function of the library; any other rule of `guidance` may stand here instead."""
    cond = unet(images, time, encodings, drop=0.0)
    return cond if scale == 1 else guidance.cfg(cond, unet(images, time, encodings, drop=1.0), scale)


@torch.no_grad()
def sample(unet, texts, scale, steps=30):
    """Pictures `(b, 3, SIZE, SIZE)` from 0 to 1, by Euler steps from noise."""
    encodings = unet.film.encode_texts(texts)
    x = torch.randn(len(texts), 3, SIZE, SIZE, generator=torch.Generator().manual_seed(1))
    for step in range(steps):
        x = x - guided(unet, x, torch.full((len(texts),), 1 - step / steps), encodings, scale) / steps
    return (x / 2 + 0.5).clamp(0, 1)


def main(steps=800, each=32, out='runs/examples/conditioners_by_hand.png'):
    """Train, sample at every scale, print and draw; return the share of right pictures by scale."""
    torch.manual_seed(0)
    unet = TextUNet()
    train(unet, steps)
    return compare_scales(lambda texts, scale: sample(unet, texts, scale), (0.0, 1.0, 2.0, 4.0, 7.5), out, each)


if __name__ == '__main__':
    main()
