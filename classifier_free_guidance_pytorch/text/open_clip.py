"""The text towers of open_clip's models, with the activation that the weights were trained with."""

from __future__ import annotations

import json
import os
from collections.abc import Hashable, Mapping
from copy import copy
from os import PathLike, fspath
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from classifier_free_guidance_pytorch.errors import ConfigError, MissingDependencyError, checked
from classifier_free_guidance_pytorch.text.encoding import TextEncoding
from classifier_free_guidance_pytorch.text.hub import read_model_files
from classifier_free_guidance_pytorch.text.networks import Device
from classifier_free_guidance_pytorch.text.prompts import PromptEncoder
from classifier_free_guidance_pytorch.text.torchvision_repair import repair_torchvision
from classifier_free_guidance_pytorch.text.transformers_files import read_config

# Models with an undisputed default; where any other model has several weights, the user chooses.
_DEFAULT_TAGS = {'ViT-B-32': 'laion2b_s34b_b79k'}
_CHECKPOINT_FILES = ('open_clip_model.safetensors', 'open_clip_pytorch_model.safetensors', 'open_clip_pytorch_model.bin')
_OF_THE_TEXT = ('token_embedding.', 'positional_embedding', 'transformer.', 'ln_final.', 'text_projection')  # of a CLIP


class OpenClipAdapter(PromptEncoder):
    """The text tower of an open_clip model: CLIP, CoCa, SigLIP and others.

    Tokens are the last hidden state after the final norm. Pooled is the projected and l2-normalised text embedding, whose
    width may differ from that of the tokens. Start, text and end tokens are real. CLIP's own towers are causal, so they read only
    as far as the longest text of the batch, which changes nothing but the time; others read every text at the full context
    length, as in training, and the result is cut to the longest text.

    OpenAI's weights and some others were trained with QuickGELU. open_clip knows which ones by their tag.

    Args:
        name: An architecture (`'ViT-B-32'`), `'hf-hub:org/model'` or `'local-dir:/folder'`.
        pretrained: A tag of open_clip or the path of a checkpoint; None for the default of `ViT-B-32` or a model's only tag.
        quick_gelu: The activation of your own checkpoint; None takes what the tag or the architecture says.
        device: Keep the network on this device; None follows the caller.
        dtype: Run the network in this precision; None follows the caller.
        max_length: Truncate texts at this many tokens, at most the context length.
        text_embed_pad_value: What `embed_text(..., return_text_encodings=True)` writes at padding.
        chunks: Of CLIP: cut a long text into at most so many chunks of `max_length` tokens, each with its own start and end. The
            pooled feature is that of the first chunk.
        parse_weights: Of CLIP: read `(word:1.3)` in a text as the weight of a word; see `encode` for what a weight does.

    Raises:
        ConfigError: An unknown architecture or tag, a limit above the context length, or chunks or weights for a model that is no
            CLIP.
        MissingDependencyError: open_clip is not installed, or a configuration or tokenizer cannot be read.

    Papers: https://arxiv.org/abs/2103.00020 (CLIP), https://arxiv.org/abs/2212.07143 (open_clip).
    """

    default_name = 'ViT-B-32'

    @checked
    def __init__(
        self,
        name: str | PathLike[str] | None = None,
        *,
        pretrained: str | PathLike[str] | None = None,
        quick_gelu: bool | None = None,
        device: Device | None = None,
        dtype: torch.dtype | None = None,
        max_length: int | None = None,
        text_embed_pad_value: float | int = 0.0,
        chunks: int = 1,
        parse_weights: bool = False,
    ) -> None:
        self._check_prompts(chunks, parse_weights)
        self.pretrained = None if pretrained is None else fspath(pretrained)
        self.quick_gelu = quick_gelu
        super().__init__(name, device=device, dtype=dtype, max_length=max_length, text_embed_pad_value=text_embed_pad_value)
        self._begin_prompts()

    def _read(self, max_length: int | None) -> None:
        open_clip = _import_open_clip()
        if ':' not in self.name:
            self.name = self.name.replace('/', '-')  # OpenAI writes 'ViT-B/32'
        elif self.pretrained is not None:
            raise ConfigError(f'{self.name!r} comes with its weights, so pretrained={self.pretrained!r} must not be given')
        config = _read_config(open_clip, self.name)
        if ':' not in self.name:
            self._choose_weights(open_clip)
        text = config['text_cfg']
        width = text.get('width', 512)
        if text.get('hf_model_name'):
            width = _read_tower_config(text['hf_model_name']).hidden_size
        self.dim_latent = width
        self.dim_pooled = width if text.get('proj_type') == 'none' else config['embed_dim']
        if text.get('hf_tokenizer_name'):  # the only tokenizers with files
            # what is passed here replaces what the configuration says, which may come from anybody
            self.tokenizer = read_model_files(
                'OpenClipAdapter',
                self.name,
                lambda local: open_clip.get_tokenizer(self.name, local_files_only=local, trust_remote_code=False),
            )
        elif ':' in self.name:  # open_clip would read the configuration again, and might take the repository's own tokenizer
            limit = text.get('context_length', open_clip.tokenizer.DEFAULT_CONTEXT_LENGTH)
            self.tokenizer = open_clip.SimpleTokenizer(**{**text.get('tokenizer_kwargs', {}), 'context_length': limit})
        else:
            self.tokenizer = open_clip.get_tokenizer(self.name)
        self._reads_like_clip = _is_clip_config(text)
        self._context_length: int = self.tokenizer.context_length
        self.max_text_len = max_length or self._context_length
        if self.max_text_len > self._context_length:
            raise ConfigError(
                f'max_length={max_length} is more than the {self._context_length} tokens that {self.name!r} can read'
            )

    def _choose_weights(self, open_clip: Any) -> None:
        """Set `pretrained`, and the activation that its tag states."""
        tags = open_clip.list_pretrained_tags_by_model(self.name)
        choices = f'pass the path of a checkpoint{", or one of " * bool(tags)}{", ".join(tags)}'
        if self.pretrained is None:
            self.pretrained = _DEFAULT_TAGS.get(self.name) or (tags[0] if len(tags) == 1 else None)
        if self.pretrained is None:
            raise ConfigError(f"{self.name!r} needs model_kwargs={{'pretrained': ...}}: {choices}")
        if open_clip.is_pretrained_cfg(self.name, self.pretrained):
            stated = bool(open_clip.get_pretrained_cfg(self.name, self.pretrained).get('quick_gelu', False))
            self.quick_gelu = stated if self.quick_gelu is None else self.quick_gelu
        elif not os.path.isfile(self.pretrained):  # of any name: `Path.is_file` raises for one that no disk takes
            raise ConfigError(f'pretrained={self.pretrained!r} is neither a file nor a tag of {self.name!r}: {choices}')

    def _weights_key(self) -> Hashable:
        return type(self), self.name, self.pretrained, self.quick_gelu

    def _settings(self) -> dict[str, Any]:
        return {'pretrained': self.pretrained, 'quick_gelu': self.quick_gelu, **self._settings_of_prompts()}

    def _load(self, dtype: torch.dtype) -> nn.Module:
        open_clip = _import_open_clip()
        config = _read_config(open_clip, self.name)
        text = {**config['text_cfg'], 'hf_model_pretrained': False, 'output_tokens': True}
        quick_gelu = bool(self.quick_gelu or config.get('quick_gelu', False))
        # the text tower alone, without that of the images
        tower: nn.Module = open_clip.model._build_text_tower(config['embed_dim'], text, quick_gelu)
        if not hasattr(tower, 'output_tokens'):
            raise ConfigError(f'the text tower of {self.name!r}, {type(tower).__name__}, does not give its tokens')
        checkpoint = self._checkpoint(open_clip)
        weights = _read_text_weights(checkpoint)
        missing = sorted(tower.state_dict().keys() - weights.keys())
        if missing:
            raise ConfigError(
                f'{checkpoint} is no checkpoint of {self.name!r}: it lacks {len(missing)} weights, such as {missing[:3]}'
            )
        tower.load_state_dict({name: weights[name] for name in tower.state_dict()})
        return tower.to(dtype)

    def _checkpoint(self, open_clip: Any) -> str:
        """Return the file with the weights."""
        schema, _, identifier = self.name.partition(':')
        if schema == 'local-dir':
            found = [str(path) for path in (Path(identifier, name) for name in _CHECKPOINT_FILES) if os.path.isfile(path)]
            if not found:
                raise MissingDependencyError(f'{identifier} holds no weights: it has none of {", ".join(_CHECKPOINT_FILES)}')
            return found[0]
        if schema == 'hf-hub':
            return _find_checkpoint(open_clip, {'hf_hub': f'{identifier}/'})
        assert self.pretrained is not None
        if os.path.isfile(self.pretrained):
            return self.pretrained
        return _find_checkpoint(open_clip, open_clip.get_pretrained_cfg(self.name, self.pretrained))

    def _is_clip(self) -> bool:
        # open_clip's own tokenizer, which does not choose words at random where a text is long (`reduction_mask`)
        own = getattr(self.tokenizer, 'reduction_fn', self) is None and hasattr(self.tokenizer, 'sot_token_id')
        return own and self._reads_like_clip

    def _token_ids(self, text: str) -> list[int]:
        ids: list[int] = self.tokenizer.encode(text)
        return ids

    def _around(self) -> tuple[int, int, int]:
        return self.tokenizer.sot_token_id, self.tokenizer.eot_token_id, self._pad_id()

    def _tokenize(self, texts: tuple[str, ...]) -> tuple[Tensor, ...]:
        if self._reads_prompts:
            return self._tokenize_prompts(texts)
        limit = self.max_text_len
        ids = self.tokenizer(list(texts), context_length=limit)
        mask = self._mask_of(ids)
        self._warn_of_truncated(
            texts, mask.all(dim=1), lambda text: bool(self._mask_of(self.tokenizer([text], context_length=limit + 1)).all())
        )
        missing = self._context_length - ids.shape[1]
        return F.pad(ids, (0, missing), value=self._pad_id()), F.pad(mask, (0, missing))

    def _forward(self, network: Any, ids: Tensor, mask: Tensor) -> TextEncoding:
        if _is_causal(network):
            length = _longest(mask)
            network, ids, mask = _with_length(network, length), ids[:, :length], mask[:, :length]
        pooled, tokens = network(ids)  # (b, d), (b, n, d)
        # Some towers give their tokens without the one they pool, the first (CLS) or, in open_clip 2, the last.
        first = 0 if getattr(network, 'pool_type', None) == 'last' else mask.shape[1] - tokens.shape[1]
        mask = mask[:, first : first + tokens.shape[1]]
        longest = _longest(mask)
        return TextEncoding(tokens[:, :longest], mask[:, :longest], F.normalize(pooled, dim=-1))

    def _mask_of(self, ids: Tensor) -> Tensor:
        """Return the mask of token ids, both `(b, n)`.

        Everything up to the end token is real. The padding's id decides only where there is no end token: it may be the end
        token's (SigLIP), or that of a word (CLIP pads with the id of '!').
        """
        real, end = ids != self._pad_id(), self._end_id()
        if end is None:
            return real
        ends = (ids == end).int()
        before_or_at = ends.cumsum(dim=1) - ends == 0
        return torch.where(ends.any(dim=1, keepdim=True), before_or_at, real)

    def _end_id(self) -> int | None:
        """Return the end token of open_clip's tokenizer, or of the Hugging Face tokenizer in it, if that was not stripped."""
        if hasattr(self.tokenizer, 'eot_token_id'):
            return int(self.tokenizer.eot_token_id)
        if getattr(self.tokenizer, 'strip_sep_token', False) or getattr(self.tokenizer, 'tokenizer_mode', ''):
            return None
        inner = self.tokenizer.tokenizer
        return inner.sep_token_id if inner.eos_token_id is None else inner.eos_token_id

    def _pad_id(self) -> int:
        inner = getattr(self.tokenizer, 'tokenizer', None)
        return 0 if inner is None or inner.pad_token_id is None else int(inner.pad_token_id)


