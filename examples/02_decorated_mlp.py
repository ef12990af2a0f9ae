"""A decorated MLP: colours from words. Text conditioning and guidance are five lines of it.

    python examples/02_decorated_mlp.py

A sample is six numbers, the shade of a shape and that of its background; one caption in five is wrong. Printed, per scale: how
many samples have both colours that the text asks for.
"""

from random import Random

import torch
import torch.nn.functional as F
from torch import nn

from cfg_demo import shades
from cfg_demo.fitting import fit
from cfg_demo.strips import save_strips
from classifier_free_guidance_pytorch import classifier_free_guidance_class_decorator


@classifier_free_guidance_class_decorator
class ShadeDenoiser(nn.Module):
    """The velocity `(b, 6)` from data towards noise; the text conditions both hiddens."""

    def __init__(self, dim):
        super().__init__()
        self.read, self.hidden, self.write = nn.Linear(6 + 1, dim), nn.Linear(dim, dim), nn.Linear(dim, 6)

    def forward(self, x, time, cond_fns):
        first, second = cond_fns  # one for each of text_condition_hidden_dims
        hiddens = F.silu(first(self.read(torch.cat((x, time[:, None]), dim=1))))  # (b, dim)
        return self.write(F.silu(second(self.hidden(hiddens))))


def train(model, steps, captions, batch=256):
    """Flow matching (arXiv 2210.02747); the library drops the text of every tenth sample."""
    data, texts = shades.draw_data(captions, Random(0))
    (encoding,) = model.encode_texts(texts)  # the encoder is frozen: once is enough

    def loss():
        chosen = torch.randint(captions, (batch,))
        clean, noise, time = data[chosen], torch.randn(batch, 6), torch.rand(batch)
        return F.mse_loss(model(torch.lerp(clean, noise, time[:, None]), time, text_embeds=encoding[chosen]), noise - clean)

    fit(model, loss, steps)


@torch.no_grad()
def sample(model, prompt, scale, count, steps=25):
    """Shades `(count, 6)` from 0 to 1, by Euler steps from noise."""
    prepared = model.prepare([prompt])  # one text for the whole batch, read once for all steps
    x = torch.randn(count, 6)
    for step in range(steps):
        time = torch.full((count,), 1 - step / steps)
        x = x - model(x, time, text_condition=prepared, cond_scale=scale) / steps
    return (x / 2 + 0.5).clamp(0, 1)


def main(steps=2000, captions=4096, samples=400, out='runs/examples/decorated_mlp.png'):
    """Train, sample at every scale, print and draw; return the share of right samples by scale."""
    torch.manual_seed(0)
    model = ShadeDenoiser(128, text_condition_type='film', text_condition_model_types='mini',
                          text_condition_hidden_dims=(128, 128), text_condition_cond_drop_prob=0.1)  # fmt: skip
    train(model, steps, captions)
    shares, drawn = {}, {}
    for scale in (0.0, 1.0, 2.0, 4.0, 8.0):
        found = {prompt: sample(model, prompt, scale, samples) for prompt in shades.PROMPTS}
        shares[scale] = torch.cat([shades.satisfied(x, prompt) for prompt, x in found.items()]).float().mean().item()
        drawn[scale] = torch.cat([shades.pictures(x[:8], prompt) for prompt, x in found.items()])
        print(f'cond_scale {scale:g}: {shares[scale]:6.1%} of the samples have both colours')
    save_strips(out, shades.PROMPTS, drawn, shown=8)
    return shares


if __name__ == '__main__':
    main()
