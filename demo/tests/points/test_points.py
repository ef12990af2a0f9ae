"""The main job: settings, training data, sampling, scores, and what guidance does to all of them."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import islice

import pytest
import torch

from cfg_demo.folders import writable
from cfg_demo.intervals import Estimate
from cfg_demo.points import world
from cfg_demo.points.command import run_points
from cfg_demo.points.measure import Prompt, Scores, prompts
from cfg_demo.points.model import build_model
from cfg_demo.points.picture import SHOWN, shown
from cfg_demo.points.report import as_dict, as_sentence, as_table
from cfg_demo.points.sample import draw
from cfg_demo.points.settings import CONDITIONS, RULES, Settings
from cfg_demo.points.train import UNIT, batches, encode, train
from classifier_free_guidance_pytorch.errors import ConfigError
from demo.tests.points.word_encoder import WordEncoder
from tests.tiny_models import TinyEncoder

QUICK = Settings(
    model_types=(WordEncoder(),), steps=3, batch_size=8, scales=(0.0, 1.0, 3.0), samples=8, sample_steps=3, threads=1
)


@pytest.fixture
def model():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield build_model(QUICK)


# settings


@pytest.mark.parametrize(
    ('wrong', 'sentence'),
    [
        ({'steps': 0}, 'steps counts from 1, but got 0'),
        ({'samples': -2}, 'samples counts from 1, but got -2'),
        ({'cond_drop_prob': 1.5}, 'cond_drop_prob is a share between 0 and 1, but got 1.5'),
        ({'caption_noise': float('nan')}, 'caption_noise is a share between 0 and 1, but got nan'),
        ({'condition': 'magic'}, "condition is one of film, attention, concat, but got 'magic'"),
        ({'rule': 'cgf'}, "guidance is one of cfg, apg, .* but got 'cgf'"),
        ({'scales': ()}, 'scales is empty: pass at least one'),
        ({'scales': (1.0, float('inf'))}, 'a guidance scale is a finite number, but scales has inf'),
        ({'scales': (1.0, 2.0, 1.0)}, 'scales repeats one'),
        ({'interval': (0.5, 0.2)}, r'interval is two flow times LO HI with 0 <= LO < HI <= 1, but got \(0.5, 0.2\)'),
        ({'interval': (0.0, 1.5)}, 'interval is two flow times'),
        ({'device': 'toaster'}, "device 'toaster' cannot be used here"),
    ],
)
def test_settings_that_cannot_work_are_refused_by_name(wrong, sentence):
    with pytest.raises(ConfigError, match=sentence):
        replace(QUICK, **wrong)


def test_an_output_folder_is_made_and_one_that_is_a_file_is_refused(tmp_path):
    assert writable(tmp_path / 'a' / 'b').is_dir()
    assert not list((tmp_path / 'a' / 'b').iterdir())
    (tmp_path / 'file').write_text('')
    with pytest.raises(ConfigError, match=r'nothing can be written to .*file.* pass another folder as --out'):
        writable(tmp_path / 'file' / 'sub')


# training data


def clouds_and_captions(noise: float):
    """Which scene each cloud of a batch was drawn from (by its geometry), and which scene its caption describes."""
    seen = world.split(held_out=False)
    texts = world.captions(held_out=False)
    encoding = TinyEncoder().encode(texts)  # a feature per text: a bag of words cannot tell every caption from every other
    generator = torch.Generator().manual_seed(0)
    points, (told,) = next(batches(replace(QUICK, caption_noise=noise, batch_size=256), (encoding,), generator))
    described = [seen[i // world.PHRASINGS] for i in torch.cdist(told.pooled, encoding.pooled).argmin(dim=1).tolist()]
    return points, described


def test_without_noise_every_cloud_has_a_caption_that_describes_it():
    points, described = clouds_and_captions(noise=0.0)
    assert all(world.satisfies(scene, cloud).all() for scene, cloud in zip(described, points, strict=True))


def test_with_noise_about_that_share_of_captions_is_wrong():
    points, described = clouds_and_captions(noise=0.5)
    right = [world.satisfies(scene, cloud).all().item() for scene, cloud in zip(described, points, strict=True)]
    assert 0.4 < sum(right) / len(right) < 0.62


def test_batches_are_made_of_seen_scenes_only():
    drawn = torch.cat([points for points, _ in islice(batches(QUICK, encode_seen(), torch.Generator().manual_seed(1)), 20)])
    seen = world.split(held_out=False)
    for cloud in drawn[:40]:
        assert any(world.satisfies(scene, cloud).all() for scene in seen)


def encode_seen():
    return (WordEncoder().encode(world.captions(held_out=False)),)


# model, training, sampling


def test_texts_are_encoded_once_and_in_order(model):
    texts = world.captions(held_out=True)
    (encoding,) = encode(model, texts, progress=False)
    torch.testing.assert_close(encoding.pooled, WordEncoder().encode(texts).pooled)


def test_points_of_a_cloud_do_not_know_one_another(model):
    model.eval()
    points, time = torch.randn(2, 5, 2), torch.rand(2, 5)
    together = model(points, time, texts=['a ring', 'a star'], cond_scale=2.0)
    alone = model(points[:, 3:4], time[:, 3:4], texts=['a ring', 'a star'], cond_scale=2.0)
    torch.testing.assert_close(together[:, 3:4], alone)


def test_training_moves_the_weights_and_returns_an_average_in_eval_mode(model):
    before = model.write.weight.detach().clone()
    average = train(model, QUICK, progress=False)
    assert not average.training
    assert not torch.equal(before, model.write.weight)
    assert not torch.equal(average.write.weight, model.write.weight)


@pytest.mark.parametrize('condition', CONDITIONS)
def test_every_way_of_conditioning_learns_to_use_the_text(condition):
    settings = replace(QUICK, condition=condition, steps=5)
    average = train(build_model(settings), settings, progress=False)
    clouds = draw(average, ['a large ring', 'a small star'], settings, progress=False)
    assert not torch.allclose(clouds[0.0], clouds[1.0])
    assert not torch.allclose(clouds[1.0], clouds[3.0])


@pytest.mark.parametrize('rule', RULES)
def test_every_rule_draws_finite_points_and_leaves_scale_one_alone(model, rule):
    model.eval()
    texts = ['a large ring', 'a small star']
    plain = draw(model, texts, QUICK, progress=False)
    guided = draw(model, texts, replace(QUICK, rule=rule), progress=False)
    assert all(cloud.shape == (2, 8, 2) and cloud.isfinite().all() for cloud in guided.values())
    torch.testing.assert_close(guided[1.0], plain[1.0])


def test_draw_integrates_the_velocity():
    """A model whose velocity is `noise - target` everywhere must land exactly on its target, whatever the scale."""
    target = torch.tensor([0.4, -0.3])

    class Straight(torch.nn.Module):
        def prepare(self, texts, negative):
            return None

        def forward(self, points, time, **_):
            return (points - target / UNIT) / time.unsqueeze(-1)

    for cloud in draw(Straight(), ['a', 'b'], QUICK, progress=False).values():
        torch.testing.assert_close(cloud, target.expand(2, 8, 2), rtol=1e-5, atol=1e-5)


def test_the_options_of_sampling_have_an_effect(model):
    model = train(model, replace(QUICK, steps=40), progress=False)
    texts = ['a large ring on the left']
    plain = draw(model, texts, QUICK, progress=False)[3.0]
    for change in (
        {'rescale_phi': 0.7},
        {'interval': (0.0, 1.0)},
        {'negative': 'a small star'},
        {'seed': 1},
        {'sample_steps': 4},
    ):
        assert not torch.allclose(plain, draw(model, texts, replace(QUICK, **change), progress=False)[3.0]), change


# scores and report


def test_prompts_are_every_held_out_scene_and_as_many_seen_ones():
    asked = prompts()
    held_out = [prompt for prompt in asked if prompt.split == 'held_out']
    assert {prompt.scene for prompt in held_out} == set(world.split(held_out=True))
    assert len(asked) == 2 * len(held_out) == len({prompt.text for prompt in asked})
    assert len({prompt.scene.shape for prompt in asked if prompt.split == 'seen'}) > 15


def test_the_picture_shows_three_seen_and_three_held_out_prompts():
    asked = prompts()
    rows = [asked[i] for i in shown(asked)]
    assert [(prompt.split, prompt.scene.shape) for prompt in rows] == [
        (split, shape) for split in SHOWN for shape in SHOWN[split]
    ]
    assert [prompt.split for prompt in rows] == ['seen'] * 3 + ['held_out'] * 3


def scores_of_truth_and_of_noise() -> Scores:
    asked = prompts()
    true = world.sample([prompt.scene for prompt in asked], 64, generator=torch.Generator().manual_seed(0))
    mixed = torch.where(torch.arange(64).unsqueeze(1) < 32, true, torch.full((2,), 5.0))
    return Scores.of(asked, {1.0: mixed, 2.0: true, 4.0: torch.full_like(true, 5.0)})


def test_true_points_score_one_half_true_points_one_half_and_far_points_zero():
    scores = scores_of_truth_and_of_noise()
    assert scores.estimate('adherence', 'seen', 2.0).mean >= 0.99
    assert scores.estimate('adherence', 'held_out', 1.0).mean == 0.5
    assert scores.estimate('coverage', 'held_out', 4.0).mean == 0.0
    assert scores.estimate('coverage', 'seen', 2.0).mean > 0.8
    assert scores.best_scale == 2.0
    assert scores.gain('held_out', 1.0, 2.0) == Estimate(0.5, 0.5, 0.5)


def test_the_interval_counts_prompts_and_is_the_normal_one():
    values = torch.tensor([0.2, 0.4, 0.9])
    estimate = Estimate.of(values)
    half = 1.96 * values.double().std().item() / 3**0.5
    assert (estimate.mean, estimate.low, estimate.high) == pytest.approx((0.5, 0.5 - half, 0.5 + half), abs=1e-4)
    assert Estimate.of(values[:1]) == Estimate(0.2, 0.2, 0.2)


def test_the_report_says_by_how_much():
    report = as_dict(scores_of_truth_and_of_noise(), QUICK, 7, {'training': 1.26})
    assert report['gain']['to'] == 2.0
    assert 'From cond_scale 1 to 2 ' in as_sentence(report)
    assert '+50.0 points [+50.0, +50.0] on held-out prompts' in as_sentence(report)
    assert len(as_table(report).splitlines()) == 5
    assert report['settings']['model_types'] == ['WordEncoder']
    assert json.loads(json.dumps(report)) == {**report, 'settings': json.loads(json.dumps(report['settings']))}


def test_without_scale_one_the_report_claims_nothing():
    prompt = Prompt(world.scenes()[0], 'a ring')
    other = Prompt(world.split(held_out=False)[0], 'another')
    scores = Scores.of([prompt, other], {3.0: torch.zeros(2, 4, 2)})
    assert as_sentence(as_dict(scores, QUICK, 1, {})).startswith('Scale 1 (guidance off) was not sampled')


# the whole job


def test_the_same_seed_gives_the_same_numbers_and_another_seed_others(tmp_path):
    def numbers(seed):
        report = run_points(replace(QUICK, seed=seed), tmp_path / 'points.png', progress=False)
        assert json.loads((tmp_path / 'points.json').read_text())['prompts'] == report['prompts']
        return report['scales']

    first = numbers(0)
    assert first == numbers(0)
    assert first != numbers(1)


def test_adherence_rises_with_the_scale_on_held_out_prompts(tmp_path):
    """A short training on three shapes' worth of compute: far from crisp, and guidance already adds what it should."""
    settings = replace(
        Settings(), model_types=(WordEncoder(),), steps=350, samples=32, sample_steps=12, scales=(0.0, 1.0, 2.0), threads=1
    )
    report = run_points(settings, tmp_path / 'points.png', progress=False)
    ignored, off, on = (row['held_out']['adherence']['mean'] for row in report['scales'])
    assert off > ignored + 0.1
    assert on > off + 0.03
    assert report['gain']['held_out']['low'] > 0
