"""A decorated class, as the README writes it: mypy knows it through the plugin.

pyright sees the class as it was written: a decorator cannot add `text_condition_*` to its constructor or `prepare` to its
methods, and a call takes anything. For pyright, derive from `TextConditioned`.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from typing_extensions import assert_type

from classifier_free_guidance_pytorch import (
    CondFns,
    PreparedCondition,
    TextConditioned,
    TextEncoding,
    classifier_free_guidance_class_decorator,
)


@classifier_free_guidance_class_decorator
class Net(nn.Module):
    def __init__(self, dim: int, depth: int = 1) -> None:
        super().__init__()
        self.dim = dim
        self.out = nn.Linear(dim, dim)

    def forward(self, x: Tensor, cond_fns: CondFns, time: float = 1.0) -> tuple[Tensor, Tensor]:
        (condition,) = cond_fns
        hiddens: Tensor = self.out(condition(x))
        return hiddens * time, x


def own(net: Net) -> None:
    assert_type(net.dim, int)
    assert_type(net.out, nn.Linear)
    assert_type(Net(8), Net)


def takes_any(model: TextConditioned) -> PreparedCondition:
    return model.prepare(['a dog'])


def use() -> Tensor:
    net = Net(8, text_condition_model_types='mini', text_condition_hidden_dims=(8,))  # E: pyright[reportCallIssue]
    x = torch.randn(2, 8)
    net.eval()
    guided, _ = net(x, texts=['a red circle', 'a blue square'], cond_scale=3.0)
    return guided


def what_mypy_knows(net: Net, x: Tensor) -> None:
    assert_type(net(x, texts=['a dog']), tuple[Tensor, Tensor])  # E: pyright[reportAssertTypeFailure]
    assert_type(net(x, 0.5, texts=['a dog']), tuple[Tensor, Tensor])  # E: pyright[reportAssertTypeFailure]
    assert_type(net(x, time=0.5, cond_scale=3), tuple[Tensor, Tensor])  # E: pyright[reportAssertTypeFailure]
    prepared = net.prepare(['a dog'])  # E: pyright[reportCallIssue]
    assert_type(prepared, PreparedCondition)  # E: pyright[reportAssertTypeFailure]
    encodings = net.encode_texts(['a dog'])  # E: pyright[reportCallIssue]
    assert_type(encodings, tuple[TextEncoding, ...])  # E: pyright[reportAssertTypeFailure]
    takes_any(net)  # E: pyright[reportArgumentType]


def construct() -> None:
    Net(8, text_condition_tpye='film')  # E: mypy[call-arg] pyright[reportCallIssue]
    Net(8, 2, text_condition_type='flim')  # E: mypy[arg-type] pyright[reportCallIssue]
    Net('8', depth=2)  # E: mypy[arg-type] pyright[reportArgumentType]


def call(net: Net, x: Tensor) -> None:
    net(x, text=['a dog'])  # E: mypy[call-arg]
    net(x, texts=['a dog'], cond_scle=3.0)  # E: mypy[call-arg]
    net(x, texts=['a dog'], cond_scale='3')  # E: mypy[arg-type]
    net(x, texts='a dog')  # E: mypy[arg-type]
    net('x', texts=['a dog'])  # E: mypy[arg-type]
    net(x, x, texts=['a dog'])  # E: mypy[arg-type]
    net(texts=['a dog'])  # E: mypy[call-arg]
    net.prepair(['a dog'])  # E: mypy[operator] pyright[reportCallIssue]
    net.prepare(['a dog'], negatives=['a cat'])  # E: mypy[call-arg] pyright[reportCallIssue]
