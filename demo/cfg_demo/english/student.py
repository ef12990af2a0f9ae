"""The student: an ELECTRA encoder of two layers, whose table of wordpieces is factored from what the teacher makes of each.

ELECTRA (arXiv 2003.10555) has what a small encoder needs: a table narrower than the layers. What a text means is the mean of its
last hiddens, as for the teacher; so the student starts as the mean of what the teacher says of each wordpiece alone, and its
layers, which start as the identity, learn what the words mean together.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cfg_demo.progress import progress_bar
from classifier_free_guidance_pytorch.text.hugging_face import HFTextAdapter
from classifier_free_guidance_pytorch.text.torchvision_repair import repair_torchvision

SPECIAL = ('[PAD]', '[UNK]', '[CLS]', '[SEP]', '[MASK]')
TABLE, WIDTH, INNER, LAYERS, HEADS = 104, 192, 384, 2, 4
LONGEST = 128  # tokens


def build_tokenizer(teacher: Any, texts: Iterable[str]) -> Any:
    """Return the teacher's tokenizer with the wordpieces that English needs, and the places of those in its vocabulary.

    Kept are those of ASCII characters, and others that the texts have; unused entries and other scripts go.

    Args:
        teacher: A fast tokenizer of wordpieces.
        texts: What is to be read.
    """
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerFast

    described = json.loads(teacher.backend_tokenizer.to_str())
    vocabulary: dict[str, int] = described['model']['vocab']
    used = {place for ids in teacher(list(texts), add_special_tokens=False)['input_ids'] for place in ids}
    kept = [*SPECIAL]
    for piece, place in sorted(vocabulary.items(), key=lambda entry: entry[1]):
        if piece in SPECIAL or piece.startswith('[unused'):
            continue
        if piece.isascii() or place in used:
            kept.append(piece)
    described['model']['vocab'] = {piece: at for at, piece in enumerate(kept)}
    for token in described['added_tokens']:
        token['id'] = kept.index(token['content'])
    special = described['post_processor'].get('special_tokens', {})
    for token in special.values():
        token['ids'] = [kept.index(each) for each in token['tokens']]
    for mark in ('sep', 'cls'):  # how BERT's own post-processor writes them
        if mark in described['post_processor']:
            name = described['post_processor'][mark][0]
            described['post_processor'][mark] = [name, kept.index(name)]
    described['truncation'] = described['padding'] = None
    names = dict(zip(('pad_token', 'unk_token', 'cls_token', 'sep_token', 'mask_token'), SPECIAL, strict=True))
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(json.dumps(described)), model_max_length=LONGEST, padding_side='right', **names
    )
    return tokenizer, [vocabulary[piece] for piece in kept]


def build_student(tokenizer: Any) -> Any:
    """Return an encoder with random weights whose layers start as the identity."""
    repair_torchvision()
    from transformers import ElectraConfig, ElectraModel

    config = ElectraConfig(
        vocab_size=len(tokenizer),
        embedding_size=TABLE,
        hidden_size=WIDTH,
        intermediate_size=INNER,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        max_position_embeddings=LONGEST,
        type_vocab_size=1,
        pad_token_id=0,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )
    model = ElectraModel(config)
    nn.init.orthogonal_(model.embeddings_project.weight)
    nn.init.zeros_(model.embeddings.position_embeddings.weight)
    nn.init.zeros_(model.embeddings.token_type_embeddings.weight)
    for layer in model.encoder.layer:
        nn.init.zeros_(layer.attention.output.dense.weight)
        nn.init.zeros_(layer.output.dense.weight)
    return model


@torch.no_grad()
def start_from_pieces(student: Any, teacher: HFTextAdapter, places: list[int], batch_size: int = 512) -> None:
    """Write into the student's table the main components of what the teacher makes of each wordpiece alone.

    Args:
        student: Of `build_student`.
        teacher: The sentence encoder.
        places: Where the student's wordpieces are in the teacher's vocabulary.
        batch_size: Wordpieces at once.
    """
    tokenizer = teacher.tokenizer
    network = teacher.model
    device = next(network.parameters()).device
    meanings = []
    for rows in progress_bar(torch.split(torch.tensor(places), batch_size), desc='wordpieces', unit='batch'):
        ids = torch.tensor([tokenizer.cls_token_id, 0, tokenizer.sep_token_id]).repeat(len(rows), 1)  # (b, 3)
        ids[:, 1] = rows
        hiddens = network(input_ids=ids.to(device), attention_mask=torch.ones_like(ids).to(device)).last_hidden_state
        meanings.append(F.normalize(hiddens.mean(1), dim=-1).float().cpu())
    table = torch.cat(meanings)  # (v, d)
    table[: len(SPECIAL)] = table.mean(0)  # special tokens say nothing
    table = table - table.mean(0)
    _, _, components = torch.linalg.svd(table, full_matrices=False)
    weights = table @ components[:TABLE].T  # (v, TABLE)
    student.embeddings.word_embeddings.weight.copy_(weights / weights.std())


def pool(student: Any, ids: Tensor, mask: Tensor) -> Tensor:
    """Return the mean of the last hiddens over the tokens: `(b, n)` and `(b, n)` to `(b, WIDTH)`."""
    hiddens = student(input_ids=ids, attention_mask=mask).last_hidden_state
    kept = mask.unsqueeze(-1).to(hiddens.dtype)
    pooled: Tensor = (hiddens * kept).sum(1) / kept.sum(1)
    return pooled
