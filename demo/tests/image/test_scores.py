"""Scores against closed forms, loops and definitions."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from cfg_demo.image import scores
from cfg_demo.image.drawing import Request
from cfg_demo.image.scores import (
    PROMPTS,
    Prompts,
    Share,
    as_table,
    diversity,
    features,
    frechet_distance,
    held_out_prompts,
    measure,
    part_shares,
    percent,
    whole_shares,
)
from cfg_demo.shapes import HELD_OUT, Verdict, check_all
from demo.tests.image.tiny import Knowing, pictures, tiny_settings


def normal(count, dim, seed=0):
    return torch.randn(count, dim, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@settings(deadline=None)
@given(count=st.integers(1, 2000), data=st.data())
def test_the_interval_holds_the_shares_that_a_score_test_does_not_reject(count, data):
    """Wilson's bounds `p` solve `|held / n - p| = z sqrt(p (1 - p) / n)`."""
    share = Share(data.draw(st.integers(0, count)), count)
    low, high = share.interval
    assert 0 <= low <= share.value + 1e-12
    assert share.value - 1e-12 <= high <= 1
    for bound in (low, high):
        assert abs(share.value - bound) == pytest.approx(1.96 * math.sqrt(max(0, bound * (1 - bound)) / count), abs=1e-7)


def test_the_interval_of_none_and_all_is_not_a_point():
    assert Share(0, 20).interval[0] == pytest.approx(0, abs=1e-12)
    assert Share(0, 20).interval[1] == pytest.approx(1.96**2 / (20 + 1.96**2))
    assert Share(20, 20).interval[1] == pytest.approx(1)
    assert Share(20, 20).as_dict() == {'share': 1.0, 'interval': list(Share(20, 20).interval), 'count': 20}


def frechet_by_roots(drawn, real):
    """With `(C^(1/2) C' C^(1/2))^(1/2)`, whose roots are those of symmetric matrices."""

    def root(matrix):
        values, vectors = torch.linalg.eigh(matrix)
        return vectors @ values.clamp(min=0).sqrt().diag() @ vectors.T

    first, second = drawn.T.cov(), real.T.cov()
    shared = root(root(first) @ second @ root(first)).trace()
    return float((drawn.mean(0) - real.mean(0)).square().sum() + first.trace() + second.trace() - 2 * shared)


@pytest.mark.parametrize(('first', 'second', 'dim'), [(50, 70, 5), (200, 200, 20), (10, 12, 30)])
def test_the_frechet_distance_is_that_of_symmetric_roots(first, second, dim):
    drawn = normal(first, dim) @ normal(dim, dim, 1) + normal(1, dim, 2)
    real = normal(second, dim, 3) @ normal(dim, dim, 4)
    assert frechet_distance(drawn, real) == pytest.approx(frechet_by_roots(drawn, real), rel=1e-4)
    assert frechet_distance(real, drawn) == pytest.approx(frechet_distance(drawn, real), rel=1e-4)


def test_the_frechet_distance_of_moved_and_stretched_normals():
    real = normal(300, 6)
    shift = torch.arange(6.0, dtype=torch.float64)
    assert frechet_distance(real, real) == pytest.approx(0, abs=1e-6)
    assert frechet_distance(real + shift, real) == pytest.approx(float(shift.square().sum()), rel=1e-6)
    centred = real - real.mean(0)
    assert frechet_distance(3 * centred, centred) == pytest.approx(4 * float(real.T.cov().trace()), rel=1e-6)


def test_diversity_is_a_double_loop_over_seeds():
    grouped = normal(12, 7).reshape(3, 4, 7)
    distances = [
        math.dist(one.tolist(), other.tolist())
        for group in grouped
        for i, one in enumerate(group)
        for j, other in enumerate(group)
        if i != j
    ]
    assert diversity(grouped) == pytest.approx(sum(distances) / len(distances))
    assert diversity(grouped[:, :1].expand(-1, 4, -1)) == 0


