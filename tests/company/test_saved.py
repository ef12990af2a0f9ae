"""Frameworks that save how a model was built: it is built again without its arguments, and is the same model."""

import copy
import inspect
import json
from dataclasses import dataclass

import pytest
import torch
from torch import nn

from classifier_free_guidance_pytorch import Precomputed, classifier_free_guidance_class_decorator
from classifier_free_guidance_pytorch.decorator.typed import TextConditioned
from classifier_free_guidance_pytorch.errors import ConfigError
from classifier_free_guidance_pytorch.text import EncoderIdentity
from tests.company.models import inputs
from tests.company.saving import SETTINGS, Body, same, settings
from tests.conditioners.making import randomised
from tests.tiny_models import TinyEncoder


def hub():
    """The mixin is a base of the decorated class."""
    mixin = pytest.importorskip('huggingface_hub').PyTorchModelHubMixin

    @classifier_free_guidance_class_decorator
    class Hub(Body, nn.Module, mixin, library_name='ours'):
        def __init__(self, dim=5, depth=2):
            super().__init__()
            self.out = nn.Linear(6, dim)
            self.depth = depth

    return Hub


def hub_behind():
    """The mixin is added to a class that is decorated."""
    mixin = pytest.importorskip('huggingface_hub').PyTorchModelHubMixin

    @classifier_free_guidance_class_decorator
    class Net(Body, nn.Module):
        def __init__(self, dim=5, depth=2):
            super().__init__()
            self.out = nn.Linear(6, dim)
            self.depth = depth

    class HubBehind(Net, mixin):
        pass

    return HubBehind


def hub_below():
    """The mixin is added to a class that is decorated, with a constructor of its own."""
    mixin = pytest.importorskip('huggingface_hub').PyTorchModelHubMixin

    @classifier_free_guidance_class_decorator
    class Net(Body, nn.Module):
        def __init__(self, dim=5):
            super().__init__()
            self.out = nn.Linear(6, dim)

    class HubBelow(Net, mixin):
        def __init__(self, dim=5, depth=2, **more):
            super().__init__(dim=dim, **more)
            self.depth = depth

    return HubBelow


def hub_typed():
    """The decorator is a base class."""
    mixin = pytest.importorskip('huggingface_hub').PyTorchModelHubMixin

    class HubTyped(Body, TextConditioned, mixin):
        def __init__(self, dim=5, depth=2, **text_condition):
            super().__init__(**text_condition)
            self.out = nn.Linear(6, dim)
            self.depth = depth

    return HubTyped


def diffusers():
    library = pytest.importorskip('diffusers')
    register = pytest.importorskip('diffusers.configuration_utils').register_to_config

    @classifier_free_guidance_class_decorator
    class Diffusers(Body, library.ModelMixin, library.ConfigMixin):
        @register
        def __init__(self, dim=5, depth=2):
            super().__init__()
            self.out = nn.Linear(6, dim)
            self.depth = depth

    return Diffusers


def diffusers_below():
    library = pytest.importorskip('diffusers')
    register = pytest.importorskip('diffusers.configuration_utils').register_to_config

    @classifier_free_guidance_class_decorator
    class Net(Body, nn.Module):
        def __init__(self, dim=5):
            super().__init__()
            self.out = nn.Linear(6, dim)

    class DiffusersBelow(Net, library.ModelMixin, library.ConfigMixin):
        @register
        def __init__(self, dim=5, depth=2):
            super().__init__(dim)
            self.depth = depth

    return DiffusersBelow


CLASSES = [hub, hub_behind, hub_below, hub_typed, diffusers, diffusers_below]
classes = pytest.mark.parametrize('make', CLASSES)


@classes
@pytest.mark.parametrize('given', SETTINGS, ids=lambda given: given['kind'])
def test_built_again_without_its_arguments(make, given, tmp_path):
    model = randomised(make()(dim=4, depth=3, **settings(**given))).eval()
    model.save_pretrained(tmp_path)
    same(type(model).from_pretrained(tmp_path), model)


@classes
def test_a_model_that_was_built_again_is_saved_again(make, tmp_path):
    model = randomised(make()(4, depth=3, **settings())).eval()
    model.save_pretrained(tmp_path / 'one')
    type(model).from_pretrained(tmp_path / 'one').save_pretrained(tmp_path / 'two')
    same(type(model).from_pretrained(tmp_path / 'two'), model)
    one, two = (json.loads((tmp_path / name / 'config.json').read_text()) for name in ('one', 'two'))
    assert {**one, '_name_or_path': ''} == {**two, '_name_or_path': ''}


