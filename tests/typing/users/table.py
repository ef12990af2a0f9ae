"""The table of docs/typing.md, a function for each of its columns or two."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor, nn
from typing_extensions import Unpack, assert_type

from classifier_free_guidance_pytorch import (
    CallKeywords,
    CondFns,
    TextConditioned,
    TextConditionKeywords,
    classifier_free_guidance_class_decorator,
)


class Derived(TextConditioned):
    def __init__(self, dim: int, **text_condition: Unpack[TextConditionKeywords]) -> None:
        super().__init__(**text_condition)

    def forward(self, x: Tensor, cond_fns: CondFns) -> Tensor:
        return cond_fns[0](x)


class Declared(Derived):
    if TYPE_CHECKING:

        def __call__(self, x: Tensor, **call: Unpack[CallKeywords]) -> Tensor: ...


@classifier_free_guidance_class_decorator
class Decorated(nn.Module):
    def __init__(self, dim: int) -> None:
        super().__init__()

    def forward(self, x: Tensor, cond_fns: CondFns) -> Tensor:
        return cond_fns[0](x)


def declared(Net: type[Declared], net: Declared, x: Tensor) -> None:
    assert_type(net, Declared)
    Net(8, text_condition_tpye='film')  # E: mypy[call-arg] pyright[reportCallIssue]
    Net(8, text_condition_type='flim')  # E: mypy[arg-type] pyright[reportArgumentType]
    net(x, text=['a dog'])  # E: mypy[call-arg] pyright[reportCallIssue]
    net(x, texts=['a dog'], cond_scle=3.0)  # E: mypy[call-arg] pyright[reportCallIssue]
    net(x, texts=['a dog'], cond_scale='3')  # E: mypy[arg-type] pyright[reportArgumentType]
    net(x, texts='a dog')  # E: mypy[arg-type] pyright[reportArgumentType]
    net('no tensor', texts=['a dog'])  # E: mypy[arg-type] pyright[reportArgumentType]
    net.prepair(['a dog'])  # E: mypy[operator] pyright[reportCallIssue]
    net.prepare(['a dog']).cnod  # E: mypy[attr-defined] pyright[reportAttributeAccessIssue]


def derived(Net: type[Derived], net: Derived, x: Tensor) -> None:
    assert_type(net, Derived)
    Net(8, text_condition_tpye='film')  # E: mypy[call-arg] pyright[reportCallIssue]
    Net(8, text_condition_type='flim')  # E: mypy[arg-type] pyright[reportArgumentType]
    net(x, text=['a dog'])  # E: mypy[call-arg]
    net(x, texts=['a dog'], cond_scle=3.0)  # E: mypy[call-arg]
    net(x, texts=['a dog'], cond_scale='3')  # E: mypy[arg-type] pyright[reportArgumentType]
    net(x, texts='a dog')  # E: mypy[arg-type] pyright[reportArgumentType]
    net('no tensor', texts=['a dog'])  # E: mypy[arg-type]
    net.prepair(['a dog'])  # E: mypy[operator] pyright[reportCallIssue]
    net.prepare(['a dog']).cnod  # E: mypy[attr-defined] pyright[reportAttributeAccessIssue]


def decorated(Net: type[Decorated], net: Decorated, x: Tensor) -> None:
    assert_type(net, Decorated)
    Net(8, text_condition_tpye='film')  # E: mypy[call-arg] pyright[reportCallIssue]
    Net(8, text_condition_type='flim')  # E: mypy[arg-type] pyright[reportCallIssue]
    net(x, text=['a dog'])  # E: mypy[call-arg]
    net(x, texts=['a dog'], cond_scle=3.0)  # E: mypy[call-arg]
    net(x, texts=['a dog'], cond_scale='3')  # E: mypy[arg-type]
    net(x, texts='a dog')  # E: mypy[arg-type]
    net('no tensor', texts=['a dog'])  # E: mypy[arg-type]
    net.prepair(['a dog'])  # E: mypy[operator] pyright[reportCallIssue]
    net.prepare(['a dog']).cnod  # E: mypy[attr-defined] pyright[reportCallIssue]
