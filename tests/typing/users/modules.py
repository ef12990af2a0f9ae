"""A module that follows text at its parts: the arguments, the keywords of a call that checkers know, and what comes back."""

from __future__ import annotations

from torch import Tensor, nn
from typing_extensions import assert_type

from classifier_free_guidance_pytorch import Part, text_conditioned
from classifier_free_guidance_pytorch.modules import FollowsText


class Net(nn.Module):
    def __init__(self, dim: int) -> None:
        super().__init__()
        self.inner = nn.Linear(dim, dim)

    def forward(self, x: Tensor, t: float = 0.0) -> Tensor:
        return x + t


def use(x: Tensor) -> None:
    model = text_conditioned(Net(4), 'inner', example=x, model_types='mini', cond_drop_prob=0.1, reads_scale=True)
    assert_type(model, FollowsText[Tensor])
    assert_type(model(x, 0.5, texts=['a dog'], cond_scale=3.0), Tensor)
    model(x, texts=['a dog'], cond_scale='3')  # E: mypy[arg-type] pyright[reportArgumentType]
    model.bind(txts=['a dog'])  # E: mypy[call-arg] pyright[reportCallIssue]
    model.bound(cond_scal=3.0)  # E: mypy[call-arg] pyright[reportCallIssue]
    text_conditioned(Net(4), {'inner': Part(dim=4)}, reads_scael=True)  # E: mypy[call-overload] pyright[reportCallIssue]
    text_conditioned(Net, 'inner', exmaple=x)  # E: mypy[call-overload] pyright[reportCallIssue]
    text_conditioned(Net(4), 'inner', attn_heads='8')  # E: mypy[call-overload] pyright[reportCallIssue, reportArgumentType]
