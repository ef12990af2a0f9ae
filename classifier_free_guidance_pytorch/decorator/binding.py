"""A guided model for samplers that know nothing of text: they call `f(x, t)`, and the texts, the scale and the rule are bound.

denoise = model.bind(texts=texts, cond_scale=5.)      a module of its own, to hand to a sampler
with model.bound(texts=texts, cond_scale=5.): ...     the model itself, for code that holds it already
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import wraps
from typing import TYPE_CHECKING, Any, Generic, TypeAlias, TypeVar

from torch import Tensor, nn

from classifier_free_guidance_pytorch.decorator.keywords import GuidanceKeywords, TextKeywords, describe
from classifier_free_guidance_pytorch.decorator.signature import ForwardSignature, HasForward
from classifier_free_guidance_pytorch.errors import ConfigError, UsageError, warn
from classifier_free_guidance_pytorch.guidance import Preset
from classifier_free_guidance_pytorch.perturb import context
from classifier_free_guidance_pytorch.perturb.dispatch import dispatched

R = TypeVar('R')
OfTime: TypeAlias = Callable[[Any], float | Tensor]


class Bound(nn.Module, Generic[R]):
    """A guided model with keywords that every call gets; made by `bind`.

    It has the attributes of the model, and its parameters; what it has of methods, such as `generate`, is bound as well. A rule
    that remembers between steps gets a state of its own, for one sampling run: `restart()` before the next.
    """

    def __init__(self, model: Any, keywords: Mapping[str, Any], of_time: Mapping[str, OfTime]) -> None:
        super().__init__()
        forward: Any = type(model).forward
        signature: ForwardSignature = forward.__cfg_signature__
        given = dict(keywords)
        guidance = GuidanceKeywords.take(given, signature)
        text = TextKeywords.take(given, forward.__cfg_names__)
        if signature.injected:  # a function that handles texts itself says what they are
            text.check_texts(forward.__cfg_names__)
        signature.refuse_unknown(given, (*describe(forward.__cfg_names__), 'sigma', 'alpha', 'progress'), 'bind: ')
        for name, function in of_time.items():
            if not callable(function):
                raise ConfigError(
                    f'bind: {name} is a function of the time that the sampler passes, such as {name}=lambda t: t, but got '
                    f'{function!r}'
                )
        if of_time and len(signature.positional) < 2 and not signature.takes_more:
            raise ConfigError(f'bind: {", ".join(of_time)} is a function of time, but {signature.name} takes no second argument')
        self.model, self.keywords, self.of_time = model, dict(keywords), dict(of_time)
        self._time = ''.join(signature.positional[1:2])  # no name where it is one of any number
        rule = guidance.guidance.rule if isinstance(guidance.guidance, Preset) else guidance.guidance
        self._rule = rule if rule is not None and rule.remembers and guidance.guidance_state is None else None
        self.restart()
        self.train(model.training)

    def restart(self) -> None:
        """Begin another sampling run: what a rule remembers of the last one is forgotten."""
        if self._rule is not None:
            self.keywords['guidance_state'] = self._rule.init_state()

    if TYPE_CHECKING:

        def __call__(self, *args: Any, **kwargs: Any) -> R: ...

    def forward(self, *args: Any, **kwargs: Any) -> R:
        """Call the model with what is bound; a keyword that is given has the last word.

        Raises:
            UsageError: The model is in training mode.
        """
        if self.model.training:
            raise UsageError(
                'a bound model is for sampling, but the model is in training mode: call model.eval() first; in training pass '
                'texts= to the model itself'
            )
        output: R = self._call(self.model, args, kwargs)
        return output

    def _call(self, model: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Call a model, or its forward, with what is bound and what is known of the time."""
        keywords = {**self.keywords, **kwargs}
        if self.of_time:
            if len(args) < 2 and self._time not in kwargs:
                missing = repr(self._time) if self._time else 'second argument'
                raise UsageError(f'{", ".join(self.of_time)} is bound to the time, but this call has no {missing}')
            time = args[1] if len(args) > 1 else kwargs[self._time]
            step = {name: function(time) for name, function in self.of_time.items()}
            keywords['guidance_kwargs'] = {**step, **(keywords.get('guidance_kwargs') or {})}
        return model(*args, **keywords)

    def __getattr__(self, name: str) -> Any:
        """Return an attribute of the model, as code that is handed this instead will ask for."""
        try:
            return super().__getattr__(name)
        except AttributeError:
            if name == 'model' or name.startswith('__'):  # while a copy is made; and protocols are its own
                raise
            value = getattr(self.model, name)
        if getattr(value, '__self__', None) is not self.model or not callable(value):
            return value

        @wraps(value)
        def method(*args: Any, **kwargs: Any) -> Any:  # which calls the model, and knows nothing of what is bound
            with _opened(self):
                return value(*args, **kwargs)

        return method


