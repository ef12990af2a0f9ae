"""A decorated method. mypy's plugin adds the keywords; without it, and for pyright, only the result is known."""

from __future__ import annotations

from torch import Tensor, nn
from typing_extensions import assert_type

from classifier_free_guidance_pytorch import classifier_free_guidance


class Denoiser(nn.Module):
    @classifier_free_guidance
    def forward(self, x: Tensor, label: Tensor, cond_drop_prob: float = 0.0) -> Tensor:
        return x + label * (1 - cond_drop_prob)


class Sampler:
    @classifier_free_guidance(cond_drop_prob_keyname='drop')
    def denoise(self, x: Tensor, drop: float = 0.0) -> Tensor:
        return x * (1 - drop)


def use(net: Denoiser, x: Tensor) -> None:
    assert_type(net.forward(x, x, cond_scale=3.0), Tensor)
    net.forward(x, x, cond_scale='3')  # E: mypy[arg-type]
    net.forward(x, x, cond_scle=3.0)  # E: mypy[call-arg]
    net(x, label=x, cond_scle=3.0)  # E: mypy[call-arg]
    assert_type(net(x, x, cond_scale=3.0), Tensor)  # E: pyright[reportAssertTypeFailure]
    assert_type(Sampler().denoise(x, cond_scale=3.0), Tensor)
