"""What holds for every conditioner, whatever its kind, its layout and its batch."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from classifier_free_guidance_pytorch import AttentionTextConditioner, ConcatTextConditioner, NullConditioner, TextConditioner
from classifier_free_guidance_pytorch.errors import ShapeError
from tests.conditioners.making import KINDS, TEXTS, make, make_raw, noise, two_encoders
from tests.tiny_models import TinyEncoder

kinds = pytest.mark.parametrize('kind', KINDS)
words = st.lists(st.sampled_from(['a', 'red', 'dog', 'square', 'above']), min_size=1, max_size=6).map(' '.join)
quick = settings(max_examples=15, deadline=None)


@pytest.mark.parametrize('cls', [TextConditioner, AttentionTextConditioner, ConcatTextConditioner, NullConditioner])
@pytest.mark.parametrize('shape', [(3, 6), (3, 6, 4), (3, 6, 2, 4), (3, 6, 2, 2, 3)], ids=str)
def test_a_new_conditioner_changes_nothing(cls, shape):
    (condition,) = cls((6,), model_types=[TinyEncoder()])(TEXTS)
    hiddens = noise(*shape)
    torch.testing.assert_close(condition(hiddens), hiddens, rtol=0, atol=0)


@kinds
@quick
@given(spatial=st.lists(st.integers(1, 3), max_size=3), dtype=st.sampled_from([torch.float32, torch.float64, torch.bfloat16]))
def test_channel_first_and_channel_last_agree_and_keep_shape_and_dtype(kind, spatial, dtype):
    first, last = make(kind), make(kind, hiddens_channel_first=False)
    hiddens = noise(3, 6, *spatial).to(dtype)
    conditioned = first(TEXTS)[0](hiddens)
    assert conditioned.shape == hiddens.shape
    assert conditioned.dtype == dtype
    assert not torch.equal(conditioned, hiddens)
    moved = last(TEXTS)[0](hiddens.movedim(1, -1))
    torch.testing.assert_close(moved.movedim(-1, 1), conditioned)


@kinds
@pytest.mark.parametrize(
    ('shape', 'memory_format'),
    [((3, 6, 4, 5), torch.channels_last), ((3, 6, 2, 4, 5), torch.channels_last_3d), ((3, 6, 4, 5), torch.contiguous_format)],
    ids=['channels last', 'channels last 3d', 'contiguous'],
)
def test_the_memory_format_stays(kind, shape, memory_format):
    hiddens = noise(*shape).contiguous(memory_format=memory_format)
    for conditioner in (make(kind), make(kind, null='zeros')):
        for drop in (0.0, 1.0):
            conditioned = conditioner(TEXTS, cond_drop_prob=drop)[0](hiddens)
            assert conditioned.is_contiguous(memory_format=memory_format)
            torch.testing.assert_close(conditioned, conditioner(TEXTS, cond_drop_prob=drop)[0](hiddens.contiguous()))


@kinds
def test_layouts_may_differ_from_hidden_to_hidden(kind):
    mixed = make(kind, (6, 4), hiddens_channel_first=(True, False))
    first, second = make(kind, (6, 4)), make(kind, (6, 4), hiddens_channel_first=False)
    torch.testing.assert_close(mixed(TEXTS)[0](noise(3, 6, 5)), first(TEXTS)[0](noise(3, 6, 5)))
    torch.testing.assert_close(mixed(TEXTS)[1](noise(3, 5, 4)), second(TEXTS)[1](noise(3, 5, 4)))


@kinds
@quick
@given(texts=st.lists(words, min_size=1, max_size=4))
def test_a_sample_does_not_know_its_batch(kind, texts):
    conditioner = make(kind, encoders=two_encoders())
    hiddens = noise(len(texts), 6, 3)
    batched = conditioner(texts)[0](hiddens)
    alone = [conditioner([text])[0](hiddens[i : i + 1]) for i, text in enumerate(texts)]
    torch.testing.assert_close(batched, torch.cat(alone), rtol=1e-4, atol=1e-5)


def test_raw_embeddings_of_a_text_do_not_know_their_batch():
    returner = make_raw(two_encoders(), text_embed_pad_value=7.0)
    _, (embed, mask) = returner(TEXTS)
    for i, text in enumerate(TEXTS):
        _, (alone, alone_mask) = returner([text])
        assert alone_mask.all()
        torch.testing.assert_close(embed[i][mask[i]], alone[0])
    assert (embed[~mask] == 7).all()


@kinds
def test_one_text_serves_every_batch(kind):
    conditioner = make(kind)
    hiddens = noise(4, 6, 2)
    one, four = conditioner([TEXTS[0]])[0](hiddens), conditioner([TEXTS[0]] * 4)[0](hiddens)
    torch.testing.assert_close(one, four)


@kinds
@pytest.mark.parametrize('batch', [1, 2, 6])
def test_any_other_number_of_texts_is_refused(kind, batch):
    (condition,) = make(kind)(TEXTS)
    with pytest.raises(ShapeError, match=f'3 texts cannot condition hiddens of batch {batch}: pass one text per sample'):
        condition(noise(batch, 6))


@kinds
def test_hiddens_of_another_width_or_layout_are_refused(kind):
    (condition,) = make(kind)(TEXTS)
    for shape in ((3, 5), (3, 4, 6), (6,)):
        with pytest.raises(ShapeError, match=r'do not have the 6 channels .* read channel first: .* hiddens_channel_first=False'):
            condition(noise(*shape))
    with pytest.raises(ShapeError, match=r'read channel last: .* hiddens_channel_first=True'):
        make(kind, hiddens_channel_first=False)(TEXTS)[0](noise(3, 6, 4))


@kinds
def test_frames_folded_into_the_batch(kind):
    conditioner = make(kind, (6, 4))
    frames = noise(3 * 5, 6, 2, 2)
    repeated = conditioner(TEXTS, repeat_batch=5)[0](frames)
    spelled_out = conditioner([text for text in TEXTS for _ in range(5)])[0](frames)
    torch.testing.assert_close(repeated, spelled_out)
    video = frames.unflatten(0, (3, 5)).transpose(1, 2)
    torch.testing.assert_close(conditioner(TEXTS)[0](video).transpose(1, 2).flatten(0, 1), repeated)


@kinds
def test_a_repetition_for_each_of_the_hiddens(kind):
    conditioner = make(kind, (6, 4))
    first, second = conditioner(TEXTS, repeat_batch=(2, 1))
    torch.testing.assert_close(first(noise(6, 6)), conditioner(TEXTS, repeat_batch=2)[0](noise(6, 6)))
    torch.testing.assert_close(second(noise(3, 4)), conditioner(TEXTS)[1](noise(3, 4)))


@kinds
def test_space_and_time(kind):
    """Every position of a video is conditioned as if it stood alone."""
    (condition,) = make(kind)(TEXTS)
    video = noise(3, 6, 2, 3, 2)
    conditioned = condition(video)
    for f, h, w in ((0, 0, 0), (1, 2, 1), (0, 1, 1)):
        torch.testing.assert_close(conditioned[:, :, f, h, w], condition(video[:, :, f, h, w]))


def test_positions_that_are_strided_in_memory():
    (condition,) = make('attention')(TEXTS)
    hiddens = noise(3, 12, 8)[:, ::2, ::2]
    torch.testing.assert_close(condition(hiddens), condition(hiddens.contiguous()))


@kinds
def test_an_empty_batch_passes(kind):
    assert make(kind)(TEXTS[:1])[0](noise(0, 6, 4)).shape == (0, 6, 4)


@kinds
def test_hiddens_are_not_written_to(kind):
    hiddens = noise(3, 6, 4)
    before = hiddens.clone()
    make(kind)(TEXTS)[0](hiddens)
    torch.testing.assert_close(hiddens, before, rtol=0, atol=0)


@kinds
def test_gradients_reach_hiddens_and_every_weight(kind):
    conditioner = make(kind, (6, 4), two_encoders()).train()
    first, second = conditioner(TEXTS)
    hiddens = noise(3, 6, 4).requires_grad_()
    (first(hiddens).square().sum() + second(noise(3, 4)).square().sum()).backward()
    assert hiddens.grad.abs().sum() > 0
    lacking = [name for name, p in conditioner.named_parameters() if p.grad is None]
    assert lacking == [], 'these would be unused under DDP'
    still = [n for n, p in conditioner.named_parameters() if p.grad.abs().sum() == 0 and n != 'null_text_embed']
    assert still == []


def test_the_null_conditioner_hands_back_the_very_same_tensor():
    conditioner = NullConditioner((6, 4), model_types='t5', cond_drop_prob=0.3)
    hiddens = noise(3, 6)
    assert all(condition(hiddens) is hiddens for condition in conditioner(TEXTS))
    assert conditioner(TEXTS).text_cond == (None, None)
