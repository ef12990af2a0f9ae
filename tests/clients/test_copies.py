"""Copies: deep copies for EMA, pickles, checkpoints; and precisions from end to end."""

import copy
import io
import pickle

import pytest
import torch
from torch import nn

from classifier_free_guidance_pytorch import classifier_free_guidance_class_decorator
from tests.conditioners.making import noise, randomised
from tests.decorator.models import KINDS, TEXTS, Denoiser, build

kinds = pytest.mark.parametrize('kind', KINDS)
CALL = {'texts': TEXTS, 'cond_scale': 3.0}


def with_t5(kind='attention'):
    more = {} if kind == 'null' else {'text_condition_model_types': 't5'}
    return randomised(Reader(text_condition_type=kind, text_condition_hidden_dims=(6,), **more)).eval()


@classifier_free_guidance_class_decorator
class Reader(nn.Module):
    def __init__(self, dim=6):
        super().__init__()
        self.inner = nn.Linear(dim, dim)

    def forward(self, x, cond_fns, raw_text_cond):
        embed = raw_text_cond.embed
        h = cond_fns[0](self.inner(x))
        return h if embed is None else h + embed.flatten(1).mean(dim=1, keepdim=True)


def pickled(model):
    return pickle.loads(pickle.dumps(model))


def saved(model):
    buffer = io.BytesIO()
    torch.save(model, buffer)
    buffer.seek(0)
    return torch.load(buffer, weights_only=False)


@kinds
@pytest.mark.parametrize(
    'copied', [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m)), saved], ids=['deepcopy', 'pickle', 'save']
)
def test_copies_work_and_are_their_own(kind, copied):
    model, x = build(kind), noise(3, 6)
    expected = model(x, **CALL)
    other = copied(model)
    assert type(other) is Denoiser
    torch.testing.assert_close(other(x, **CALL), expected, rtol=0, atol=0)
    with torch.no_grad():
        for weight in other.parameters():
            weight.add_(1.0)
    torch.testing.assert_close(model(x, **CALL), expected, rtol=0, atol=0)
    assert not torch.allclose(other(x, **CALL), expected)


@pytest.mark.parametrize('kind', ['film', 'attention', 'concat', 'raw'])
def test_a_copy_for_ema_shares_the_encoder(kind, tiny_t5):
    model, x = with_t5(kind), noise(3, 6)
    expected = model(x, **CALL)
    ema = copy.deepcopy(model)
    torch.testing.assert_close(ema(x, **CALL), expected, rtol=0, atol=0)
    ours, theirs = (m.text_conditioner.text_models[0].model for m in (model, ema))
    assert ours is theirs
    assert not {id(p) for p in ours.parameters()} & {id(p) for p in model.parameters()}


@pytest.mark.parametrize('kind', ['film', 'attention'])
def test_encoder_weights_are_never_written(kind, tiny_t5):
    model, x = with_t5(kind), noise(3, 6)
    expected = model(x, **CALL)
    written = pickle.dumps(model)
    assert model.inner.weight.detach().numpy().tobytes() in written, (
        'weights are written in another form than this test looks for'
    )
    for weight in model.text_conditioner.text_models[0].model.parameters():
        assert weight.numpy().tobytes() not in written
    torch.testing.assert_close(pickle.loads(pickle.dumps(model))(x, **CALL), expected)
    torch.testing.assert_close(saved(model)(x, **CALL), expected)


@kinds
def test_checkpoints_go_round(kind):
    model, other, x = build(kind), build(kind), noise(3, 6)
    with torch.no_grad():
        for weight in model.parameters():
            weight.mul_(-0.5)
    buffer = io.BytesIO()
    torch.save(model.state_dict(), buffer)
    buffer.seek(0)
    other.load_state_dict(torch.load(buffer, weights_only=True), strict=True)
    torch.testing.assert_close(other(x, **CALL), model(x, **CALL), rtol=0, atol=0)


@kinds
@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16, torch.float64], ids=str)
def test_precisions_from_end_to_end(kind, dtype, tiny_t5):
    """The encoder follows: nobody has to convert an embedding."""
    model, x = with_t5(kind), noise(3, 6)
    expected = model(x, **CALL)
    model = {torch.float16: model.half, torch.bfloat16: model.bfloat16, torch.float64: model.double}[dtype]()
    for call in (CALL, {**CALL, 'cfg_batched': True}, {**CALL, 'negative_texts': ['grey'], 'rescale_phi': 0.5}):
        output = model(x.to(dtype), **call)
        assert output.dtype == dtype
        assert output.isfinite().all()
    tolerance = {torch.float16: 0.02, torch.bfloat16: 0.15, torch.float64: 1e-4}[dtype]
    torch.testing.assert_close(model(x.to(dtype), **CALL).float(), expected, rtol=tolerance, atol=tolerance)
    model.train()(x.to(dtype), texts=TEXTS).sum().backward()
    if kind != 'null':
        model.eval()
        prepared = model.prepare(TEXTS)
        torch.testing.assert_close(model(x.to(dtype), text_condition=prepared, cond_scale=3.0), model(x.to(dtype), **CALL))


@kinds
def test_autocast(kind, tiny_t5):
    model, x = with_t5(kind), noise(3, 6)
    expected = model(x, **CALL)
    with torch.autocast('cpu', torch.bfloat16):
        output = model(x, **CALL)
        loss = model.train()(x, texts=TEXTS).square().mean()
        encodings = [] if kind == 'null' else model.encode_texts(TEXTS)
    assert all(e.tokens.dtype == e.pooled.dtype == torch.float32 for e in encodings), 'autocast reached the encoder'
    torch.testing.assert_close(output.float(), expected, rtol=0.15, atol=0.15)
    loss.backward()
    assert all(p.grad.dtype == torch.float32 for p in model.parameters() if p.grad is not None)


@pytest.mark.parametrize('kind', ['film', 'attention', 'concat'])
def test_hiddens_of_autocast_keep_their_dtype(kind):
    model = build(kind)
    with torch.autocast('cpu', torch.bfloat16):
        (condition,) = model.text_conditioner(TEXTS)
        for dtype in (torch.bfloat16, torch.float32):
            assert condition(noise(3, 6, 2).to(dtype)).dtype == dtype
