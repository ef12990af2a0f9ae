"""Where a decorated function takes its text, read once from its signature."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from classifier_free_guidance_pytorch.conditioners.prepared import CondFns, TextCondReturn
from classifier_free_guidance_pytorch.errors import ConfigError

RAW_TEXT_COND = 'raw_text_cond'


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


@dataclass(frozen=True)
class TextTaking:
    """How a function takes text.

    Attributes:
        injected: which of `cond_fns` and `raw_text_cond` it names; empty where it handles texts itself, by `cond_drop_prob`.
        positional: names of the parameters a caller may pass by position, in order, without `self` and the injected ones.
        before: how many of those stand before the first injected one; None where no injected one is in their way.
        takes: names of all keywords it takes, or None where it takes any.
    """

    injected: tuple[str, ...]
    positional: tuple[str, ...]
    before: int | None
    takes: frozenset[str] | None

    @staticmethod
    def of(fn: Callable[..., Any], names: KeyNames) -> TextTaking:
        """Read a signature.

        Raises:
            ConfigError: it names neither a condition nor a drop probability.
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
        return TextTaking(injected, positional, before, None if takes_any else frozenset(all_names))

    def is_bound(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
        """Whether the caller brings the conditions itself, as `super().forward(x, cond_fns)` in a subclass does."""
        if any(name in kwargs for name in self.injected):
            return True
        return any(isinstance(arg, (CondFns, TextCondReturn)) for arg in args)

    def refuse_unknown(self, function: str, keywords: Iterable[str]) -> None:
        """Refuse keywords that the function does not take, before any work is done for it.

        Raises:
            ConfigError: with what it takes.
        """
        unknown = [] if self.takes is None else [name for name in keywords if name not in self.takes]
        if unknown:
            takes = ', '.join(name for name in sorted(self.takes or ()) if name not in self.injected) or 'nothing'
            raise ConfigError(
                f'{", ".join(map(repr, unknown))} is no keyword of {function}, which takes {takes}, and beside it the keywords '
                'for texts and guidance that help() lists'
            )

    def by_name(self, args: tuple[Any, ...]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Positional arguments, with those behind an injected parameter turned into keywords."""
        if self.before is None or len(args) <= self.before:
            return args, {}
        if len(args) > len(self.positional):
            raise TypeError(f'{len(args)} positional arguments were given, but only {self.positional} can be passed by position')
        return args[: self.before], dict(zip(self.positional[self.before :], args[self.before :], strict=False))


def with_keywords(fn: Callable[..., Any], drop: tuple[str, ...], extra: dict[str, Any]) -> inspect.Signature:
    """The signature of a decorated function: without the injected parameters, with the keywords that the decorator adds."""
    signature = inspect.signature(fn)
    kept = [p for p in signature.parameters.values() if p.name not in drop]
    present = {p.name for p in kept}
    added = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default)
        for name, default in extra.items()
        if name not in present
    ]
    at = next((i for i, p in enumerate(kept) if p.kind is p.VAR_KEYWORD), len(kept))
    kept[at:at] = added
    return signature.replace(parameters=kept)
