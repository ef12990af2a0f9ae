"""The networks in two forms that share their weights: decorated with the library, and conditioned by hand."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from benchmarks import by_hand
from benchmarks.bodies import BODIES, TINY, Conditions, fill_zeros
from classifier_free_guidance_pytorch import classifier_free_guidance_class_decorator


def decorated(body: type[Any]) -> type[Any]:
    """A network that the library conditions and guides."""

    @classifier_free_guidance_class_decorator
    class Decorated(body):
        def forward(self, x: Tensor, t: Tensor, cond_fns: Conditions) -> Tensor:
            return self.run(x, t, cond_fns)

    return Decorated


def conditioned_by_hand(body: type[Any]) -> type[Any]:
    """The same network, conditioned by hand."""

    class ByHand(body):
        def __init__(self, kind: str, dim_text: int, **sizes: int) -> None:
            super().__init__(**sizes)
            self.text_conditioner = by_hand.conditioner(kind, dim_text, self.hidden_dims, self.channel_first)

        def forward(self, x: Tensor, t: Tensor, encodings: Any, drop: by_hand.Drop) -> Tensor:
            return self.run(x, t, self.text_conditioner.conditioners, self.text_conditioner(encodings, drop))

    return ByHand


DECORATED = {name: decorated(body) for name, body in BODIES.items()}
BY_HAND = {name: conditioned_by_hand(body) for name, body in BODIES.items()}
KINDS = ('film', 'attention', 'concat')


def pair(
    name: str, kind: str, encoders: Any, tiny: bool = False, sizes: Mapping[str, int] | None = None, **text_condition: Any
) -> tuple[Any, Any]:
    """A network decorated and by hand, with the same random weights, none of them zero.

    Args:
        name: one of `BODIES`.
        kind: one of `KINDS`.
        encoders: `model_types` of the conditioner.
        tiny: small enough for a test.
        sizes: of the network, in place of its own.
        text_condition: further arguments of the conditioner.
    """
    sizes = TINY[name] if tiny else sizes or {}
    probe = BODIES[name](**sizes)
    torch.manual_seed(0)
    arguments = {
        'type': kind,
        'model_types': encoders,
        'hidden_dims': probe.hidden_dims,
        'hiddens_channel_first': probe.channel_first,
        **text_condition,
    }
    ours = DECORATED[name](**sizes, **{f'text_condition_{key}': value for key, value in arguments.items()})
    fill_zeros(ours)
    theirs = BY_HAND[name](kind, ours.text_conditioner.dim_latent, **sizes)
    theirs.load_state_dict(ours.state_dict())
    return ours, theirs
