"""What ships of the emoji: a judge and its card."""

from __future__ import annotations

from cfg_demo.emoji.judge import SHIPPED, load_judge
from cfg_demo.emoji.prompts import paraphrases


def test_the_judge_knows_every_concept_that_is_paraphrased():
    judge, about = load_judge()
    assert len(about['concepts']) == len(judge.names)
    assert set(paraphrases()) <= set(about['concepts'])


def test_the_card_states_accuracy_licences_and_the_command():
    _, about = load_judge()
    card = (SHIPPED.parent / 'README.md').read_text()
    for said in ('Apache-2.0', 'CC-BY 4.0', 'MIT', 'cfg-demo train-judge', f'--seed {about["training"]["seed"]}'):
        assert said in card, said
    for name, share in about['accuracy'].items():
        assert f'| {name} | {share:.1%} |' in card
