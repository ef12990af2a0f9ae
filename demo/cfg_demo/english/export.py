"""The files of the trained encoder as the library reads them, and the model card that states its scores."""

from __future__ import annotations

import json
import platform
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from cfg_demo.english.student import INNER, LAYERS, LONGEST, TABLE, WIDTH
from classifier_free_guidance_pytorch import text

WEIGHTS = 'english_weights'


def export(student: Any, tokenizer: Any, out: Path, scores: dict[str, float], command: str) -> Path:
    """Write a folder that transformers loads, in half precision, with a model card; return it."""
    folder = out / WEIGHTS
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.backend_tokenizer.save(str(folder / 'tokenizer.json'), pretty=False)
    marks = {f'{name}_token': getattr(tokenizer, f'{name}_token') for name in ('pad', 'unk', 'cls', 'sep', 'mask')}
    tokenizer_config = {
        'tokenizer_class': 'PreTrainedTokenizerFast',
        'model_max_length': LONGEST,
        'model_input_names': ['input_ids', 'attention_mask'],
        'padding_side': 'right',
        'clean_up_tokenization_spaces': False,
        **marks,
    }
    _write_json(folder / 'tokenizer_config.json', tokenizer_config)
    config = {name: value for name, value in student.config.to_diff_dict().items() if name != 'transformers_version'}
    _write_json(folder / 'config.json', config | {'architectures': ['ElectraModel'], 'model_type': 'electra'})
    weights = {
        name: value.half() if value.is_floating_point() else value
        for name, value in student.state_dict().items()
        if not name.endswith(('position_ids', 'token_type_ids'))
    }
    save_file({name: value.contiguous() for name, value in weights.items()}, folder / 'model.safetensors', {'format': 'pt'})
    (folder / 'model.safetensors').chmod(0o644)
    (folder / 'README.md').write_text(describe(student, tokenizer, scores, command))
    return folder


def describe(student: Any, tokenizer: Any, scores: dict[str, float], command: str) -> str:
    """Return the model card."""
    import transformers

    count = sum(parameter.numel() for parameter in student.parameters())
    table = '\n'.join(
        f'| {name} | {score:,.0f} |' if score >= 100 else f'| {name} | {score:.3g} |' for name, score in scores.items()
    )
    versions = f'Python {platform.python_version()}, torch {torch.__version__}, transformers {transformers.__version__}'
    return f"""# english

A small encoder of English: an ELECTRA encoder of {count:,} parameters ({LAYERS} layers of width {WIDTH}, inner width {INNER}, a
table of {len(tokenizer):,} wordpieces by {TABLE}, {LONGEST} tokens, half precision), distilled from the sentence encoder
all-MiniLM-L6-v2 (22.7 million parameters). It gives one feature per token and a pooled one, the mean of the last hiddens over the
tokens of the mask, which is what training shaped.

**What it knows.** Common English words, their senses and synonyms, and short descriptions: what a thing is, its colour, its kind.
Texts that mean the same lie close together.

**What it does not know.** Other languages; word order beyond short phrases, so "a dog on a cat" and "a cat on a dog" are nearly
one text; negation; names and events; anything longer than {LONGEST} tokens. Words that it has no wordpiece for fall into letters,
and say next to nothing. What the teacher's training texts say about people, it may say too: do not judge people with it.

## Scores

On texts that training never saw. *Spearman*: of the cosines of all pairs of 2,000 texts with the teacher's. *Synonym rank*: the
median place, among 5,000 common words, of a word that shares a sense with the one asked about, over 500 pairs.

| | |
|---|---|
{table}

## Training

    {command}

{versions}.

## Licences

The weights are under the licence of the library, MIT. The teacher is `sentence-transformers/all-MiniLM-L6-v2`, Apache-2.0, whose
wordpieces (of BERT, Apache-2.0) the tokenizer keeps. Texts: definitions, examples and words of WordNet 3.0 (Princeton University,
WordNet licence); emoji labels and tags of the Unicode CLDR (Unicode License v3); captions composed by `cfg_demo`.
"""


def ship(folder: Path) -> None:
    """Put a folder of weights where the library reads them."""
    shutil.copytree(folder, Path(text.__file__).parent / folder.name, dirs_exist_ok=True)


def _write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2) + '\n')
