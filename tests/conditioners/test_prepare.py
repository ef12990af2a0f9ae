"""Prepared conditions: the work that depends on the text alone, done once."""

import copy
import gc
import pickle
import weakref

import pytest
import torch

from classifier_free_guidance_pytorch import NullConditioner
from classifier_free_guidance_pytorch.errors import UsageError
from tests.conditioners.making import KINDS, TEXTS, make, make_raw, noise, two_encoders
from tests.tiny_models import TinyEncoder

kinds = pytest.mark.parametrize('kind', KINDS)
nulls = pytest.mark.parametrize('null', ['learned', 'zeros', 'empty'])


@kinds
@nulls
def test_prepared_equals_texts(kind, null):
    conditioner = make(kind, (6, 4), two_encoders(), null=null)
    prepared = conditioner.prepare(TEXTS)
    for index, hiddens in enumerate((noise(3, 6, 4), noise(3, 4, 2, 2))):
        for branch, drop in ((prepared.cond, 0.0), (prepared.null, 1.0)):
            expected = conditioner(TEXTS, cond_drop_prob=drop)[index](hiddens)
            torch.testing.assert_close(conditioner.bind(branch)[index](hiddens), expected)


@kinds
def test_negative_texts_take_the_place_of_the_null(kind):
    conditioner, hiddens = make(kind), noise(3, 6)
    prepared = conditioner.prepare(TEXTS, ['blurry'])
    torch.testing.assert_close(conditioner.bind(prepared.null)[0](hiddens), conditioner(['blurry'])[0](hiddens))
    stored = conditioner.prepare(
        text_embeds=conditioner.encode_texts(TEXTS), negative_text_embeds=conditioner.encode_texts(['blurry'])
    )
    torch.testing.assert_close(conditioner.bind(stored.null)[0](hiddens), conditioner(['blurry'])[0](hiddens))


@kinds
def test_prepared_conditions_are_indexed_by_sample(kind):
    conditioner, hiddens = make(kind), noise(3, 6)
    prepared = conditioner.prepare(TEXTS, ['blurry', 'grey', 'dull'])
    whole = [conditioner.bind(b)[0](hiddens) for b in (prepared.cond, prepared.null)]
    assert len(prepared) == 3
    for index, rows in (
        (1, [1]),
        (-1, [2]),
        (slice(0, 2), [0, 1]),
        ([2, 0], [2, 0]),
        (torch.tensor([True, False, True]), [0, 2]),
    ):
        some = prepared[index]
        assert len(some) == len(rows)
        for branch, expected in zip((some.cond, some.null), whole, strict=True):
            torch.testing.assert_close(conditioner.bind(branch)[0](hiddens[rows]), expected[rows])
    assert [len(one) for one in prepared] == [1, 1, 1]


@kinds
def test_one_text_with_many_negatives_and_the_other_way_round(kind):
    conditioner, hiddens = make(kind), noise(3, 6)
    for texts, negatives in ((TEXTS[:1], TEXTS), (TEXTS, TEXTS[:1])):
        prepared = conditioner.prepare(texts, negatives)
        assert len(prepared) == 3
        last = prepared[2]
        for branch, given in ((last.cond, texts), (last.null, negatives)):
            torch.testing.assert_close(conditioner.bind(branch)[0](hiddens[:1]), conditioner(given[-1:])[0](hiddens[:1]))


@kinds
def test_prepared_conditions_move(kind):
    conditioner = make(kind)
    prepared = conditioner.prepare(TEXTS).to('cpu', torch.float64)
    hiddens = noise(3, 6)
    floats = [t for layer in prepared.cond.layers for t in vars(layer).values() if t.is_floating_point()]
    assert floats
    assert all(t.dtype == torch.float64 for t in floats)
    torch.testing.assert_close(conditioner.bind(prepared.cond)[0](hiddens), conditioner(TEXTS)[0](hiddens))


@kinds
def test_no_encoder_runs_once_prepared(kind):
    encoder = TinyEncoder()
    conditioner = make(kind, encoders=[encoder])
    prepared = conditioner.prepare(TEXTS, ['blurry'])
    assert encoder.calls == 2
    for _ in range(3):
        conditioner.bind(prepared.cond)[0](noise(3, 6))
    assert encoder.calls == 2


@kinds
def test_prepared_conditions_carry_no_gradient(kind):
    prepared = make(kind).train().prepare(TEXTS)
    assert not any(t.requires_grad for layer in (*prepared.cond.layers, *prepared.null.layers) for t in vars(layer).values())


