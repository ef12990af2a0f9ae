"""The laws that every encoder obeys, on every encoder."""

import copy
import gc
import pickle
import warnings
import weakref
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
import transformers

from classifier_free_guidance_pytorch.errors import ConfigError
from classifier_free_guidance_pytorch.text import Encoder, TextEncoder, TextEncoding, build_encoder

TEXTS = ['a red ball', 'the tiny green circle chasing after a yellow triangle', '']
# name -> (maker of the hub, model_type, model_name, model_kwargs)
ENCODERS = {
    't5': ('t5', 't5', None, {}),
    'byt5': ('byt5', 't5', 'google/byt5-small', {}),
    'clip': ('clip', 'clip', None, {}),
    'bge': ('bge', 'bge', None, {}),
    'mini': ('mini', 'mini', 'tiny/mini', {}),
    'hf clip eos': ('hf_clip', 'hf', 'tiny/clip', {'pooling': 'eos', 'layer': -2}),
    'hf siglip last': ('siglip', 'hf', 'tiny/siglip', {'pooling': 'last', 'max_length': 40}),
    'hf decoder last': ('decoder', 'hf', 'tiny/decoder', {'pooling': 'last'}),
    'hf bart cls': ('bart', 'hf', 'tiny/bart', {'pooling': 'cls', 'layer': -3}),
}


@pytest.fixture(params=ENCODERS)
def build(request, hub):
    """Builds one of the encoders."""
    maker, model_type, name, kwargs = ENCODERS[request.param]
    folder = getattr(hub, maker)()
    name = folder if model_type == 'mini' else name
    return lambda **more: build_encoder(model_type, name, {**kwargs, **more})


def close(left, right, **tolerances):
    for name in ('tokens', 'mask', 'pooled'):
        torch.testing.assert_close(getattr(left, name), getattr(right, name), **tolerances)


def test_the_interface(build):
    encoder = build()
    assert isinstance(encoder, Encoder)
    encoding = encoder.encode(TEXTS)
    longest = int(encoding.mask.sum(dim=1).max())
    assert encoding.tokens.shape == (3, longest, encoder.dim_latent)
    assert encoding.pooled.shape == (3, encoder.dim_pooled)
    assert encoding.mask.dtype == torch.bool
    assert encoding.mask[:, 0].all()  # even the empty text has a token
    assert longest <= encoder.max_text_len


def test_rows_of_token_ids_can_be_encoded_in_any_batches(build):
    """Tokens made for all texts at once, encoded in other batches: the same features, with no padding that no row needs."""
    encoder = build()
    together = encoder.encode(TEXTS)
    ids, mask = encoder.tokenize(TEXTS)
    for rows in ([0], [2, 0]):
        regrouped = encoder.encode_ids(ids[rows], mask[rows])
        longest = int(together.mask[rows].sum(dim=1).max())
        assert regrouped.tokens.shape[1] == longest
        part = together[rows]
        expected = TextEncoding(part.tokens[:, :longest], part.mask[:, :longest], part.pooled)
        close(regrouped, expected, rtol=1e-4, atol=1e-5)


def test_padding_is_zero_and_everything_is_finite(build):
    encoding = build().encode(TEXTS)
    assert not encoding.mask.all()
    assert not encoding.tokens[~encoding.mask].any()
    assert encoding.tokens.isfinite().all()
    assert encoding.pooled.isfinite().all()


