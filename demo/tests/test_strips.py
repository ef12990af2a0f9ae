"""Scales side by side: the share that is counted is that of the checker, and the strips show what was drawn."""

from __future__ import annotations

from random import Random

import torch
from PIL import Image

from cfg_demo.shapes import arrange, parse, render
from cfg_demo.strips import PROMPTS, ZOOM, close_ups, compare_scales


def test_the_share_is_that_of_pictures_with_colour_and_background_as_asked(tmp_path, capsys):
    def sample(texts, scale):
        layouts = [arrange(parse(text), Random(0), zoom=ZOOM) for text in texts]
        pictures = torch.stack(list(render(layouts, 16)))
        return 1 - pictures if scale == 0 else torch.cat((pictures[:4], 1 - pictures[4:]))

    path = tmp_path / 'new' / 'strips.png'
    assert compare_scales(sample, (0.0, 1.0), path, each=2) == {0.0: 0.0, 1.0: 0.5}
    assert 'cond_scale 1:  50.0% of 8 pictures have colour and background as asked' in capsys.readouterr().out
    with Image.open(path) as picture:
        assert picture.size[0] > picture.size[1] > 100


def test_the_prompts_say_all_that_the_captions_of_the_close_ups_say():
    data = close_ups(16, 20)
    for scene in map(parse, (*PROMPTS, *(data[index].caption for index in range(20)))):
        (thing,) = scene.things
        assert thing.colour
        assert thing.shape
        assert thing.size
        assert scene.place
        assert scene.background