def bind(
    self: HasForward[R],
    *,
    sigma: OfTime | None = None,
    alpha: OfTime | None = None,
    progress: OfTime | None = None,
    **keywords: Any,
) -> Bound[R]:
    """Return a module that calls this one with texts, scale and rule bound, for samplers that know nothing of them.

    Args:
        self: The module.
        sigma: The noise level, as a function of the time that the sampler passes (the second argument); for schedules and rules
            that ask for it.
        alpha: Likewise the signal level.
        progress: Likewise how far sampling is, from 0 (pure noise) to 1.
        **keywords: Any keyword of a call: `texts`, `negative_texts`, `cond_scale` (a number or a schedule), `guidance`, ...

    Raises:
        ConfigError: An unknown keyword, or a value that it cannot have.

    Example:
        >>> import torch
        >>> from classifier_free_guidance_pytorch import guidance, text_conditioned
        >>> class Denoiser(torch.nn.Module):
        ...     def __init__(self):
        ...         super().__init__()
        ...         self.inner = torch.nn.Linear(4, 4)
        ...     def forward(self, x, t):
        ...         return self.inner(x) - t
        >>> model = text_conditioned(Denoiser(), 'inner', example=(torch.randn(2, 4), 0.5), model_types='mini').eval()
        >>> late = guidance.interval(5., sigma=(0., 1.))
        >>> denoise = model.bind(texts=['a red circle', 'a blue square'], cond_scale=late, sigma=lambda t: t)
        >>> denoise(torch.randn(2, 4), 0.5).shape
        torch.Size([2, 4])
    """
    of_time = {'sigma': sigma, 'alpha': alpha, 'progress': progress}
    return Bound(self, keywords, {name: function for name, function in of_time.items() if function is not None})


@contextmanager
def bound(self: nn.Module, **keywords: Any) -> Iterator[nn.Module]:
    """Call this module with texts, scale and rule bound inside a `with` block, for code that holds it already.

    Only this thread sees it. In training it may bind texts and dropout, and nothing that guides.

    Args:
        self: The module.
        **keywords: What `bind` takes.

    Yields:
        The module.
    """
    with _opened(bind(self, **keywords)) as called:
        yield self
    if not called:
        warn(
            f'nothing inside of `with model.bound(...)` called this {type(self).__name__}, so that what was bound had no effect: '
            'a copy of it, such as that of an EMA, is bound by itself, and a method such as decode may not call the model'
        )


@contextmanager
def _opened(every: Bound[Any]) -> Iterator[set[bool]]:
    """Give every call of a model in this thread what is bound; what this yields is empty until there is one."""
    token, called = f'{id(every.model)} bound {id(every)}', set()

    def run(name: str, module: nn.Module, forward: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
        called.add(True)
        return every._call(forward, args, kwargs)

    with dispatched({'': every.model}, token), context.opened(context.Block(run, token)):
        yield called
