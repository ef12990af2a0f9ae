"""Where a decorated function takes its text, read once from its signature."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol, TypeVar

from classifier_free_guidance_pytorch.errors import ConfigError

RAW_TEXT_COND = 'raw_text_cond'

# How other libraries call the guidance scale, for the message that answers them.
SCALE_ELSEWHERE = (
    'guidance_scale',
    'cfg_scale',
    'cfg',
    'scale',
    'guidance_weight',
    'guidance_strength',
    'unconditional_guidance_scale',
)

# How they call texts.
TEXTS_ELSEWHERE = ('prompt', 'prompts', 'caption', 'captions')

R_co = TypeVar('R_co', covariant=True)


class HasForward(Protocol[R_co]):
    """A module, for a type checker that takes the type of a call from its `forward`."""

    @property
    def forward(self) -> Callable[..., R_co]:
        """The function itself."""


@dataclass(frozen=True)
class KeyNames:
    """The names under which texts and conditions travel; every one can be chosen when decorating."""

    cond_drop_prob: str = 'cond_drop_prob'
    texts: str = 'texts'
    text_embeds: str = 'text_embeds'
    cond_fns: str = 'cond_fns'
    text_conditioner: str = 'text_conditioner'

    @property
    def negative_texts(self) -> str:
        return f'negative_{self.texts}'

    @property
    def negative_text_embeds(self) -> str:
        return f'negative_{self.text_embeds}'

    @cached_property
    def of_texts(self) -> dict[str, str]:
        """The name in the contract of every text keyword, by the name that was chosen."""
        ours = ('texts', 'text_embeds', 'negative_texts', 'negative_text_embeds', 'cond_drop_prob')
        return {
            **{getattr(self, name): name for name in ours},
            'text_condition': 'text_condition',
            'repeat_batch': 'repeat_batch',
            'num_samples_per_text': 'num_samples_per_text',
        }


@dataclass(frozen=True)
class ForwardSignature:
    """What a decorated function takes.

    Attributes:
        name: The function's qualified name, for messages.
        injected: Which of `cond_fns` and `raw_text_cond` it names; empty where it handles texts itself, by `cond_drop_prob`.
        filled: What the decorator hands it: these, or the texts and the drop probability.
        positional: Names of the parameters a caller may pass by position, in order, without `self` and the injected ones.
        before: How many of those stand before the first injected one; None where no injected one is in their way.
        takes: Names of all keywords it takes, or None where it takes any.
        takes_more: Whether it takes any number of positional arguments, beyond the named ones.
    """

    name: str
    injected: tuple[str, ...]
    filled: frozenset[str]
    positional: tuple[str, ...]
    before: int | None
    takes: frozenset[str] | None
    takes_more: bool

    @staticmethod
    def of(fn: Callable[..., Any], names: KeyNames) -> ForwardSignature:
        """Read the signature of a function.

        Raises:
            ConfigError: It names neither a condition nor a drop probability.
        """
        parameters = list(inspect.signature(fn).parameters.values())[1:]  # without self
        all_names = [p.name for p in parameters]
        injected = tuple(name for name in (names.cond_fns, RAW_TEXT_COND) if name in all_names)
        takes_any = any(p.kind is p.VAR_KEYWORD for p in parameters)
        if not injected and names.cond_drop_prob not in all_names:
            raise ConfigError(
                f'{fn.__qualname__}{inspect.signature(fn)} has no way to receive a condition: name the parameter '
                f'{names.cond_fns!r} (one callable per hidden dimension), {RAW_TEXT_COND!r} (embeddings and mask), or, to handle '
                f'texts itself, {names.cond_drop_prob!r}'
            )
        by_position = [p.name for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
        before = min((by_position.index(name) for name in injected if name in by_position), default=None)
        positional = tuple(name for name in by_position if name not in injected)
        filled = injected or (names.texts, names.text_embeds, names.cond_drop_prob)
        takes = None if takes_any else frozenset(all_names)
        takes_more = any(p.kind is p.VAR_POSITIONAL for p in parameters)
        return ForwardSignature(fn.__qualname__, injected, frozenset(filled), positional, before, takes, takes_more)

    @property
    def arguments(self) -> list[str]:
        """Names of the arguments that a caller passes, where they are known."""
        return sorted(name for name in self.takes or () if name not in self.filled)

    def knows(self, name: object) -> bool:
        """Whether a caller may pass an argument of this name, which the function takes and the decorator does not fill."""
        return isinstance(name, str) and name not in self.filled and (self.takes is None or name in self.takes)

    def refuse_unknown(self, given: Iterable[str], added: Iterable[str], where: str = '') -> None:
        """Raise `ConfigError`, before any work is done, for keywords that the function does not take.

        Args:
            given: The keywords of a call.
            added: The keywords that the decorator adds, among which a misspelled one may be found.
            where: What the message starts with.
        """
        unknown = [name for name in given if not self.knows(name)]
        if not unknown:
            return
        every = [*self.arguments, *added]
        close = {name: difflib.get_close_matches(name, every, n=1, cutoff=0.75) for name in unknown if isinstance(name, str)}
        close |= {name: ['cond_scale'] for name in unknown if name in SCALE_ELSEWHERE}
        for ours in [ours for ours in ('texts', 'negative_texts') if ours in every]:  # unless the decorator was given other names
            close |= {name: [ours] for name in unknown if name in [ours.replace('texts', other) for other in TEXTS_ELSEWHERE]}
        hints = [f'{name!r} may be {match[0]!r} here' for name, match in close.items() if match]
        raise ConfigError(
            f'{where}{", ".join(map(repr, unknown))} is no keyword of {self.name}, which takes '
            f'{", ".join(self.arguments) or "nothing"}, and beside it the keywords for texts and guidance that help() lists'
            + ('; ' + ', '.join(hints) if hints else '')
        )

    def by_name(self, args: tuple[Any, ...]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Return positional arguments, with those behind an injected parameter turned into keywords."""
        if self.before is None or len(args) <= self.before:
            return args, {}
        if len(args) > len(self.positional):
            raise TypeError(f'{len(args)} positional arguments were given, but only {self.positional} can be passed by position')
        return self.cut(args, self.before)

    def cut(self, args: tuple[Any, ...], place: int) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Return the positional arguments before a place, and those behind it as keywords."""
        return args[:place], dict(zip(self.positional[place:], args[place:], strict=False))


def with_keywords(fn: Callable[..., Any], drop: tuple[str, ...], extra: Mapping[str, tuple[Any, Any, str]]) -> inspect.Signature:
    """Return the signature of a decorated function.

    Args:
        fn: The function.
        drop: The parameters that the decorator fills.
        extra: What the decorator adds: the default, the annotation and the sentence of each keyword.
    """
    signature = inspect.signature(fn)
    kept = [p for p in signature.parameters.values() if p.name not in drop]
    present = {p.name for p in kept}
    added = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)
        for name, (default, annotation, _) in extra.items()
        if name not in present
    ]
    at = next((i for i, p in enumerate(kept) if p.kind is p.VAR_KEYWORD), len(kept))
    kept[at:at] = added
    return signature.replace(parameters=kept)
