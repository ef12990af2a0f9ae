"""From names to encoders, and every way to get that wrong."""

import re

import pytest

from classifier_free_guidance_pytorch.errors import ConfigError
from classifier_free_guidance_pytorch.text import TextEncoding, build_encoder, build_encoders, encode_with
from classifier_free_guidance_pytorch.text.t5 import T5Adapter
from tests.tiny_models import TinyEncoder

pytestmark = pytest.mark.usefixtures('tiny_t5', 'tiny_clip')
TYPES = "pass one of 't5', 'clip', 'bge', 'hf', 'mini', 'english', or an object with encode, dim_latent, dim_pooled, max_text_len"


def test_one_type_several_types_and_objects():
    mine = TinyEncoder()
    assert [type(encoder).__name__ for encoder in build_encoders()] == ['T5Adapter']
    assert [type(encoder).__name__ for encoder in build_encoders('clip')] == ['OpenClipAdapter']
    encoders = build_encoders(('t5', mine, 'clip', T5Adapter))
    assert [type(encoder).__name__ for encoder in encoders] == ['T5Adapter', 'TinyEncoder', 'OpenClipAdapter', 'T5Adapter']
    assert encoders[1] is mine
    assert build_encoder(mine) is mine


def test_names_and_arguments_reach_the_encoders(tiny_t5, tiny_bge):
    first, second = build_encoders(['t5', 'hf'], [None, str(tiny_bge)], [{'max_length': 9}, {'pooling': 'cls', 'layer': -2}])
    assert (first.name, first.max_text_len) == ('google/t5-v1_1-base', 9)
    assert (second.name, second.pooling, second.layer) == (str(tiny_bge), 'cls', -2)
    (third,) = build_encoders('t5', tiny_t5, {'max_length': 8})
    assert (third.name, third.max_text_len) == (str(tiny_t5), 8)


@pytest.mark.parametrize(
    ('arguments', 'sentence'),
    [
        (('t6',), f"model_types has 't6', which is unknown: {TYPES}"),
        (([],), f'model_types is empty, but a conditioner needs at least one encoder: {TYPES}'),
        ((3,), f'model_types has a int, which is not an encoder: it lacks encode, dim_latent, dim_pooled, max_text_len; {TYPES}'),
        ((TinyEncoder,), 'model_types has the class TinyEncoder: pass an instance of it'),
        ((['t5', 'clip'], ['a']), "model_names needs one entry per model type, so 2, but got 1: ['a']"),
        ((['t5', 'clip'], 'a'), "model_names needs one entry per model type, so 2, but got 1: ['a']"),
        ((['t5', 'clip'], None, {'max_length': 3}), 'model_kwargs needs one entry per model type, so 2, but got 1'),
        (('t5', 3), 'model_names is one entry or a list with one per model type, but got 3'),
        (('t5', [3]), 'model_names has 3, but every entry is a str or PathLike or None'),
        (('t5', None, ['max_length']), "model_kwargs has 'max_length', but every entry is a Mapping or None"),
        (
            ('t5', None, {'poling': 'cls', 'max_length': 3}),
            "model_kwargs of 't5' has 'poling', but T5Adapter knows device, dtype, max_length, text_embed_pad_value",
        ),
        (('clip', None, {'tag': 'openai'}), 'but OpenClipAdapter knows pretrained, quick_gelu, device, dtype, max_length'),
        (('t5', None, {'name': 'a'}), 'the name goes into model_names'),
    ],
)
def test_what_cannot_be_built(arguments, sentence):
    with pytest.raises(ConfigError, match=re.escape(sentence)):
        build_encoders(*arguments)


def test_an_object_that_lacks_something_is_told_what():
    mine = TinyEncoder()
    del mine.max_text_len
    with pytest.raises(ConfigError, match='model_types has a TinyEncoder, which is not an encoder: it lacks max_text_len;'):
        build_encoder(mine)


def test_an_object_takes_no_name_or_arguments():
    with pytest.raises(ConfigError, match='is built already, so its entry of model_names and model_kwargs must be None'):
        build_encoder(TinyEncoder(), 'name')


def test_encoding_with_an_object():
    import torch

    mine = TinyEncoder()
    encoding = encode_with(mine, ('a dog', 'a'), device='meta', dtype=torch.float64)
    assert (encoding.tokens.dtype, encoding.tokens.device.type) == (torch.float64, 'meta')
    assert mine.calls == 1
    with pytest.raises(ConfigError, match='wrap it in a list'):
        encode_with(mine, 'a dog')


def test_an_object_that_breaks_its_word():
    mine = TinyEncoder(dim_pooled=9)
    mine.encode = TinyEncoder().encode
    sentence = 'pooled features of width 8, but it was given 1 texts and states dim_latent=12, dim_pooled=9'
    with pytest.raises(ConfigError, match=sentence):
        encode_with(mine, ['a dog'])
    mine.encode = lambda texts: 'nothing'
    with pytest.raises(ConfigError, match=r'TinyEncoder.encode must return a TextEncoding, but returned a str'):
        encode_with(mine, ['a dog'])
    assert isinstance(encode_with(TinyEncoder(), ['a dog']), TextEncoding)
