"""`classifier_free_guidance`: a forward that takes texts and a guidance scale."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any

from classifier_free_guidance_pytorch.decorator.delegated import Delegated
from classifier_free_guidance_pytorch.decorator.injected import Injected
from classifier_free_guidance_pytorch.decorator.options import GUIDANCE_KEYWORDS, Options
from classifier_free_guidance_pytorch.decorator.passes import Call
from classifier_free_guidance_pytorch.decorator.signature import KeyNames, TextTaking, with_keywords
from classifier_free_guidance_pytorch.decorator.texts import TextInput


def classifier_free_guidance(
    fn: Callable[..., Any] | None = None,
    cond_drop_prob_keyname: str = 'cond_drop_prob',
    texts_key_name: str = 'texts',
    text_embeds_key_name: str = 'text_embeds',
    cond_fns_keyname: str = 'cond_fns',
    text_conditioner_name: str = 'text_conditioner',
) -> Any:
    """Give a forward method texts and guidance, `null + cond_scale * (cond - null)` in eval mode.

    A method that names `cond_fns` or `raw_text_cond` receives the conditions of `self.text_conditioner`. A method that names
    `cond_drop_prob` instead handles text itself: it is called with 0 for the conditional and 1 for the null pass.

    Args:
        fn: the method; left out when decorating with arguments.
        cond_drop_prob_keyname: the keyword for the drop probability.
        texts_key_name: the keyword for texts; negative texts are `negative_` in front of it.
        text_embeds_key_name: the keyword for embeddings; likewise.
        cond_fns_keyname: the parameter that receives one callable per hidden dimension.
        text_conditioner_name: the attribute that holds the conditioner.

    Raises:
        ConfigError: the method has no parameter through which a condition could reach it.

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


def guided(fn: Callable[..., Any], names: KeyNames) -> Callable[..., Any]:
    """The method `fn` with text and guidance keywords."""
    taking = TextTaking.of(fn, names)
    runner = Injected(fn, names, taking) if taking.injected else Delegated(fn, names, taking)

    @wraps(fn)
    def forward(self: Any, *args: Any, **kwargs: Any) -> Any:
        if taking.is_bound(args, kwargs):
            return fn(self, *args, **kwargs)
        options = Options(**{name: kwargs.pop(name) for name in [*kwargs] if name in GUIDANCE_KEYWORDS})
        text = TextInput.taken_from(kwargs, names)
        taking.refuse_unknown(fn.__qualname__, (*kwargs, *(options.cfg_routed_kwargs or ())))
        args, moved = taking.by_name(args)
        call = Call(fn, self, args, {**moved, **kwargs}, options.cfg_routed_kwargs or {})
        if getattr(self, 'training', False):
            options.refuse_in_training()
            return runner.train(call, text)
        return runner.guide(call, text, options)

    text_keywords = (names.texts, names.text_embeds, names.negative_texts, names.negative_text_embeds, names.cond_drop_prob)
    added = {**dict.fromkeys((*text_keywords, 'text_condition')), **GUIDANCE_KEYWORDS}
    forward.__signature__ = with_keywords(fn, taking.injected, added)  # type: ignore[attr-defined]
    forward.__cfg_names__ = names  # type: ignore[attr-defined]
    return forward
