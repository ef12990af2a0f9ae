"""The judge, its questions, and the scores that its verdicts make."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from cfg_demo.emoji.concepts import Concept
from cfg_demo.emoji.data import CONCEPT, SEEN, STYLE
from cfg_demo.emoji.judge import Judge, augmented, judge_pictures, load_judge, right_among, save_judge
from cfg_demo.emoji.prompts import GROUPS, PARAPHRASE, draw_prompts, paraphrases
from cfg_demo.emoji.reading import Pictures
from cfg_demo.emoji.scores import as_table, measure, open_gallery
from cfg_demo.emoji.sheets import save_rows, save_scores
from cfg_demo.image.drawing import Request
from demo.tests.image.tiny import tiny_model, tiny_settings


@pytest.fixture(scope='module')
def pictures():
    """Nine concepts in two styles; the last is held out, and so is a style of the one before."""
    names = ['owl', 'cat', 'taxi', 'bomb', 'bed', 'door', 'ant', 'pill', 'hole']
    generator = torch.Generator().manual_seed(0)
    groups = [SEEN] * 14 + [SEEN, STYLE] + [CONCEPT] * 2
    return Pictures(
        torch.randint(0, 256, (18, 3, 32, 32), generator=generator, dtype=torch.uint8),
        torch.arange(9).repeat_interleave(2),
        torch.arange(2).repeat(9),
        tuple(groups),
        tuple(Concept(name, (), 'objects', f'{at:x}') for at, name in enumerate(names)),
        ('noto', 'fluent'),
    )


@pytest.fixture(scope='module')
def judge():
    torch.manual_seed(0)
    return Judge(F.normalize(torch.randn(9, 12), dim=-1), 2).eval()


def test_the_best_score_is_right_and_the_worst_is_not():
    generator = torch.Generator().manual_seed(0)
    scores, truth = torch.randn(50, 300, generator=generator), torch.arange(50)
    rows = torch.arange(50)
    assert right_among(scores.index_put((rows, truth), torch.tensor(9.0)), truth, generator).all()
    assert not right_among(scores.index_put((rows, truth), torch.tensor(-9.0)), truth, generator).any()


def test_chance_is_one_in_a_hundred():
    generator = torch.Generator().manual_seed(0)
    scores = torch.randn(4000, 300, generator=generator)
    share = right_among(scores, torch.randint(300, (4000,), generator=generator), generator).float().mean()
    assert abs(share - 0.01) < 4 * math.sqrt(0.01 * 0.99 / 4000)


def test_augmented_pictures_stay_pictures():
    images = torch.ones(8, 3, 32, 32)
    images[:, :, 12:20, 12:20] = 0.2
    moved = augmented(images, torch.Generator().manual_seed(0))
    assert moved.shape == images.shape
    assert 0 <= moved.min() < moved.max() <= 1
    assert not torch.allclose(moved[0], moved[1], atol=0.05)
    assert moved[:, :, 0, 0].mean() > 0.8  # what comes in at the edges is white
    assert torch.equal(moved, augmented(images, torch.Generator().manual_seed(0)))


def test_a_judge_is_kept_with_what_it_knows(judge, pictures, tmp_path):
    save_judge(judge, tmp_path / 'judge.safetensors', {'styles': ['noto', 'fluent'], 'accuracy': 0.5})
    again, about = load_judge(tmp_path / 'judge.safetensors')
    assert about == {'styles': ['noto', 'fluent'], 'accuracy': 0.5}
    images = pictures.floats(torch.arange(4))
    assert torch.allclose(again(images)[0], judge(images)[0], atol=0.05)


def test_verdicts_do_not_depend_on_the_batch(judge, pictures):
    rows = torch.arange(18)
    whole = judge_pictures(judge, pictures.floats(rows), pictures.concept, pictures.style)
    assert whole.right.shape == whole.style.shape == (18,)
    _, style = judge(pictures.floats(rows[:1]))
    assert bool(style.argmax(1) == pictures.style[0]) == bool(whole.style[0])


def test_prompts_are_of_four_groups(pictures):
    prompts = draw_prompts(pictures, each=5)
    assert set(prompts.groups) == set(GROUPS)
    for text, group, concept, style in zip(prompts.texts, prompts.groups, prompts.concept, prompts.style, strict=True):
        name = pictures.concepts[concept].name
        assert text.endswith(f' in {pictures.styles[style]} style')
        assert (name in text) == (group != PARAPHRASE)
        assert (name == 'hole') == (group == CONCEPT)
    assert draw_prompts(pictures, each=5).texts == prompts.texts != draw_prompts(pictures, each=5, seed=1).texts


def test_paraphrases_share_no_words_with_the_name():
    for name, others in paraphrases().items():
        assert all(other != name.lower() for other in others)


@pytest.fixture(scope='module')
def measured(judge, pictures):
    prompts = draw_prompts(pictures, each=2)
    request = Request('evaluation', steps=1)
    gallery = open_gallery(pictures, judge)
    scores, images = measure(tiny_model(), tiny_settings(image_size=32), prompts, judge, gallery, request, 2.0, progress=False)
    return prompts, scores, images, gallery


def test_scores_are_complete(measured):
    prompts, scores, images, _ = measured
    assert images.shape == (len(prompts), 3, 32, 32)
    assert set(scores['right']) == {'all', *GROUPS}
    assert scores['right']['all']['count'] == len(prompts)
    assert math.isfinite(scores['fidelity'])
    table = as_table([scores])
    assert table.splitlines()[0].startswith('| rule | scale | seen: right | held-out style: right | paraphrase: right |')
    assert '| cfg | 2 |' in table


def test_training_pictures_themselves_are_near_copies(judge, pictures, measured, monkeypatch):
    *_, gallery = measured
    from cfg_demo.emoji import scores as module

    prompts = draw_prompts(pictures, each=2)
    copies = gallery.pixels[: len(prompts)].reshape(-1, 3, 32, 32)
    monkeypatch.setattr(module, 'sample_guided', lambda model, settings, texts, *_, **__: copies.repeat(9, 1, 1, 1)[: len(texts)])
    found, _ = measure(None, None, prompts, judge, gallery, Request('evaluation'), 1.0)
    assert found['near copies']['all']['share'] == 1.0
    noise = torch.rand(len(prompts), 3, 32, 32)
    monkeypatch.setattr(module, 'sample_guided', lambda model, settings, texts, *_, **__: noise.repeat(9, 1, 1, 1)[: len(texts)])
    assert measure(None, None, prompts, judge, gallery, Request('evaluation'), 1.0)[0]['near copies']['all']['share'] == 0.0


def test_pictures_of_an_evaluation(measured, judge, tmp_path):
    prompts, scores, images, _ = measured
    save_rows(tmp_path / 'rows.png', images, prompts, judge, 'cfg at 2')
    save_scores(tmp_path / 'scores.png', [scores, {**scores, 'scale': 3.0}, {**scores, 'rule': 'apg'}])
    assert {file.name for file in tmp_path.iterdir()} == {'rows.png', 'scores.png'}
