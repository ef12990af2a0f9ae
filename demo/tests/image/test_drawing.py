"""Drawing a request: what is refused, what is drawn from which seed, and how it is read back."""

from __future__ import annotations

import pytest
import torch

from cfg_demo.image import drawing
from cfg_demo.image.command import NOT_CHECKED, as_table
from cfg_demo.image.drawing import Request, draw, sample_guided
from cfg_demo.shapes import ShapesDataset
from classifier_free_guidance_pytorch.errors import ArgumentTypeError, ConfigError
from demo.tests.image.tiny import TEXTS, Knowing, drawn, tiny_model, tiny_settings


@pytest.fixture(scope='module')
def model():
    return tiny_model()


@pytest.mark.parametrize(
    ('given', 'sentence'),
    [
        ({'prompt': ''}, 'prompt is empty: say what to draw, such as "a small green triangle left of a big red circle"'),
        ({'prompt': ' \n'}, 'prompt is empty: say what to draw, such as "a small green triangle left of a big red circle"'),
        ({'prompt': 3}, 'prompt is a string, but got 3 of type int'),
        ({'prompt': ['a']}, "prompt is a string, but got ['a'] of type list"),
        ({'prompt': None}, 'prompt is a string, but got None of type NoneType'),
        ({'negative': 0}, 'negative is a string, but got 0 of type int'),
        ({'rule': 'magic'}, f"guidance is one of {', '.join(drawing.RULES)}, but got 'magic'"),
        ({'scales': ()}, 'at least one scale and one seed are drawn, but got [] and [0, 1, 2, 3]'),
        ({'seeds': (), 'scales': (1.0,)}, 'at least one scale and one seed are drawn, but got [1.0] and []'),
        ({'scales': (1.0, float('nan'))}, 'a guidance scale is a finite number, but scales has nan'),
        ({'scales': (float('-inf'),)}, 'a guidance scale is a finite number, but scales has -inf'),
        ({'steps': 0}, 'steps is a number from 1 to 1000, but got 0'),
        ({'steps': 1001}, 'steps is a number from 1 to 1000, but got 1001'),
    ],
)
def test_a_request_that_cannot_be_is_refused(given, sentence):
    with pytest.raises(ConfigError) as refused:
        Request(**{'prompt': 'a red circle', **given})
    assert str(refused.value) == sentence
    assert isinstance(refused.value, ArgumentTypeError) == ('of type' in sentence)


def test_every_scale_is_drawn_from_every_seed(model):
    request = Request(TEXTS[0], negative='a blue star', scales=(0.0, 3.0), seeds=(5, 2, 9), steps=2)
    found = draw(model, tiny_settings(), request, progress=False)
    assert found.images.shape == (2, 3, 3, 16, 16)
    for column, scale in enumerate(request.scales):
        expected = drawn(model, [TEXTS[0]] * 3, scale=scale, seeds=[5, 2, 9], negative='a blue star')
        assert torch.equal(found.images[column], expected)
    assert found.images.min() >= 0
    assert found.images.max() <= 1


def test_a_large_batch_is_drawn_in_parts(model, monkeypatch):
    request = Request('not used', seeds=(1, 2, 3), steps=1)
    whole = sample_guided(model, tiny_settings(), TEXTS, request, 2.0, progress=False)
    monkeypatch.setattr(drawing, 'LARGEST_BATCH', 2)
    parts = sample_guided(model, tiny_settings(), TEXTS, request, 2.0, progress=False)
    torch.testing.assert_close(parts, whole, rtol=0, atol=1e-4)


def test_what_is_drawn_is_read_back():
    settings = tiny_settings(image_size=32)
    item = ShapesDataset('train', size=32, seed=3, kinds=('single',))[0]
    perfect = Knowing(item.image * 2 - 1, 'flow')
    found = draw(perfect, settings, Request(item.caption, scales=(0.0, 2.0), seeds=(0, 1), steps=2), progress=False)
    assert [found.share(index) for index in (0, 1)] == [1.0, 1.0]
    header, *rows = as_table(found).splitlines()
    assert header.split()[:2] == ['scale', 'all']
    assert header.split()[-1] == 'readable'
    assert [set(row.split()[1:]) for row in rows] == [{'2/2'}, {'2/2'}]
    assert [row.split()[0] for row in rows] == ['0', '2']


def test_sizes_are_read_by_the_zoom_that_the_model_remembers():
    world = ShapesDataset('train', size=32, seed=3, kinds=('single',), told=1.0, zoom=1.5)
    item = next(item for item in world if item.layout.bodies[0].size == 'small')
    perfect, request = Knowing(item.image * 2 - 1, 'flow'), Request(item.caption, scales=(1.0,), seeds=(0,), steps=2)
    for zoom, right in ((1.5, 1.0), (1.0, 0.0)):
        assert draw(perfect, tiny_settings(image_size=32, zoom=zoom), request, progress=False).share(0) == right


def test_an_empty_picture_satisfies_nothing():
    empty = Knowing(torch.zeros(3, 32, 32), 'flow')
    found = draw(empty, tiny_settings(image_size=32), Request('a red circle', scales=(1.0,), seeds=(0,), steps=1), progress=False)
    assert found.share(0) == 0.0
    assert set(as_table(found).splitlines()[1].split()[1:]) == {'0/1'}


def test_what_is_not_of_the_drawn_world_is_not_checked(model):
    found = draw(model, tiny_settings(), Request('the meaning of life', scales=(1.0,), seeds=(0,), steps=1), progress=False)
    assert found.verdicts is None
    assert found.share(0) is None
    assert as_table(found) == NOT_CHECKED


def test_a_sampler_that_does_not_fit_is_refused_before_work():
    with pytest.raises(ConfigError, match=r"^a model that predicts flow is sampled by euler or dpm\+\+, but got 'ddim'$"):
        draw(None, tiny_settings(), Request('a red circle', sampler='ddim'))


def test_a_missing_shipped_model_is_named(monkeypatch, tmp_path):
    monkeypatch.setattr(drawing, 'SHIPPED', tmp_path / 'shapes.safetensors')
    with pytest.raises(ConfigError, match='there is no checkpoint '):
        drawing.load_shipped()
