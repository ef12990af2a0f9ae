"""What a text encoder is.

An encoder turns strings into a `TextEncoding`. It is frozen, so it is not an `nn.Module`: its weights belong neither in the
parameters nor in the `state_dict` of the model that it conditions, and every call names the device and the dtype to run in. Its
constructor reads the configuration and the tokenizer. The weights load at the first `encode`, so training on stored encodings
never loads them.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from os import PathLike, fspath
from threading import RLock
from typing import Any, ClassVar, Protocol, runtime_checkable

import torch
from torch import Tensor, nn
from typing_extensions import Self

from classifier_free_guidance_pytorch.errors import ConfigError, checked, warn
from classifier_free_guidance_pytorch.text.encoding import TextEncoding
from classifier_free_guidance_pytorch.text.identity import EncoderIdentity, identity_of
from classifier_free_guidance_pytorch.text.networks import Device, SharedNetwork, bank
from classifier_free_guidance_pytorch.text.texts import as_texts, shorten


@runtime_checkable
class Encoder(Protocol):
    """The interface that any object needs to serve as an encoder."""

    dim_latent: int
    dim_pooled: int
    max_text_len: int

    def encode(self, texts: Sequence[str]) -> TextEncoding:
        """Return the features of a batch of texts."""


class TextEncoder:
    """Base of the encoders: frozen, shared in memory, loaded at first use, on the caller's device.

    A subclass sets `default_name`, reads its configuration in `_read` and its weights in `_load`, makes token ids in `_tokenize`
    and encodes them in `_forward`. The last two can run side by side: the CPU tokenizes the next texts while the network encodes
    the last ones.

    Args:
        name: A model name on the hub or a local folder; None for the adapter's default.
        device: Keep the network on this device; None follows the caller.
        dtype: Run the network in this precision; None follows the caller. Autocast never applies to an encoder, so this
            is how to choose a precision other than the conditioner's.
        max_length: Truncate texts at this many tokens, special tokens included; None for the model's own limit.
        text_embed_pad_value: What `embed_text(..., return_text_encodings=True)` writes at padding.

    Attributes:
        name: The model.
        dim_latent: The width of a token feature.
        dim_pooled: The width of the pooled feature.
        max_text_len: The largest number of tokens of a text; longer texts are truncated, with one warning.
        network: What runs, where it is and in which precision; None until it is loaded.
        tokenizer: The model's tokenizer.
        revision: The commit of the model's files or a digest of its weights; None where it is unknown.

    Raises:
        ConfigError: An argument that cannot work.
        MissingDependencyError: The configuration or the tokenizer cannot be read.
    """

    default_name: ClassVar[str]
    _how_to_read_more: str = 'raise max_length where the model allows it'

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
        device: Device | None = None,
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
        self.network: SharedNetwork | None = None
        self._lock = RLock()  # one batch at a time: the network may move
        self._tokenizer_lock = RLock()  # tokenizers are not thread-safe
        self._warned: frozenset[str] = frozenset()
        self._read(max_length)

    def _read(self, max_length: int | None) -> None:
        """Read configuration and tokenizer; set `dim_latent`, `dim_pooled`, `max_text_len` and `tokenizer`."""
        raise NotImplementedError

    def _load(self, dtype: torch.dtype) -> nn.Module:
        """Read the weights, on the CPU."""
        raise NotImplementedError

    def _tokenize(self, texts: tuple[str, ...]) -> tuple[Tensor, ...]:
        """Return token ids, mask and, if there are any, weights of tokens, all `(b, n)` and on the CPU."""
        raise NotImplementedError

    def _forward(self, network: Any, ids: Tensor, mask: Tensor) -> TextEncoding:
        """Encode token ids `(b, n)` on their device; tokens at padding may hold anything."""
        raise NotImplementedError

    def _features(self, network: Any, ids: Tensor, mask: Tensor, weights: Tensor | None = None) -> TextEncoding:
        """Encode all that `_tokenize` returns; only some adapters have weights of tokens."""
        assert weights is None, f'{type(self).__name__} has no weights of tokens'
        return self._forward(network, ids, mask)

    def _weights_key(self) -> Hashable:
        """Return what decides which weights `_load` reads."""
        return type(self), self.name

    def _settings(self) -> dict[str, Any]:
        """Return what decides the features besides the class, the name and the revision."""
        return {}

    @property
    def identity(self) -> EncoderIdentity:
        """What distinguishes its features from those of other encoders."""
        return EncoderIdentity(type(self).__name__, self.name, self.revision, tuple(sorted(self._settings().items())))

    @property
    def model(self) -> nn.Module:
        """The network; it is loaded if necessary."""
        with self._lock:
            network = self._place(None, None)
            network.is_known = True
            return network.module

    def encode(self, texts: Sequence[str], *, device: Device | None = None, dtype: torch.dtype | None = None) -> TextEncoding:
        """Return the features of a batch of texts, padded to the longest of them and zero at the padding.

        Args:
            texts: A list, tuple or NumPy array of strings.
            device: The caller's device. The network moves there, unless the encoder was given a device of its own.
            dtype: The caller's precision; likewise.

        Returns:
            Tokens `(b, n, dim_latent)`, mask `(b, n)` and pooled `(b, dim_pooled)`, on the caller's device in the caller's dtype.

        Raises:
            ConfigError: `texts` is not a batch of strings.
            MissingDependencyError: The weights cannot be read.
        """
        if torch.compiler.is_compiling():
            # One graph break here, and none in the tokenizer; a compiler would also specialise on every string it sees.
            disable: Any = torch.compiler.disable
            return disable(self._encode)(texts, device, dtype)
        return self._encode(texts, device, dtype)

    def _encode(self, texts: Sequence[str], device: Device | None, dtype: torch.dtype | None) -> TextEncoding:
        """Encode outside any compiled graph."""
        return self.encode_ids(*self.tokenize(texts), device=device, dtype=dtype)

    def tokenize(self, texts: Sequence[str]) -> tuple[Tensor, ...]:
        """Return token ids and mask, both `(b, n)`, on the CPU; True where a token is real. The first half of `encode`.

        An encoder that was told to read weights in texts returns them as well, `(b, n)`.

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
        weights: Tensor | None = None,
        *,
        device: Device | None = None,
        dtype: torch.dtype | None = None,
    ) -> TextEncoding:
        """Return the features of token ids. The second half of `encode`.

        Args:
            ids: Token ids `(b, n)` as `tokenize` makes them, of all or some of its texts.
            mask: Their mask `(b, n)`.
            weights: Their weights `(b, n)`, if `tokenize` returned some.
            device: The caller's device; see `encode`.
            dtype: The caller's precision; see `encode`.
        """
        # Results are ordinary tensors even for a caller in inference mode: they may be cached and used in training later.
        with torch.inference_mode(False), torch.no_grad(), self._lock:
            network = self._place(device, dtype)
            with _without_autocast(network.device):
                weights = None if weights is None else weights.to(network.device)
                encoding = self._features(network.module, ids.to(network.device), mask.to(network.device), weights)
            _check(self, len(ids), encoding)
            tokens = encoding.tokens.masked_fill(~encoding.mask[..., None], 0.0)  # (b, n, d)
            encoding = TextEncoding(tokens, encoding.mask, encoding.pooled, self.identity)
            return encoding.to(network.device if device is None else device, network.dtype if dtype is None else dtype)

    def embed_text(
        self, texts: Sequence[str], return_text_encodings: bool = False, output_device: Device | None = None
    ) -> Tensor:
        """Return pooled features or tokens, as the method of 0.7.1 does. `encode` also returns the mask.

        Args:
            texts: A batch of strings.
            return_text_encodings: Return tokens instead of pooled features.
            output_device: The caller's device.

        Returns:
            The pooled features `(b, dim_pooled)`, or the tokens `(b, n, dim_latent)` with the pad value at padding.
        """
        encoding = self.encode(texts, device=output_device)
        if not return_text_encodings:
            return encoding.pooled
        return encoding.tokens.masked_fill(~encoding.mask[..., None], self.text_embed_pad_value)

    def _place(self, device: Device | None, dtype: torch.dtype | None) -> SharedNetwork:
        """Return the network where it is pinned, else where the caller is, else where it was, else on the CPU in float32."""
        last = self.network
        wanted_device = self.device or (torch.device(device) if device is not None else None)
        wanted_device = wanted_device or (last.device if last else torch.device('cpu'))
        wanted_dtype = self.dtype or dtype or (last.dtype if last else torch.float32)
        wanted_device = torch.empty(0, device=wanted_device).device  # 'cuda' and 'cuda:0' are the same place
        self.network = bank.place(self, last, self._weights_key(), wanted_device, wanted_dtype, self._load)
        return self.network

    def _warn_once(self, subject: str, message: str) -> None:
        """Warn once per encoder and subject."""
        if subject not in self._warned:
            self._warned |= {subject}
            warn(message)

    def _warn_of_truncated(self, texts: Sequence[str], full: Tensor, is_truncated: Callable[[str], bool]) -> None:
        """Warn once if a text is longer than the limit.

        Args:
            texts: The texts.
            full: `(b,)`, True where a text fills the limit: no other can have been truncated.
            is_truncated: Tokenizes such a text again, without the limit.
        """
        rows = map(int, full.nonzero())  # no `tolist`, which torch 2.9 lacks inside `torch.func.jvp`
        truncated = next((texts[row] for row in rows if is_truncated(texts[row])), None)
        if truncated is not None:
            self._warn_once(
                'truncated',
                f'{type(self).__name__} reads at most {self.max_text_len} tokens of a text and cuts the rest off, as of '
                f'{shorten(truncated)}; shorten the texts, or {self._how_to_read_more}. '
                'This warning is given once',
            )

    def __repr__(self) -> str:
        return f'{type(self).__name__}({self.name!r}, dim_latent={self.dim_latent}, dim_pooled={self.dim_pooled})'

    def __copy__(self) -> Self:
        """Return an encoder that shares network, tokenizer and lock."""
        copy = object.__new__(type(self))
        copy.__dict__.update(self.__dict__)
        if self.network is not None:
            self.network.users.add(copy)
        return copy

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        """Return an encoder that shares the network: an EMA copy of a model needs no copy of frozen weights."""
        return self.__copy__()

    def __getstate__(self) -> dict[str, Any]:
        """Return everything but the weights, which an unpickled encoder reads again at its first `encode`."""
        return {key: value for key, value in self.__dict__.items() if key not in ('network', '_lock', '_tokenizer_lock')}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, network=None, _lock=RLock(), _tokenizer_lock=RLock())


