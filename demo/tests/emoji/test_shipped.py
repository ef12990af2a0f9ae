"""What ships of the emoji: a model, a judge, and a card that says the truth about both."""

from __future__ import annotations

import json
import warnings
from collections import Counter
from pathlib import Path

import pytest

from cfg_demo.emoji import drawing
from cfg_demo.emoji.captions import with_style
from cfg_demo.emoji.judge import SHIPPED, load_judge
from cfg_demo.emoji.prompts import paraphrases
from cfg_demo.emoji.scores import as_table
from cfg_demo.image import checkpoint
from cfg_demo.image.drawing import Request, draw

DOCS = Path(__file__).parents[3] / 'docs'


@pytest.fixture(scope='module')
def card() -> str:
    return (SHIPPED.parent / 'README.md').read_text(encoding='utf-8')


def test_the_judge_knows_every_concept_that_is_paraphrased():
    judge, about = load_judge()
    assert len(about['concepts']) == len(judge.names)
    assert set(paraphrases()) <= set(about['concepts'])


def test_the_model_is_small_and_draws_a_face():
    assert drawing.SHIPPED.stat().st_size < 15_000_000
    model, settings = drawing.load(drawing.SHIPPED)
    prompt = with_style('a grinning face', 'twemoji')
    with warnings.catch_warnings():
        warnings.simplefilter('error')  # of the words of the prompt none is unknown, the style's neither
        model.encode_texts([prompt])
    drawn = draw(model, settings, Request(prompt, scales=(3.0,), seeds=(0, 1, 2, 3), steps=12), progress=False)
    judge, about = load_judge()
    names, _ = judge(drawn.images[0])
    seen = Counter('face' in about['concepts'][at] for at in names.argmax(1).tolist())
    assert seen[True] >= 2


def test_the_card_states_the_accuracy_of_the_judge_licences_and_commands(card):
    _, about = load_judge()
    for said in ('Apache-2.0', 'CC-BY 4.0', 'MIT', 'cfg-demo train-judge', f'--seed {about["training"]["seed"]}'):
        assert said in card, said
    for name, share in about['accuracy'].items():
        assert f'| {name} | {share:.1%} |' in card


def test_the_card_states_how_the_model_was_trained(card):
    _, notes = checkpoint.read(drawing.SHIPPED)
    training = notes['about']['training']
    joined = ' '.join(card.replace('\\\n', ' ').split())
    for said in (
        f'--train-steps {training["steps"]}', f'--batch-size {training["batch_size"]}', f'--seed {training["seed"]}',
        f'--ema-decay {training["ema_decay"]:g}', 'cfg-embed', '--start-from', f'torch {notes["about"]["torch"].split("+")[0]}',
    ):  # fmt: skip
        assert said in joined, said


def test_the_scores_of_the_page_are_those_of_the_evaluation():
    page = (DOCS / 'emoji.md').read_text(encoding='utf-8')
    found = json.loads((DOCS / 'pictures' / 'emoji_scores.json').read_text(encoding='utf-8'))
    assert as_table(found['scores']) in page
    assert found['setup']['model'] == 'shipped'
    assert f'--each {found["setup"]["each"]} --steps {found["setup"]["steps"]}' in page
    assert all(sum(one['count'] for group, one in each['right'].items() if group != 'all') >= 500 for each in found['scores'])


def test_what_more_training_brought_is_what_was_measured():
    page = ' '.join((DOCS / 'emoji.md').read_text(encoding='utf-8').split())
    before, after = (
        {one['scale']: one['right']['all']['share'] for one in json.loads((DOCS / 'pictures' / name).read_text())['scores']}
        for name in ('emoji_scores.json', 'emoji_longer.json')
    )
    assert f'{after[3.0]:.1%} were right at scale 3 and {after[5.0]:.1%} at scale 5' in page
    assert f'they were {before[3.0]:.1%} and {before[5.0]:.1%} before' in page
