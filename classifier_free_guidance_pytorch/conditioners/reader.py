"""Conditioners that read text: from texts or embeddings to features, through dropout and null, to conditions.

encodings -> features    `read_encodings`, `read_embeds`: what a kind of conditioner needs of the encodings
features -> features     `drop`: the null instead of what is dropped
features -> conditions   `condition`: the part of every layer that depends on the text alone
conditions -> conditions `at_scale`: what the guidance scale adds, late, for models that guide in one pass
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Hashable, Sequence
from typing import Any, ClassVar, Generic, TypeVar

import torch
from torch import Tensor

from classifier_free_guidance_pytorch.conditioners.base import Conditioner, TextEmbeds
from classifier_free_guidance_pytorch.conditioners.dropout import DropProb, drops_all, drops_nothing, keep_mask
from classifier_free_guidance_pytorch.conditioners.prepared import BranchCondition, TextCondReturn
from classifier_free_guidance_pytorch.conditioners.text_source import Encodings, Texts
from classifier_free_guidance_pytorch.layers import Condition
from classifier_free_guidance_pytorch.rows import Rows
from classifier_free_guidance_pytorch.text import TextEncoding

ENCODERS = 'encoders'  # where the metadata of a state_dict say which encoders the conditioner has
Features = TypeVar('Features', bound=Rows)


class TextReader(Conditioner, Generic[Features]):
    """Base of the conditioners that read text. `Features` is what a kind of conditioner reads, with one row per text."""

    null_depends_on_text: ClassVar[bool] = False
    """Whether the null has the shape of the text that it replaces."""

    @abstractmethod
    def read_encodings(self, encodings: Encodings) -> Features:
        """Return the features of frozen encodings."""

    @abstractmethod
    def read_embeds(self, embeds: Tensor | TextCondReturn) -> Features:
        """Return the features of what `embed_texts` returned."""

    @abstractmethod
    def null_features(self) -> Features:
        """Return the features of one text that is not there, made with every weight that a text meets."""

    @abstractmethod
    def drop(self, features: Features, keep: Tensor) -> Features:
        """Return the features with the null instead of what is not kept; `keep` is `(b, 1)` or `(b, encoders)`."""

    @abstractmethod
    def text_cond(self, features: Features) -> TextCondReturn:
        """Return the text feature that all layers read."""

    def layer_conditions(self, text_cond: TextCondReturn) -> tuple[Condition, ...]:
        """Return the condition of every layer, from the text feature; none where there are no layers."""
        return ()

    def condition(self, features: Features) -> BranchCondition:
        """Return the conditions of every layer."""
        text_cond = self.text_cond(features)
        return BranchCondition(self.layer_conditions(text_cond), text_cond)

    def at_scale(self, branch: BranchCondition, scale: float | Tensor) -> BranchCondition:
        if self.scale_input is None:
            return super().at_scale(branch, scale)
        added = self.scale_input(scale)  # (b, d)
        rows, texts = added[0].shape[0], branch.rows
        if rows > 1:  # a sample has a scale of its own, and its frames that of the sample
            branch = branch.expand(rows) if texts == 1 else branch.repeat(max(rows // texts, 1))
            added = [one.repeat_interleave(max(texts // rows, 1), dim=0) for one in added]
        text_cond = self.shifted(branch.text_cond, added)
        return BranchCondition(self.layer_conditions(text_cond), text_cond)

    def shifted(self, text_cond: TextCondReturn, added: Sequence[Tensor]) -> TextCondReturn:
        """Return the text feature with what the scale adds to it, `(b, d)`, at every token."""
        embed = text_cond.embed
        assert embed is not None
        return TextCondReturn(embed + (added[0] if embed.ndim == 2 else added[0].unsqueeze(1)), text_cond.mask)

    def null_condition(self, features: Features | None) -> BranchCondition:
        """Return the conditions of texts that are all dropped; `features` are theirs where the null depends on the text."""
        return self.condition(self.null_features())

    def branch(
        self,
        texts: Texts | None,
        text_embeds: TextEmbeds | None = None,
        drop_prob: DropProb | None = None,
        batch: int | None = None,
        repeat_batch: int = 1,
    ) -> BranchCondition:
        if drop_prob is None and self.training:
            drop_prob = self.cond_drop_prob
        if drop_prob is None or (drops_nothing(drop_prob) and not self.training):
            return self._remembered('cond', texts, lambda: self.condition(self.read(texts, text_embeds)))
        if not self.training and drops_all(drop_prob):
            return self.null_branch(texts, text_embeds)
        features = self.read(texts, text_embeds)
        if batch is not None and features.rows == 1:  # each sample is dropped by itself
            features = features.expand(batch)
        elif features.rows * repeat_batch == batch:
            features = features.repeat(repeat_batch)
        # in training the null takes part in every step, so that no parameter is ever unused under DDP
        return self.condition(self.drop(features, keep_mask(drop_prob, features.rows, self.place.device)))

    def null_branch(self, texts: Texts | None = None, text_embeds: TextEmbeds | None = None) -> BranchCondition:
        if texts is None and text_embeds is None and self.training:
            features = self.null_features()
            return self.condition(self.drop(features, torch.zeros(1, 1, dtype=torch.bool, device=self.place.device)))
        if not self.null_depends_on_text or (texts is None and text_embeds is None):
            return self._remembered('null', (), lambda: self.null_condition(None))
        return self._remembered('null', texts, lambda: self.null_condition(self.read(texts, text_embeds)))

    def read(self, texts: Texts | None, text_embeds: TextEmbeds | None) -> Features:
        """Return the features of texts, or of embeddings made earlier; exactly one of the two is given."""
        if texts is not None:
            encodings = self.source.encode(texts, self.place, remember=not self.training)
            features = self.read_encodings(encodings)
            if torch.compiler.is_compiling() or None not in texts:  # a compiler would specialise on every string it sees
                return features
            keep = torch.tensor([[text is not None] for text in texts], device=self.place.device)  # (b, 1)
            return self.drop(features, keep)
        if isinstance(text_embeds, TextEncoding):
            text_embeds = (text_embeds,)
        if isinstance(text_embeds, (Tensor, TextCondReturn)):
            return self.read_embeds(text_embeds)
        parts: list[Any] = list(text_embeds or ())
        if isinstance(parts[0], Tensor):
            return self.read_embeds(TextCondReturn(*parts))
        return self.read_encodings(self.source.checked(parts))

    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        """Write down the encoders beside the weights that were trained on their features, as the version of a module is."""
        super()._save_to_state_dict(destination, prefix, keep_vars)
        if prefix[:-1] in getattr(destination, '_metadata', ()):
            destination._metadata[prefix[:-1]][ENCODERS] = self.source.as_json()

    def _load_from_state_dict(self, state_dict: Any, prefix: str, local_metadata: Any, *more: Any) -> None:
        """Raise `ConfigError` for weights that were trained with a different encoder, before any of them is copied."""
        if ENCODERS in local_metadata:
            self.source.check_same(local_metadata[ENCODERS], 'load dict(checkpoint), which says nothing of its encoder,')
        super()._load_from_state_dict(state_dict, prefix, local_metadata, *more)

    def _remembered(self, role: str, texts: Texts | None, compute: Callable[[], BranchCondition]) -> BranchCondition:
        """Return the conditions of texts, from the last few that were made, where no gradient is wanted."""
        is_replica = '_is_replica' in self.__dict__  # of `DataParallel`: on another device, at the same time
        if texts is None or torch.is_grad_enabled() or torch.compiler.is_compiling() or is_replica:
            return compute()
        kind = self.watch.device_type if self.watch.device_type != 'meta' else self.place.device.type
        autocast = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else None
        encoders = self.source.look() if role == 'cond' or self.null == 'empty' else 0
        key: Hashable = (role, texts, self.watch.generation, autocast, encoders)

        def ordinary() -> BranchCondition:
            with torch.inference_mode(False), torch.no_grad():  # ordinary tensors, whoever asks for them next
                return compute()

        return self._conditions.get(key, ordinary)
