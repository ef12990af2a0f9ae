"""The spacetime U-Net, with few steps."""

from __future__ import annotations

import pytest

pytest.importorskip('diffusers')

EXAMPLE = '04_moving_shapes'


def test_it_runs_and_draws(example, tmp_path):
    shares = example.main(steps=3, sample_steps=2, clips=16, out=tmp_path / 'new' / 'clips.gif')
    assert list(shares) == [0.0, 1.0, 2.0, 4.0]
    assert all(0 <= both <= moves <= 1 for moves, both in shares.values())
    assert (tmp_path / 'new' / 'clips.gif').read_bytes()[:3] == b'GIF'
    assert (tmp_path / 'new' / 'clips.png').stat().st_size > 10_000
