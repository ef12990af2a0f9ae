"""What is written of the drawn world: captions are read up to their end, and mean what the parser says."""

from __future__ import annotations

from cfg_demo.shapes import parse
from cfg_demo.writer import means, read
from classifier_free_guidance_pytorch.text.mini import MiniAdapter


def test_the_measure_measures():
    tokenizer, scene = MiniAdapter().tokenizer, parse('a red circle above a blue square')
    assert means('below one crimson disc , a blue box', scene)
    assert not means('a red circle below a blue square', scene)
    assert not means('a red circle above a blue square on a dark background', scene)
    assert not means('above the the', scene)
    ids = tokenizer(['a red circle', 'two stars'], padding=True, return_tensors='pt')['input_ids']
    assert read(tokenizer, ids) == ['a red circle', 'two stars']
