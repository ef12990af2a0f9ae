"""Nothing public returns `Any`: no function, no method or property of a class, and no module that is called.

Public is what a package of the library has in its `__all__`. Values of mappings by name (`dict[str, Any]`) may be anything. A
return type says nothing where it is `Any`, or holds it in a union, a tuple, a list or the result of a callable.
"""

from __future__ import annotations

import ast
import importlib
import inspect
import pkgutil
import textwrap
from collections.abc import Iterator
from functools import cached_property
from typing import get_origin

import pytest
from torch import nn

import classifier_free_guidance_pytorch as package

MAPPINGS = {'dict', 'Mapping', 'MutableMapping', 'OrderedDict'}
SPECIAL = {'__call__', '__enter__', '__getitem__', '__iter__', '__next__', '__add__', '__or__', '__mul__'}


def public() -> Iterator[tuple[str, object]]:
    """Every name in an `__all__` of the library, once, with what it stands for."""
    names = [package.__name__, *(one.name for one in pkgutil.walk_packages(package.__path__, f'{package.__name__}.'))]
    modules = [importlib.import_module(name) for name in names if name != f'{package.__name__}.mypy_plugin']
    found = {
        id(getattr(one, name)): (f'{one.__name__}.{name}', getattr(one, name))
        for one in modules
        for name in vars(one).get('__all__', ())
    }
    yield from found.values()


def says_nothing(annotation: str) -> bool:
    """Whether a type is `Any`, or holds it where a caller would read it."""
    return _says_nothing(ast.parse(annotation, mode='eval').body)


def _says_nothing(node: ast.expr) -> bool:
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return says_nothing(node.value)
    if isinstance(node, ast.BinOp):
        return _says_nothing(node.left) or _says_nothing(node.right)
    if isinstance(node, ast.Subscript):
        outer = ast.unparse(node.value).rpartition('.')[2]
        inner = node.slice.elts if isinstance(node.slice, ast.Tuple) else [node.slice]
        inner = inner[-1:] if outer in ('Callable', 'Generator') else inner
        return outer not in MAPPINGS and any(map(_says_nothing, inner))
    return ast.unparse(node).rpartition('.')[2] == 'Any'


def members(name: str, value: object) -> Iterator[tuple[str, object]]:
    """A function itself, or the public methods and properties of a class, inherited ones of this library included."""
    if inspect.isfunction(value):
        yield name, value
    is_class = inspect.isclass(value) and get_origin(value) is None  # in Python 3.10, `tuple[X, ...]` passes for a class
    for attribute in dir(value) if is_class else ():
        member = function_of(inspect.getattr_static(value, attribute))
        is_ours = inspect.isfunction(member) and member.__module__.startswith(package.__name__)
        if is_ours and (attribute in SPECIAL or not attribute.startswith('_')):
            yield f'{name}.{attribute}', member


def function_of(member: object) -> object:
    """The function behind a method or a property."""
    if isinstance(member, property):
        return member.fget
    return member.func if isinstance(member, cached_property) else getattr(member, '__func__', member)


def offenders() -> list[str]:
    """Public functions, methods and properties whose return type says nothing."""
    found = []
    for name, function in (one for public_name, value in public() for one in members(public_name, value)):
        annotation = inspect.unwrap(function).__annotations__.get('return', 'Any')
        annotation = annotation if isinstance(annotation, str) else getattr(annotation, '__name__', str(annotation))
        if says_nothing(annotation):
            found.append(f'{name} -> {annotation}')
    return found


def untyped_calls() -> list[str]:
    """Public modules whose call is that of `nn.Module`, which returns `Any`."""
    modules = [(name, value) for name, value in public() if inspect.isclass(value) and issubclass(value, nn.Module)]
    return [name for name, cls in modules if not any(_declares_call(one) for one in cls.__mro__)]


def _declares_call(cls: type) -> bool:
    if not cls.__module__.startswith(package.__name__):
        return False
    tree = ast.parse(textwrap.dedent(inspect.getsource(cls)))
    return any(isinstance(node, ast.FunctionDef) and node.name == '__call__' for node in ast.walk(tree))


def test_no_public_function_returns_any():
    assert offenders() == []


def test_no_public_module_is_called_as_any():
    assert untyped_calls() == []


def test_the_public_names_are_found():
    names = {name.rpartition('.')[2] for name, _ in public()}
    assert {'TextConditioner', 'classifier_free_guidance', 'guidance', 'APG', 'FiLM', 'TextEncoding', 'EmbeddingStore'} <= names
    assert len(names) > 80


@pytest.mark.parametrize(
    ('annotation', 'nothing'),
    [
        ('Any', True),
        ('typing.Any', True),
        ('Tensor | Any', True),
        ('tuple[Tensor, Any]', True),
        ("'Any'", True),
        ('Callable[[int], Any]', True),
        ('Iterator[list[Any]]', True),
        ('Tensor', False),
        ('None', False),
        ('dict[str, Any]', False),
        ('Callable[[Any], Tensor]', False),
        ('Callable[..., R]', False),
        ('tuple[Mapping[str, Any], Tensor]', False),
        ('AnyCondFn', False),
    ],
)
def test_what_says_nothing(annotation, nothing):
    assert says_nothing(annotation) is nothing
