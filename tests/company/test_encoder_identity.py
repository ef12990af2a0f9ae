"""Saved things know which encoder made them: encodings in memory and in files, and checkpoints."""

import io
from dataclasses import replace

import pytest
import torch

from classifier_free_guidance_pytorch import TextEncoding
from classifier_free_guidance_pytorch.errors import ConfigError
from classifier_free_guidance_pytorch.text import EncoderIdentity
from tests.company.models import GUIDED, KINDS, TEXTS, build, inputs
from tests.tiny_models import TinyEncoder

kinds = pytest.mark.parametrize('kind', KINDS)


class OtherEncoder(TinyEncoder):
    """Of the same widths, so that no shape tells the two apart."""


def named(name, revision=None, cls=TinyEncoder):
    encoder = cls()
    encoder.name, encoder.revision = name, revision
    return encoder


def saved(model, weights_only=True):
    buffer = io.BytesIO()
    torch.save(model.state_dict(), buffer)
    buffer.seek(0)
    return torch.load(buffer, weights_only=weights_only)


@kinds
def test_encodings_of_another_encoder_are_refused_whatever_their_width(kind, tmp_path):
    model, other = build(kind), build(kind, encoder=[OtherEncoder()])
    (encoding,) = model.encode_texts(TEXTS)
    assert encoding.origin == EncoderIdentity('TinyEncoder')
    encoding.save(tmp_path / 'encoding.safetensors')
    read, joined = TextEncoding.load(tmp_path / 'encoding.safetensors'), TextEncoding.collate([encoding[0], encoding[1:]])
    for one in (encoding, encoding[:1], read, joined, encoding.to(dtype=torch.float32), encoding.padded(20)):
        assert one.origin == encoding.origin
        model(inputs()[: len(one)], text_embeds=one)
        with pytest.raises(ConfigError, match='text_embeds were made by TinyEncoder, but this conditioner was built for OtherE'):
            other(inputs()[: len(one)], text_embeds=one)
    other(inputs(), text_embeds=replace(encoding, origin=None))  # the way out, which the message names


def test_our_encoders_name_themselves():
    model = build('film', encoder='mini')
    (encoding,) = model.encode_texts(TEXTS)
    adapter = model.text_conditioner.text_models[0]
    assert encoding.origin == adapter.encode(TEXTS).origin == adapter.identity


def test_files_without_an_origin_are_read_as_before(tmp_path):
    from safetensors.torch import save_file

    (encoding,) = build('film').encode_texts(TEXTS)
    save_file({'tokens': encoding.tokens, 'mask': encoding.mask, 'pooled': encoding.pooled}, tmp_path / 'old')
    assert TextEncoding.load(tmp_path / 'old').origin is None


@pytest.mark.parametrize('settings', [(), (('layer', -2), ('pooling', 'mean')), (('layers', (-2, -9)),)])
def test_an_identity_goes_through_a_file_unchanged(settings, tmp_path):
    origin = EncoderIdentity('HFTextAdapter', 'org/model', 'a' * 40, settings)
    (encoding,) = build('film').encode_texts(TEXTS)
    replace(encoding, origin=origin).save(tmp_path / 'one')
    assert TextEncoding.load(tmp_path / 'one').origin == origin
    assert hash(TextEncoding.load(tmp_path / 'one').origin) == hash(origin)


@kinds
@pytest.mark.parametrize('weights_only', [True, False])
def test_a_checkpoint_of_another_encoder_is_refused(kind, weights_only):
    model, other = build(kind), build(kind, encoder=[OtherEncoder()])
    checkpoint = saved(model, weights_only)
    before = {name: weight.clone() for name, weight in other.text_conditioner.state_dict().items()}
    message = 'this model was trained with TinyEncoder, but its conditioner was built with OtherEncoder: build it with the former'
    with pytest.raises(ConfigError, match=message):
        other.load_state_dict(checkpoint)
    after = other.text_conditioner.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)
    other.load_state_dict(dict(checkpoint))  # the way out, which the message names
    torch.testing.assert_close(other(inputs(), **GUIDED), model(inputs(), **GUIDED), rtol=0, atol=0)


@kinds
def test_a_checkpoint_that_says_nothing_loads_as_before(kind):
    """Those of 0.7.1, of safetensors, and dictionaries that somebody rebuilt."""
    model, other = build(kind), build(kind, encoder=[OtherEncoder()])
    with torch.no_grad():
        for weight in other.parameters():
            weight.zero_()
    other.load_state_dict(dict(model.state_dict()), strict=True)
    torch.testing.assert_close(other(inputs(), **GUIDED), model(inputs(), **GUIDED), rtol=0, atol=0)
    destination = model.state_dict(destination={})  # which has no place for metadata
    assert destination.keys() == model.state_dict().keys()


COMMIT = 'a' * 40


@pytest.mark.parametrize(
    ('one', 'other', 'same'),
    [
        (('org/a', COMMIT), ('org/a', 'b' * 40), True),  # the commit may have changed a description
        (('org/a', None), ('org/a', COMMIT), True),
        (('org/a', COMMIT), ('org/b', COMMIT), False),
        (('/models/a', None), ('/elsewhere/a', None), True),  # a path says where, not which
        (('/models/a', None), ('org/a', COMMIT), True),
        (('mini', 'aaaa'), ('mini', 'bbbb'), False),  # digests of weights
    ],
)
def test_only_what_can_be_known_is_refused(one, other, same):
    model, second = (build('film', encoder=[named(*stated)]) for stated in (one, other))
    if same:
        second.load_state_dict(saved(model))
        return
    with pytest.raises(ConfigError, match='this model was trained with TinyEncoder'):
        second.load_state_dict(saved(model))


def test_settings_of_a_later_release_are_no_difference():
    older = EncoderIdentity('HFTextAdapter', 'org/a', None, (('layer', -1),))
    newer = EncoderIdentity('HFTextAdapter', 'org/a', None, (('layer', -1), ('template', '')))
    assert older.may_be(newer)
    assert not replace(older, settings=(('layer', -2),)).may_be(newer)


def test_a_number_of_encoders_is_part_of_it():
    two = build('attention', encoder=[TinyEncoder(), OtherEncoder()])
    with pytest.raises(ConfigError, match='trained with TinyEncoder, OtherEncoder, but its conditioner was built with Tiny'):
        build('attention').load_state_dict(two.state_dict())
