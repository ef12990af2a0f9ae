"""Guidance learned from data alone, without a teacher: guidance-free training and model guidance.

The guided prediction `f` of a model with the scale `s` lies beyond the conditional one `c`, seen from the null `u`:

    f = u + s * (c - u)        so        c = b * f + (1 - b) * u,        b = 1 / s

`c` is what data teach, so `f` is learned through it (GFT, arXiv 2501.15420), or from a target that lies beyond the data (model
guidance, arXiv 2502.12154). With `u` detached the two have the same gradient, up to the factor `b`:

    'gft'    |b * f + (1 - b) * u - target|^2
    'mg'     |f - (target + (1 - b) * (f - u))|^2      with everything in the bracket detached
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor, nn

from classifier_free_guidance_pytorch.decorator.eval_mode import in_eval_mode
from classifier_free_guidance_pytorch.decorator.outputs import at, guided_paths
from classifier_free_guidance_pytorch.errors import ConfigError, ShapeError
from classifier_free_guidance_pytorch.guidance import CFG
from classifier_free_guidance_pytorch.training.models import check_scales, key_names, model_in, student_conditioner


def guidance_free_loss(
    model: Any,
    *inputs: Any,
    target: Tensor,
    cond_scale: float | Tensor,
    weighting: Literal['gft', 'mg'] = 'gft',
    cond_drop_prob: float | None = None,
    ema: nn.Module | None = None,
    guide: Any = None,
    generator: torch.Generator | None = None,
    **keywords: Any,
) -> Tensor:
    """Return the loss of a training step from data, after which the model answers `cond_scale` in one pass.

    A sample that loses its text is trained at the scale 1, so that the null prediction is the ordinary one.

    Args:
        model: A model in training mode whose text conditioner reads the scale.
        inputs: The positional arguments of its forward.
        target: What the model would be trained to predict without guidance: noise, velocity or clean sample, `(b, ...)`.
        cond_scale: The guidance scale, above 0: one for each sample, drawn anew at every step.
        weighting: 'gft', or 'mg', whose gradient is that of 'gft' divided by `b`: it weighs high scales as much as low ones.
        cond_drop_prob: Probability that a sample loses its text; by default that of the model's conditioner.
        ema: A moving average of the model that makes the null prediction; by default the model itself.
        guide: Which entry of the output is predicted, the first by default.
        generator: Draws which samples lose their text; by default torch's own.
        **keywords: Every other argument of a call, `texts` or `text_embeds` above all.

    Raises:
        ConfigError: Scales that are not above 0, a model without the scale input, an unknown weighting, or a probability that is
            none.
        ShapeError: The target has a different shape than the prediction.
        UsageError: The model is in eval mode.
    """
    conditioner = student_conditioner(model)
    check_scales(cond_scale)
    if weighting not in ('gft', 'mg'):
        raise ConfigError(f"weighting is 'gft' or 'mg', but got {weighting!r}")
    if not isinstance(target, Tensor) or target.ndim == 0:
        raise ConfigError(f'target is what the model predicts without guidance, a tensor (b, ...), but got {target!r}')
    batch = next((one.shape[0] for one in inputs if isinstance(one, Tensor) and one.ndim > 1), len(target))
    if len(target) != batch:
        raise ShapeError(f'target has shape {tuple(target.shape)}, but the inputs are a batch of {batch}')
    if isinstance(cond_scale, Tensor) and cond_scale.ndim == 1 and len(cond_scale) not in (1, batch):
        raise ShapeError(f'cond_scale has {len(cond_scale)} scales for a batch of {batch}: pass one per sample, or one number')
    drop_prob = conditioner.cond_drop_prob if cond_drop_prob is None else cond_drop_prob
    if not isinstance(drop_prob, (int, float)) or not 0 <= drop_prob <= 1:
        raise ConfigError(f'cond_drop_prob is one probability in [0, 1], but got {drop_prob!r}')
    device = target.device
    drawn = torch.rand(len(target), generator=generator, device=device if generator is None else generator.device)
    dropped = drawn.to(device) < drop_prob  # (b,)
    scale = torch.as_tensor(cond_scale, dtype=torch.promote_types(target.dtype, torch.float32), device=device)
    scale = torch.where(dropped, 1.0, scale.expand(len(target)))  # (b,)

    output = model(*inputs, cond_scale=scale, **{key_names(model).cond_drop_prob: dropped.to(torch.float32)}, **keywords)
    guided = at(output, guided_paths(output, guide)[0])  # (b, ...)
    if guided.shape != target.shape:
        raise ShapeError(f'target has shape {tuple(target.shape)}, but the model predicts {tuple(guided.shape)}')
    unguided = model_in(model if ema is None else ema)
    with torch.no_grad(), in_eval_mode(unguided):
        output = unguided(*inputs, cond_scale=0.0, guidance=CFG(), guide=guide, **keywords)
    null = at(output, guided_paths(output, guide)[0]).to(guided.dtype)  # (b, ...)

    conditioner.learn_scales(cond_scale)
    b = scale.reciprocal().to(guided.dtype).view(-1, *(1,) * (guided.ndim - 1))  # (b, 1, ...)
    if weighting == 'gft':
        return (torch.lerp(null, guided, b) - target).square().mean()
    beyond = target + (1 - b) * (guided.detach() - null)  # (b, ...)
    return (guided - beyond).square().mean()