def test_a_text_does_not_know_its_batch(build):
    encoder = build()
    batch = encoder.encode(TEXTS)
    for row, text in enumerate(TEXTS):
        alone = encoder.encode([text])
        length = alone.tokens.shape[1]
        assert torch.equal(batch.mask[row, :length], alone.mask[0])
        assert not batch.mask[row, length:].any()
        torch.testing.assert_close(batch.tokens[row, :length], alone.tokens[0], rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(batch.pooled[row], alone.pooled[0], rtol=1e-5, atol=1e-5)


def test_different_texts_differ(build):
    pooled = build().encode(['a red ball', 'a green ball']).pooled
    assert (pooled[0] - pooled[1]).abs().max() > 1e-4


def test_any_sequence_of_strings(build):
    encoder = build()
    close(encoder.encode(tuple(TEXTS)), encoder.encode(np.array(TEXTS)))
    with pytest.raises(ConfigError, match='wrap it in a list'):
        encoder.encode('a red ball')


def test_results_are_ordinary_tensors_whatever_the_caller_does(build):
    encoder = build()
    expected = encoder.encode(TEXTS)
    with torch.inference_mode():
        inferred = build().encode(TEXTS)
    weight = torch.ones(encoder.dim_latent, requires_grad=True)
    (inferred.tokens * weight).sum().backward()  # an inference tensor cannot be saved for backward
    assert weight.grad.any()
    assert not expected.tokens.requires_grad
    with torch.autocast('cpu', dtype=torch.bfloat16):
        close(encoder.encode(TEXTS), expected)


def test_texts_are_read_inside_a_derivative(build):
    encoder = build(max_length=6)
    with pytest.warns(UserWarning, match='reads at most 6 tokens'):
        expected = encoder.encode(TEXTS)  # loads the weights, which cannot be done inside

    def answer(x):
        return x * encoder.encode(TEXTS).pooled

    x = torch.ones_like(expected.pooled)
    _, slope = torch.func.jvp(answer, (x,), (x,))
    torch.testing.assert_close(slope, expected.pooled)


def test_the_network_is_frozen_and_no_part_of_a_module(build):
    encoder = build()
    assert not isinstance(encoder, torch.nn.Module)
    assert not encoder.model.training
    assert not any(parameter.requires_grad for parameter in encoder.model.parameters())


def test_it_follows_the_callers_dtype(build):
    encoder = build()
    single = encoder.encode(TEXTS)
    if type(encoder.model).__name__ == 'CLIPTextModel' and transformers.__version__.startswith('4.'):
        pytest.skip('transformers 4 fills the causal mask of a float64 CLIP in float32, which overflows')
    double = encoder.encode(TEXTS, dtype=torch.float64)
    assert double.tokens.dtype == double.pooled.dtype == torch.float64
    assert {parameter.dtype for parameter in encoder.model.parameters()} == {torch.float64}
    close(double.to(dtype=torch.float32), single, rtol=1e-4, atol=1e-4)
    half = encoder.encode(TEXTS, dtype=torch.bfloat16)
    assert half.tokens.dtype == torch.bfloat16
    close(half.to(dtype=torch.float32), single, rtol=0.15, atol=0.15)
    # there and back is exact: the weights are read again, not rounded
    close(encoder.encode(TEXTS, dtype=torch.float32), single, rtol=0, atol=0)


def test_a_pinned_dtype_stays_and_the_result_is_the_callers(build):
    encoder = build(dtype=torch.bfloat16)
    encoding = encoder.encode(TEXTS, dtype=torch.float32)
    assert encoding.tokens.dtype == torch.float32
    assert torch.bfloat16 in {parameter.dtype for parameter in encoder.model.parameters()}
    assert torch.equal(encoding.tokens, encoding.tokens.bfloat16().float())


def test_copies_and_twins_share_the_network(build):
    encoder = build()
    model = encoder.model
    assert copy.deepcopy(encoder).model is model
    assert copy.copy(encoder).model is model
    assert build().model is model


def test_threads_may_share_an_encoder(build):
    encoder = build()
    expected = [encoder.encode([text]) for text in TEXTS]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda text: encoder.encode([text]), TEXTS * 6))
    for left, right in zip(found, expected * 6, strict=True):
        close(left, right)


def test_the_network_is_freed_with_its_last_user(build):
    encoder = build()
    model = weakref.ref(encoder.model)
    twin = copy.deepcopy(encoder)
    del encoder
    gc.collect()
    assert model() is not None
    del twin
    gc.collect()
    assert model() is None


def test_pickles_hold_no_weights_and_load_them_lazily(build):
    encoder = build()
    expected = encoder.encode(TEXTS)
    weight = next(parameter for parameter in encoder.model.parameters() if parameter.std() > 0)
    written = pickle.dumps(encoder)
    assert weight.detach().numpy().tobytes()[:64] in pickle.dumps(weight)
    assert weight.detach().numpy().tobytes()[:64] not in written
    restored = pickle.loads(written)
    assert restored.network is None
    assert isinstance(restored, TextEncoder)
    assert (restored.name, restored.dim_latent, restored.dim_pooled) == (encoder.name, encoder.dim_latent, encoder.dim_pooled)
    close(restored.encode(TEXTS), expected, rtol=0, atol=0)


def test_the_constructor_loads_no_weights(build, monkeypatch):
    loads = []
    encoder = build()
    load = type(encoder)._load
    monkeypatch.setattr(type(encoder), '_load', lambda self, dtype: loads.append(dtype) or load(self, dtype))
    copy.deepcopy(build())
    assert not loads
    encoder.encode(TEXTS)
    encoder.encode(TEXTS)
    assert loads == [torch.float32]


def test_a_text_beyond_the_limit_warns_once_and_names_it(build):
    encoder = build(max_length=6)
    assert encoder.max_text_len == 6
    with pytest.warns(UserWarning, match='reads at most 6 tokens of a text and cuts the rest off') as caught:
        encoding = encoder.encode([TEXTS[1], TEXTS[1]])
    assert encoding.tokens.shape[1] == 6
    assert [warning.filename for warning in caught] == [__file__]
    with warnings.catch_warnings():
        warnings.simplefilter('error', UserWarning)
        encoder.encode(TEXTS)


def test_a_text_that_just_fits_does_not_warn(build):
    length = build().encode(TEXTS[:1]).tokens.shape[1]
    with warnings.catch_warnings():
        warnings.simplefilter('error', UserWarning)
        assert build(max_length=length).encode(TEXTS[:1]).tokens.shape[1] == length


def test_embed_text_is_the_method_of_0_7_1(build):
    encoder = build(text_embed_pad_value=-7.0)
    encoding = encoder.encode(TEXTS)
    torch.testing.assert_close(encoder.embed_text(TEXTS), encoding.pooled)
    tokens = encoder.embed_text(TEXTS, return_text_encodings=True)
    assert (tokens[~encoding.mask] == -7).all()
    torch.testing.assert_close(tokens[encoding.mask], encoding.tokens[encoding.mask])


def test_arguments_that_cannot_work(build):
    with pytest.raises(ConfigError, match='max_length counts tokens and is at least 1, but got 0'):
        build(max_length=0)
    with pytest.raises(ConfigError, match='dtype is the floating precision of the encoder'):
        build(dtype=torch.int64)
    with pytest.raises(ConfigError, match='dtype'):
        build(dtype='bfloat16')
