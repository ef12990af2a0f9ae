"""The text-to-image model that ships: it is small, loads, and draws what its prompt says."""

from __future__ import annotations

from cfg_demo.image.drawing import SHIPPED, Request, draw, load_shipped


def test_it_draws_a_prompt():
    assert SHIPPED.stat().st_size < 15_000_000
    model, settings = load_shipped()
    found = draw(model, settings, Request('a large red circle', scales=(3.0,), seeds=(0, 1, 2, 3), steps=12), progress=False)
    assert found.images.shape == (1, 4, 3, settings.image_size, settings.image_size)
    assert found.share(0) >= 0.5
