"""Muon, an optimizer for the matrices inside a network; here it halves the steps that the small models of the demos need."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

# A quintic whose fifth iterate maps singular values of (0, 1] close to 1; coefficients from K. Jordan et al., see `Muon`.
_A, _B, _C = 3.4445, -4.7750, 2.0315


def orthogonalized(update: Tensor, steps: int = 5) -> Tensor:
    """Nearly the orthogonal matrix closest to `update` `(m, n)`: every singular value is brought near 1 (0.7 to 1.2).

    Iterates `X <- aX + b(XX')X + c(XX')^2 X = QX` from `X = update / |update|`, with `Q = a + bG + cG^2` and `G = XX'`. `G` is
    small where X is wide, as convolutions are, and follows by itself, `G <- QGQ`: X is needed before the iteration and after it.

    Example:
        >>> import torch
        >>> values = torch.linalg.svdvals(orthogonalized(torch.randn(8, 32, generator=torch.Generator().manual_seed(0))))
        >>> bool((values > 0.6).all() and (values < 1.3).all())
        True
    """
    tall = update.shape[0] > update.shape[1]
    x = update.T if tall else update  # the smaller side first: its Gram matrix is the smaller one
    x = x / (x.norm() + 1e-7)
    gram = x @ x.T
    product = torch.eye(len(x), dtype=x.dtype, device=x.device)
    for _ in range(steps):
        factor = torch.addmm(gram, gram, gram, beta=_B, alpha=_C)
        factor.diagonal().add_(_A)
        product = factor @ product
        gram = factor @ gram @ factor
    orthogonal: Tensor = product @ x
    return orthogonal.T if tall else orthogonal


class Muon(torch.optim.Optimizer):
    """Momentum, made orthogonal: every direction of a matrix is learned at the same speed.

    `M <- mM + (1-m)G`, `W <- (1 - lr * decay) W - lr * sqrt(max(1, rows/columns)) * orthogonalized((1-m)G + mM)`. Convolutions
    are matrices of their output channels. Biases, norms and embeddings belong to another optimizer: see `muon_and_adam`.

    Args:
        params: parameters of two dimensions or more.
        lr: the change of a matrix in one step, in singular values.
        momentum: `m`, of the past.
        weight_decay: per step, times the learning rate.

    Reference:
        K. Jordan et al., Muon: an optimizer for hidden layers in neural networks, 2024, https://kellerjordan.github.io/posts/muon/
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 0.02,
        momentum: float = 0.95,
        weight_decay: float = 0.0,
    ) -> None:
        super().__init__(params, {'lr': lr, 'momentum': momentum, 'weight_decay': weight_decay})

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> None:  # type: ignore[override]
        """One step from the gradients at hand; `closure` is not supported."""
        assert closure is None
        for group in self.param_groups:
            for parameter in group['params']:
                if parameter.grad is None:
                    continue
                state = self.state[parameter]
                if not state:
                    state['momentum'] = torch.zeros_like(parameter)
                average = state['momentum'].lerp_(parameter.grad, 1 - group['momentum'])
                update = orthogonalized(parameter.grad.lerp(average, group['momentum']).flatten(1))
                scale = max(1.0, update.shape[0] / update.shape[1]) ** 0.5
                parameter.mul_(1 - group['lr'] * group['weight_decay'])
                parameter.add_(update.reshape(parameter.shape), alpha=-group['lr'] * scale)


def muon_and_adam(
    *modules: nn.Module,
    lr: float = 0.02,
    adam_lr: float = 3e-3,
    weight_decay: float = 0.02,
) -> list[torch.optim.Optimizer]:
    """Muon for the matrices and convolutions of the modules, AdamW without decay for everything else, embeddings included.

    Each group keeps its own rate in `initial_lr`, from which a schedule sets `lr`.
    """
    embeddings = {
        id(p) for module in modules for part in module.modules() if isinstance(part, nn.Embedding) for p in part.parameters()
    }
    parameters = [p for module in modules for p in module.parameters() if p.requires_grad]
    matrices = [p for p in parameters if p.ndim > 1 and id(p) not in embeddings]
    others = [p for p in parameters if p.ndim <= 1 or id(p) in embeddings]
    muon = Muon(matrices, lr=lr, weight_decay=weight_decay)
    adam = torch.optim.AdamW(others, lr=adam_lr, betas=(0.9, 0.98), weight_decay=0.0)
    for group in (*muon.param_groups, *adam.param_groups):
        group['initial_lr'] = group['lr']
    return [muon, adam]
