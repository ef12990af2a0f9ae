"""A conditioner on its own: a typed tuple of typed callables."""

from __future__ import annotations

import torch
from torch import Tensor
from typing_extensions import assert_type

from classifier_free_guidance_pytorch import (
    AttentionTextConditioner,
    CondFns,
    NullConditioner,
    PreparedCondition,
    TextConditioner,
    TextCondReturn,
    TextEmbeddingReturner,
    TextEncoding,
)


def use() -> Tensor:
    conditioner = TextConditioner(hidden_dims=(8, 4), model_types='mini')
    cond_fns = conditioner(['a red circle', 'a blue square'])
    assert_type(cond_fns, CondFns)
    assert_type(cond_fns.text_cond, TextCondReturn)
    assert_type(cond_fns[:1], CondFns)
    first, second = cond_fns
    assert_type(first(torch.randn(2, 8)), Tensor)
    assert_type(second(torch.randn(4, 4), repeat_batch=2), Tensor)
    pair = conditioner(['a red circle'], return_text_cond=True)
    assert_type(pair, tuple[CondFns, TextCondReturn])
    assert_type(conditioner.encode_texts(['a red circle']), tuple[TextEncoding, ...])
    assert_type(conditioner.prepare(['a red circle']), PreparedCondition)
    assert_type(NullConditioner(hidden_dims=(8,))(['any text']), CondFns)
    assert_type(AttentionTextConditioner(hidden_dims=(8,), model_types='mini')(('a red circle',)), CondFns)
    _, (embed, mask) = TextEmbeddingReturner(model_types='mini')(['a red circle'])
    assert_type(embed, Tensor | None)
    assert_type(mask, Tensor | None)
    return first(torch.randn(2, 8))


def typos(conditioner: TextConditioner) -> None:
    conditioner(['a dog'])[0]('no tensor')  # E: mypy[arg-type] pyright[reportArgumentType]
    conditioner(['a dog'])[0](torch.ones(2, 8), repeat=2)  # E: mypy[call-arg] pyright[reportCallIssue]
    conditioner('a dog')  # E: mypy[call-overload] pyright[reportArgumentType]
    conditioner(text=['a dog'])  # E: mypy[call-overload] pyright[reportCallIssue]
    conditioner(['a dog']).text_cnod  # E: mypy[attr-defined] pyright[reportAttributeAccessIssue]
    conditioner(['a dog']).text_cond.msak  # E: mypy[attr-defined] pyright[reportAttributeAccessIssue]
    TextConditioner(hidden_dims=(8,), model_type='mini')  # E: mypy[call-arg] pyright[reportCallIssue]
    TextConditioner(hidden_dims=('8',))  # E: mypy[arg-type] pyright[reportArgumentType]
