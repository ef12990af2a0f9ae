"""From what a model predicts to the clean sample, and back.

Throughout, `x = alpha * x0 + sigma * eps`. Where `alpha` is not given it follows from `sigma`:

    space   the model predicts           alpha                  x0
    'x0'    x0                           (not used)             the prediction
    'eps'   eps                          1 (x = x0 + sigma*eps) (x - sigma * eps) / alpha
    'v'     v = alpha*eps - sigma*x0     sqrt(1 - sigma^2)      (alpha * x - sigma * v) / (alpha^2 + sigma^2)
    'flow'  v = eps - x0                 1 - sigma              (x - sigma * v) / (alpha + sigma)

For 'flow', `sigma` is the flow time, 1 at pure noise. A variance preserving noise prediction (DDPM) passes
`alpha = sqrt(alphas_cumprod)` and `sigma = sqrt(1 - alphas_cumprod)`.
"""

from __future__ import annotations

from torch import Tensor

from classifier_free_guidance_pytorch.errors import ConfigError, ShapeError
from classifier_free_guidance_pytorch.guidance.checks import Scale, aligned
from classifier_free_guidance_pytorch.guidance.reductions import widened

SPACES = ('x0', 'eps', 'v', 'flow')


def check_space(owner: str, space: object) -> None:
    """Raise `ConfigError` unless `space` is one of `SPACES`."""
    if space not in SPACES:
        raise ConfigError(f'{owner}: unknown prediction space {space!r}; expected one of {", ".join(map(repr, SPACES))}')


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
        ConfigError: An unknown space.
        ShapeError: `x` and the prediction differ in shape.

    >>> import torch
    >>> to_x0(torch.tensor([[2.]]), 'eps', x=torch.tensor([[5.]]), sigma=2.)
    tensor([[1.]])
    """
    a, b = _line('to_x0', space, prediction, x, sigma, alpha)
    return prediction if space == 'x0' else a * widened(x) + b * widened(prediction)


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
        ShapeError, ConfigError: As for `to_x0`.

    >>> import torch
    >>> from_x0(torch.tensor([[1.]]), 'eps', x=torch.tensor([[5.]]), sigma=2.)
    tensor([[2.]])
    """
    a, b = _line('from_x0', space, x0, x, sigma, alpha)
    return x0 if space == 'x0' else (widened(x0) - a * widened(x)) / b


def _line(owner: str, space: str, like: Tensor, x: Tensor, sigma: Scale, alpha: Scale | None) -> tuple[Scale, Scale]:
    """Return `(a, b)` of `x0 = a * x + b * prediction`."""
    check_space(owner, space)
    if x.shape != like.shape:
        raise ShapeError(f'{owner}: x has shape {tuple(x.shape)}, but the prediction has shape {tuple(like.shape)}')
    s = aligned(sigma, like, 'sigma', wide=True)
    given = None if alpha is None else aligned(alpha, like, 'alpha', wide=True)
    if space == 'v':
        c = (1 - s * s) ** 0.5 if given is None else given
        if isinstance(c, complex):
            raise ConfigError(f"{owner}: sigma is {sigma}, but without alpha= the space 'v' is variance preserving: sigma <= 1")
        total = c * c + s * s
        return c / total, -s / total
    if space == 'flow':
        total = s + (1 - s if given is None else given)
        return 1 / total, -s / total
    c = 1.0 if given is None else given
    return 1 / c, -s / c