def encode_with(
    encoder: Encoder, texts: Sequence[str], *, device: Device | None = None, dtype: torch.dtype | None = None
) -> TextEncoding:
    """Encode with one of our encoders, or with any object that has the interface.

    Args:
        encoder: The encoder. Ours run on the caller's device; other objects run where they like.
        texts: A batch of strings.
        device: Where the result is needed.
        dtype: In which precision.

    Raises:
        ConfigError: `texts` is not a batch of strings, or the object returned something that is not their `TextEncoding`.
    """
    texts = as_texts(texts)
    if isinstance(encoder, TextEncoder):
        return encoder.encode(texts, device=device, dtype=dtype)
    with torch.inference_mode(False), torch.no_grad():
        encoding = encoder.encode(list(texts))
    _check(encoder, len(texts), encoding)
    return replace(encoding, origin=encoding.origin or identity_of(encoder)).to(device, dtype)


def _check(encoder: Encoder, count: int, encoding: Any) -> None:
    """Refuse an encoding without the widths that conditioners were built for."""
    name = type(encoder).__name__
    if not isinstance(encoding, TextEncoding):
        raise ConfigError(f'{name}.encode must return a TextEncoding, but returned a {type(encoding).__name__}')
    got = (len(encoding), encoding.tokens.shape[-1], encoding.pooled.shape[-1])
    if got != (count, encoder.dim_latent, encoder.dim_pooled):
        raise ConfigError(
            f'{name}.encode returned {got[0]} texts with tokens of width {got[1]} and pooled features of width {got[2]}, but '
            f'it was given {count} texts and states dim_latent={encoder.dim_latent}, dim_pooled={encoder.dim_pooled}'
        )


def _without_autocast(device: torch.device) -> AbstractContextManager[Any]:
    """Turn autocast off: the encoding of a text must not depend on the caller's context."""
    if not torch.amp.is_autocast_available(device.type):
        return nullcontext()
    return torch.autocast(device.type, enabled=False)
