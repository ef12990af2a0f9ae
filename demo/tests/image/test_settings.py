"""Settings refuse what cannot work, in a sentence, and are what JSON gives back."""

from __future__ import annotations

import json

import pytest
import torch

from cfg_demo.image import settings
from cfg_demo.image.settings import ModelSettings, TrainSettings, autocast, multiplies_bfloat16
from classifier_free_guidance_pytorch.errors import ConfigError
from demo.tests.image.tiny import settings_dict


def test_settings_come_back_from_json():
    for one in (ModelSettings(model_types=['t5', 'clip'], model_names=['a/b', None], image_size=64), ModelSettings()):
        assert ModelSettings(**json.loads(json.dumps(settings_dict(one)))) == one


def test_one_encoder_needs_no_list():
    assert ModelSettings(model_types='t5', model_names='a/b') == ModelSettings(model_types=('t5',), model_names=('a/b',))


@pytest.mark.parametrize(
    ('given', 'sentence'),
    [
        ({'network': 'gan'}, "network is one of unet, transformer, but got 'gan'"),
        ({'network_size': 'huge'}, "network_size is one of tiny, mini, small, base, but got 'huge'"),
        ({'condition': 'raw'}, "condition is one of film, attention, concat, but got 'raw'"),
        ({'null': 'empty'}, "null is one of learned, zeros, but got 'empty'"),
        ({'prediction': 'x0'}, "prediction is one of flow, v, epsilon, but got 'x0'"),
        ({'zoom': 2.0}, 'zoom is between 1 and 1.5, at which the largest body still fits its side, but got 2.0'),
        ({'image_size': 8}, 'image_size is a multiple of 8 from 16 to 1024, but got 8'),
        ({'image_size': 36}, 'image_size is a multiple of 8 from 16 to 1024, but got 36'),
        (
            {'network': 'transformer', 'image_size': 56},
            'a transformer sees 16 x 16 patches, so image_size is a multiple of 16, but got 56',
        ),
    ],
)
def test_a_model_that_cannot_be_is_refused(given, sentence):
    with pytest.raises(ConfigError) as refused:
        ModelSettings(**given)
    assert str(refused.value) == sentence


@pytest.mark.parametrize(
    ('given', 'sentence'),
    [
        ({'steps': 0}, 'steps counts from 1, but got 0'),
        ({'batch_size': -1}, 'batch_size counts from 1, but got -1'),
        ({'warm_up': -1}, 'warm_up is a number of steps, 0 or more, but got -1'),
        ({'cond_drop_prob': 1.5}, 'cond_drop_prob is between 0 and 1, but got 1.5'),
        ({'cond_drop_prob': float('nan')}, 'cond_drop_prob is between 0 and 1, but got nan'),
        ({'ema_decay': -0.1}, 'ema_decay is between 0 and 1, but got -0.1'),
        ({'clip': 0.0}, 'clip is a finite number above 0, but got 0.0'),
        ({'learning_rate': float('nan')}, 'learning_rate is a finite number above 0, but got nan'),
        ({'learning_rate': float('inf')}, 'learning_rate is a finite number above 0, but got inf'),
        ({'time_mean': float('nan')}, 'time_mean is a finite number, but got nan'),
        ({'time_spread': 0.0}, 'time_spread is a finite number above 0, but got 0.0'),
        ({'dropout': 'word'}, "dropout is one of sample, batch, but got 'word'"),
        ({'optimizer': 'sgd'}, "optimizer is one of muon, adamw, but got 'sgd'"),
        ({'precision': 'int8'}, "precision is one of auto, float32, bfloat16, float16, but got 'int8'"),
    ],
)
def test_a_training_that_cannot_be_is_refused(given, sentence):
    with pytest.raises(ConfigError) as refused:
        TrainSettings(**given)
    assert str(refused.value) == sentence


def test_a_device_that_is_not_there_is_refused():
    with pytest.raises(ConfigError, match=r"^device 'toaster' cannot be used here \(.+\): pass cpu, or a device"):
        TrainSettings(device='toaster')


@pytest.mark.parametrize(
    ('precision', 'has_it', 'expected'),
    [
        ('auto', False, torch.float32),
        ('auto', True, torch.bfloat16),
        ('float32', True, torch.float32),
        ('bfloat16', False, torch.bfloat16),
        ('float16', False, torch.float16),
    ],
)
def test_the_precision_of_a_product(precision, has_it, expected, monkeypatch):
    monkeypatch.setattr(settings, 'multiplies_bfloat16', lambda device_type: has_it)
    for context in (autocast(torch.device('cpu'), precision), TrainSettings(precision=precision).autocast()):
        with context:
            assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == expected


@pytest.mark.parametrize(
    ('has', 'multiplies'),
    [({}, False), ({'amx_bf16': True}, True), ({'avx512_bf16': True}, True), ({'avx512_bf16': False}, False)],
)
def test_processors_that_multiply_bfloat16_are_known_by_what_they_say(has, multiplies, monkeypatch):
    monkeypatch.setattr(torch.cpu, 'get_capabilities', lambda: has, raising=False)
    assert multiplies_bfloat16('cpu') is multiplies
    assert not multiplies_bfloat16('meta')
