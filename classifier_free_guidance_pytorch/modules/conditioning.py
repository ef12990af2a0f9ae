"""`text_conditioned`: any module, pretrained or not, follows text at the parts that are named."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar, overload

import torch
from torch import nn
from typing_extensions import TypedDict, Unpack

from classifier_free_guidance_pytorch.conditioners import Conditioner, ModelTypes
from classifier_free_guidance_pytorch.conditioners.base import Null
from classifier_free_guidance_pytorch.conditioners.mixed import MixedConditioner
from classifier_free_guidance_pytorch.decorator.class_decorator import CONDITIONERS
from classifier_free_guidance_pytorch.decorator.signature import HasForward
from classifier_free_guidance_pytorch.errors import ConfigError
from classifier_free_guidance_pytorch.modules.dry_run import Example, measured
from classifier_free_guidance_pytorch.modules.following import FollowsText, class_following, subclass
from classifier_free_guidance_pytorch.modules.part import KINDS, At, Part, find_parts
from classifier_free_guidance_pytorch.modules.running import Current, Follow

R = TypeVar('R')


class ConditionerArguments(TypedDict, total=False):
    """What `text_conditioned` takes for its conditioner, for type checkers; a test compares it with what is taken."""

    model_types: ModelTypes
    model_names: str | Sequence[str | None] | None
    model_kwargs: Mapping[str, Any] | Sequence[Mapping[str, Any] | None] | None
    cond_drop_prob: float | Sequence[float]
    text_embed_stem_dim_mult: int
    text_embed_pad_value: float
    dim_latent: int | None
    attn_dim_head: int
    attn_heads: int
    flash: bool
    null: Null
    reads_scale: bool


@overload
def text_conditioned(
    module: type[nn.Module],
    at: At,
    condition: str = ...,
    *,
    example: Example | None = ...,
    **arguments: Unpack[ConditionerArguments],
) -> type[FollowsText[Any]]: ...
@overload
def text_conditioned(
    module: HasForward[R],
    at: At,
    condition: str = ...,
    *,
    example: Example | None = ...,
    **arguments: Unpack[ConditionerArguments],
) -> FollowsText[R]: ...
def text_conditioned(
    module: type[nn.Module] | HasForward[R],
    at: At,
    condition: str = 'film',
    *,
    example: Example | None = None,
    **arguments: Any,
) -> FollowsText[R] | type[FollowsText[R]]:
    """Make a module follow text at the parts that are named, without touching its code.

    The outputs of the parts are conditioned. The new layers start as no-ops, so the module computes what it did until they are
    trained, and only they need training: `only_text_trains()`. It is called like a decorated model, with `texts=` and
    `cond_scale=`, and it stays what it was: its class, its attributes, its weights under their names.

    Args:
        module: The module, which is changed in place and returned; or a class, of which a subclass is returned.
        at: Names of parts as in `named_modules()`, or patterns: `*` is what stands between two dots, `**` any number of names. As
            a mapping, with what each pattern stands for: 'film', 'attention', 'concat', a `Part`, or None.
        condition: The kind of the parts that say none.
        example: What the module can be called with, so that the widths and layouts of the parts are found by running it once: a
            tensor, a tuple of arguments, a mapping of keywords, or a function that calls it. Not needed where every part says
            `Part(dim=..., channel_first=...)`.
        **arguments: Arguments of the conditioner, such as `model_types`, `cond_drop_prob` or `attn_heads`.

    Returns:
        The module, or the class.

    Raises:
        ConfigError: A name that matches no part, a part that cannot be conditioned, an argument that no kind of conditioning
            takes, or a module that follows text already.

    Example:
        >>> import torch
        >>> net = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3, padding=1), torch.nn.SiLU(), torch.nn.Conv2d(8, 3, 3, padding=1))
        >>> images = torch.randn(2, 3, 16, 16)
        >>> model = text_conditioned(net, at='0', example=images, model_types='mini').eval()
        >>> model.text_parts
        {'0': Part(condition='film', dim=8, channel_first=True, repeat_batch=1)}
        >>> model(images, texts=['a red circle', 'a blue square'], cond_scale=3.).shape
        torch.Size([2, 3, 16, 16])
    """
    if isinstance(module, type) and issubclass(module, nn.Module):
        return _class(module, at, condition, example, arguments)
    if not isinstance(module, nn.Module):
        raise ConfigError(f'text_conditioned is for a torch.nn.Module, or a class of them, but got {module!r}')
    if 'forward' in vars(module) or isinstance(module, torch.jit.ScriptModule):
        raise ConfigError(
            f'the forward of this {type(module).__name__} was replaced or scripted, so that it cannot be guided: pass the module '
            'before that'
        )
    _refuse_conditioned(type(module))
    _refuse_wrapped(module)
    named = find_parts(module, at, condition)
    _check_arguments(named, arguments)  # before any work is done
    parts = measured(module, named, example)
    parts = {name: part for kind in KINDS for name, part in parts.items() if part.condition == kind}
    conditioner = _conditioner(parts, arguments)
    weight = next(module.parameters(), None)
    if weight is not None and weight.device.type != 'meta':
        conditioner.to(weight.device)
    following: Any = module
    following.text_conditioner = conditioner.train(module.training)
    following.text_parts, following._text_current = parts, Current(parts if example is None else ())
    for place, (name, part) in enumerate(parts.items()):
        module.get_submodule(name).register_forward_hook(Follow(following._text_current, place, name, part))
    original: Any = type(module)
    following.__class__ = class_following(original)
    return following


def _class(cls: Any, at: At, condition: str, example: Example | None, arguments: dict[str, Any]) -> type[FollowsText[Any]]:
    """Return a subclass whose instances follow text from the start."""
    _refuse_conditioned(cls)

    def init(self: Any, *args: Any, **kwargs: Any) -> None:
        made = type(self)
        cls.__init__(self, *args, **kwargs)
        self.__class__ = cls
        text_conditioned(self, at, condition, example=example, **arguments)
        self.__class__ = made

    init.__signature__ = inspect.signature(cls.__init__)  # type: ignore[attr-defined]
    made = subclass(cls, (class_following(cls),))
    made.__signature__ = inspect.signature(cls)
    made.__init__ = init  # as it is: a constructor that a class body brings would take `text_condition_*` as well
    return made


def _refuse_conditioned(cls: type[nn.Module]) -> None:
    if issubclass(cls, FollowsText) or hasattr(cls.forward, '__cfg_names__'):
        raise ConfigError(f'{cls.__name__} follows text already: name all of its parts at once')


def _refuse_wrapped(module: nn.Module) -> None:
    """Raise `ConfigError` for a module whose gradients another library sums over processes, but for those of new layers."""
    kind = 'fully_shard' if hasattr(type(module), 'unshard') else type(module).__name__
    if kind in ('fully_shard', 'FullyShardedDataParallel', 'DistributedDataParallel'):
        raise ConfigError(
            f'this module is under {kind} already, which would leave the new layers out, so that every process trains its own: '
            'call text_conditioned first, and wrap what it returns'
        )


def _takes(parts: Mapping[str, Part]) -> dict[str, set[str]]:
    """Return the arguments of the conditioner of each kind, but for those that the parts say."""
    kinds = dict.fromkeys(str(part.condition) for part in parts.values())
    every = {kind: set(inspect.signature(CONDITIONERS[kind]).parameters) for kind in kinds}
    return {kind: names - {'hidden_dims', 'hiddens_channel_first'} for kind, names in every.items()}


def _check_arguments(parts: Mapping[str, Part], arguments: Mapping[str, Any]) -> None:
    """Raise `ConfigError` for an argument that no kind of the parts takes, and name the closest that there is."""
    takes = _takes(parts)
    known = sorted(set().union(*takes.values()))
    unknown = [name for name in arguments if name not in known]
    if unknown:
        close = {name: difflib.get_close_matches(name, [*known, 'example', 'condition'], n=1, cutoff=0.75) for name in unknown}
        hints = [f'; {name!r} may be {match[0]!r} here' for name, match in close.items() if match]
        raise ConfigError(
            f'{", ".join(map(repr, unknown))} is no argument of {" or ".join(takes)}, which takes {", ".join(known)}'
            + ''.join(hints)
        )


def _conditioner(parts: Mapping[str, Part], arguments: Mapping[str, Any]) -> Conditioner:
    """Build the conditioner of the parts, with one kind of layers or with several."""
    takes = _takes(parts)
    built: dict[str, Any] = {}
    for kind in takes:
        own = [part for part in parts.values() if part.condition == kind]
        given = {name: value for name, value in arguments.items() if name in takes[kind]}
        if built:  # the encoders are there, and take no further arguments
            given = {name: value for name, value in given.items() if name not in ('model_names', 'model_kwargs')}
            given['model_types'] = next(iter(built.values())).text_models
        given |= {'hidden_dims': [part.dim for part in own], 'hiddens_channel_first': [part.channel_first for part in own]}
        built[kind] = CONDITIONERS[kind](**given)
    return MixedConditioner(built) if len(built) > 1 else next(iter(built.values()))
