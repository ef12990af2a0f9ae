"""Keywords under names of one's own, which only mypy's plugin can follow."""

from __future__ import annotations

from torch import Tensor, nn
from typing_extensions import assert_type

from classifier_free_guidance_pytorch import (
    CondFns,
    PreparedCondition,
    TextConditioned,
    classifier_free_guidance_class_decorator,
)


@classifier_free_guidance_class_decorator(texts_key_name='prompts', cond_fns_keyname='fns', text_conditioner_name='conditioner')
class Decorated(nn.Module):
    def __init__(self, dim: int) -> None:
        super().__init__()
        self.dim = dim

    def forward(self, x: Tensor, fns: CondFns) -> Tensor:
        return fns[0](x)


class Derived(TextConditioned, texts_key_name='prompts'):
    def forward(self, x: Tensor, cond_fns: CondFns) -> Tensor:
        return cond_fns[0](x)


class Below(Derived):
    pass


def decorated(net: Decorated, x: Tensor) -> None:
    assert_type(net(x, prompts=['a dog'], negative_prompts=['a cat']), Tensor)  # E: pyright[reportAssertTypeFailure]
    net(x, texts=['a dog'])  # E: mypy[call-arg]
    prepared: PreparedCondition = net.conditioner.prepare(['a dog'])  # E: pyright[reportCallIssue, reportAttributeAccessIssue]
    net(x, text_condition=prepared)


def derived(net: Below, x: Tensor) -> None:
    assert_type(net(x, prompts=['a dog'], cond_scale=3.0), Tensor)
    net(x, texts=['a dog'])  # E: mypy[call-arg]
    net(x, prompts=['a dog'], cond_scale='3')  # E: mypy[arg-type] pyright[reportArgumentType]
    Derived(text_condition_hidden_dims=(8,))
    Derived(text_condition_hiden_dims=(8,))  # E: mypy[call-arg] pyright[reportCallIssue]
