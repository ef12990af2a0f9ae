"""An unmodified `UNet2DConditionModel` of diffusers, guided through a wrapper of one line.

    python examples/06_diffusers_unet.py

The decorator's 'raw' conditioner hands the wrapper tokens and their mask, and the U-Net attends to them in its own way. Dropout,
the null branch, scales, negative texts and every rule of guidance come with the decorator; noise schedule and sampler are
diffusers' own.
"""

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader

from cfg_demo.fitting import fit
from cfg_demo.shapes import collate
from cfg_demo.strips import close_ups, compare_scales
from classifier_free_guidance_pytorch import classifier_free_guidance_class_decorator
from classifier_free_guidance_pytorch.text.mini import MiniAdapter

SIZE = 16
NOISE = {'beta_schedule': 'squaredcos_cap_v2', 'prediction_type': 'v_prediction'}


@classifier_free_guidance_class_decorator
class TextToImage(nn.Module):
    """What the network predicts, `(b, 3, h, w)`."""

    def __init__(self, unet):
        super().__init__()
        self.unet = unet

    def forward(self, images, timestep, raw_text_cond):
        embed, mask = raw_text_cond  # (b, n, dim_latent) and (b, n), True for a token to attend to
        return self.unet(images, timestep, encoder_hidden_states=embed, encoder_attention_mask=mask).sample


def build(width=32):
    """An untrained U-Net in its wrapper."""
    encoder = MiniAdapter()  # before diffusers: an encoder makes a torchvision importable that was built for another torch
    from diffusers import UNet2DConditionModel

    unet = UNet2DConditionModel(
        sample_size=SIZE, in_channels=3, out_channels=3, layers_per_block=1, block_out_channels=(width, 2 * width),
        down_block_types=('DownBlock2D', 'CrossAttnDownBlock2D'), up_block_types=('CrossAttnUpBlock2D', 'UpBlock2D'),
        norm_num_groups=8, attention_head_dim=4, cross_attention_dim=64,
    )  # fmt: skip
    return TextToImage(
        unet, text_condition_type='raw', text_condition_model_types=encoder, text_condition_dim_latent=64,
        text_condition_cond_drop_prob=0.1,
    )  # fmt: skip


def train(model, steps, batch=32):
    """The usual training step of diffusers; the library drops the text of every tenth picture."""
    from diffusers import DDPMScheduler

    schedule = DDPMScheduler(**NOISE)
    batches = iter(DataLoader(close_ups(SIZE, steps * batch), batch, collate_fn=collate))

    def loss():
        pictures, captions = next(batches)
        images, noise = 2 * pictures - 1, torch.randn(pictures.shape)
        timestep = torch.randint(schedule.config.num_train_timesteps, (batch,))
        predicted = model(schedule.add_noise(images, noise, timestep), timestep, texts=captions)
        return F.mse_loss(predicted, schedule.get_velocity(images, noise, timestep))

    fit(model, loss, steps)


@torch.no_grad()
def sample(model, texts, scale, steps=20, seed=1):
    """Pictures `(b, 3, SIZE, SIZE)` from 0 to 1, by DPM-Solver++; both branches in one pass of twice the batch."""
    from diffusers import DPMSolverMultistepScheduler

    prepared, solver = model.prepare(texts), DPMSolverMultistepScheduler(**NOISE)
    solver.set_timesteps(steps)
    images = torch.randn(len(texts), 3, SIZE, SIZE, generator=torch.Generator().manual_seed(seed))
    for timestep in solver.timesteps:
        predicted = model(images, timestep, text_condition=prepared, cond_scale=scale, cfg_batched=True)
        images = solver.step(predicted, timestep, images).prev_sample
    return (images / 2 + 0.5).clamp(0, 1)


def main(steps=800, each=32, out='runs/examples/diffusers_unet.png'):
    """Train, sample at every scale, print and draw; return the share of right pictures by scale."""
    torch.manual_seed(0)
    model = build()
    train(model, steps)
    return compare_scales(lambda texts, scale: sample(model, texts, scale), (0.0, 1.0, 2.0, 4.0, 7.5), out, each)


if __name__ == '__main__':
    main()
