"""What a text encoder is.

An encoder turns strings into a `TextEncoding`. It is no `nn.Module`: it is frozen, so it belongs neither in the parameters
nor in the `state_dict` of the model it conditions, and it follows that model's device and dtype by being told them at
every call. Its constructor reads the configuration and the tokenizer; the weights load at the first `encode`, so training on
stored embeddings never loads them.
"""

from __future__ import annotations

import warnings
from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence
from contextlib import AbstractContextManager, nullcontext
from os import PathLike, fspath
from threading import RLock
from typing import Any, ClassVar, Protocol, TypeVar, runtime_checkable

import torch
from torch import Tensor, nn

from classifier_free_guidance_pytorch.errors import ConfigError, checked
from classifier_free_guidance_pytorch.text.encoding import TextEncoding
from classifier_free_guidance_pytorch.text.identity import EncoderIdentity
from classifier_free_guidance_pytorch.text.networks import SharedNetwork, bank
from classifier_free_guidance_pytorch.text.texts import as_texts, shortened

E_ = TypeVar('E_', bound='TextEncoder')


@runtime_checkable
class Encoder(Protocol):
    """The interface that any object needs to serve as an encoder."""

    dim_latent: int
    dim_pooled: int
    max_text_len: int

    def encode(self, texts: Sequence[str]) -> TextEncoding:
        """The features of a batch of texts."""


