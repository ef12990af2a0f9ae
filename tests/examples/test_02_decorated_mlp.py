"""The decorated MLP, with few steps."""

from __future__ import annotations

from random import Random

import torch

EXAMPLE = '02_decorated_mlp'


def test_it_runs_and_draws(example, tmp_path):
    shares = example.main(steps=60, captions=512, samples=50, out=tmp_path / 'new' / 'mlp.png')
    assert (tmp_path / 'new' / 'mlp.png').stat().st_size > 10_000
    assert list(shares) == list(example.SCALES)
    assert shares[4.0] > shares[0.0], 'after 60 steps the text already counts'


def test_the_measure_measures(example):
    shades, captions = example.draw_data(200, Random(0))
    right = [bool(example.satisfied(s[None] / 2 + 0.5, example.parse(c))) for s, c in zip(shades, captions, strict=True)]
    assert 0.7 < sum(right) / 200 < 0.9, 'one caption in five is wrong'
    shade = torch.tensor([[*example.PALETTE['red'], *example.BACKDROPS['navy']]])
    assert example.satisfied(shade, example.parse('a crimson star on a navy field')).all()
    assert not example.satisfied(shade, example.parse('a crimson star on a dark field')).any()
    assert not example.satisfied(shade, example.parse('a blue star on a navy field')).any()
