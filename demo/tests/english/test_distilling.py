"""The student: what it starts from, what it learns by, and how it is measured."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

from cfg_demo.english import student as student_module
from cfg_demo.english.measure import rank_correlation, synonym_ranks
from cfg_demo.english.student import SPECIAL, build_student, build_tokenizer, pool, start_from_pieces
from cfg_demo.english.training import Tokens, embed, loss_of, resume, save, start, train_step
from classifier_free_guidance_pytorch.errors import ConfigError
from classifier_free_guidance_pytorch.text.hugging_face import HFTextAdapter
from classifier_free_guidance_pytorch.text.torchvision_repair import repair_torchvision

repair_torchvision()

from transformers import BertConfig, BertModel, PreTrainedTokenizerFast  # noqa: E402  (once torchvision can be imported)

PIECES = ('a', 'red', 'cat', 'dog', 'heart', '##s', '##ed', 'ж', 'é', '##z', '[unused0]')
TEXTS = ['a red cat', 'dogs', 'a heart', 'red hearts', 'a cat', 'a red dog', 'cats', 'a dog']


def bert_tokenizer():
    names = ('[PAD]', '[unused1]', '[UNK]', '[CLS]', '[SEP]', '[MASK]', *PIECES)
    ids = {name: at for at, name in enumerate(names)}
    tokenizer = Tokenizer(models.WordPiece(ids, unk_token='[UNK]'))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.TemplateProcessing(
        single='[CLS] $A [SEP]', special_tokens=[('[CLS]', ids['[CLS]']), ('[SEP]', ids['[SEP]'])]
    )
    special = {'pad_token': '[PAD]', 'unk_token': '[UNK]', 'cls_token': '[CLS]', 'sep_token': '[SEP]', 'mask_token': '[MASK]'}
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_max_length=32, **special)


@pytest.fixture
def teacher():
    torch.manual_seed(0)
    tokenizer = bert_tokenizer()
    network = BertModel(
        BertConfig(
            vocab_size=len(tokenizer), hidden_size=24, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32,
            max_position_embeddings=32,
        )
    ).eval()  # fmt: skip
    return HFTextAdapter('teacher', model=network, tokenizer=tokenizer)


@pytest.fixture
def pair(teacher, monkeypatch):
    for name, value in {'TABLE': 8, 'WIDTH': 16, 'INNER': 16, 'HEADS': 2}.items():
        monkeypatch.setattr(student_module, name, value)
    tokenizer, places = build_tokenizer(teacher.tokenizer, TEXTS)
    return build_student(tokenizer).eval(), tokenizer, places


def test_the_tokenizer_reads_english_as_the_teachers_does(teacher, pair):
    _, tokenizer, places = pair
    for text in (*TEXTS, 'a red-cat', 'zebra'):
        ours, theirs = tokenizer.tokenize(text), teacher.tokenizer.tokenize(text)
        assert ours == theirs
    ids = tokenizer('a red cat')['input_ids']
    assert ids[0] == tokenizer.cls_token_id
    assert ids[-1] == tokenizer.sep_token_id
    assert [places[at] for at in ids] == teacher.tokenizer('a red cat')['input_ids']


def test_other_scripts_and_unused_entries_go(pair):
    _, tokenizer, _ = pair
    kept = tokenizer.get_vocab()
    assert not {'ж', 'é', '[unused0]', '[unused1]'} & set(kept)
    assert [tokenizer.convert_ids_to_tokens(at) for at in range(len(SPECIAL))] == list(SPECIAL)


def test_pieces_that_texts_have_stay(teacher):
    tokenizer, _ = build_tokenizer(teacher.tokenizer, [*TEXTS, 'ж'])
    assert 'ж' in tokenizer.get_vocab()


@torch.no_grad()
def test_the_student_starts_as_the_mean_of_its_pieces(teacher, pair):
    student, tokenizer, places = pair
    start_from_pieces(student, teacher, places)
    table = student.embeddings.word_embeddings.weight
    assert torch.allclose(table[0], table[2])  # special tokens say nothing
    ids = torch.tensor(tokenizer('a red cat')['input_ids']).unsqueeze(0)
    pooled = pool(student, ids, torch.ones_like(ids))
    alone = student.embeddings_project(F.layer_norm(table[ids[0]], (8,), eps=student.config.layer_norm_eps))
    alone = F.layer_norm(alone, (16,), eps=student.config.layer_norm_eps)  # the layers add nothing, and normalise
    assert torch.allclose(pooled[0], alone.mean(0), atol=1e-4)


def test_padding_and_order_do_not_matter(pair):
    student, tokenizer, _ = pair
    tokens = Tokens(tokenizer, TEXTS)
    together = embed(student, tokens, list(range(len(TEXTS))), chunks=3)
    alone = torch.cat([embed(student, tokens, [at]) for at in range(len(TEXTS))])
    assert torch.allclose(together, alone, atol=1e-5)


def test_the_loss_is_a_naive_loop(pair):
    torch.manual_seed(1)
    pooled, targets = torch.randn(5, 16, dtype=torch.float64), F.normalize(torch.randn(5, 16, dtype=torch.float64), dim=-1)
    head = torch.nn.Linear(16, 16).double()
    s, t = [F.normalize(each, dim=0) for each in pooled], list(targets)
    carried = sum(1 - F.normalize(head(p), dim=0) @ u for p, u in zip(pooled, t, strict=True)) / 5
    pairs = [(i, j) for i in range(5) for j in range(5) if i != j]
    relation = sum((s[i] @ s[j] - t[i] @ t[j]) ** 2 for i, j in pairs) / len(pairs)
    near = torch.zeros((), dtype=torch.float64)
    for i in range(5):
        own, theirs = ({j: float(u[i] @ u[j]) / 0.05 for j in range(5)} for u in (s, t))
        own[i] = theirs[i] = -1 / 0.05
        total_own, total_theirs = (math.log(sum(map(math.exp, each.values()))) for each in (own, theirs))
        near += sum(math.exp(theirs[j] - total_theirs) * (theirs[j] - total_theirs - own[j] + total_own) for j in range(5)) / 5
    assert torch.allclose(loss_of(pooled, head, targets), carried + 20 * relation + near, rtol=1e-9)


def test_a_perfect_student_has_no_loss():
    targets = F.normalize(torch.randn(6, 16), dim=-1)
    head = torch.nn.Linear(16, 16)
    torch.nn.init.eye_(head.weight)
    torch.nn.init.zeros_(head.bias)
    assert abs(loss_of(targets * 3, head, targets)) < 1e-5


def test_a_run_goes_on_where_it_stopped(pair, tmp_path):
    student, tokenizer, _ = pair
    tokens, targets = Tokens(tokenizer, TEXTS), F.normalize(torch.randn(len(TEXTS), 24), dim=-1).half()
    run, settings = start(student, 24, 0.01), {'steps': 6}
    losses = [train_step(run, tokens, targets, 6, 4, seed=3) for _ in range(3)]
    save(run, tmp_path / 'run.pt', settings)
    losses += [train_step(run, tokens, targets, 6, 4, seed=3) for _ in range(3)]
    again = start(build_student(tokenizer), 24, 0.01)
    resume(again, tmp_path / 'run.pt', settings)
    assert again.step == 3
    assert [train_step(again, tokens, targets, 6, 4, seed=3) for _ in range(3)] == losses[3:]
    with pytest.raises(ConfigError, match=r"was made with \{'steps': 6\}, not \{'steps': 7\}"):
        resume(again, tmp_path / 'run.pt', {'steps': 7})
    with pytest.raises(ConfigError, match='there is no run to resume at'):
        resume(again, tmp_path / 'none.pt', settings)


def test_ranks_count_what_is_closer():
    units = F.normalize(torch.tensor([[1.0, 0.0], [0.6, 0.8], [0.9, 0.1], [0.0, 1.0]]), dim=-1)
    assert synonym_ranks(units, [(0, 1), (0, 2), (3, 1)]).tolist() == [2, 1, 1]


def test_correlation_is_of_ranks():
    torch.manual_seed(0)
    units = F.normalize(torch.randn(40, 8), dim=-1)
    generator = np.random.default_rng(0)
    assert rank_correlation(units, units, generator) == pytest.approx(1.0)
    assert abs(rank_correlation(units, F.normalize(torch.randn(40, 8), dim=-1), generator)) < 0.2
