"""T5, loaded from a cache as users load it."""

import copy
import gc
import pickle
import warnings

import pytest
import torch

from classifier_free_guidance_pytorch.errors import ConfigError, MissingDependencyError
from classifier_free_guidance_pytorch.text import build_encoder
from classifier_free_guidance_pytorch.text.t5 import T5Adapter

pytestmark = pytest.mark.usefixtures('tiny_t5')

SHORT, LONG = 'a red ball', 'the tiny green circle chasing after a yellow triangle above a round ball'


def reference(folder, text):
    """transformers itself, one text, no padding."""
    from transformers import AutoTokenizer, T5EncoderModel

    ids = AutoTokenizer.from_pretrained(folder)(text, return_tensors='pt')['input_ids']
    with torch.no_grad():
        return T5EncoderModel.from_pretrained(folder)(input_ids=ids).last_hidden_state[0]


def test_tokens_and_pooled_are_transformers_own(tiny_t5):
    encoding = T5Adapter().encode([SHORT, LONG])
    for row, text in enumerate((SHORT, LONG)):
        expected = reference(tiny_t5, text)
        torch.testing.assert_close(encoding.tokens[row][encoding.mask[row]], expected)
        torch.testing.assert_close(encoding.pooled[row], expected.mean(dim=0))