def test_shares_count_the_prompts_that_speak_of_a_part():
    verdicts = [
        Verdict(count=True, shape=True, colour=False),
        Verdict(count=True, shape=True),
        Verdict(count=False, shape=True, relation=True),
        Verdict(count=False, shape=False, colour=False, problem='nothing there'),
    ]
    assert whole_shares(verdicts, ['single', 'single', 'relation', 'single']) == {
        'all': Share(1, 4),
        'single': Share(1, 3),
        'relation': Share(0, 1),
    }
    expected = {'count': Share(2, 4), 'shape': Share(3, 4), 'colour': Share(0, 2), 'relation': Share(1, 1)}
    assert part_shares(verdicts) == expected


def test_an_unreadable_picture_speaks_of_the_same_parts():
    captions = ['a red circle above a blue square on a dark background']
    unreadable, readable = torch.rand(1, 3, 32, 32), torch.zeros(1, 3, 32, 32)
    readable[:, 0, 10:20, 10:20] = 1
    first, second = (check_all(images, captions)[0] for images in (unreadable, readable))
    assert not first.readable
    assert first.parts.keys() == second.parts.keys()


def test_features_are_of_the_size_that_the_tower_knows_and_know_no_batch():
    images = pictures(3, size=16)
    found = features(images)
    assert found.shape == (3, 128)
    assert found.dtype == torch.float64
    larger = F.interpolate(images, size=(32, 32), mode='bilinear')
    torch.testing.assert_close(found, features(larger))
    torch.testing.assert_close(found[1:2], features(images[1:2]), rtol=1e-4, atol=1e-4)


def test_held_out_prompts_name_a_pair_never_seen_in_training():
    prompts = held_out_prompts(16, {'single': 8, 'relation': 4})
    assert prompts.kinds == ['single'] * 8 + ['relation'] * 4
    assert prompts.pictures.shape == (12, 3, 16, 16)
    assert len(prompts.captions) == 12
    assert prompts.captions == held_out_prompts(16, {'single': 8, 'relation': 4}).captions
    shown = held_out_prompts(32, {'single': 16})
    held = [verdict.holds for verdict in check_all(shown.pictures, shown.captions)]
    assert sum(held) >= 15
    assert len(HELD_OUT) > 0
    assert sum(PROMPTS.values()) >= 500


def test_a_model_that_draws_one_picture(monkeypatch):
    monkeypatch.setattr(scores, 'DIVERSE_PROMPTS', 2)
    prompts = held_out_prompts(32, {'single': 3, 'relation': 3})
    one = Knowing(prompts.pictures[0] * 2 - 1, 'flow')
    found = measure(one, tiny_settings(image_size=32), prompts, Request('unused', steps=1), 2.0, progress=False)
    assert (found.rule, found.scale) == ('cfg', 2.0)
    assert found.whole['all'].count == 6
    assert 1 <= found.whole['all'].held <= 2
    assert found.readable == Share(6, 6)
    assert found.diversity == pytest.approx(0, abs=1e-3)
    assert found.fidelity > 1
    table = as_table([found.as_dict(), found.as_dict()]).splitlines()
    assert len(table) == 4
    assert len({line.count('|') for line in table}) == 1
    assert table[0].startswith('| rule | scale | whole caption, all | whole caption, single | whole caption, relation | count |')
    assert table[2].startswith('| cfg | 2 | ')


def test_sizes_are_measured_by_the_zoom_that_the_model_remembers():
    prompts = held_out_prompts(32, {'single': 2}, told=1.0, zoom=1.5)
    one = Knowing(prompts.pictures[0] * 2 - 1, 'flow')
    prompts = Prompts(prompts.captions[:1] * 2, prompts.kinds, prompts.pictures)
    for zoom, right in ((1.5, 2), (1.0, 0)):
        found = measure(one, tiny_settings(image_size=32, zoom=zoom), prompts, Request('x', steps=1), 1.0, progress=False)
        assert found.parts['size'].held == right


def test_percent():
    share = Share(50, 100).as_dict()
    assert percent(share) == '50'
    assert percent(share, interval=True) == '50 [40, 60]'
