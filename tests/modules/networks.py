"""Small networks that know nothing of text."""

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from classifier_free_guidance_pytorch import text_conditioned
from tests.conditioners.making import noise, randomised
from tests.tiny_models import TinyEncoder

TEXTS = ['a small red circle', 'a dog', 'the large blue square above a triangle']


class Block(nn.Module):
    """A residual block of tokens `(b, n, d)`; returns a pair, as many libraries' blocks do, where it is asked to."""

    def __init__(self, dim, pair=False):
        super().__init__()
        self.linear, self.act, self.pair = nn.Linear(dim, dim), nn.Tanh(), pair

    def forward(self, x):
        x = x + self.act(self.linear(x))
        return (x, 'beside it') if self.pair else x


class Net(nn.Module):
    """Tokens in, tokens out."""

    def __init__(self, dim=6, depth=3, pair=False, checkpointed=None):
        super().__init__()
        self.blocks = nn.ModuleList([Block(dim, pair) for _ in range(depth)])
        self.head = nn.Linear(dim, dim)
        self.checkpointed = checkpointed

    def forward(self, x, scale=1.0):
        for block in self.blocks:
            if self.training and self.checkpointed is not None:
                x = checkpoint(block, x, use_reentrant=self.checkpointed)
            else:
                x = block(x)
            x = x[0] if isinstance(x, tuple) else x
        return self.head(x) * scale


class Pictures(nn.Module):
    """Pictures in, pictures out: convolutions, and tokens in the shape of a picture."""

    def __init__(self, dim=8):
        super().__init__()
        self.enter = nn.Conv2d(3, dim, 3, padding=1)
        self.norm = nn.GroupNorm(2, dim)
        self.act = nn.SiLU()
        self.mix = Mix(dim)
        self.leave = nn.Conv2d(dim, 3, 3, padding=1)

    def forward(self, x):
        return self.leave(self.mix(self.act(self.norm(self.enter(x)))))


class Mix(nn.Module):
    """Mix the channels at every position, by a linear layer on tokens."""

    def __init__(self, dim):
        super().__init__()
        self.linear = nn.Linear(dim, dim)

    def forward(self, x):
        return self.linear(x.flatten(2).transpose(1, 2)).transpose(1, 2).view_as(x)


def seeded_net(cls=Net, **arguments):
    torch.manual_seed(0)
    return cls(**arguments)


def following(at='blocks.*', net=None, encoders=None, seed=2, **arguments):
    """A small network that follows text, with new layers that do something."""
    net = seeded_net() if net is None else net
    arguments = {'example': noise(3, 5, 6), 'model_types': encoders or [TinyEncoder()], **arguments}
    model = text_conditioned(net, at, **arguments)
    randomised(model.text_conditioner, seed)
    return model.eval()


MIXED = {'blocks.0': 'attention', 'blocks.1': 'concat', 'blocks.2': None}
KINDS = {'film': 'blocks.*', 'attention': 'blocks.*', 'concat': 'blocks.*', 'mixed': MIXED}


def of_kind(kind, net=None, **arguments):
    return following(KINDS[kind], net, condition='film' if kind == 'mixed' else kind, **arguments)


kinds = pytest.mark.parametrize('kind', KINDS)
