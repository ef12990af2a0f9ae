"""A first model, complete: your U-Net, a scheduler of diffusers, an average of the weights, a file, a negative prompt.

    python examples/07_first_model.py

Everything that has to do with text is in four places: the decorator, `texts=` in training, `prepare` and `cond_scale=`.
"""

from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_model, save_model
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.utils.data import DataLoader
from tqdm import tqdm

from cfg_demo.shapes import collate
from cfg_demo.strips import close_ups, compare_scales
from classifier_free_guidance_pytorch import classifier_free_guidance_class_decorator

SIZE = 16
TEXT = {'text_condition_type': 'film', 'text_condition_model_types': 'mini', 'text_condition_cond_drop_prob': 0.1}


class Block(nn.Module):
    """Two convolutions; the second sees the picture scaled and shifted by a vector `(b, dim_vector)`."""

    def __init__(self, dim, dim_vector):
        super().__init__()
        self.first, self.second = nn.Conv2d(dim, dim, 3, padding=1), nn.Conv2d(dim, dim, 3, padding=1)
        self.norm, self.modulate = nn.GroupNorm(8, dim, affine=False), nn.Linear(dim_vector, 2 * dim)

    def forward(self, x, vector):
        scale, shift = self.modulate(vector)[..., None, None].chunk(2, dim=1)
        return x + self.second(F.silu(self.norm(self.first(F.silu(x))) * (1 + scale) + shift))


@classifier_free_guidance_class_decorator
class UNet(nn.Module):
    """Predicts the velocity from pictures to noise, `(b, 3, h, w)`."""

    def __init__(self, dim=48, dim_vector=128):
        super().__init__()
        self.time = nn.Sequential(nn.Linear(1, dim_vector), nn.SiLU(), nn.Linear(dim_vector, dim_vector))
        self.places = nn.Parameter(0.1 * torch.randn(dim, SIZE // 2, SIZE // 2))
        self.into, self.out = nn.Conv2d(3, dim, 2, stride=2), nn.ConvTranspose2d(dim, 3, 2, stride=2)
        self.down, self.up = nn.Conv2d(dim, 2 * dim, 2, stride=2), nn.ConvTranspose2d(2 * dim, dim, 2, stride=2)
        self.before, self.middle, self.after = Block(dim, dim_vector), Block(2 * dim, dim_vector), Block(dim, dim_vector)

    def forward(self, images, time, cond_fns):
        on_time, on_small = cond_fns  # text_condition_hidden_dims=(dim_vector, 2 * dim)
        vector = F.silu(on_time(self.time(time[:, None])))  # (b, dim_vector): the time, modulated by the text
        large = self.before(self.into(images) + self.places, vector)  # (b, dim, h / 2, w / 2)
        small = self.middle(on_small(self.down(large)), vector)  # (b, 2 * dim, h / 4, w / 4)
        return self.out(self.after(large + self.up(small), vector))


def build():
    """An untrained model."""
    return UNet(48, 128, text_condition_hidden_dims=(128, 96), **TEXT)


def train(model, steps, batch=32):
    """Flow matching; return the average of the weights over the training."""
    average = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.99))  # the frozen encoder is shared, not copied
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    for pictures, captions in tqdm(DataLoader(close_ups(SIZE, steps * batch), batch, collate_fn=collate), desc='train'):
        images, noise, time = 2 * pictures - 1, torch.randn_like(pictures), torch.rand(len(pictures))
        noisy = torch.lerp(images, noise, time[:, None, None, None])
        loss = F.mse_loss(model(noisy, time, texts=captions), noise - images)  # a tenth of the captions is dropped
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        average.update_parameters(model)
    return average.module


@torch.no_grad()
def sample(model, texts, cond_scale, negative=None, steps=20, seed=1):
    """Pictures `(b, 3, SIZE, SIZE)` from 0 to 1, by the Euler steps of diffusers' flow-matching scheduler."""
    from diffusers import FlowMatchEulerDiscreteScheduler

    prepared, solver = model.eval().prepare(texts, negative_texts=negative), FlowMatchEulerDiscreteScheduler()
    solver.set_timesteps(steps)
    images = torch.randn(len(texts), 3, SIZE, SIZE, generator=torch.Generator().manual_seed(seed))
    for timestep, sigma in zip(solver.timesteps, solver.sigmas, strict=False):
        velocity = model(images, sigma.expand(len(texts)), text_condition=prepared, cond_scale=cond_scale)
        images = solver.step(velocity, timestep, images).prev_sample
    return (images / 2 + 0.5).clamp(0, 1)


def main(steps=1200, each=32, out='runs/examples/first_model.png', weights='runs/examples/first_model.safetensors'):
    """Train, save, load into a new model, sample at every scale, print and draw; return the share of right pictures by scale."""
    torch.manual_seed(0)
    trained, model = train(build(), steps), build()
    Path(weights).parent.mkdir(parents=True, exist_ok=True)
    save_model(trained, weights)  # the text encoder is not in it
    load_model(model, weights)
    shares = compare_scales(lambda texts, scale: sample(model, texts, scale), (0.0, 1.0, 2.0, 4.0), out, each)
    for negative in (None, ['a large red circle in the center']):
        circles = sample(model, ['a large circle in the center'] * each, 2.0, negative)
        red, green, blue = circles[:, :, 6:10, 6:10].mean(dim=(0, 2, 3)).tolist()  # in the center
        print(f'a large circle, negative text {negative}: mean colour {red:.2f} {green:.2f} {blue:.2f}')
    return shares


if __name__ == '__main__':
    main()