class TextEncoder:
    """Base of the encoders: frozen, shared in memory, lazily loaded, and wherever the caller is.

    A subclass sets `default_name`, reads its configuration in `_read` and its weights in `_load`, makes token ids in `_tokenize`
    and encodes them in `_forward`. The last two can run side by side: the tokens of the next texts on the CPU, the network on
    those of the last.

    Args:
        name: a model name on the hub or a local folder; None for the adapter's default.
        device: keep the network on this device; None follows the caller.
        dtype: run the network in this precision; None follows the caller. Autocast never applies to an encoder, so this
            is how to choose another precision than that of the conditioner.
        max_length: truncate texts at this many tokens, special tokens included; None for the model's own limit.
        text_embed_pad_value: written at padding in what `embed_text(..., return_text_encodings=True)` returns.

    Attributes:
        name: the model that is encoded with.
        dim_latent: width of a token feature.
        dim_pooled: width of the pooled feature.
        max_text_len: the most tokens a text can have; longer ones are truncated, with one warning.
        tokenizer: the model's tokenizer; `revision`: the commit of its files, where it is known.

    Raises:
        ConfigError: an argument that cannot work.
        MissingDependencyError: the configuration or the tokenizer cannot be read.
    """

    default_name: ClassVar[str]

    dim_latent: int
    dim_pooled: int
    max_text_len: int
    tokenizer: Any
    revision: str | None = None

    @checked
    def __init__(
        self,
        name: str | PathLike[str] | None = None,
        *,
        device: torch.device | str | int | None = None,
        dtype: torch.dtype | None = None,
        max_length: int | None = None,
        text_embed_pad_value: float | int = 0.0,
    ) -> None:
        if dtype is not None and not dtype.is_floating_point:
            raise ConfigError(f'dtype is the floating precision of the encoder, such as torch.bfloat16, but got {dtype}')
        if max_length is not None and max_length < 1:
            raise ConfigError(f'max_length counts tokens and is at least 1, but got {max_length}')
        self.name = self.default_name if name is None else fspath(name)
        self.device = None if device is None else torch.device(device)
        self.dtype = dtype
        self.text_embed_pad_value = float(text_embed_pad_value)
        self._network: SharedNetwork | None = None
        self._lock = RLock()  # one batch at a time: the network may be moved
        self._tokenizer_lock = RLock()  # tokenizers are not thread-safe
        self._warned: frozenset[str] = frozenset()
        self._read(max_length)

    def _read(self, max_length: int | None) -> None:
        """Read configuration and tokenizer; set `dim_latent`, `dim_pooled`, `max_text_len` and `tokenizer`."""
        raise NotImplementedError

    def _load(self, dtype: torch.dtype) -> nn.Module:
        """Read the weights, on the CPU."""
        raise NotImplementedError

    def _tokenize(self, texts: tuple[str, ...]) -> tuple[Tensor, Tensor]:
        """Token ids and mask, both `(b, n)` and on the CPU."""
        raise NotImplementedError

    def _forward(self, network: Any, ids: Tensor, mask: Tensor) -> TextEncoding:
        """Encode, where the ids are; the tokens at padding may hold anything."""
        raise NotImplementedError

    def _weights_key(self) -> Hashable:
        """What decides which weights `_load` reads."""
        return type(self), self.name

    def _settings(self) -> dict[str, Any]:
        """What decides the features beside the class, the name and the revision."""
        return {}

    @property
    def identity(self) -> EncoderIdentity:
        """What tells its features from another's."""
        return EncoderIdentity(type(self).__name__, self.name, self.revision, tuple(sorted(self._settings().items())))

    @property
    def model(self) -> nn.Module:
        """The network, loaded if it was not yet."""
        with self._lock:
            return self._place(None, None).module

    def encode(
        self, texts: Sequence[str], *, device: torch.device | str | int | None = None, dtype: torch.dtype | None = None
    ) -> TextEncoding:
        """The features of a batch of texts, padded to the longest of them and zero at the padding.

        Args:
            texts: a list, tuple or NumPy array of strings.
            device: where the caller lives; the network is placed there, unless the encoder was given a device of its own.
            dtype: the caller's precision; likewise.

        Returns:
            Tokens `(b, n, dim_latent)`, mask `(b, n)` and pooled `(b, dim_pooled)`, on the caller's device in the caller's dtype.

        Raises:
            ConfigError: `texts` is not a batch of strings.
            MissingDependencyError: the weights cannot be read.
        """
        if torch.compiler.is_compiling():
            # One graph break here, and none in the tokenizer; a compiler would also specialise on every string it sees.
            disable: Any = torch.compiler.disable
            encoding: TextEncoding = disable(self._encode)(texts, device, dtype)
            return encoding
        return self._encode(texts, device, dtype)

    def _encode(self, texts: Sequence[str], device: torch.device | str | int | None, dtype: torch.dtype | None) -> TextEncoding:
        """`encode`, outside any compiled graph."""
        return self.encode_ids(*self.tokenize(texts), device=device, dtype=dtype)

    def tokenize(self, texts: Sequence[str]) -> tuple[Tensor, Tensor]:
        """The first half of `encode`: token ids and mask, both `(b, n)`, on the CPU; True where a token is real.

        Raises:
            ConfigError: `texts` is not a batch of strings.
        """
        texts = as_texts(texts)
        with self._tokenizer_lock:
            return self._tokenize(texts)

    def encode_ids(
        self,
        ids: Tensor,
        mask: Tensor,
        *,
        device: torch.device | str | int | None = None,
        dtype: torch.dtype | None = None,
    ) -> TextEncoding:
        """The second half of `encode`: the features of token ids and mask as `tokenize` makes them, or of some of their rows."""
        # Results are ordinary tensors even for a caller in inference mode: they may be remembered and used in training later.
        with torch.inference_mode(False), torch.no_grad(), self._lock:
            network = self._place(device, dtype)
            with _without_autocast(network.device):
                encoding = self._forward(network.module, ids.to(network.device), mask.to(network.device))
            _check(self, len(ids), encoding)
            tokens = encoding.tokens.masked_fill(~encoding.mask[..., None], 0.0)
            encoding = TextEncoding(tokens, encoding.mask, encoding.pooled)
            return encoding.to(network.device if device is None else device, network.dtype if dtype is None else dtype)

    def embed_text(
        self, texts: Sequence[str], return_text_encodings: bool = False, output_device: torch.device | str | int | None = None
    ) -> Tensor:
        """The pooled features `(b, dim_pooled)`, or the tokens `(b, n, dim_latent)` with the pad value written at padding.

        Kept from 0.7.1. The mask cannot be recovered from values: `encode` returns it.
        """
        encoding = self.encode(texts, device=output_device)
        if not return_text_encodings:
            return encoding.pooled
        return encoding.tokens.masked_fill(~encoding.mask[..., None], self.text_embed_pad_value)

    def _place(self, device: torch.device | str | int | None, dtype: torch.dtype | None) -> SharedNetwork:
        """The network where it is pinned, else where the caller is, else where it was last, else on the CPU in float32."""
        last = self._network
        wanted_device = self.device or (torch.device(device) if device is not None else None)
        wanted_device = wanted_device or (last.device if last else torch.device('cpu'))
        wanted_dtype = self.dtype or dtype or (last.dtype if last else torch.float32)
        wanted_device = torch.empty(0, device=wanted_device).device  # 'cuda' and 'cuda:0' are one place
        self._network = bank.place(self, last, self._weights_key(), wanted_device, wanted_dtype, self._load)
        return self._network

    def _warn_once(self, subject: str, message: str) -> None:
        """One warning per encoder and subject."""
        if subject not in self._warned:
            self._warned |= {subject}
            warnings.warn(message, UserWarning, stacklevel=_stacklevel_of_the_user())

    def _warn_truncated(self, text: str) -> None:
        """The one warning about texts beyond the limit."""
        self._warn_once(
            'truncated',
            f'{type(self).__name__} reads at most {self.max_text_len} tokens of a text and cuts the rest off, as of '
            f'{shortened(text)}; shorten the texts, or raise max_length where the model allows it. This warning is given once',
        )

    def __repr__(self) -> str:
        return f'{type(self).__name__}({self.name!r}, dim_latent={self.dim_latent}, dim_pooled={self.dim_pooled})'

    def __copy__(self: E_) -> E_:
        """Another encoder on the same network, tokenizer and lock."""
        copy = object.__new__(type(self))
        copy.__dict__.update(self.__dict__)
        if self._network is not None:
            self._network.users.add(copy)
        return copy

    def __deepcopy__(self: E_, memo: dict[int, Any]) -> E_:
        """An EMA copy of a model shares the frozen network: copying it would buy nothing."""
        return self.__copy__()

    def __getstate__(self) -> dict[str, Any]:
        """Everything but the weights, which an unpickled encoder reads again at its first `encode`."""
        return {key: value for key, value in self.__dict__.items() if key not in ('_network', '_lock', '_tokenizer_lock')}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, _network=None, _lock=RLock(), _tokenizer_lock=RLock())


