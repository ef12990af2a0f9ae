"""Rules that stay on the line (or plane) through the predictions: CFG, weak-model guidance, compositions, chains.

Their weights sum to one, so they give the same answer whichever of noise, velocity or clean sample the model predicts.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from classifier_free_guidance_pytorch.errors import ConfigError

from .checks import Scale, aligned, check_alike


def cfg(cond: Tensor, null: Tensor, scale: Scale) -> Tensor:
    """Guide by the line from the null to the conditional prediction: `u + s * (c - u)`, a single `torch.lerp`.

    Args:
        cond: Prediction under the condition, `(b, ...)`.
        null: Prediction under the null condition or a negative prompt, same shape.
        scale: `s`: 1 returns `cond`, 0 returns `null`. A number, `(b,)`, or anything that broadcasts; a tensor is used in
            the dtype of the predictions.

    Returns:
        The guided prediction, in the shape and dtype of `cond`.

    Raises:
        ShapeError: The predictions differ in shape, or the scale does not broadcast.
        ConfigError: They differ in dtype or device.

    Classifier-Free Diffusion Guidance, arXiv 2207.12598, whose `w` is `s - 1`.

    >>> import torch
    >>> cfg(torch.tensor([[1., 2.]]), torch.tensor([[0., 1.]]), 3.)
    tensor([[3., 4.]])
    """
    check_alike('cfg', (('cond', cond), ('null', null)))
    return torch.lerp(null, cond, aligned(scale, cond))


def weak(cond: Tensor, weakened: Tensor, weight: Scale) -> Tensor:
    """Guide away from a deliberately weakened pass: `c + w * (c - k)`.

    Args:
        cond: Prediction under the condition, `(b, ...)`.
        weakened: `k`: the same prediction by a smaller model, with perturbed attention or with layers skipped.
        weight: `w`: 0 returns `cond`. EDM2's `--guidance` is `w + 1`.

    Returns:
        The guided prediction, in the shape and dtype of `cond`.

    Autoguidance, arXiv 2406.02507; perturbed attention, arXiv 2403.17377; skip-layer (spatiotemporal), arXiv 2411.18664.

    >>> import torch
    >>> weak(torch.tensor([[1., 2.]]), torch.tensor([[0., 1.]]), 2.)
    tensor([[3., 4.]])
    """
    check_alike('weak', (('cond', cond), ('weak', weakened)))
    return torch.lerp(weakened, cond, aligned(weight + 1, cond, 'weight'))


def compose(conds: Sequence[Tensor], null: Tensor, weights: Scale | Sequence[Scale] = 1.0) -> Tensor:
    """Join several conditions: `u + sum_i w_i * (c_i - u)`; a negative weight says NOT.

    Args:
        conds: Predictions `c_i`, one per condition, each `(b, ...)`.
        null: Prediction under the null condition, same shape.
        weights: `w_i`, one per condition, or one for all. Each is the guidance scale of its condition.

    Returns:
        The guided prediction, in the shape and dtype of `null`.

    Raises:
        ConfigError: No conditions, or not as many weights as conditions.

    Compositional Visual Generation with Composable Diffusion Models, arXiv 2206.01714: AND and NOT.

    >>> import torch
    >>> left, up, null = torch.tensor([[-1., 0.]]), torch.tensor([[0., 1.]]), torch.zeros(1, 2)
    >>> compose((left, up), null, (2., 3.))
    tensor([[-2.,  3.]])
    """
    if len(conds) == 0:
        raise ConfigError('compose: expected at least one conditional prediction, got none')
    every = tuple(weights) if isinstance(weights, Sequence) else (weights,) * len(conds)
    if len(every) != len(conds):
        raise ConfigError(f'compose: got {len(every)} weights for {len(conds)} conditions; give one each, or a single number')
    check_alike('compose', (('null', null), *((f'conds[{i}]', c) for i, c in enumerate(conds))))
    guided = torch.lerp(null, conds[0], aligned(every[0], null, 'weights[0]'))
    for i, (cond, weight) in enumerate(zip(conds[1:], every[1:], strict=True), 1):
        guided = guided + aligned(weight, null, f'weights[{i}]') * (cond - null)
    return guided


def chain(predictions: Sequence[Tensor], scales: Sequence[Scale]) -> Tensor:
    """Guide along a chain of ever stronger conditions: `p_0 + sum_i s_i * (p_i - p_(i-1))`.

    Args:
        predictions: `p_0` (nothing given), then one more condition at a time; the last has all. Each `(b, ...)`.
        scales: One per step of the chain; with every scale 1 the last prediction is returned.

    Returns:
        The guided prediction, in the shape and dtype of the predictions.

    Raises:
        ConfigError: Fewer than two predictions, or not one scale per step.

    InstructPix2Pix, arXiv 2211.09800, eq. 3: nothing, image, image and text, with scales `(1.5, 7.5)`.

    >>> import torch
    >>> nothing, image, both = torch.tensor([[0., 0.]]), torch.tensor([[1., 0.]]), torch.tensor([[1., 1.]])
    >>> chain((nothing, image, both), (1.5, 7.5))
    tensor([[1.5000, 7.5000]])
    """
    if len(predictions) < 2 or len(scales) != len(predictions) - 1:
        raise ConfigError(
            f'chain: got {len(predictions)} predictions and {len(scales)} scales; '
            'expected at least two predictions and one scale for each step between neighbours'
        )
    last = predictions[-1]
    check_alike('chain', tuple((f'predictions[{i}]', p) for i, p in enumerate(predictions)))
    guided = torch.lerp(predictions[-2], last, aligned(scales[-1], last, 'scales[-1]'))
    # Written from the last prediction backwards, p_n + sum_i (s_i - 1) * step_i, so that scales of 1 return it exactly.
    for i in range(len(scales) - 1):
        guided = guided + (aligned(scales[i], last, f'scales[{i}]') - 1) * (predictions[i + 1] - predictions[i])
    return guided
