"""Strings to `TextEncoding`: the encoders, and what they share."""

from classifier_free_guidance_pytorch.text.base import Encoder, EncodingMemo, TextEncoder, encode_with
from classifier_free_guidance_pytorch.text.encoding import TextEncoding
from classifier_free_guidance_pytorch.text.identity import EncoderIdentity, identity_of
from classifier_free_guidance_pytorch.text.registry import build_encoder, build_encoders
from classifier_free_guidance_pytorch.text.texts import as_texts, shortened

__all__ = [
    'Encoder',
    'EncoderIdentity',
    'EncodingMemo',
    'TextEncoder',
    'TextEncoding',
    'as_texts',
    'build_encoder',
    'build_encoders',
    'encode_with',
    'identity_of',
    'shortened',
]
