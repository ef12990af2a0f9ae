"""`classifier_free_guidance`: a forward that takes texts and a guidance scale."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from functools import wraps
from typing import Any, TypeVar, overload

from classifier_free_guidance_pytorch.conditioners import TextCondReturn
from classifier_free_guidance_pytorch.conditioners.prepared import CondFns
from classifier_free_guidance_pytorch.decorator.call import Call
from classifier_free_guidance_pytorch.decorator.conditioned import Conditioned
from classifier_free_guidance_pytorch.decorator.drop_prob import ByDropProb
from classifier_free_guidance_pytorch.decorator.guide import Source, guide, train
from classifier_free_guidance_pytorch.decorator.keywords import GuidanceKeywords, TextKeywords, describe
from classifier_free_guidance_pytorch.decorator.signature import ForwardSignature, KeyNames, with_keywords
from classifier_free_guidance_pytorch.errors import ConfigError

R = TypeVar('R')


@overload
def classifier_free_guidance(
    fn: Callable[..., R],
    cond_drop_prob_keyname: str = ...,
    texts_key_name: str = ...,
    text_embeds_key_name: str = ...,
    cond_fns_keyname: str = ...,
    text_conditioner_name: str = ...,
) -> Callable[..., R]: ...
@overload
def classifier_free_guidance(
    fn: None = None,
    cond_drop_prob_keyname: str = ...,
    texts_key_name: str = ...,
    text_embeds_key_name: str = ...,
    cond_fns_keyname: str = ...,
    text_conditioner_name: str = ...,
) -> Callable[[Callable[..., R]], Callable[..., R]]: ...
def classifier_free_guidance(
    fn: Callable[..., R] | None = None,
    cond_drop_prob_keyname: str = 'cond_drop_prob',
    texts_key_name: str = 'texts',
    text_embeds_key_name: str = 'text_embeds',
    cond_fns_keyname: str = 'cond_fns',
    text_conditioner_name: str = 'text_conditioner',
) -> Callable[..., R] | Callable[[Callable[..., R]], Callable[..., R]]:
    """Give a forward method texts and guidance, `null + cond_scale * (cond - null)` in eval mode.

    A method that names `cond_fns` or `raw_text_cond` receives the conditions of `self.text_conditioner`. A method that names
    `cond_drop_prob` instead handles text itself: it is called with 0 for the conditional and 1 for the null pass.

    Args:
        fn: The method; left out when decorating with arguments.
        cond_drop_prob_keyname: The keyword for the drop probability.
        texts_key_name: The keyword for texts; negative texts are `negative_` in front of it.
        text_embeds_key_name: The keyword for embeddings; likewise.
        cond_fns_keyname: The parameter that receives one callable per hidden dimension.
        text_conditioner_name: The attribute that holds the conditioner.

    Raises:
        ConfigError: The method has no parameter through which a condition could reach it.

    Example:
        >>> import torch
        >>> class Denoiser(torch.nn.Linear):
        ...     @classifier_free_guidance
        ...     def forward(self, x, label, cond_drop_prob=0.):
        ...         return super().forward(x) + label * (1 - cond_drop_prob)
        >>> denoiser = Denoiser(4, 4).eval()
        >>> x, label = torch.randn(2, 4), torch.ones(2, 4)
        >>> torch.allclose(denoiser(x, label, cond_scale=3.), torch.nn.Linear.forward(denoiser, x) + 3)
        True
    """
    names = KeyNames(cond_drop_prob_keyname, texts_key_name, text_embeds_key_name, cond_fns_keyname, text_conditioner_name)
    return (lambda function: guided(function, names)) if fn is None else guided(fn, names)


def guided(fn: Callable[..., R], names: KeyNames) -> Callable[..., R]:
    """Return the method `fn` with the keywords for texts and guidance."""
    signature = ForwardSignature.of(fn, names)
    source: Source = Conditioned(names, signature) if signature.injected else ByDropProb(names, signature)
    keywords, injected = describe(names), frozenset(signature.injected)
    assert names.of_texts  # made now, so that no traced call has to

    @wraps(fn)
    def forward(self: Any, *args: Any, **kwargs: Any) -> Any:
        # a caller that brings the conditions itself, as `super().forward(x, cond_fns)` in a subclass does
        if not injected.isdisjoint(kwargs) or any(isinstance(arg, (CondFns, TextCondReturn)) for arg in args):
            return fn(self, *args, **kwargs)
        guidance = GuidanceKeywords.take(kwargs, signature)
        text = TextKeywords.take(kwargs, names)
        if kwargs:
            signature.refuse_unknown(kwargs, keywords)
        if guidance.cfg_routed_kwargs or isinstance(guidance.weak, Mapping):
            args, moved = _apart(signature, args, kwargs, guidance)
            kwargs |= moved
        if signature.before is not None and len(args) > signature.before:
            args, moved = signature.by_name(args)
            kwargs |= moved
        call = Call(fn, self, args, kwargs, text, guidance)
        return train(source, call) if getattr(self, 'training', False) else guide(source, call)

    # not `__wrapped__`: libraries that follow it would call the function without its conditions
    del forward.__wrapped__
    forward.__doc__ = _documented(fn, keywords)
    forward.__signature__ = with_keywords(fn, signature.injected, keywords)  # type: ignore[attr-defined]
    forward.__cfg_names__ = names  # type: ignore[attr-defined]
    forward.__cfg_signature__ = signature  # type: ignore[attr-defined]
    return forward


def _apart(
    signature: ForwardSignature, args: tuple[Any, ...], kwargs: Mapping[str, Any], guidance: GuidanceKeywords
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Return the positional arguments, with those that a weak pass has values of its own for turned into keywords.

    Raises:
        ConfigError: An argument that `cfg_routed_kwargs` has values for was passed as well.
    """
    by_position = signature.positional[: len(args)]
    twice = [name for name in guidance.cfg_routed_kwargs or () if name in by_position or name in kwargs]
    if twice:
        raise ConfigError(f'{twice[0]!r} was passed, and cfg_routed_kwargs has values for it as well: leave out one of the two')
    weak = guidance.weak if isinstance(guidance.weak, Mapping) else {}
    own = {*weak}.union(*[one for one in weak.values() if isinstance(one, Mapping)])  # of several weak passes each by name
    place = next((place for place, name in enumerate(by_position) if name in own), len(args))
    return signature.cut(args, place)


def _documented(fn: Callable[..., Any], keywords: dict[str, tuple[Any, Any, str]]) -> str:
    """Return the docstring of a function, with a line for every keyword that was added."""
    lines = [f'    {name}: {sentence[0].upper()}{sentence[1:]}.' for name, (_, _, sentence) in keywords.items()]
    return '\n'.join([*(inspect.cleandoc(fn.__doc__ or '').splitlines()), '', 'Keywords for texts and guidance:', *lines])