@classes
def test_an_argument_can_be_given_another_value(make, tmp_path):
    model = randomised(make()(dim=4, depth=3, **settings(cond_drop_prob=0.25))).eval()
    model.save_pretrained(tmp_path)
    again = type(model).from_pretrained(tmp_path, text_condition_cond_drop_prob=0.5)
    assert again.text_conditioner.cond_drop_prob == 0.5


@classes
def test_an_object_is_asked_for_again_by_name(make, tmp_path):
    encoder = TinyEncoder()
    model = randomised(make()(dim=4, depth=3, **settings(encoder=[encoder]))).eval()
    model.save_pretrained(tmp_path)
    message = r'this model was saved with a TinyEncoder object in text_condition_model_types, which no file can hold: pass it'
    with pytest.raises(ConfigError, match=message):
        type(model).from_pretrained(tmp_path)
    same(type(model).from_pretrained(tmp_path, text_condition_model_types=[encoder]), model)


class OtherEncoder(TinyEncoder):
    """Of the same widths."""


@classes
def test_a_different_encoder_is_refused_by_name(make, tmp_path):
    model = make()(dim=4, depth=3, **settings(encoder=[TinyEncoder()]))
    model.save_pretrained(tmp_path)
    other = {'text_condition_model_types': [OtherEncoder()]}
    with pytest.raises(ConfigError, match='this model was trained with TinyEncoder, but its conditioner was built with OtherEnc'):
        type(model).from_pretrained(tmp_path, **other)
    type(model).from_pretrained(tmp_path, **other, text_condition_origins=None)  # the way out, which the message names


@classes
@pytest.mark.parametrize('origin', [None, EncoderIdentity('HFTextAdapter', 'org/model', None, (('layers', (-2, -9)),))])
def test_precomputed_features_are_built_again(make, origin, tmp_path):
    encoder = Precomputed(dim_latent=7, dim_pooled=5, origin=origin)
    model = randomised(make()(dim=4, depth=3, **settings(encoder=encoder))).eval()
    model.save_pretrained(tmp_path)
    again = type(model).from_pretrained(tmp_path).eval()
    assert vars(again.text_conditioner.text_models[0]) == vars(encoder)
    embeds = torch.randn(3, 5)
    x = inputs()
    torch.testing.assert_close(again(x, text_embeds=embeds), model(x, text_embeds=embeds), rtol=0, atol=0)


@classes
def test_what_else_is_read_from_a_constructor(make):
    cls = make()
    parameters = inspect.signature(cls).parameters
    assert [name for name in parameters if not name.startswith('text_condition_')][:2] == ['dim', 'depth']
    assert {'text_condition_type', 'text_condition_hidden_dims', 'text_condition_model_kwargs'} <= parameters.keys()
    model = randomised(cls(dim=4, depth=3, **settings())).eval()
    same(copy.deepcopy(model), model)


@dataclass
class Shape:
    dim: int = 5
    depth: int = 2


def test_a_dataclass_of_settings(tmp_path):
    mixin = pytest.importorskip('huggingface_hub').PyTorchModelHubMixin

    @classifier_free_guidance_class_decorator
    class HubSettings(Body, nn.Module, mixin):
        def __init__(self, config: Shape):
            super().__init__()
            self.out = nn.Linear(6, config.dim)
            self.depth = config.depth

    model = randomised(HubSettings(Shape(4, 3), **settings(kind='attention'))).eval()
    model.save_pretrained(tmp_path)
    same(HubSettings.from_pretrained(tmp_path), model)


def test_other_names_and_keywords_of_any_kind(tmp_path):
    mixin = pytest.importorskip('huggingface_hub').PyTorchModelHubMixin

    @classifier_free_guidance_class_decorator(text_conditioner_name='reader')
    class Named(Body, nn.Module, mixin):
        def __init__(self, dim, **more):
            super().__init__()
            self.out, self.more = nn.Linear(6, dim), more

    model = randomised(Named(4, extra=3, **settings())).eval()
    model.save_pretrained(tmp_path)
    again = Named.from_pretrained(tmp_path)
    assert again.more == {'extra': 3}
    assert again.reader.hidden_dims == model.reader.hidden_dims


def test_the_hub_keeps_what_it_knows_of_the_class(tmp_path):
    cls = hub()
    assert cls._hub_mixin_info.model_card_data.library_name == 'ours'
    cls(dim=4, **settings()).save_pretrained(tmp_path)
    config = json.loads((tmp_path / 'config.json').read_text())
    assert config['dim'] == 4
    assert config['text_condition_origins'][0]['name'] == 'mini'
