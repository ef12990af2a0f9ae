"""The keywords that checkers are told of are those that are read, with the same types and defaults."""

from __future__ import annotations

import ast
import inspect
import textwrap
from dataclasses import fields
from typing import get_type_hints

import pytest
from torch import Tensor, nn

import classifier_free_guidance_pytorch as package
from classifier_free_guidance_pytorch.conditioners import Conditioner
from classifier_free_guidance_pytorch.decorator.keywords import GuidanceKeywords, TextKeywords
from classifier_free_guidance_pytorch.decorator.recorded import PREFIX
from classifier_free_guidance_pytorch.modules.conditioning import ConditionerArguments, _takes
from classifier_free_guidance_pytorch.modules.part import Part


@pytest.fixture(scope='module')
def net() -> type[nn.Module]:
    class Net(package.TextConditioned):
        def __init__(self, dim: int) -> None:
            super().__init__()
            self.out = nn.Linear(dim, dim)

        def forward(self, x: Tensor, cond_fns: tuple) -> Tensor:
            return self.out(cond_fns[0](x))

    return Net


def added(function, *own: str) -> dict[str, object]:
    """The names that a decorated function has beside its own, with their defaults."""
    return {name: one.default for name, one in inspect.signature(function).parameters.items() if name not in ('self', *own)}


def declared(method: str) -> ast.FunctionDef:
    """A method as `TextConditioned` declares it for checkers, the one with the most keywords where there are two."""
    tree = ast.parse(textwrap.dedent(inspect.getsource(package.TextConditioned)))
    found = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef) and node.name == method]
    return max(found, key=lambda node: len(node.args.kwonlyargs))


def test_the_call(net):
    assert package.CallKeywords.__annotations__.keys() == added(net.forward, 'x').keys()


def test_the_types_of_the_call():
    hints = {**get_type_hints(TextKeywords), **get_type_hints(GuidanceKeywords)}
    read = {one.name: hints[one.name] for one in (*fields(TextKeywords), *fields(GuidanceKeywords)) if one.metadata}
    assert get_type_hints(package.CallKeywords) == read


def test_the_constructor(net):
    assert package.TextConditionKeywords.__annotations__.keys() == added(net, 'dim').keys()


def test_the_arguments_of_text_conditioned():
    parts = {'a': Part('film', 8, False), 'b': Part('attention', 8, False), 'c': Part('concat', 8, False)}
    assert set(ConditionerArguments.__annotations__) == set().union(*_takes(parts).values())
    behind = {PREFIX + name: hint for name, hint in get_type_hints(ConditionerArguments).items()}
    assert behind.items() <= get_type_hints(package.TextConditionKeywords).items()


def test_the_call_that_pyright_completes(net):
    call = declared('__call__').args
    names = [one.arg for one in call.kwonlyargs]
    assert dict(zip(names, map(ast.literal_eval, call.kw_defaults), strict=True)) == added(net.forward, 'x')
    dictionary = ast.parse(textwrap.dedent(inspect.getsource(package.CallKeywords))).body[0]
    types = {ast.unparse(one.target): ast.unparse(one.annotation) for one in dictionary.body if isinstance(one, ast.AnnAssign)}
    assert {one.arg: ast.unparse(one.annotation) for one in call.kwonlyargs} == types
    assert call.kwarg is not None  # parameters of the module's own `forward`


def test_the_methods(net):
    for name in ('prepare', 'encode_texts', 'embed_texts'):
        method, parameters = declared(name).args, inspect.signature(getattr(Conditioner, name)).parameters
        assert [one.arg for one in (*method.args, *method.kwonlyargs)] == [*parameters]
        assert callable(getattr(net, name))
    assert isinstance(net.max_cond_text_len, property)


def test_nothing_of_it_runs():
    """What is declared for checkers is not there at run time, where `nn.Module` calls."""
    assert package.TextConditioned.__call__ is nn.Module.__call__
    assert not hasattr(package.TextConditioned, 'prepare')


def test_a_base_class_for_all_may_have_no_forward_yet():
    class Base(package.TextConditioned):
        def __init__(self, dim: int) -> None:
            super().__init__(text_condition_hidden_dims=(dim,), text_condition_model_types='mini')

    class Below(Base):
        def forward(self, x: Tensor, cond_fns: tuple) -> Tensor:
            return cond_fns[0](x)

    assert not hasattr(Base, 'prepare')
    assert Below(8).text_conditioner.hidden_dims == (8,)
    assert Below(8, text_condition_hidden_dims=(4,)).text_conditioner.hidden_dims == (4,)  # the caller has the last word