def _is_causal(network: Any) -> bool:
    """Return whether features never depend on what follows a text's end token: the tower is causal, and pools at that token."""
    causal = getattr(network, 'attn_mask', None) is not None and getattr(network, 'cls_emb', None) is None
    return causal and getattr(network, 'pool_type', None) in ('argmax', 'eos')


def _is_clip_config(text: Mapping[str, Any]) -> bool:
    """Return whether a configuration describes a tower of which `_is_causal` holds."""
    own = not text.get('hf_model_name') and text.get('pool_type', 'argmax') in ('argmax', 'eos')
    return own and not text.get('no_causal_mask', False) and not text.get('embed_cls', False)


def _with_length(network: Any, length: int) -> Any:
    """Return a shallow copy of the tower with a shorter causal mask; other threads may be running the tower itself."""
    shorter = copy(network)
    shorter._buffers = {**network._buffers, 'attn_mask': network.attn_mask[:length, :length]}
    return shorter


def _longest(mask: Tensor) -> int:
    """Return the number of positions up to the last real token of a batch."""
    return int((mask * torch.arange(1, mask.shape[1] + 1, device=mask.device)).max())


def _import_open_clip() -> Any:
    """Import open_clip, after a repair of torchvision."""
    repair_torchvision()
    try:
        import open_clip
    except ImportError as error:
        raise MissingDependencyError(f"model_types='clip' needs open_clip ({error}): pip install open_clip_torch") from error
    return open_clip


