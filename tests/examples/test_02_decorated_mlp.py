"""The decorated MLP, with few steps."""

from __future__ import annotations

EXAMPLE = '02_decorated_mlp'


def test_it_runs_and_draws(example, tmp_path):
    shares = example.main(steps=60, captions=512, samples=50, out=tmp_path / 'new' / 'mlp.png')
    assert (tmp_path / 'new' / 'mlp.png').stat().st_size > 10_000
    assert list(shares) == [0.0, 1.0, 2.0, 4.0, 8.0]
    assert shares[4.0] > shares[0.0], 'after 60 steps the text already counts'
