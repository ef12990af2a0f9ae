"""The world of moving shapes: what is read off clips that are known, and captions that the encoder knows."""

from __future__ import annotations

from random import Random

import torch

from cfg_demo import moving


def test_the_measure_measures(monkeypatch):
    monkeypatch.setattr(moving, 'WRONG', 0.0)
    clips, captions = moving.draw_clips(48, Random(0))
    assert clips.shape == (48, 3, moving.FRAMES, moving.SIZE, moving.SIZE)
    clips = clips / 2 + 0.5
    asked = [moving.MEANINGS[index][1:] for index in captions]
    assert [moving.read_clip(clip) for clip in clips] == asked
    assert moving.shares(clips, captions) == (1.0, 1.0)
    noisy = (clips + 0.03 * torch.randn(clips.shape, generator=torch.Generator().manual_seed(0))).clamp(0, 1)
    assert [moving.read_clip(clip) for clip in noisy] == asked
    back = {'left': 'right', 'right': 'left', 'up': 'down', 'down': 'up'}
    assert [moving.read_clip(clip)[1] for clip in clips.flip(2)] == [back[move] for _, move in asked]
    assert moving.shares(clips.flip(2), captions) == (0.0, 0.0)
    still = clips[:, :, :1].expand_as(clips)
    assert {moving.read_clip(clip)[1] for clip in still} == {None}


def test_captions_are_of_the_encoders_vocabulary():
    from classifier_free_guidance_pytorch.text.mini import MiniAdapter

    tokenizer = MiniAdapter().tokenizer
    ids = [token for caption in moving.CAPTIONS for token in tokenizer(caption)['input_ids']]
    assert tokenizer.unk_token_id not in ids
    assert len(set(moving.CAPTIONS)) == len(moving.MEANINGS)