def _read_config(open_clip: Any, name: str) -> dict[str, Any]:
    """Return the configuration of a model."""
    schema, _, identifier = name.partition(':')
    if schema == 'local-dir' and not hasattr(open_clip.factory, 'parse_model_name'):
        raise MissingDependencyError(f"names with 'local-dir:' need open_clip_torch 3, but {open_clip.__version__} is installed")
    if schema in ('local-dir', 'hf-hub'):

        def read(local: bool) -> Any:
            path: Any = Path(identifier, 'open_clip_config.json')
            if schema == 'hf-hub':
                from huggingface_hub import hf_hub_download

                path = hf_hub_download(identifier, path.name, local_files_only=local)
            return json.loads(Path(path).read_text())

        config = read_model_files('OpenClipAdapter', identifier, read)
        config = config.get('model_cfg', config)
    else:
        config = open_clip.get_model_config(name)
        if config is None:
            raise ConfigError(
                f'open_clip knows no model {name!r}: pass one of open_clip.list_models(), "hf-hub:..." or "local-dir:..."'
            )
    if 'text_cfg' not in config or 'embed_dim' not in config:
        raise ConfigError(f'the configuration of {name!r} has no text tower: it holds {sorted(config)}')
    return config


def _read_tower_config(name: str) -> Any:
    """Return the configuration of a tower of transformers, of a type that needs no code but that of transformers.

    Raises:
        ConfigError: Its type has no model there: open_clip would have transformers ask whether to run the repository's code.
    """
    import transformers

    config = read_config('OpenClipAdapter', name)
    if type(config) not in transformers.MODEL_MAPPING or not hasattr(config, 'hidden_size'):
        raise ConfigError(f'{name!r} is of type {config.model_type!r}, of which transformers has no text tower')
    return config


