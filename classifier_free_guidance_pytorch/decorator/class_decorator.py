"""`classifier_free_guidance_class_decorator`: text conditioning and guidance for a whole class.

The class itself is changed, not wrapped: pickling, `isinstance`, subclassing and `super()` work as before. A subclass inherits
all of it; its own `forward(self, x, cond_fns)` is guided too.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from functools import cache, wraps
from typing import Any, TypeVar, overload

from torch import nn

from classifier_free_guidance_pytorch.conditioners import (
    AttentionTextConditioner,
    ConcatTextConditioner,
    Conditioner,
    NullConditioner,
    PooledEmbeddingReturner,
    TextConditioner,
    TextEmbeddingReturner,
)
from classifier_free_guidance_pytorch.conditioners.arguments import from_plain
from classifier_free_guidance_pytorch.conditioners.wrapped import unwrapped
from classifier_free_guidance_pytorch.decorator.binding import bind, bound
from classifier_free_guidance_pytorch.decorator.method import guided
from classifier_free_guidance_pytorch.decorator.recorded import PREFIX, record, recorded, show, show_to_hub
from classifier_free_guidance_pytorch.decorator.signature import RAW_TEXT_COND, KeyNames, with_keywords
from classifier_free_guidance_pytorch.errors import ConfigError

CONDITIONERS: dict[str, type[Conditioner]] = {
    'film': TextConditioner,
    'attention': AttentionTextConditioner,
    'concat': ConcatTextConditioner,
    'raw': TextEmbeddingReturner,
    'pooled': PooledEmbeddingReturner,
    'null': NullConditioner,
}
_PENDING = '_pending_text_condition'
_DECORATED = '__cfg_class_names__'

M = TypeVar('M', bound=type[nn.Module])


@overload
def classifier_free_guidance_class_decorator(
    orig_class: M,
    cond_drop_prob_keyname: str = ...,
    texts_key_name: str = ...,
    text_embeds_key_name: str = ...,
    cond_fns_keyname: str = ...,
    text_conditioner_name: str = ...,
) -> M: ...
@overload
def classifier_free_guidance_class_decorator(
    orig_class: None = None,
    cond_drop_prob_keyname: str = ...,
    texts_key_name: str = ...,
    text_embeds_key_name: str = ...,
    cond_fns_keyname: str = ...,
    text_conditioner_name: str = ...,
) -> Callable[[M], M]: ...
def classifier_free_guidance_class_decorator(
    orig_class: M | None = None,
    cond_drop_prob_keyname: str = 'cond_drop_prob',
    texts_key_name: str = 'texts',
    text_embeds_key_name: str = 'text_embeds',
    cond_fns_keyname: str = 'cond_fns',
    text_conditioner_name: str = 'text_conditioner',
) -> M | Callable[[M], M]:
    """Make a module follow text: `text_condition_*` at construction, `texts=` and `cond_scale=` at call time.

    The constructor takes every argument of the conditioner behind `text_condition_`, and `text_condition_type` in `film`,
    `attention`, `concat`, `raw`, `pooled` and `null`. `forward` receives `cond_fns` (one callable per hidden dimension) and / or
    `raw_text_cond` (embeddings, mask, pooled feature), whichever its signature names. In training every sample loses its text
    with `cond_drop_prob`; in eval mode the prediction is guided, `null + cond_scale * (cond - null)` (arXiv 2207.12598).

    Added methods: `embed_texts`, `encode_texts`, `prepare`, `bind`, `bound`, and the property `max_cond_text_len`.

    Args:
        orig_class: The class; left out when decorating with arguments.
        cond_drop_prob_keyname: The call-time keyword for the drop probability.
        texts_key_name: The call-time keyword for texts; negative texts are `negative_` in front of it.
        text_embeds_key_name: The call-time keyword for embeddings; likewise.
        cond_fns_keyname: The parameter of `forward` that receives the callables.
        text_conditioner_name: The attribute that holds the conditioner.

    Raises:
        ConfigError: Not a module, a forward that names neither parameter, or a class decorated before with other names.

    Example:
        >>> import torch
        >>> @classifier_free_guidance_class_decorator
        ... class MLP(torch.nn.Module):
        ...     def __init__(self, dim):
        ...         super().__init__()
        ...         self.out = torch.nn.Linear(dim, dim)
        ...     def forward(self, x, cond_fns):
        ...         (condition,) = cond_fns
        ...         return self.out(condition(x))
        >>> mlp = MLP(8, text_condition_model_types='mini', text_condition_hidden_dims=(8,)).eval()
        >>> mlp(torch.randn(2, 8), texts=['a red circle', 'a blue square'], cond_scale=3.).shape
        torch.Size([2, 8])
    """
    names = KeyNames(cond_drop_prob_keyname, texts_key_name, text_embeds_key_name, cond_fns_keyname, text_conditioner_name)
    return (lambda cls: _decorate(cls, names)) if orig_class is None else _decorate(orig_class, names)


def _decorate(cls: M, names: KeyNames) -> M:
    """Add text conditioning and guidance to a class, in place."""
    if not isinstance(cls, type) or not issubclass(cls, nn.Module):
        raise ConfigError(f'classifier_free_guidance_class_decorator is for classes of torch.nn.Module, but got {cls!r}')
    decorated_with = getattr(cls, _DECORATED, None) or getattr(cls.forward, '__cfg_names__', None)
    if decorated_with not in (None, names):
        raise ConfigError(f'{cls.__name__} is decorated already, with other names: {decorated_with} and not {names}')
    if hasattr(cls, _DECORATED):  # by itself, or because a base class is decorated
        return cls
    if decorated_with is None and not _injects(cls.forward, names):
        raise ConfigError(
            f'{cls.__name__}.forward{inspect.signature(cls.forward)} has no way to receive a condition: name the parameter '
            f'{names.cond_fns!r} (one callable per hidden dimension) or {RAW_TEXT_COND!r} (embeddings and mask)'
        )
    vars_of: Any = cls  # a class is changed in place here, which its type does not foresee
    setattr(cls, _DECORATED, names)
    if decorated_with is None:  # the method itself may be decorated
        vars_of.forward = guided(cls.forward, names)
    _take_text_condition(vars_of, names)
    for method in (Conditioner.embed_texts, Conditioner.encode_texts, Conditioner.prepare):
        if not hasattr(cls, method.__name__):
            setattr(cls, method.__name__, _through(method, names))
    for function in (bind, bound):
        if not hasattr(cls, function.__name__):
            setattr(cls, function.__name__, function)
    if not hasattr(cls, 'max_cond_text_len'):
        vars_of.max_cond_text_len = property(lambda self: _own_conditioner(self, names).max_text_len)
    _decorate_subclasses(cls, names)
    return cls


def _injects(forward: Callable[..., Any], names: KeyNames) -> bool:
    """Whether a forward names a parameter for conditions."""
    return bool({names.cond_fns, RAW_TEXT_COND} & set(inspect.signature(forward).parameters))


def _decorate_subclasses(cls: type, names: KeyNames) -> None:
    """From now on, what a subclass overrides is decorated like the class itself."""
    vars_of: Any = cls
    own_hook = cls.__dict__.get('__init_subclass__')

    def init_subclass(sub: Any, /, **kwargs: Any) -> None:
        if own_hook is not None:
            own_hook.__get__(None, sub)(**kwargs)
        else:
            super(vars_of, sub).__init_subclass__(**kwargs)
        if '__init__' in sub.__dict__:
            _take_text_condition(sub, names)
        show_to_hub(sub)
        own_forward = sub.__dict__.get('forward')
        if own_forward is not None and not hasattr(own_forward, '__cfg_names__') and _injects(own_forward, names):
            sub.forward = guided(own_forward, names)

    vars_of.__init_subclass__ = classmethod(init_subclass)


def _take_text_condition(cls: Any, names: KeyNames) -> None:
    """Let a constructor take `text_condition_*`, and build the conditioner once the innermost decorated one has run."""
    init = cls.__init__
    own = set(inspect.signature(init).parameters)

    @wraps(init)
    def init_with_text(self: nn.Module, *args: Any, **kwargs: Any) -> None:
        taken = {name: kwargs.pop(name) for name in list(kwargs) if name.startswith(PREFIX) and name not in own}
        is_outermost = _PENDING not in self.__dict__
        pending = self.__dict__.setdefault(_PENDING, {})
        remember(self, taken)
        init(self, *args, **kwargs)
        if _PENDING in self.__dict__:
            del self.__dict__[_PENDING]
            has_own = unwrapped(getattr(self, names.text_conditioner, None)) is not None
            if pending or not has_own:
                if 'hidden_dims' not in pending:  # which whoever states all of them states
                    pending |= {**recorded(*args, *kwargs.values()), **pending}
                setattr(self, names.text_conditioner, _build_conditioner(self, pending))
        if is_outermost and pending:
            pending['origins'] = getattr(self, names.text_conditioner).source.as_json()
            record(self, pending)

    cls.__init__ = init_with_text
    show(cls, with_keywords(init, (), _constructor_keywords()))


def remember(module: nn.Module, given: Mapping[str, Any]) -> None:
    """Keep `text_condition_*` until the conditioner is built; the outermost constructor, which users call, has the last word."""
    pending = module.__dict__.get(_PENDING, {})
    for name in given:
        if name.startswith(PREFIX):
            pending.setdefault(name.removeprefix(PREFIX), given[name])


def _build_conditioner(module: nn.Module, given: Mapping[str, Any]) -> Conditioner:
    """Return the text conditioner of a module.

    Raises:
        ConfigError: An unknown type or argument, none of those that are needed, or encoders that a saved model did not have.
    """
    arguments = {name: from_plain(value, PREFIX + name) for name, value in given.items()}
    kind, origins = arguments.pop('type', 'film'), arguments.pop('origins', None)
    if not isinstance(kind, str) or kind not in CONDITIONERS:
        raise ConfigError(f'text_condition_type is one of {", ".join(CONDITIONERS)}, but got {kind!r}')
    known = _arguments(CONDITIONERS[kind]) if kind != 'null' else _constructor_arguments()
    unknown = [name for name in arguments if name not in known]
    if unknown:
        raise ConfigError(
            f'{", ".join(PREFIX + name for name in unknown)} is no argument of text_condition_type={kind!r}, which takes '
            f'{", ".join(PREFIX + name for name in known)}'
        )
    if 'hidden_dims' not in arguments and kind not in ('raw', 'pooled'):
        raise ConfigError(
            f'{type(module).__name__} needs text_condition_hidden_dims, the widths of the hiddens that its forward conditions, '
            'such as text_condition_hidden_dims=(256, 512)'
        )
    conditioner = CONDITIONERS[kind](**arguments)
    if origins is not None and kind != 'null':
        conditioner.source.check_same(origins, f'pass {PREFIX}origins=None')
    return conditioner


def _arguments(conditioner: type[Conditioner]) -> dict[str, tuple[Any, Any, str]]:
    """Return the arguments of a conditioner: the default and the annotation of each."""
    parameters = inspect.signature(conditioner.__init__).parameters.values()
    return {p.name: (p.default, p.annotation, '') for p in parameters if p.name != 'self' and p.kind is not p.VAR_KEYWORD}


@cache
def _constructor_arguments() -> dict[str, tuple[Any, Any, str]]:
    """Return all arguments of all conditioners; of two defaults for one argument, that of the conditioner listed first."""
    found: dict[str, tuple[Any, Any, str]] = {}
    for conditioner in CONDITIONERS.values():
        found = {**found, **_arguments(conditioner), **found}
    return found


def _constructor_keywords() -> dict[str, tuple[Any, Any, str]]:
    """Return the keywords that a decorated constructor adds, for its signature."""
    arguments = {PREFIX + name: argument for name, argument in _constructor_arguments().items()}
    return {f'{PREFIX}type': ('film', str, ''), **arguments, f'{PREFIX}origins': (None, Any, '')}


def _own_conditioner(module: nn.Module, names: KeyNames) -> Any:
    """Return the text conditioner of a module, without what is wrapped around it."""
    conditioner = getattr(module, names.text_conditioner)
    return unwrapped(conditioner) or conditioner


def _through(method: Callable[..., Any], names: KeyNames) -> Callable[..., Any]:
    """Return a method that calls the one of the same name of the module's conditioner."""

    @wraps(method)
    def through(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
        return getattr(_own_conditioner(self, names), method.__name__)(*args, **kwargs)

    return through
