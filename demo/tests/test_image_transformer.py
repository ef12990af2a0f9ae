"""The diffusion transformer: its arithmetic against plain loops, where the text enters, and guidance over all of it."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from cfg_demo.image.transformer import (
    SIZES,
    Block,
    ImageTransformer,
    build_transformer,
    sin_cos_positions,
)
from classifier_free_guidance_pytorch.errors import ConfigError, ShapeError
from classifier_free_guidance_pytorch.perturb import perturbed_attention, skip_layers
from tests.tiny_models import TinyEncoder

CONDITIONS = ('film', 'attention', 'concat')
NULLS = ('learned', 'zeros', 'empty')
TEXTS = ['a red circle', 'two blue squares', 'a green dog above a ball']


def tiny(condition='attention', *, trained=True, **options):
    """A tiny transformer in eval mode; `trained` gives it weights that no initialisation has left at zero."""
    torch.manual_seed(0)
    model = build_transformer(size='tiny', condition=condition, **{'model_types': [TinyEncoder()], **options})
    if trained:
        for parameter in model.parameters():
            nn.init.normal_(parameter, std=0.1)
    return model.eval()


def noisy(batch=3, channels=3, size=(8, 8), seed=1):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(batch, channels, *size, generator=generator), torch.rand(batch, generator=generator)


# --- the network ---


def test_positions_are_the_formula():
    height, width, dim = 3, 5, 16
    expected = torch.zeros(height * width, dim, dtype=torch.float64)
    for row in range(height):
        for column in range(width):
            for i in range(dim // 4):
                rate = 10_000 ** (-i / (dim // 4))
                at = row * width + column
                values = (math.sin(row * rate), math.cos(row * rate), math.sin(column * rate), math.cos(column * rate))
                for quarter, value in enumerate(values):
                    expected[at, quarter * (dim // 4) + i] = value
    torch.testing.assert_close(sin_cos_positions(height, width, dim).double(), expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize('text_in_norms', [True, False])
def test_a_block_is_the_formula(text_in_norms):
    torch.manual_seed(0)
    b, n, dim, heads = 2, 5, 8, 2
    block = Block(dim, heads, text_in_norms).double()
    nn.init.normal_(block.modulation)
    hiddens, time = torch.randn(b, n, dim).double(), torch.randn(b, 6 * dim).double()

    def text(x):
        return x * 1.5 + 0.25

    def norm(x):
        centred = x - x.mean(-1, keepdim=True)
        normed = centred / (centred.pow(2).mean(-1, keepdim=True) + 1e-5).sqrt()
        return text(normed) if text_in_norms else normed

    def attend(x):
        q, k, v = (x @ block.attention.to_qkv.weight.T).split(dim, dim=-1)
        heads_out = []
        for head in range(heads):
            at = slice(head * dim // heads, (head + 1) * dim // heads)
            weights = (q[..., at] @ k[..., at].transpose(1, 2) / math.sqrt(dim // heads)).softmax(-1)
            heads_out.append(weights @ v[..., at])
        return block.attention.to_out(torch.cat(heads_out, -1))

    scale1, shift1, gate1, scale2, shift2, gate2 = (time + block.modulation).unsqueeze(1).split(dim, dim=-1)
    expected = hiddens + gate1 * attend(norm(hiddens) * (scale1 + 1) + shift1)
    expected = expected if text_in_norms else text(expected)
    first, _, last = block.feed_forward
    expected = expected + gate2 * last(F.gelu(first(norm(expected) * (scale2 + 1) + shift2), approximate='tanh'))
    torch.testing.assert_close(block(hiddens, time, text), expected)


@pytest.mark.parametrize('condition', [*CONDITIONS, 'null'])
@pytest.mark.parametrize(('channels', 'patch', 'size'), [(3, 2, (8, 8)), (1, 4, (8, 16)), (3, 1, (3, 2))])
def test_the_prediction_has_the_shape_of_the_images(condition, channels, patch, size):
    model = tiny(condition, channels=channels, patch=patch)
    images, times = noisy(2, channels, size)
    prediction = model(images, times, texts=TEXTS[:2], cond_scale=2.0)
    assert prediction.shape == images.shape
    assert prediction.dtype == images.dtype
    assert prediction.isfinite().all()


def test_patches_come_back_where_they_were():
    model = tiny()
    images, times = noisy(1)
    touched = images.clone()
    touched[0, 1, 5, 2] += 1.0  # in the patch of rows 4 and 5, columns 2 and 3
    with skip_layers('blocks.0', 'blocks.1').applied(model):
        moved = (model(touched, times) - model(images, times)).abs() > 1e-6
    expected = torch.zeros_like(moved)
    expected[:, :, 4:6, 2:4] = True
    assert torch.equal(moved, expected)


def test_time_and_place_matter():
    model = tiny()
    images, times = noisy(1)
    assert not torch.allclose(model(images, times), model(images, 1 - times), atol=1e-3)
    same = torch.ones(1, 3, 8, 8)
    prediction = model(same, times)
    assert not torch.allclose(prediction[..., :2, :2], prediction[..., 2:4, :2], atol=1e-3)


def test_its_self_attention_can_be_perturbed():
    model = tiny()
    images, times = noisy()
    full = model(images, times, texts=TEXTS)
    with perturbed_attention('blocks.*.attention').applied(model):
        weak = model(images, times, texts=TEXTS)
    assert not torch.allclose(full, weak, atol=1e-3)


# --- the text ---


@pytest.mark.parametrize('condition', CONDITIONS)
def test_it_starts_by_predicting_zero_with_blocks_that_do_nothing(condition):
    model = tiny(condition, trained=False)
    images, times = noisy()
    assert not model(images, times, texts=TEXTS).any()
    nn.init.normal_(model.write.weight)
    prediction = model(images, times, texts=TEXTS)
    assert prediction.any()
    with skip_layers('blocks.*').applied(model):
        assert torch.equal(prediction, model(images, times, texts=TEXTS))


@pytest.mark.parametrize('condition', CONDITIONS)
def test_the_text_matters_after_a_few_steps(condition):
    model = tiny(condition, trained=False, cond_drop_prob=0.0).train()
    images, times = noisy()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for _ in range(4):  # the last layer moves first, then the gates, then the text
        optimizer.zero_grad()
        F.mse_loss(
            model(images, times, texts=TEXTS), torch.tensor([-1.0, 0.0, 1.0]).view(3, 1, 1, 1).expand_as(images)
        ).backward()
        optimizer.step()
    unused = [name for name, parameter in model.named_parameters() if parameter.grad is None]
    assert [name for name in unused if 'null' not in name] == []
    model.eval()
    told, otherwise = model(images, times, texts=TEXTS), model(images, times, texts=TEXTS[::-1])
    assert not torch.allclose(told, otherwise, atol=1e-4)
    assert torch.equal(told[1], otherwise[1])


@pytest.mark.parametrize(('condition', 'normed'), [('film', True), ('attention', False), ('concat', False)])
def test_film_meets_the_norms_and_the_others_the_hiddens(condition, normed):
    model = tiny(condition)
    seen = []

    def spy(hiddens):
        seen.append(hiddens)
        return hiddens

    model(*noisy(), cond_fns=[spy] * 2)
    assert [tuple(hiddens.shape) for hiddens in seen] == [(3, 16, 64)] * (4 if normed else 2)
    assert all(torch.allclose(hiddens.mean(-1), torch.zeros(3, 16), atol=1e-5) for hiddens in seen) == normed


@pytest.mark.parametrize('condition', CONDITIONS)
def test_a_batch_is_its_samples_one_by_one(condition):
    model = tiny(condition)
    images, times = noisy()
    together = model(images, times, texts=TEXTS, cond_scale=3.0)
    apart = [model(images[i : i + 1], times[i : i + 1], texts=TEXTS[i : i + 1], cond_scale=3.0) for i in range(3)]
    torch.testing.assert_close(together, torch.cat(apart), atol=1e-5, rtol=1e-5)


# --- guidance and dropout ---


@pytest.mark.parametrize('condition', CONDITIONS)
@pytest.mark.parametrize('null', NULLS)
def test_guidance_is_the_formula_over_two_predictions(condition, null):
    model = tiny(condition, null=null)
    images, times = noisy()
    cond, without = model(images, times, texts=TEXTS), model(images, times)
    assert not torch.allclose(cond, without, atol=1e-3)
    expected = without + 3.0 * (cond - without)
    for batched in (False, True):
        guided = model(images, times, texts=TEXTS, cond_scale=3.0, cfg_batched=batched)
        torch.testing.assert_close(guided, expected, atol=1e-5, rtol=1e-4)
    prepared = model.prepare(TEXTS)
    torch.testing.assert_close(model(images, times, text_condition=prepared, cond_scale=3.0), expected, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize('condition', CONDITIONS)
@pytest.mark.parametrize('null', NULLS)
def test_dropout_of_samples_and_of_whole_batches(condition, null):
    model = tiny(condition, null=null).train()
    images, times = noisy()
    kept = model(images, times, texts=TEXTS, cond_drop_prob=0.0)
    dropped = model(images, times, texts=TEXTS, cond_drop_prob=1.0)
    mixed = model(images, times, texts=TEXTS, cond_drop_prob=torch.tensor([0.0, 1.0, 0.0]))
    torch.testing.assert_close(mixed, torch.stack((kept[0], dropped[1], kept[2])), atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(dropped, model.eval()(images, times), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize('condition', ['film', 'attention'])
def test_only_a_learned_null_is_learned(condition):
    def names(null):
        return [name for name, _ in tiny(condition, null=null).named_parameters() if 'null' in name]

    assert len(names('learned')) == (1 if condition == 'film' else 2)
    assert names('zeros') == []


def test_each_encoder_is_dropped_by_itself():
    model = tiny('film', model_types=[TinyEncoder(), TinyEncoder(dim_pooled=4)], cond_drop_prob=(0.0, 1.0)).train()
    images, times = noisy()
    second_lost = model(images, times, texts=TEXTS)
    assert torch.equal(second_lost, model(images, times, texts=TEXTS))
    assert not torch.allclose(second_lost, model(images, times, texts=TEXTS, cond_drop_prob=0.0), atol=1e-3)


# --- how it is run ---


@pytest.mark.parametrize('condition', CONDITIONS)
def test_a_training_step_is_one_graph(condition):
    model = tiny(condition).train()
    images, times = noisy()
    stored = model.encode_texts(TEXTS)
    compiled = torch.compile(model, fullgraph=True, backend='aot_eager')
    expected = model(images, times, text_embeds=stored, cond_drop_prob=0.0)
    torch.testing.assert_close(compiled(images, times, text_embeds=stored, cond_drop_prob=0.0), expected, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize('condition', CONDITIONS)
def test_half_precision(condition):
    model = tiny(condition).train()
    images, times = noisy()
    exact = model(images, times, texts=TEXTS, cond_drop_prob=0.0)
    with torch.autocast('cpu', dtype=torch.bfloat16):
        rough = model(images, times, texts=TEXTS, cond_drop_prob=0.0)
    assert rough.dtype == torch.bfloat16
    torch.testing.assert_close(rough.float(), exact, atol=0.1 * exact.abs().max().item(), rtol=0)
    rough.float().square().mean().backward()
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters() if parameter.grad is not None)
    halved = model.bfloat16()(images.bfloat16(), times, texts=TEXTS, cond_drop_prob=0.0)
    assert halved.dtype == torch.bfloat16
    torch.testing.assert_close(halved.float(), exact, atol=0.1 * exact.abs().max().item(), rtol=0)


@pytest.mark.parametrize(('size', 'low', 'high'), [('tiny', 0.2, 0.4), ('small', 2.0, 4.0), ('base', 12.0, 19.0)])
@pytest.mark.parametrize('condition', CONDITIONS)
def test_the_sizes_have_the_parameters_they_state(size, low, high, condition):
    model = build_transformer(size=size, condition=condition, model_types=['mini'])
    assert low < sum(parameter.numel() for parameter in model.parameters()) / 1e6 < high


def test_the_seed_decides_the_weights():
    first, second = tiny(trained=False).state_dict(), tiny(trained=False).state_dict()
    assert all(torch.equal(first[name], second[name]) for name in first)


# --- what is refused ---


@pytest.mark.parametrize(
    ('options', 'sentence'),
    [
        ({'size': 'huge'}, "size is one of tiny, mini, small, base, but got 'huge'"),
        ({'size': 'tiny', 'patch': 0}, 'channels, patch, dim, depth and heads count from 1, but got 3, 0, 64, 2 and 2'),
        (
            {'size': 'tiny', 'condition': 'bold'},
            "text_condition_type is one of film, attention, concat, raw, pooled, null, but got 'bold'",
        ),
    ],
)
def test_options_that_cannot_work_are_refused(options, sentence):
    with pytest.raises(ConfigError, match=sentence):
        build_transformer(model_types=[TinyEncoder()], **options)


@pytest.mark.parametrize(('dim', 'heads'), [(18, 3), (16, 3)])
def test_a_width_that_cannot_be_divided_is_refused(dim, heads):
    with pytest.raises(ConfigError, match=rf'dim is a multiple of 4 \(for the positions\) and of heads=3, but got {dim}'):
        ImageTransformer(dim=dim, heads=heads, text_condition_type='null', text_condition_hidden_dims=(dim,))


@pytest.mark.parametrize('shape', [(2, 3, 8), (2, 4, 8, 8), (2, 3, 7, 8), (2, 3, 8, 9)])
def test_images_that_do_not_fit_are_refused(shape):
    sentence = r'images are \(b, 3, h, w\) with h and w multiples of the patch, 2, but got .*resize them, or build the model'
    with pytest.raises(ShapeError, match=sentence):
        tiny()(torch.randn(shape), torch.rand(2))


def test_times_that_do_not_fit_are_refused():
    with pytest.raises(ShapeError, match=r'times hold one value per image, \(3,\), but got \(3, 1\)'):
        tiny()(noisy()[0], torch.rand(3, 1))


def test_every_size_is_a_size():
    assert all(size.dim % 8 == 0 and size.dim % size.heads == 0 for size in SIZES.values())
