"""An encoder that is not here: features come as `text_embeds=`, and no model, tokenizer or configuration is read."""

from __future__ import annotations

from collections.abc import Sequence

from classifier_free_guidance_pytorch.errors import ConfigError, UsageError, checked
from classifier_free_guidance_pytorch.text.encoding import TextEncoding
from classifier_free_guidance_pytorch.text.identity import EncoderIdentity


class Precomputed:
    """Stands for an encoder whose features are made elsewhere: by another process, or by something that reads no text.

    A conditioner for it has the same weights as one for the encoder itself, and takes the features as `text_embeds=`. With
    `origin`, it refuses those of a different encoder.

    Args:
        dim_latent: The width of a token feature; 0 where there are none, as for conditioners on pooled features.
        dim_pooled: The width of the pooled feature; likewise.
        origin: The encoder that makes the features: the `origin` of an encoding.
        max_text_len: The largest number of tokens, where something asks the conditioner for it.

    Raises:
        ConfigError: Both widths are 0, or one is negative.

    Example:
        >>> import torch
        >>> from classifier_free_guidance_pytorch import TextConditioner
        >>> conditioner = TextConditioner(hidden_dims=(64,), model_types=Precomputed(dim_pooled=10))
        >>> one_hot = torch.eye(10)[[3, 7]]
        >>> (condition,) = conditioner(text_embeds=one_hot)
        >>> condition(torch.randn(2, 64, 8, 8)).shape
        torch.Size([2, 64, 8, 8])
    """

    @checked
    def __init__(
        self, *, dim_latent: int = 0, dim_pooled: int = 0, origin: EncoderIdentity | None = None, max_text_len: int = 0
    ) -> None:
        if min(dim_latent, dim_pooled, max_text_len) < 0 or dim_latent == dim_pooled == 0:
            raise ConfigError(
                'Precomputed needs the width of what is given to it, dim_latent= for tokens, dim_pooled= for one feature per '
                f'text, or both, but got dim_latent={dim_latent}, dim_pooled={dim_pooled}, max_text_len={max_text_len}'
            )
        self.dim_latent = dim_latent
        self.dim_pooled = dim_pooled
        self.origin = origin
        self.max_text_len = max_text_len

    @property
    def identity(self) -> EncoderIdentity:
        """What distinguishes the features from those of other encoders; an unknown identity fits all."""
        return self.origin or EncoderIdentity()

    def encode(self, texts: Sequence[str]) -> TextEncoding:
        """Raise `UsageError`: there is no encoder."""
        made_by = '' if self.origin is None else f' by {self.origin}'
        raise UsageError(
            f'this conditioner reads features that were made{made_by} beforehand and has no encoder to read texts with: pass '
            'them as text_embeds='
        )

    def __repr__(self) -> str:
        origin = '' if self.origin is None else f', origin={self.origin}'
        return f'Precomputed(dim_latent={self.dim_latent}, dim_pooled={self.dim_pooled}{origin})'
