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
from classifier_free_guidance_pytorch.errors import ConfigError, ShapeError
from classifier_free_guidance_pytorch.guidance import CFG
from classifier_free_guidance_pytorch.training.models import (
    check_sample_weight,
    check_scales,
    key_names,
    mean_square,
    model_in,
    prediction_of,
    student_conditioner,
)


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
    sample_weight: Tensor | None = None,
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
        sample_weight: How much the error of each sample counts, `(b,)`, such as a weight of its noise level; 1 by default.
        **keywords: Every other argument of a call, `texts` or `text_embeds` above all.

    Raises:
        ConfigError: Scales that are not above 0, a model without the scale input, an unknown weighting, a probability that is
            none, or weights that are no tensor `(b,)`.
        ShapeError: The target has a different shape than the prediction, or there are more or fewer weights than samples.
        UsageError: The model is in eval mode.
    """
    if weighting not in ('gft', 'mg'):
        raise ConfigError(f"weighting is 'gft' or 'mg', but got {weighting!r}")
    check_sample_weight(sample_weight)
    scale = _checked(model, inputs, target, cond_scale)  # (b,)
    conditioner = student_conditioner(model)
    drop_prob = conditioner.cond_drop_prob if cond_drop_prob is None else cond_drop_prob
    if not isinstance(drop_prob, (int, float)) or not 0 <= drop_prob <= 1:
        raise ConfigError(f'cond_drop_prob is one probability in [0, 1], but got {drop_prob!r}')
    if generator is not None and not isinstance(generator, torch.Generator):
        raise ConfigError(f'generator is a torch.Generator, or None for the global state, but got {generator!r}')
    drawn = torch.rand(len(target), generator=generator, device=target.device if generator is None else generator.device)
    dropped = drawn.to(target.device) < drop_prob  # (b,)
    scale = torch.where(dropped, 1.0, scale)

    guided = _guided(model, inputs, target, scale, dropped.to(torch.float32), guide, keywords)
    null = _null(model if ema is None else ema, inputs, guide, keywords, guided)
    conditioner.learn_scales(cond_scale)
    if weighting == 'gft':
        return mean_square(torch.lerp(null, guided, _inverse(scale, guided)) - target, sample_weight)
    return mean_square(guided - _beyond(target, guided.detach(), null, scale), sample_weight)


@torch.no_grad()
def guidance_free_target(
    model: Any,
    *inputs: Any,
    target: Tensor,
    cond_scale: float | Tensor,
    ema: nn.Module | None = None,
    guide: Any = None,
    **keywords: Any,
) -> Tensor:
    """Return the target of model guidance, `target + (1 - 1/s) * (f - u)`, without gradients.

    Its mean over data is the guided prediction once `f` is. `guidance_free_loss(..., weighting='mg')` takes the squared distance
    to it; here it is for other losses, such as that of a mean flow (arXiv 2512.02012), whose guided velocity it is.

    Args:
        model: A model in training mode whose text conditioner reads the scale.
        inputs: The positional arguments of its forward.
        target: What the model would be trained to predict without guidance: noise, velocity or clean sample, `(b, ...)`.
        cond_scale: The guidance scale, above 0: one for each sample, drawn anew at every step; 1 for a sample that is to lose its
            text, which leaves its target as it is.
        ema: A moving average of the model that makes the null prediction; by default the model itself.
        guide: Which entry of the output is predicted, the first by default.
        **keywords: Every other argument of a call, `texts` or `text_embeds` above all.

    Returns:
        The target, in the shape and dtype of the prediction.

    Raises:
        ConfigError: Scales that are not above 0, or a model without the scale input.
        ShapeError: The target has a different shape than the prediction.
        UsageError: The model is in eval mode.
    """
    scale = _checked(model, inputs, target, cond_scale)  # (b,)
    guided = _guided(model, inputs, target, scale, 0.0, guide, keywords)
    null = _null(model if ema is None else ema, inputs, guide, keywords, guided)
    student_conditioner(model).learn_scales(cond_scale)
    return _beyond(target, guided, null, scale)


def _checked(model: Any, inputs: tuple[Any, ...], target: Any, cond_scale: Any) -> Tensor:
    """Return one scale for each sample `(b,)`, once the arguments have been looked at."""
    student_conditioner(model)
    check_scales(cond_scale)
    if not isinstance(target, Tensor) or target.ndim == 0 or not target.is_floating_point():
        what = f'a tensor of {target.dtype}' if isinstance(target, Tensor) and target.ndim > 0 else repr(target)
        raise ConfigError(
            f'target is what the model predicts without guidance, a tensor (b, ...) of real numbers, but got {what}'
        )
    batch = next((one.shape[0] for one in inputs if isinstance(one, Tensor) and one.ndim > 1), len(target))
    if len(target) != batch:
        raise ShapeError(f'target has shape {tuple(target.shape)}, but the inputs are a batch of {batch}')
    if isinstance(cond_scale, Tensor) and cond_scale.ndim == 1 and len(cond_scale) not in (1, batch):
        raise ShapeError(f'cond_scale has {len(cond_scale)} scales for a batch of {batch}: pass one per sample, or one number')
    dtype = torch.promote_types(target.dtype, torch.float32)
    return torch.as_tensor(cond_scale, dtype=dtype, device=target.device).expand(batch)


def _guided(
    model: Any, inputs: tuple[Any, ...], target: Tensor, scale: Tensor, drop_prob: Any, guide: Any, keywords: dict[str, Any]
) -> Tensor:
    """Return what a model in training predicts in one pass at these scales, `(b, ...)`."""
    output = model(*inputs, cond_scale=scale, **{key_names(model).cond_drop_prob: drop_prob}, **keywords)
    guided = prediction_of(output, guide)
    if guided.shape != target.shape:
        raise ShapeError(f'target has shape {tuple(target.shape)}, but the model predicts {tuple(guided.shape)}')
    return guided


@torch.no_grad()
def _null(model: Any, inputs: tuple[Any, ...], guide: Any, keywords: dict[str, Any], like: Tensor) -> Tensor:
    """Return the null prediction `(b, ...)` of a model in eval mode, in the dtype of the guided one."""
    unguided = model_in(model)
    with in_eval_mode(unguided):
        output = unguided(*inputs, cond_scale=0.0, guidance=CFG(), guide=guide, **keywords)
    null = prediction_of(output, guide)
    if null.shape != like.shape:
        raise ShapeError(
            f'ema predicts {tuple(null.shape)}, but the model {tuple(like.shape)}: it is to be an average of the same model'
        )
    return null.to(like.dtype)


def _inverse(scale: Tensor, like: Tensor) -> Tensor:
    """Return `b = 1 / s` of each sample, `(b, 1, ...)`."""
    return scale.reciprocal().to(like.dtype).view(-1, *(1,) * (like.ndim - 1))


def _beyond(target: Tensor, guided: Tensor, null: Tensor, scale: Tensor) -> Tensor:
    return target + (1 - _inverse(scale, guided)) * (guided - null)
