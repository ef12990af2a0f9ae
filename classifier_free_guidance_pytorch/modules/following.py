"""What a module becomes when its parts follow text: an instance of a subclass of its class, made once per class.

The subclass guides `forward` and adds a few methods. Everything else is the module's own: its attributes, the keys of its
`state_dict`, its name, what it is an instance of.
"""

from __future__ import annotations

import json
import sys
import types
from collections.abc import Iterator, Mapping
from functools import cache, wraps
from inspect import Parameter, signature
from os import PathLike
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import torch
from torch import Tensor, nn
from typing_extensions import Self

from classifier_free_guidance_pytorch.conditioners.prepared import CondFns
from classifier_free_guidance_pytorch.decorator.typed import TextConditioned
from classifier_free_guidance_pytorch.errors import ConfigError
from classifier_free_guidance_pytorch.modules.part import Part
from classifier_free_guidance_pytorch.modules.running import Current

R = TypeVar('R')
_STATED = ('text_parts', 'encoders')  # what a file says of its weights


class FollowsText(TextConditioned, Generic[R]):
    """Base of what `text_conditioned` returns: the module itself, with the methods of a decorated model and these.

    Attributes:
        text_parts: The parts that follow the text, by name, with the kind, the width and the layout of each.
    """

    text_parts: dict[str, Part]
    _text_current: Current

    if TYPE_CHECKING:

        def forward(self, *args: Any, **kwargs: Any) -> R: ...

    def trainable_parameters(self) -> Iterator[nn.Parameter]:
        """Yield what an optimizer should get: every parameter that requires a gradient."""
        yield from (parameter for parameter in self.parameters() if parameter.requires_grad)

    def named_children(self) -> Iterator[tuple[str, nn.Module]]:
        """Yield the parts by name; to its own forward, which may run whatever it finds, without the new layers."""
        running = self._text_current.is_running
        yield from ((name, child) for name, child in super().named_children() if not (running and name == 'text_conditioner'))

    def only_text_trains(self) -> Self:
        """Freeze the module, and let only what was added to it learn."""
        self.requires_grad_(False)
        self.text_conditioner.requires_grad_(True)
        return self

    def save_text(self, path: str | PathLike[str]) -> None:
        """Write what was added, and nothing of the module itself, to a safetensors file.

        Of a module that FSDP2 shards, every process calls this, and the first one writes.
        """
        from safetensors.torch import save_file

        state = self._text_state()
        weights = {name: _whole(weight.detach()).contiguous() for name, weight in state.items()}
        if any(_is_sharded(weight) for weight in state.values()) and torch.distributed.get_rank() != 0:
            return
        of = {'text_parts': _plain(self.text_parts), 'encoders': self.text_conditioner.source.as_json()}
        save_file(weights, path, metadata={name: json.dumps(value) for name, value in of.items()})

    def load_text(self, path: str | PathLike[str]) -> Self:
        """Read what `save_text` wrote, into a module whose parts follow text in the same way.

        Raises:
            ConfigError: The file is of other parts, of other kinds, widths or layouts, of a different encoder, or none of these.
        """
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(path, framework='pt') as file:
                stated = {name: json.loads(text) for name, text in (file.metadata() or {}).items() if name in _STATED}
                weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # no mapping, though it has keys
        except SafetensorError as error:
            raise ConfigError(f'{path} is not a safetensors file, as save_text writes it ({error})') from error
        parts, ours = stated.get('text_parts'), _plain(self.text_parts)
        if parts is None:
            raise ConfigError(f'{path} was not written by save_text, and says nothing of parts')
        if parts != ours:
            name = next(name for name in (*parts, *ours) if parts.get(name) != ours.get(name))
            raise ConfigError(
                f'{path} is of other parts: at {name!r} it has {parts.get(name)}, and this {type(self).__name__} has '
                f'{ours.get(name)}'
            )
        if 'encoders' in stated:
            self.text_conditioner.source.check_same(stated['encoders'], 'load_state_dict into text_conditioner')
        state = self._text_state()
        shapes, own = ({name: tuple(weight.shape) for name, weight in one.items()} for one in (weights, state))
        if shapes != own:
            name = next(name for name in (*own, *shapes) if own.get(name) != shapes.get(name))
            raise ConfigError(
                f'{path} has the weight {name!r} of shape {shapes.get(name)}, but this text_conditioner has {own.get(name)}: '
                'build it with the arguments that the saved one was built with'
            )
        self.text_conditioner.load_state_dict({name: _like(state[name], weight) for name, weight in weights.items()})
        return self

    def _text_state(self) -> dict[str, Tensor]:
        """Return what was added, by name."""
        state: dict[str, Tensor] = self.text_conditioner.state_dict()
        return state

    def __reduce_ex__(self, protocol: Any) -> Any:
        """Reduce to the class that users know, where the one made here cannot be found by its name."""
        reduced: Any = super().__reduce_ex__(protocol)
        known: Any = sys.modules.get(type(self).__module__)
        for name in type(self).__qualname__.split('.'):
            known = getattr(known, name, None)
        return reduced if known is type(self) else (_empty, (type(self)._text_base,), *reduced[2:])  # type: ignore[attr-defined]


