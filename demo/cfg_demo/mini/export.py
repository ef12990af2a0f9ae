"""The files of a trained `mini`, as the library and `cfg_demo.mini.towers` read them, and the README that states its scores."""

from __future__ import annotations

import json
import platform
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from cfg_demo.mini.pairs import words
from cfg_demo.mini.training import Run

OPTIONS = {'steps': 'train-steps', 'batch': 'batch-size', 'seed': 'seed', 'lr': 'learning-rate'}  # of `cfg-demo train-mini`


def _halves(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: (value.half() if value.is_floating_point() else value).contiguous() for name, value in state.items()}


def export(run: Run, out: Path, scores: dict[str, float], settings: dict[str, Any]) -> None:
    """Writes the shipped files.

    The folder has the layout of OpenAI's CLIP checkpoints (a `clip` configuration that holds a text configuration, names that
    begin with `text_model.`), which every version of transformers from 4.44 on reads as a `CLIPTextModel`.
    """
    folder = out / 'mini_weights'
    folder.mkdir(parents=True, exist_ok=True)
    run.tokenizer.backend_tokenizer.save(str(folder / 'tokenizer.json'))
    marks = {f'{name}_token': getattr(run.tokenizer, f'{name}_token') for name in ('pad', 'unk', 'bos', 'eos')}
    tokenizer_config = {
        'tokenizer_class': 'PreTrainedTokenizerFast',
        'model_max_length': run.tokenizer.model_max_length,
        'model_input_names': ['input_ids', 'attention_mask'],
        'padding_side': 'right',
        'clean_up_tokenization_spaces': False,
        **marks,
    }
    (folder / 'tokenizer_config.json').write_text(json.dumps(tokenizer_config, indent=2) + '\n')
    text_config = {name: value for name, value in run.text_tower.config.to_diff_dict().items() if name != 'transformers_version'}
    text_config |= {'pad_token_id': 0, 'bos_token_id': 2, 'eos_token_id': 3, 'model_type': 'clip_text_model'}
    config = {
        'architectures': ['CLIPTextModel'],
        'model_type': 'clip',
        'projection_dim': run.text_tower.config.projection_dim,
        'text_config': text_config,
        'torch_dtype': 'float16',
    }
    (folder / 'config.json').write_text(json.dumps(config, indent=2) + '\n')
    state = {f'text_model.{name.removeprefix("text_model.")}': value for name, value in run.text_tower.state_dict().items()}
    state.pop('text_model.embeddings.position_ids', None)
    save_file(_halves(state), folder / 'model.safetensors', metadata={'format': 'pt'})
    save_file(_halves(run.space.state_dict()), out / 'image_tower.safetensors', metadata={'format': 'pt'})
    for file in (folder / 'model.safetensors', out / 'image_tower.safetensors'):
        file.chmod(0o644)
    (folder / 'README.md').write_text(describe(run, scores, settings))


def describe(run: Run, scores: dict[str, float], settings: dict[str, Any]) -> str:
    """The README of the weights."""
    import transformers

    count = sum(parameter.numel() for parameter in run.text_tower.parameters())
    command = ' '.join(f'--{OPTIONS[name]} {value}' for name, value in settings.items())
    table = '\n'.join(f'| {name} | {100 * score:.1f}% |' for name, score in scores.items())
    versions = f'Python {platform.python_version()}, torch {torch.__version__}, transformers {transformers.__version__}'
    return f"""# mini

A CLIP-style text tower of {count:,} parameters (4 layers, width 128, 4 heads, 40 tokens, half precision), made for this
library's demos and tests. It reads {len(words())} words: captions of one to three coloured shapes with size, position, count,
relation and background ("three yellow triangles on a dark background"), of a shape moving left, right, up or down, and of clouds
of points ("a large thin spiral turning left, at the top"). **It knows nothing else**: any other word becomes `[UNK]`; there are
no names, no adjectives beyond those, no negation and no grammar beyond the phrasings of these worlds. For free text use a real
encoder (`t5`, `clip`, `bge`).

Pooled feature: the mean of the last hidden state over the tokens of the mask, which is what contrastive training shaped.

**Its weak spot is who is above whom.** A probe on the pooled feature of the weights that ship reads "left of" or "right of" off a
caption for 93 to 97% of captions, but "above" or "below" for only 55 to 64%, where guessing gives 50%. All else is in the scores.

## Scores

Measured after training, on captions and pictures never seen; `held_out` are combinations (colour and shape; cloud, size and
place) never seen either. No caption of a set is true of another's picture, so every question has one right answer.

| | right |
|---|---|
{table}

## Training

    cfg-demo train-mini {command}

{versions}. The pictures and the image tower are described in `demo/cfg_demo/mini/`.

## Licence

MIT, like the library. Captions and pictures of the training are drawn by `cfg_demo` itself; no third-party data went into these
weights.
"""
