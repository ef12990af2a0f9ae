"""The spacetime U-Net, with few steps; and what its measures see in clips that are known."""

from __future__ import annotations

from random import Random

import pytest
import torch

pytest.importorskip('diffusers')

EXAMPLE = '04_moving_shapes'


def test_it_runs_and_draws(example, tmp_path):
    shares = example.main(steps=3, sample_steps=2, clips=16, out=tmp_path / 'new' / 'clips.gif')
    assert list(shares) == list(example.SCALES)
    assert all(0 <= both <= moves <= 1 for moves, both in shares.values())
    assert (tmp_path / 'new' / 'clips.gif').read_bytes()[:3] == b'GIF'
    assert (tmp_path / 'new' / 'clips.png').stat().st_size > 10_000


def test_the_measure_measures(example, monkeypatch):
    monkeypatch.setattr(example, 'WRONG', 0.0)
    clips, said = example.draw_clips(48, Random(0))
    assert clips.shape == (48, 3, example.FRAMES, example.SIZE, example.SIZE)
    clips = clips / 2 + 0.5
    asked = [example.MEANINGS[index][1:] for index in said]
    assert [example.seen(clip) for clip in clips] == asked
    noisy = (clips + 0.03 * torch.randn(clips.shape, generator=torch.Generator().manual_seed(0))).clamp(0, 1)
    assert [example.seen(clip) for clip in noisy] == asked
    back = {'left': 'right', 'right': 'left', 'up': 'down', 'down': 'up'}
    assert [example.seen(clip)[1] for clip in clips.flip(2)] == [back[move] for _, move in asked]
    still = clips[:, :, :1].expand_as(clips)
    assert {example.seen(clip)[1] for clip in still} == {None}


def test_captions_are_of_the_encoders_vocabulary(
    example,
):
    from classifier_free_guidance_pytorch.text.mini import MiniAdapter

    tokenizer = MiniAdapter().tokenizer
    ids = [token for caption in example.CAPTIONS for token in tokenizer(caption)['input_ids']]
    assert tokenizer.unk_token_id not in ids
    assert len(set(example.CAPTIONS)) == len(example.MEANINGS)