def _is_sharded(weight: Any) -> bool:
    """Whether a process holds a part of a weight only, as with FSDP2."""
    return hasattr(weight, 'full_tensor')


def _whole(weight: Any) -> Tensor:
    """Return a weight with all that other processes hold of it."""
    whole: Tensor = weight.full_tensor() if _is_sharded(weight) else weight
    return whole


def _like(own: Any, weight: Tensor) -> Tensor:
    """Return a weight, shared out among the processes as one of the module's own is."""
    if not _is_sharded(own):
        return weight
    from torch.distributed.tensor import distribute_tensor

    return distribute_tensor(weight.to(own.device), own.device_mesh, own.placements)


def _plain(parts: Mapping[str, Part]) -> dict[str, dict[str, Any]]:
    """Return parts as they are written to a file."""
    return {name: {'condition': part.condition, 'dim': part.dim, 'channel_first': part.channel_first}
            for name, part in parts.items()}  # fmt: skip


def _empty(base: Any) -> nn.Module:
    """Return an object whose state is still to be set."""
    following = class_following(base)
    return following.__new__(following)


@cache
def class_following(base: Any) -> type[FollowsText[Any]]:
    """Return the subclass of a module class whose `forward` is guided and whose parts find their conditions."""
    original: Any = base.forward

    @wraps(original)
    def forward(self: Any, *args: Any, cond_fns: CondFns, **kwargs: Any) -> Any:
        return self._text_current.run(cond_fns, original, self, *args, **kwargs)

    own = signature(original)
    parameters = [*own.parameters.values()]
    at = next((i for i, one in enumerate(parameters) if one.kind is one.VAR_KEYWORD), len(parameters))
    parameters.insert(at, Parameter('cond_fns', Parameter.KEYWORD_ONLY))
    forward.__signature__ = own.replace(parameters=parameters)  # type: ignore[attr-defined]
    container: dict[str, Any] = {}
    if issubclass(base, (nn.Sequential, nn.ModuleList)):
        container = {'__iter__': _values, '__len__': _count, '__getitem__': _item}
    elif issubclass(base, nn.ModuleDict):
        container = {'__iter__': _keys, '__len__': _count, 'keys': _keys, 'values': _values, 'items': _items}
    return subclass(base, (FollowsText, base), forward=forward, _text_base=base, **container)


# what a container says of its modules, which its new layers are none of


def _items(self: nn.Module) -> Iterator[tuple[str, nn.Module | None]]:
    yield from ((name, child) for name, child in self._modules.items() if name != 'text_conditioner')


def _keys(self: nn.Module) -> Iterator[str]:
    yield from (name for name, _ in _items(self))


def _values(self: nn.Module) -> Iterator[nn.Module | None]:
    yield from (child for _, child in _items(self))


def _count(self: nn.Module) -> int:
    return len(self._modules) - 1


def _item(self: Any, index: Any) -> Any:
    base = self._text_base
    if not isinstance(index, slice):
        return base.__getitem__(self, index)
    plain = base.__new__(base)  # some of its modules are a container as it was before
    plain.__dict__.update(self.__dict__, _modules=dict(_items(self)))
    return base.__getitem__(plain, index)


def subclass(like: type[nn.Module], bases: tuple[type, ...], **namespace: Any) -> Any:
    """Return a class that goes by the name of another."""
    named = {name: getattr(like, name) for name in ('__module__', '__qualname__', '__doc__')}
    return types.new_class(like.__name__, bases, exec_body=lambda body: body.update(named, **namespace))