@kinds
def test_what_was_prepared_in_inference_mode_meets_hiddens_that_need_a_gradient(kind):
    conditioner = make(kind)
    with torch.inference_mode():
        prepared = conditioner.prepare(TEXTS)
    hiddens = noise(3, 6).requires_grad_()
    conditioner.bind(prepared.cond)[0](hiddens).sum().backward()
    assert hiddens.grad.any()


def stale_by_optimizer(conditioner):
    optimizer = torch.optim.SGD(conditioner.parameters(), lr=0.1)
    conditioner.train()(TEXTS)[0](noise(3, 6)).sum().backward()
    optimizer.step()
    conditioner.eval()


def stale_by_checkpoint(conditioner):
    conditioner.load_state_dict({name: tensor + 1 for name, tensor in conditioner.state_dict().items()})


def stale_by_assigned_checkpoint(conditioner):
    conditioner.load_state_dict({name: tensor + 1 for name, tensor in conditioner.state_dict().items()}, assign=True)


def stale_by_hand(conditioner):
    with torch.no_grad():
        next(conditioner.parameters()).add_(1)


@kinds
@pytest.mark.parametrize('change', [stale_by_optimizer, stale_by_checkpoint, stale_by_assigned_checkpoint, stale_by_hand])
def test_conditions_prepared_from_other_weights_are_refused(kind, change):
    conditioner = make(kind)
    prepared = conditioner.prepare(TEXTS)
    part = prepared[:1]
    conditioner.check_prepared(prepared)
    change(conditioner)
    for one in (prepared, part, prepared[1:]):
        with pytest.raises(UsageError, match=r'the weights have changed since this text_condition was prepared: call prepare'):
            conditioner.check_prepared(one)
    conditioner.check_prepared(conditioner.prepare(TEXTS))


@kinds
def test_conditions_belong_to_the_conditioner_that_made_them(kind):
    conditioner = make(kind)
    prepared = conditioner.prepare(TEXTS)
    for other in (make(kind), copy.deepcopy(conditioner), pickle.loads(pickle.dumps(conditioner))):
        with pytest.raises(UsageError, match=r'prepared by another model \(or by a copy\): call prepare\(texts\) on this one'):
            other.check_prepared(prepared)
        other.check_prepared(other.prepare(TEXTS))
    conditioner.check_prepared(prepared)


@kinds
@pytest.mark.parametrize(
    'copied', [copy.copy, copy.deepcopy, lambda p: pickle.loads(pickle.dumps(p))], ids=['copy', 'deep', 'pickle']
)
def test_copies_of_prepared_conditions_are_as_good(kind, copied):
    conditioner, hiddens = make(kind, (6, 4)), noise(3, 6)
    prepared = conditioner.prepare(TEXTS, ['blurry'])
    other = copied(prepared)
    conditioner.check_prepared(other)
    for branch, again in ((prepared.cond, other.cond), (prepared.null, other.null)):
        torch.testing.assert_close(conditioner.bind(again)[0](hiddens), conditioner.bind(branch)[0](hiddens), rtol=0, atol=0)
    stale_by_hand(conditioner)
    with pytest.raises(UsageError, match='the weights have changed'):
        conditioner.check_prepared(other)


@kinds
def test_prepared_conditions_keep_no_weights_alive(kind):
    conditioner = make(kind)
    weights = [weakref.ref(weight) for weight in conditioner.parameters()]
    prepared = conditioner.prepare(TEXTS)
    del conditioner
    gc.collect()
    assert [ref() for ref in weights] == [None] * len(weights)
    assert len(prepared) == 3


@kinds
def test_callables_can_be_copied_and_pickled(kind):
    cond_fns, hiddens = make(kind, (6, 4))(TEXTS), noise(3, 6)
    for other in (copy.deepcopy(cond_fns), pickle.loads(pickle.dumps(cond_fns))):
        assert type(other) is type(cond_fns)
        torch.testing.assert_close(other[0](hiddens), cond_fns[0](hiddens), rtol=0, atol=0)
        torch.testing.assert_close(other.text_cond.embed, cond_fns.text_cond.embed)


def test_prepared_raw_embeddings():
    returner = make_raw()
    prepared = returner.prepare(TEXTS)
    _, expected = returner(TEXTS)
    torch.testing.assert_close(prepared.cond.text_cond.embed, expected.embed)
    assert not prepared.null.text_cond.mask.any()


def test_there_is_nothing_to_prepare_without_text():
    conditioner = NullConditioner((6,))
    hiddens = noise(3, 6)
    prepared = conditioner.prepare(TEXTS)
    conditioner.check_prepared(prepared)
    assert conditioner.bind(prepared.cond)[0](hiddens) is hiddens


def test_a_prepared_condition_is_shown_in_a_line():
    assert repr(make('film').prepare(TEXTS)) == 'PreparedCondition(3 texts)'
