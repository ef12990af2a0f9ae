"""Subclasses of a decorated class and of one that derives, beside other bases, generic or without a constructor."""

from __future__ import annotations

from typing import TYPE_CHECKING, Generic, TypeVar, overload

from torch import Tensor, nn
from typing_extensions import Unpack, assert_type

from classifier_free_guidance_pytorch import (
    CallKeywords,
    CondFns,
    PreparedCondition,
    TextConditioned,
    TextConditionKeywords,
    TextCondReturn,
    TextEncoding,
    classifier_free_guidance_class_decorator,
)

T = TypeVar('T')


class Base(nn.Module):
    def __init__(self, dim: int) -> None:
        super().__init__()
        self.dim = dim


@classifier_free_guidance_class_decorator
class Decorated(Base):
    def forward(self, x: Tensor, cond_fns: CondFns) -> Tensor:
        return cond_fns[0](x)


class Deeper(Decorated):
    def __init__(self, dim: int, depth: int) -> None:
        super().__init__(dim, text_condition_hidden_dims=(dim,))  # E: pyright[reportCallIssue]
        self.depth = depth

    def forward(self, x: Tensor, cond_fns: CondFns, time: float = 0.0) -> Tensor:
        return super().forward(x, cond_fns) * time


class Derived(TextConditioned):
    def __init__(self, dim: int, **text_condition: Unpack[TextConditionKeywords]) -> None:
        super().__init__(**text_condition)
        self.dim = dim

    def forward(self, x: Tensor, cond_fns: CondFns) -> Tensor:
        return cond_fns[0](x)

    if TYPE_CHECKING:

        def __call__(self, x: Tensor, **call: Unpack[CallKeywords]) -> Tensor: ...


class DerivedDeeper(Derived):
    def __init__(self, dim: int, depth: int, **text_condition: Unpack[TextConditionKeywords]) -> None:
        super().__init__(dim, **text_condition)
        self.depth = depth

    def encode_once(self) -> tuple[TextEncoding, ...]:
        return self.encode_texts([''])


class Beside(Base, TextConditioned):
    def __init__(self, dim: int, **text_condition: Unpack[TextConditionKeywords]) -> None:
        super().__init__(dim)

    def forward(self, x: Tensor, cond_fns: CondFns) -> Tensor:
        return cond_fns[0](x)


@classifier_free_guidance_class_decorator
class Holds(nn.Module, Generic[T]):
    def __init__(self, held: T) -> None:
        super().__init__()
        self.held = held

    def forward(self, x: Tensor, cond_fns: CondFns) -> tuple[Tensor, T]:
        return cond_fns[0](x), self.held


@classifier_free_guidance_class_decorator
class Overloaded(nn.Module):
    @overload
    def __init__(self, dim: int) -> None: ...
    @overload
    def __init__(self, dim: int, depth: int, **others: int) -> None: ...
    def __init__(self, dim: int, depth: int = 1, **others: int) -> None:
        super().__init__()

    def forward(self, x: Tensor, *, cond_fns: CondFns, **others: int) -> Tensor:
        return cond_fns[0](x)


@classifier_free_guidance_class_decorator
class Raw(nn.Module):
    def forward(self, x: Tensor, raw_text_cond: TextCondReturn) -> Tensor:
        return x if raw_text_cond.embed is None else x + raw_text_cond.embed.sum()


def decorated(x: Tensor) -> None:
    net = Decorated(8, text_condition_hidden_dims=(8,))  # E: pyright[reportCallIssue]
    assert_type(net(x, texts=['a dog']), Tensor)  # E: pyright[reportAssertTypeFailure]
    Decorated(8, text_condition_hiden_dims=(8,))  # E: mypy[call-arg] pyright[reportCallIssue]
    deeper = Deeper(8, 2, text_condition_type='concat')  # E: pyright[reportCallIssue]
    assert_type(deeper.dim + deeper.depth, int)
    assert_type(deeper(x, texts=['a dog'], time=0.5), Tensor)  # E: pyright[reportAssertTypeFailure]
    Deeper(8, 2, text_condition_tpye='concat')  # E: mypy[call-arg] pyright[reportCallIssue]
    deeper(x, texts=['a dog'], tmie=0.5)  # E: mypy[call-arg]
    Deeper('8', 2)  # E: mypy[arg-type] pyright[reportArgumentType]


def derived(x: Tensor) -> None:
    deeper = DerivedDeeper(8, 2, text_condition_type='attention')
    assert_type(deeper(x, texts=['a dog']), Tensor)
    assert_type(deeper.prepare(['a dog']), PreparedCondition)
    assert_type(deeper.dim + deeper.depth, int)
    DerivedDeeper(8, 2, text_condition_tpye='attention')  # E: mypy[call-arg] pyright[reportCallIssue]
    deeper(x, texts=['a dog'], cond_scle=3.0)  # E: mypy[call-arg] pyright[reportCallIssue]


def beside(x: Tensor) -> None:
    net = Beside(8, text_condition_type='attention')
    assert_type(net.prepare(['a dog']), PreparedCondition)
    assert_type(net.dim, int)
    # without a `__call__` of its own pyright knows the result and the values of the known keywords, but takes any others
    assert_type(net(x, texts=['a dog'], cond_scale=3.0), Tensor)
    net(x, texts=['a dog'], cond_scale='3')  # E: mypy[arg-type] pyright[reportArgumentType]
    net(x, texts=['a dog'], cond_scle=3.0)  # E: mypy[call-arg]
    net('x')  # E: mypy[arg-type]


def generic(net: Holds[str], x: Tensor) -> None:
    assert_type(net.held, str)
    assert_type(net(x, texts=['a dog']), tuple[Tensor, str])  # E: pyright[reportAssertTypeFailure]
    Overloaded(8, text_condition_type='film')(x, texts=['a dog'], steps=3)  # E: pyright[reportCallIssue]
    Overloaded(8, 2, text_condition_type='flim')  # E: mypy[call-overload] pyright[reportArgumentType]
    Overloaded(8)(x, texts=['a dog'], steps='3')  # E: mypy[arg-type]
    raw = Raw(text_condition_type='raw', text_condition_dim_latent=8)
    assert_type(raw(x, texts=['a dog']), Tensor)  # E: pyright[reportAssertTypeFailure]
    raw(x, raw_text_cond=None)  # E: mypy[call-arg]
    Raw(text_condition_dim_laten=8)  # E: mypy[call-arg]
    Holds(3, text_condition_null='lerned')  # E: mypy[arg-type] pyright[reportCallIssue]
