"""What a model predicts, and the same prediction in another space.

Throughout, `x = alpha * x0 + sigma * eps`, and every space is a line through `x0` and `eps`. Where `alpha` is not given it
follows from `sigma`, in the way that models of this kind are trained:

    space   the model predicts               alpha
    'x0'    x0                               1
    'eps'   eps                              1 (x = x0 + sigma*eps)
    'v'     alpha*eps - sigma*x0             sqrt(1 - sigma^2)
    'flow'  eps - x0                         1 - sigma

For 'flow', `sigma` is the flow time, 1 at pure noise. A variance preserving noise prediction (DDPM) passes
`alpha = sqrt(alphas_cumprod)` and `sigma = sqrt(1 - alphas_cumprod)`.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from torch import Tensor

from classifier_free_guidance_pytorch.errors import ConfigError, ShapeError
from classifier_free_guidance_pytorch.guidance.checks import Scale, aligned, check_scale, holds_anywhere, inside, shown
from classifier_free_guidance_pytorch.guidance.reductions import widened

SPACES = ('x0', 'eps', 'v', 'flow')

# p and q of the prediction p * x0 + q * eps
_LINES: dict[str, Callable[[Scale, Scale], tuple[Scale, Scale]]] = {
    'x0': lambda alpha, sigma: (1.0, 0.0),
    'eps': lambda alpha, sigma: (0.0, 1.0),
    'v': lambda alpha, sigma: (-sigma, alpha),
    'flow': lambda alpha, sigma: (-1.0, 1.0),
}


def check_space(owner: str, space: object) -> None:
    """Raise `ConfigError` unless `space` is one of `SPACES`."""
    if space not in SPACES:
        raise ConfigError(f'{owner}: unknown prediction space {space!r}; expected one of {", ".join(map(repr, SPACES))}')


def alpha_of(model: str, other: str, sigma: Scale, alpha: Scale | None = None) -> Scale:
    """Return the factor of the clean sample in `x`, by default that of the table above.

    Args:
        model: What the model predicts.
        other: The other space at hand, which decides where the model predicts `'x0'` and so may be of any kind.
        sigma: The noise level.
        alpha: The factor, where it is known.

    Raises:
        ConfigError: A negative noise level or factor; `'v'` or `'flow'` without a factor and with a noise level above 1.
    """
    sigma = check_scale(sigma, 'sigma')
    if alpha is not None:
        alpha = check_scale(alpha, 'alpha')
        inside('sigma', sigma, 0.0, math.inf, 'x = alpha * x0 + sigma * eps')
        return inside('alpha', alpha, 0.0, math.inf, 'x = alpha * x0 + sigma * eps')
    kind = other if model == 'x0' else model
    if kind not in ('v', 'flow'):
        inside('sigma', sigma, 0.0, math.inf, 'x = x0 + sigma * eps')
        return 1.0
    sigma = inside('sigma', sigma, 0.0, 1.0, f'a model of {kind!r} without alpha=')
    return 1 - sigma if kind == 'flow' else (1 - sigma * sigma) ** 0.5


def convert(prediction: Tensor, source: str, target: str, x: Tensor, sigma: Scale, alpha: Scale) -> Tensor:
    """Return what a model would predict in another space.

    A prediction `p * x0 + q * eps` and `x = alpha * x0 + sigma * eps` are two lines, of which every other is a combination
    `m * prediction + n * x`; it is made in one go, so that nothing is divided by a noise level that does not matter.

    Args:
        prediction: What the model predicted, `(b, ...)`.
        source: What that is, one of `SPACES`.
        target: What is wanted, one of `SPACES`.
        x: The noisy sample, same shape.
        sigma: Its noise level, a number or one value per sample. At 0 a clean sample says nothing of the noise.
        alpha: The factor of the clean sample in `x`. At 0 the noise says nothing of the clean sample.

    Returns:
        The prediction in the target space, in the shape of `prediction`; half precision becomes float32.

    Raises:
        ConfigError: An unknown space, or a noise level at which the source says nothing of the target.
        ShapeError: `x` and the prediction differ in shape.

    >>> import torch
    >>> convert(torch.tensor([[2.]]), 'eps', 'flow', x=torch.tensor([[1.5]]), sigma=.5, alpha=.5)
    tensor([[1.]])
    """
    for space in (source, target):
        check_space('convert', space)
    if not isinstance(x, Tensor):
        raise ConfigError(f'x must be the noisy sample, a tensor like the prediction, got {shown(x)}')
    if x.shape != prediction.shape:
        raise ShapeError(f'x has shape {tuple(x.shape)}, but the prediction has shape {tuple(prediction.shape)}')
    s, a = aligned(sigma, prediction, 'sigma', wide=True), aligned(alpha, prediction, 'alpha', wide=True)
    if source == target:
        return prediction
    (p, q), (r, t) = _LINES[source](a, s), _LINES[target](a, s)
    determinant = p * s - q * a
    if holds_anywhere(determinant == 0):
        raise ConfigError(f'at sigma={sigma} and alpha={alpha} a prediction of {source!r} says nothing of {target!r}')
    m, n = (r * s - t * a) / determinant, (p * t - q * r) / determinant
    return m * widened(prediction) + n * widened(x)


def slope_in_noise(space: str, sigma: Scale, alpha: Scale) -> Scale:
    """Return how much a prediction changes with `eps` at a given `x`: `q - p * sigma / alpha` of `p * x0 + q * eps`."""
    p, q = _LINES[space](alpha, sigma)
    return q if space == 'eps' else q - p * sigma / alpha


def to_x0(prediction: Tensor, space: str, x: Tensor, sigma: Scale, alpha: Scale | None = None) -> Tensor:
    """Return the clean sample that a prediction implies.

    Args:
        prediction: What the model predicted, `(b, ...)`.
        space: `'eps'`, `'v'`, `'flow'` or `'x0'`; see the table at the top of `spaces.py`.
        x: The noisy sample, same shape.
        sigma: Its noise level, a number or one value per sample.
        alpha: The factor of the clean sample in `x`; by default as in the table.

    Returns:
        `x0`, in the shape of `prediction`; half precision becomes float32.

    Raises:
        ShapeError, ConfigError: As for `convert`.

    >>> import torch
    >>> to_x0(torch.tensor([[2.]]), 'eps', x=torch.tensor([[5.]]), sigma=2.)
    tensor([[1.]])
    """
    check_space('to_x0', space)
    return convert(prediction, space, 'x0', x, sigma, alpha_of(space, space, sigma, alpha))


def from_x0(x0: Tensor, space: str, x: Tensor, sigma: Scale, alpha: Scale | None = None) -> Tensor:
    """Return the prediction that implies a clean sample: the inverse of `to_x0`.

    Args:
        x0: The clean sample, `(b, ...)`.
        space: As in `to_x0`, like `x` and `alpha`.
        x: The noisy sample, same shape.
        sigma: Its noise level, not 0 (there the prediction is not determined).
        alpha: The factor of the clean sample in `x`.

    Returns:
        The prediction, in the shape of `x0`; half precision becomes float32.

    Raises:
        ShapeError, ConfigError: As for `convert`.

    >>> import torch
    >>> from_x0(torch.tensor([[1.]]), 'eps', x=torch.tensor([[5.]]), sigma=2.)
    tensor([[2.]])
    """
    check_space('from_x0', space)
    return convert(x0, 'x0', space, x, sigma, alpha_of(space, space, sigma, alpha))
