"""The U-Net: its parts against plain loops, where the text enters, its sizes, and how it starts."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from cfg_demo.image.models import build_model, count_parameters
from cfg_demo.image.settings import NETWORK_SIZES, NULLS, ModelSettings
from cfg_demo.image.unet import Block, SelfAttention, UNet, place_features, wave_features
from classifier_free_guidance_pytorch import classifier_free_guidance_class_decorator
from demo.tests.image.tiny import TEXTS, tiny_model

CONDITIONS = ('film', 'attention', 'concat')


@pytest.fixture
def noisy():
    generator = torch.Generator().manual_seed(1)
    return torch.randn(3, 3, 16, 16, generator=generator), torch.rand(3, generator=generator)


# --- its parts ---


def test_waves_are_the_formula():
    times = torch.tensor([0.0, 0.3, 1.0])
    expected = torch.zeros(3, 8, dtype=torch.float64)
    for row, time in enumerate(times.tolist()):
        for i in range(4):
            angle = time * 1000 * 1e-3 ** (i / 3)
            expected[row, i], expected[row, 4 + i] = math.sin(angle), math.cos(angle)
    torch.testing.assert_close(wave_features(times, 8).double(), expected, rtol=0, atol=2e-4)  # float32 angles up to 1000


def test_places_are_rows_columns_and_their_waves():
    places = place_features(torch.zeros(2, 5, 3, 2))[0]
    rows, columns = [-1.0, 0.0, 1.0], [-1.0, 1.0]
    expected = torch.zeros(14, 3, 2, dtype=torch.float64)
    for i, row in enumerate(rows):
        for j, column in enumerate(columns):
            expected[:2, i, j] = torch.tensor([row, column])
            for number, halves in enumerate((1, 2, 4)):
                for axis, place in enumerate((row, column)):
                    angle = math.pi * halves * place / 2
                    expected[2 + 2 * number + axis, i, j] = math.sin(angle)
                    expected[8 + 2 * number + axis, i, j] = math.cos(angle)
    torch.testing.assert_close(places.double(), expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize(('dim_in', 'dim_out'), [(16, 16), (16, 24)])
def test_a_block_is_the_formula(dim_in, dim_out):
    torch.manual_seed(0)
    block = Block(dim_in, dim_out, 6).double()
    x, time = torch.randn(2, dim_in, 4, 4).double(), torch.randn(2, 6).double()
    torch.testing.assert_close(block(x, time), block.skip(x) + block.second.bias[:, None, None])  # where it starts
    nn.init.normal_(block.second.weight)

    def norm(hiddens):
        groups = hiddens.reshape(2, 8, -1)
        centred = groups - groups.mean(-1, keepdim=True)
        return (centred / (centred.pow(2).mean(-1, keepdim=True) + 1e-5).sqrt()).reshape(hiddens.shape)

    def silu(hiddens):
        return hiddens / (1 + (-hiddens).exp())

    modulation = silu(time) @ block.modulate.weight.T + block.modulate.bias
    scale, shift = modulation[:, :dim_out, None, None], modulation[:, dim_out:, None, None]
    hiddens = norm(block.first(silu(norm(x)))) * (scale + 1) + shift
    torch.testing.assert_close(block(x, time), block.skip(x) + block.second(silu(hiddens)))


def test_self_attention_is_a_loop_over_heads():
    torch.manual_seed(0)
    attention = SelfAttention(16, dim_head=8).double()
    x = torch.randn(2, 16, 2, 3).double()
    assert torch.equal(attention(x), x)  # it starts as the identity
    nn.init.normal_(attention.to_out.weight)
    normed = F.group_norm(x, 8)
    q, k, v = (part.flatten(2) for part in attention.to_qkv(normed).split(16, dim=1))
    heads = []
    for at in (slice(0, 8), slice(8, 16)):
        weights = (q[:, at].transpose(1, 2) @ k[:, at] / math.sqrt(8)).softmax(-1)  # (b, query, key)
        heads.append((weights @ v[:, at].transpose(1, 2)).transpose(1, 2))
    torch.testing.assert_close(attention(x), x + attention.to_out(torch.cat(heads, 1).reshape(x.shape)))


# --- the whole ---


@pytest.mark.parametrize('condition', CONDITIONS)
def test_it_starts_by_predicting_nothing(condition, noisy):
    model = tiny_model(trained=False, condition=condition)
    assert torch.equal(model(*noisy, texts=TEXTS), model.write.bias.repeat_interleave(256 // 4).reshape(1, 3, 2, 2, 8, 8)
                       .permute(0, 1, 4, 2, 5, 3).reshape(1, 3, 16, 16).expand(3, -1, -1, -1))  # fmt: skip


@pytest.mark.parametrize('condition', CONDITIONS)
def test_the_text_matters_once_it_has_learned(condition, noisy):
    model = tiny_model(trained=False, condition=condition).train()
    before = model(*noisy, texts=TEXTS, cond_drop_prob=0.0)
    assert torch.equal(before, model(*noisy, texts=TEXTS[::-1], cond_drop_prob=0.0))
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    for _ in range(4):
        (model(*noisy, texts=TEXTS, cond_drop_prob=0.0) - torch.arange(3.0)[:, None, None, None]).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()
    model.eval()
    assert not torch.allclose(model(*noisy, texts=TEXTS), model(*noisy, texts=TEXTS[::-1]), atol=1e-4)


@pytest.mark.parametrize('condition', CONDITIONS)
@pytest.mark.parametrize('null', NULLS)
def test_without_its_text_it_reads_nothing(condition, null, noisy):
    model = tiny_model(condition=condition, null=null)
    none = model(*noisy, texts=TEXTS, cond_drop_prob=1.0)
    torch.testing.assert_close(none, model(*noisy, texts=TEXTS[::-1], cond_drop_prob=1.0))
    torch.testing.assert_close(none, model(*noisy))
    assert not torch.allclose(none, model(*noisy, texts=TEXTS), atol=1e-3)


@pytest.mark.parametrize('condition', ['film', 'concat'])
def test_a_learned_null_is_learned_and_that_of_zeros_is_not(condition, noisy):
    outputs = {}
    for null in NULLS:
        model = tiny_model(condition=condition, null=null)
        before = model(*noisy)
        nulls = [parameter for name, parameter in model.named_parameters() if 'null' in name]
        for parameter in nulls:
            nn.init.normal_(parameter)
        outputs[null] = not torch.allclose(before, model(*noisy), atol=1e-4)
    assert outputs == {'learned': True, 'zeros': False}


@pytest.mark.parametrize(('in_time', 'meetings'), [(True, 9), (False, 3)])
def test_with_film_the_text_meets_every_time_and_no_feature_map(in_time, meetings):
    shape = {'widths': (16, 24, 32), 'depths': (1, 2, 3), 'dim_time': 20}
    dims = UNet.hidden_dims(**shape, text_in_time=in_time)
    met = []

    def meet(hiddens):
        met.append(tuple(hiddens.shape))
        return hiddens

    @classifier_free_guidance_class_decorator
    class Watched(UNet):
        def forward(self, images, times, cond_fns):
            return super().forward(images, times, type(cond_fns).of([meet] * len(cond_fns), cond_fns.text_cond))

    model = Watched(**shape, text_in_time=in_time, text_condition_type='null', text_condition_hidden_dims=dims)
    model(torch.zeros(2, 3, 16, 16), torch.zeros(2), texts=TEXTS[:2])
    assert len(met) == meetings
    assert tuple(shape[1] for shape in met) == dims
    assert {len(shape) for shape in met} == {2 if in_time else 4}


@pytest.mark.parametrize('size', [16, 32, 40])
def test_the_prediction_has_the_shape_of_the_images(size):
    model = tiny_model(image_size=size)
    images = torch.zeros(2, 3, size, size)
    assert model(images, torch.rand(2), texts=TEXTS[:2], cond_scale=2.0).shape == images.shape


def test_time_and_place_matter(noisy):
    model, (images, times) = tiny_model(), noisy
    assert not torch.allclose(model(images, times), model(images, 1 - times), atol=1e-3)
    flat = model(torch.ones(1, 3, 16, 16), times[:1])
    assert not torch.allclose(flat[..., 6:8, 6:8], flat[..., 6:8, 8:10], atol=1e-3)


@pytest.mark.parametrize('condition', CONDITIONS)
def test_every_parameter_learns(condition, noisy):
    model = tiny_model(condition=condition).train()
    model(*noisy, texts=TEXTS, cond_drop_prob=torch.tensor([0.0, 1.0, 0.0])).square().mean().backward()
    assert [name for name, parameter in model.named_parameters() if parameter.grad is None] == []


@pytest.mark.parametrize('condition', CONDITIONS)
def test_bfloat16_is_near(condition, noisy):
    model = tiny_model(condition=condition)
    with torch.no_grad():
        exact = model(*noisy, texts=TEXTS, cond_scale=2.0)
        with torch.autocast('cpu', torch.bfloat16):
            rough = model(*noisy, texts=TEXTS, cond_scale=2.0)
    assert rough.dtype == torch.float32  # what is carried past the network keeps its precision
    assert 0 < (rough - exact).norm() < 0.1 * exact.norm()


def test_a_share_of_the_image_is_carried_past_the_network(noisy):
    model, (images, times) = tiny_model(trained=False), noisy
    nn.init.normal_(model.carry.weight)
    nn.init.zeros_(model.write.bias)
    gains = model(torch.ones_like(images), times)
    torch.testing.assert_close(gains, gains[:, :, :1, :1].expand_as(gains))  # one for each channel and time
    assert gains[0, 0, 0, 0] != gains[1, 0, 0, 0]
    torch.testing.assert_close(model(images, times), gains * images)


# In millions, by size. FiLM has a network of its own before every block.
COUNTS = {
    'attention': {'tiny': (0.1, 0.3), 'mini': (0.8, 1.2), 'small': (4.0, 5.0), 'base': (13.0, 16.0)},
    'concat': {'tiny': (0.1, 0.3), 'mini': (0.8, 1.2), 'small': (4.0, 5.0), 'base': (13.0, 16.0)},
    'film': {'tiny': (0.3, 0.6), 'mini': (1.5, 2.2), 'small': (6.0, 8.0), 'base': (16.0, 20.0)},
}


@pytest.mark.parametrize('condition', CONDITIONS)
def test_sizes(condition):
    for size in NETWORK_SIZES:
        low, high = COUNTS[condition][size]
        with torch.device('meta'):
            model = build_model(ModelSettings(network_size=size, condition=condition))
        assert low < count_parameters(model) / 1e6 < high
