"""Layers and their conditions, without any text."""

import pytest
import torch

from classifier_free_guidance_pytorch.errors import ShapeError
from classifier_free_guidance_pytorch.layers import Concat, CrossAttention, FiLM
from classifier_free_guidance_pytorch.layers.condition import SplitRows, from_sequence, to_sequence


def noise(*shape, seed=1):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def film():
    return randomised(FiLM(5, 6)), lambda layer, rows, seed=1: layer.condition(noise(rows, 5, seed=seed))


def concat():
    return randomised(Concat(5, 6)), lambda layer, rows, seed=1: layer.condition(noise(rows, 5, seed=seed))


def attention():
    def condition(layer, rows, seed=1):
        return layer.condition(noise(rows, 4, 5, seed=seed), torch.ones(rows, 4, dtype=torch.bool))

    return randomised(CrossAttention(5, 6, dim_head=4, heads=2)), condition


def randomised(layer):
    with torch.no_grad():
        for index, weight in enumerate(layer.parameters()):
            weight.copy_(noise(*weight.shape, seed=index) * 0.5)
    return layer


layers = pytest.mark.parametrize('make', [film, concat, attention])


@pytest.mark.parametrize('channel_first', [True, False])
@pytest.mark.parametrize('shape', [(2, 3), (2, 3, 4), (2, 3, 4, 5), (2, 3, 4, 5, 2)], ids=str)
def test_sequences_and_back(shape, channel_first):
    hiddens = noise(*shape)
    sequence = to_sequence(hiddens, channel_first)
    channels = shape[1] if channel_first else shape[-1]
    assert sequence.shape == (2, hiddens[0].numel() // channels, channels)
    assert torch.equal(from_sequence(sequence, hiddens, channel_first), hiddens)


@layers
def test_a_condition_of_one_row_fits_every_batch(make):
    layer, condition = make()
    one, hiddens = condition(layer, 1), noise(3, 6, 2)
    torch.testing.assert_close(layer(hiddens, one, True), layer(hiddens, one.expand(3), True))
    assert (one.rows, one.expand(3).rows, one.repeat(4).rows) == (1, 3, 1)


@layers
def test_rows_are_repeated_one_by_one(make):
    layer, condition = make()
    two, hiddens = condition(layer, 2), noise(6, 6, 2)
    repeated = layer(hiddens, two.repeat(3), True)
    torch.testing.assert_close(repeated[:3], layer(hiddens[:3], two.map(lambda t: t[:1]), True))
    torch.testing.assert_close(repeated[3:], layer(hiddens[3:], two.map(lambda t: t[1:]), True))


@layers
def test_joined_conditions_condition_their_own_part_of_the_batch(make):
    layer, condition = make()
    first, second, hiddens = condition(layer, 2), condition(layer, 3, seed=9), noise(5, 6, 2)
    joined = layer(hiddens, first.joined(second), True)
    torch.testing.assert_close(joined, torch.cat((layer(hiddens[:2], first, True), layer(hiddens[2:], second, True))))


def test_conditions_of_different_kinds_share_a_batch():
    layer, condition = attention()
    text, null, hiddens = condition(layer, 2), layer.null_condition().expand(3), noise(5, 6, 2)
    joined = text.joined(null)
    assert isinstance(joined, SplitRows)
    assert joined.rows == 5
    expected = torch.cat((layer(hiddens[:2], text, True), layer(hiddens[2:], null, True)))
    torch.testing.assert_close(layer(hiddens, joined, True), expected)
    longer = layer.condition(noise(1, 7, 5), torch.ones(1, 7, dtype=torch.bool))
    three = joined.joined(longer)
    torch.testing.assert_close(layer(noise(6, 6), three, True)[5:], layer(noise(6, 6)[5:], longer, True))


def test_the_null_of_attention_in_one_row():
    """With every token masked out, all that is attended to is the null value."""
    layer, _ = attention()
    hiddens = noise(2, 6, 4)
    nothing = layer.condition(noise(2, 3, 5), torch.zeros(2, 3, dtype=torch.bool))
    torch.testing.assert_close(layer(hiddens, layer.null_condition(), True), layer(hiddens, nothing, True))
    value = layer.attn.null_kv[1].repeat(1, 2)
    torch.testing.assert_close(layer(hiddens, nothing, True), hiddens + (value @ layer.attn.to_out.weight.T).view(1, 6, 1))


@layers
def test_layers_check_what_they_are_given(make):
    layer, condition = make()
    with pytest.raises(ShapeError, match=r'hiddens of shape \(2, 5\) do not have the 6 channels this condition is for'):
        layer(noise(2, 5), condition(layer, 2), True)
    with pytest.raises(ShapeError, match='2 texts cannot condition hiddens of batch 3'):
        layer(noise(3, 6), condition(layer, 2), True)


@layers
def test_layers_start_as_a_no_op(make):
    layer, condition = make()
    fresh = type(layer)(5, 6)
    hiddens = noise(2, 6, 3)
    assert torch.equal(fresh(hiddens, condition(fresh, 2), True), hiddens)
