"""Guidance by an energy: a loss on the clean sample, or on the noisy one (classifier guidance)."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from classifier_free_guidance_pytorch.errors import ConfigError, ShapeError, UsageError
from classifier_free_guidance_pytorch.guidance.checks import Scale, aligned, holds_anywhere
from classifier_free_guidance_pytorch.guidance.reductions import widened
from classifier_free_guidance_pytorch.guidance.spaces import alpha_of, check_space, convert, slope_in_noise

Energy = Callable[[Tensor], Tensor]
"""A loss of samples `(b, ...)`, one value for each: `(b,)`."""

OF = ('x0', 'x0 through the model', 'x')


def energy_guided(
    prediction: Tensor,
    energy: Energy,
    weight: Scale,
    *,
    model: str,
    x: Tensor,
    sigma: Scale,
    alpha: Scale | None = None,
    of: str = 'x0',
) -> Tensor:
    """Guide towards samples of low energy: `eps + w * sigma * dE/dx`, whatever the model predicts.

    That is the score `-eps / sigma` of a density times `exp(-w * E)`. With `E = -log p(y | x)` and `of='x'` it is classifier
    guidance at the scale `w`.

    Args:
        prediction: A prediction, guided or not, `(b, ...)`.
        energy: A differentiable loss, one value per sample.
        weight: `w`; 0 returns `prediction`.
        model: What was predicted, one of `guidance.SPACES`.
        x: The noisy sample, same shape.
        sigma: Its noise level.
        alpha: The factor of the clean sample in it, by default as in `guidance.to_x0`.
        of: What `energy` is a function of. `'x0'`: the predicted clean sample, whose slope in `x` is taken for `1 / alpha`
            (MPGD): no graph of the model is needed. `'x0 through the model'`: the same with its true slope (DPS, FreeDoM):
            `x` requires a gradient before the passes are made. `'x'`: the noisy sample.

    Returns:
        The prediction, in its shape and dtype, without history.

    Raises:
        ConfigError: An unknown space, an unknown `of`, an energy that is no function or has no gradient, or pure noise.
        ShapeError: The energy is no scalar per sample.
        UsageError: `x` requires no gradient where one through the model is asked for.

    DPS, arXiv 2209.14687; FreeDoM, arXiv 2303.09833; classifier guidance, arXiv 2105.05233; MPGD, arXiv 2311.16424. Oracle: the
    posterior of a Gaussian, in closed form.

    >>> import torch
    >>> noise = torch.zeros(1, 2)
    >>> energy_guided(noise, lambda x: x.square().sum(1) / 2, 1., model='eps', x=torch.ones(1, 2), sigma=.5, of='x')
    tensor([[0.5000, 0.5000]])
    """
    check_space('energy_guided: model', model)
    if not callable(energy):
        raise ConfigError(f'energy_guided: energy must be a function of samples, one value for each, got {energy!r}')
    if of not in OF:
        raise ConfigError(f'energy_guided: of must be one of {", ".join(map(repr, OF))}, got {of!r}')
    alpha = alpha_of(model, model, sigma, alpha)
    if holds_anywhere(alpha == 0) and not (model == 'eps' and of == 'x'):
        raise ConfigError(f'energy_guided: alpha is {alpha}: pure noise has no clean sample; steer from the next step on')
    one: Scale = 1.0
    with torch.enable_grad():
        if of == 'x0 through the model':
            if not (x.requires_grad and prediction.requires_grad):
                raise UsageError("energy_guided: of='x0 through the model' needs x.requires_grad_() before the passes are made")
            at, slope = x, one
            sample = convert(prediction, model, 'x0', x, sigma, alpha)
        elif of == 'x':
            at = sample = widened(x.detach()).requires_grad_()
            slope = one
        else:
            at = sample = convert(prediction.detach(), model, 'x0', x.detach(), sigma, alpha).detach().requires_grad_()
            slope = 1 / aligned(alpha, sample, 'alpha', wide=True)
        value = energy(sample)
        if not isinstance(value, Tensor) or value.shape != x.shape[:1]:
            found = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
            raise ShapeError(f'energy_guided: the energy must be one value per sample, of shape ({x.shape[0]},), got {found}')
        if not value.requires_grad:
            raise ConfigError('energy_guided: the energy has no gradient; it must be computed from the samples by torch')
        (gradient,) = torch.autograd.grad(value.sum(), at)
    s, a = aligned(sigma, prediction, 'sigma', wide=True), aligned(alpha, prediction, 'alpha', wide=True)
    push = aligned(weight, prediction, 'weight', wide=True) * s * slope * gradient  # of eps, (b, ...)
    return (widened(prediction.detach()) + slope_in_noise(model, s, a) * push).to(prediction.dtype)
