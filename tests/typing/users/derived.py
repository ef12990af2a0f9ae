"""A class that derives from `TextConditioned`: both checkers know it, mypy without the plugin as well."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from typing_extensions import Unpack, assert_type

from classifier_free_guidance_pytorch import (
    CallKeywords,
    CondFns,
    PreparedCondition,
    TextConditioned,
    TextConditionKeywords,
    TextEncoding,
    guidance,
)


class Net(TextConditioned):
    def __init__(self, dim: int, **text_condition: Unpack[TextConditionKeywords]) -> None:
        super().__init__(**text_condition)
        self.dim = dim
        self.out = nn.Linear(dim, dim)

    def forward(self, x: Tensor, time: float, cond_fns: CondFns) -> Tensor:
        (condition,) = cond_fns
        hiddens: Tensor = self.out(condition(x))
        return hiddens * time

    if TYPE_CHECKING:

        def __call__(self, x: Tensor, time: float, **call: Unpack[CallKeywords]) -> Tensor: ...


class KnowsItsWidths(Net):
    def __init__(self, dim: int, **text_condition: Unpack[TextConditionKeywords]) -> None:
        text_condition.setdefault('text_condition_hidden_dims', (dim,))
        super().__init__(dim, **text_condition)


def use() -> Tensor:
    net = Net(8, text_condition_type='film', text_condition_model_types='mini', text_condition_hidden_dims=(8,))
    x = torch.randn(2, 8)
    assert_type(net(x, 0.5, texts=['a red circle', 'a blue square']), Tensor)
    net.eval()
    assert_type(net.dim, int)
    assert_type(net.out, nn.Linear)
    assert_type(net.max_cond_text_len, int)
    assert_type(net.encode_texts(['a red circle']), tuple[TextEncoding, ...])
    prepared = net.prepare(['a red circle'], negative_texts=['a blue square'])
    assert_type(prepared, PreparedCondition)
    assert_type(prepared[:1], PreparedCondition)
    net(x, time=0.5, text_condition=prepared, cond_scale=torch.tensor([2.0, 3.0]), guidance=guidance.APG())
    knows = KnowsItsWidths(8, text_condition_model_types='mini').eval()
    return knows(x, time=0.5, texts=('a red circle',), cond_scale=3)


def construct(keywords: TextConditionKeywords) -> None:
    Net(8, **keywords)
    keywords['text_condition_nul'] = 'zeros'  # E: mypy[typeddict-unknown-key] pyright[reportGeneralTypeIssues]
    Net(8, text_condition_tpye='film')  # E: mypy[call-arg] pyright[reportCallIssue]
    Net(8, text_condition_type='flim')  # E: mypy[arg-type] pyright[reportArgumentType]
    Net(8, text_condition_hidden_dims=8)  # E: mypy[arg-type] pyright[reportArgumentType]
    Net('8', text_condition_type='film')  # E: mypy[arg-type] pyright[reportArgumentType]
    Net(text_condition_type='film')  # E: mypy[call-arg] pyright[reportCallIssue]


def call(net: Net, x: Tensor) -> None:
    net(x, 0.5, text=['a dog'])  # E: mypy[call-arg] pyright[reportCallIssue]
    net(x, 0.5, texts=['a dog'], cond_scle=3.0)  # E: mypy[call-arg] pyright[reportCallIssue]
    net(x, 0.5, texts=['a dog'], cond_scale='3')  # E: mypy[arg-type] pyright[reportArgumentType]
    net(x, 0.5, texts='a dog')  # E: mypy[arg-type] pyright[reportArgumentType]
    net(x, 0.5, texts=['a dog'], guidance=guidance.APG)  # E: mypy[arg-type] pyright[reportArgumentType]
    net(x, '0.5', texts=['a dog'])  # E: mypy[arg-type] pyright[reportArgumentType]
    net(x, texts=['a dog'])  # E: mypy[call-arg] pyright[reportCallIssue]
    net(x, 0.5, cond_fns=())  # E: mypy[call-arg] pyright[reportCallIssue]


def methods(net: Net) -> None:
    net.prepair(['a dog'])  # E: mypy[operator] pyright[reportCallIssue]
    net.prepare('a dog')  # E: mypy[arg-type] pyright[reportArgumentType]
    net.prepare(['a dog'], negatives=['a cat'])  # E: mypy[call-arg] pyright[reportCallIssue]
    net.prepare(['a dog']).cnod  # E: mypy[attr-defined] pyright[reportAttributeAccessIssue]
    net.encode_texts(['a dog'])[0].token  # E: mypy[attr-defined] pyright[reportAttributeAccessIssue]