def _read_text_weights(path: str) -> dict[str, Tensor]:
    """Return the weights of the text tower in a checkpoint, by their names in it. Nothing but weights is read: no code is run.

    Raises:
        ConfigError: The file holds something else.
    """
    try:
        if path.endswith('.safetensors'):
            from safetensors import safe_open

            with safe_open(path, 'pt') as file:
                found = {name: file.get_tensor(name) for name in file.keys() if 'visual.' not in name}  # noqa: SIM118
        else:
            found = torch.load(path, map_location='cpu', weights_only=True)
            found = found.get('state_dict', found)
    except Exception as error:  # damaged files, TorchScript, and pickles of anything: their errors have no common base
        raise ConfigError(
            f'{path} is no file of weights alone ({type(error).__name__}), and nothing else is read: convert it to safetensors'
        ) from error
    found = {name.removeprefix('module.'): value for name, value in found.items()}
    if any(name.startswith('text.') for name in found):
        return {name.removeprefix('text.'): value for name, value in found.items() if name.startswith('text.')}
    return {name: value for name, value in found.items() if name.startswith(_OF_THE_TEXT)}


def _find_checkpoint(open_clip: Any, tag: dict[str, Any]) -> str:
    """Return the checkpoint of a tag: from the cache if it is there (without asking the hub), else downloaded."""
    repository, _, filename = tag.get('hf_hub', '').rpartition('/')

    def read(local: bool) -> str:
        if not local or not repository:
            return str(open_clip.download_pretrained(tag))
        from huggingface_hub import try_to_load_from_cache

        for candidate in (filename,) if filename else _CHECKPOINT_FILES:
            path = try_to_load_from_cache(repository, candidate)
            if isinstance(path, str):
                return path
        raise FileNotFoundError(f'no checkpoint of {repository} in the cache')

    how_local = "model_kwargs={'pretrained': '/path/to/the/checkpoint'}"
    return read_model_files('OpenClipAdapter', repository or tag.get('url', ''), read, how_local)
