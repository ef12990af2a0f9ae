"""Strings to `TextEncoding`: the frozen encoders, and what they share."""

from classifier_free_guidance_pytorch.text.base import Encoder, TextEncoder, encode_with
from classifier_free_guidance_pytorch.text.encoding import TextEncoding
from classifier_free_guidance_pytorch.text.identity import EncoderIdentity, identity_of
from classifier_free_guidance_pytorch.text.precomputed import Precomputed
from classifier_free_guidance_pytorch.text.recent import RecentCache
from classifier_free_guidance_pytorch.text.registry import build_encoder, build_encoders
from classifier_free_guidance_pytorch.text.texts import Batch, as_texts, shorten

__all__ = [
    'Batch',
    'Encoder',
    'EncoderIdentity',
    'Precomputed',
    'RecentCache',
    'TextEncoder',
    'TextEncoding',
    'as_texts',
    'build_encoder',
    'build_encoders',
    'encode_with',
    'identity_of',
    'shorten',
]