def encode_with(
    encoder: Encoder, texts: Sequence[str], *, device: torch.device | str | int | None = None, dtype: torch.dtype | None = None
) -> TextEncoding:
    """Encode with one of our encoders, which follow the caller, or with any object that has the interface.

    Raises:
        ConfigError: the object returned something that is no `TextEncoding` of these texts.
    """
    texts = as_texts(texts)
    if isinstance(encoder, TextEncoder):
        return encoder.encode(texts, device=device, dtype=dtype)
    with torch.inference_mode(False), torch.no_grad():
        encoding = encoder.encode(list(texts))
    _check(encoder, len(texts), encoding)
    return encoding.to(device, dtype)


def _check(encoder: Encoder, count: int, encoding: Any) -> None:
    """Refuse what does not fit the widths that conditioners were built for."""
    name = type(encoder).__name__
    if not isinstance(encoding, TextEncoding):
        raise ConfigError(f'{name}.encode must return a TextEncoding, but returned a {type(encoding).__name__}')
    got = (len(encoding), encoding.tokens.shape[-1], encoding.pooled.shape[-1])
    if got != (count, encoder.dim_latent, encoder.dim_pooled):
        raise ConfigError(
            f'{name}.encode returned {got[0]} texts with tokens of width {got[1]} and pooled features of width {got[2]}, but '
            f'it was given {count} texts and states dim_latent={encoder.dim_latent}, dim_pooled={encoder.dim_pooled}'
        )


class EncodingMemo:
    """The encodings of the last few batches of texts, for sampling loops that pass the same texts at every step.

    Args:
        size: how many batches; two suffice for a prompt and its negative, and a few more cost little.

    Example:
        >>> memo = EncodingMemo()
        >>> memo.get(('a dog',), lambda: 1), memo.get(('a dog',), lambda: 2)
        (1, 1)
    """

    def __init__(self, size: int = 4) -> None:
        self.size = size
        self._lock = RLock()
        self._entries: OrderedDict[Hashable, Any] = OrderedDict()

    def get(self, key: Hashable, compute: Callable[[], Any]) -> Any:
        """What `compute` returned for this key, computed now if it is not among the last few."""
        with self._lock:
            if key not in self._entries:
                self._entries[key] = compute()
            self._entries.move_to_end(key)
            while len(self._entries) > self.size:
                self._entries.popitem(last=False)
            return self._entries[key]

    def clear(self) -> None:
        """Forget everything."""
        with self._lock:
            self._entries.clear()

    def __deepcopy__(self, memo: dict[int, Any]) -> EncodingMemo:
        return EncodingMemo(self.size)

    def __reduce__(self) -> tuple[Any, ...]:
        return EncodingMemo, (self.size,)


def cut_to_longest(ids: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Token ids and mask without the columns, at the right, in which every row is padding."""
    longest = int(mask.sum(dim=1).max())
    return ids[:, :longest], mask[:, :longest]


def masked_mean(tokens: Tensor, mask: Tensor) -> Tensor:
    """The mean of the real tokens, `(b, n, d)` and `(b, n)` to `(b, d)`, summed in at least float32."""
    wide = tokens.to(torch.promote_types(tokens.dtype, torch.float32)).masked_fill(~mask[..., None], 0.0)
    return (wide.sum(dim=1) / mask.sum(dim=1, keepdim=True).clamp(min=1)).to(tokens.dtype)


def _without_autocast(device: torch.device) -> AbstractContextManager[Any]:
    """Autocast off: the encoding of a text must not depend on who asks for it."""
    if not torch.amp.is_autocast_available(device.type):
        return nullcontext()
    return torch.autocast(device.type, enabled=False)


def _stacklevel_of_the_user() -> int:
    """How many frames up the caller of this package is, so that a warning points to the user's line."""
    import sys

    level, frame = 2, sys._getframe(2)
    package = __name__.partition('.')[0]
    while frame.f_back is not None and frame.f_globals.get('__name__', '').partition('.')[0] in (package, 'torch'):
        frame, level = frame.f_back, level + 1
    return level
