"""Conditioners without an encoder."""

import copy
import pickle
import re

import pytest
import torch

from classifier_free_guidance_pytorch import Precomputed, TextEncoding
from classifier_free_guidance_pytorch.corpus import EmbeddingStore
from classifier_free_guidance_pytorch.errors import ConfigError, UsageError
from classifier_free_guidance_pytorch.text import Encoder, EncoderIdentity, identity_of
from tests.conditioners.making import KINDS, TEXTS, make, make_raw, noise
from tests.corpus.stores import tiny_encoder, write_store
from tests.tiny_models import TinyEncoder

MADE_BY = EncoderIdentity('T5Adapter', 'google/t5-v1_1-base', 'a1b2')


def stand_in(origin=None):
    return Precomputed(dim_latent=12, dim_pooled=8, origin=origin)


def conditioner_of(kind, encoder):
    return make_raw([encoder]) if kind == 'raw' else make(kind, encoders=[encoder])


def test_it_has_the_interface_of_an_encoder_and_knows_who_made_its_features():
    assert isinstance(stand_in(), Encoder)
    assert identity_of(stand_in(MADE_BY)) == MADE_BY
    assert identity_of(stand_in()).matches(MADE_BY)
    assert MADE_BY.matches(identity_of(stand_in()))


@pytest.mark.parametrize('kind', [*KINDS, 'raw'])
def test_it_gives_what_the_encoder_gives(kind):
    encoder = TinyEncoder()
    there, here = conditioner_of(kind, encoder), conditioner_of(kind, stand_in(identity_of(encoder)))
    here.load_state_dict(there.state_dict())
    expected, found = there(TEXTS), here(text_embeds=encoder.encode(TEXTS))
    if kind == 'raw':
        torch.testing.assert_close(found[1].embed, expected[1].embed)
    else:
        torch.testing.assert_close(found[0](noise(3, 6)), expected[0](noise(3, 6)))


def test_it_refuses_the_features_of_a_different_encoder_and_only_those():
    tokens, mask, pooled = noise(2, 4, 12), torch.ones(2, 4, dtype=torch.bool), noise(2, 8)
    other = TextEncoding(tokens, mask, pooled, EncoderIdentity('T5Adapter', 'google/flan-t5-base'))
    message = "made by T5Adapter 'google/flan-t5-base', but this conditioner was built for T5Adapter 'google/t5-v1_1-base'"
    with pytest.raises(ConfigError, match=re.escape(message)):
        make('film', encoders=[stand_in(MADE_BY)])(text_embeds=other)
    make('film', encoders=[stand_in()])(text_embeds=other)
    make('film', encoders=[stand_in(MADE_BY)])(text_embeds=TextEncoding(tokens, mask, pooled))


@pytest.mark.parametrize('kind', [*KINDS, 'raw'])
def test_texts_are_refused(kind):
    conditioner = conditioner_of(kind, stand_in(MADE_BY))
    message = "reads features that were made by T5Adapter 'google/t5-v1_1-base' (revision 'a1b2') beforehand and has no encoder"
    for call in (conditioner, conditioner.encode_texts, conditioner.prepare):
        with pytest.raises(UsageError, match=re.escape(message)):
            call(TEXTS)


@pytest.mark.parametrize('arguments', [{}, {'dim_latent': -1, 'dim_pooled': 4}, {'dim_pooled': 4, 'max_text_len': -1}])
def test_widths_that_cannot_be(arguments):
    with pytest.raises(ConfigError, match='Precomputed needs the width of what is given to it, dim_latent= for tokens'):
        Precomputed(**arguments)


def test_copies_and_pickles():
    for twin in (copy.deepcopy(stand_in(MADE_BY)), pickle.loads(pickle.dumps(stand_in(MADE_BY)))):
        assert (twin.dim_latent, twin.dim_pooled, twin.identity) == (12, 8, MADE_BY)
    assert repr(stand_in(MADE_BY)) == (
        "Precomputed(dim_latent=12, dim_pooled=8, origin=T5Adapter 'google/t5-v1_1-base' (revision 'a1b2'))"
    )


@pytest.mark.parametrize('kind', [*KINDS, 'raw'])
def test_a_store_says_what_stands_for_its_encoders(tmp_path, kind):
    """Also where only a part of it is read: a checkpoint of a conditioner for the encoder fits."""
    encoder, tokens = tiny_encoder(), kind in ('attention', 'raw')
    write_store(tmp_path, TEXTS, encoders={'one': encoder})
    there = conditioner_of(kind, encoder)
    for store in (EmbeddingStore(tmp_path), EmbeddingStore(tmp_path, tokens=tokens, pooled=not tokens)):
        here = conditioner_of(kind, *store.encoders)
        here.load_state_dict(there.state_dict())
        expected, found = there(TEXTS), here(text_embeds=store[:3])
        if kind == 'raw':
            torch.testing.assert_close(found[1].embed, expected[1].embed)
        else:
            torch.testing.assert_close(found[0](noise(3, 6)), expected[0](noise(3, 6)))
    assert repr(store.encoders) == "(Precomputed(dim_latent=12, dim_pooled=8, origin=TinyEncoder 'tiny/one'),)"
    assert EmbeddingStore(tmp_path, check_encoders=False).encoders[0].origin is None
