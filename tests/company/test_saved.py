"""Frameworks that save how a model was built: it is built again without its arguments, and is the same model."""

import copy
import inspect
import json
import pickle

import pytest
import torch
from torch import nn

from classifier_free_guidance_pytorch import Precomputed, classifier_free_guidance_class_decorator
from classifier_free_guidance_pytorch.decorator.typed import TextConditioned
from classifier_free_guidance_pytorch.errors import ConfigError
from classifier_free_guidance_pytorch.text import EncoderIdentity
from tests.company.models import arguments, inputs
from tests.conditioners.making import randomised
from tests.tiny_models import TinyEncoder

TEXTS = ['a red circle', 'a small blue square', 'a green triangle above a red circle']
GUIDED = {'texts': TEXTS, 'cond_scale': 3.0}
SETTINGS = [
    {'kind': 'film', 'cond_drop_prob': 0.25, 'text_embed_stem_dim_mult': 3},
    {'kind': 'attention', 'null': 'zeros', 'attn_heads': 3, 'flash': False},
    {'kind': 'concat', 'hidden_dims': (6, 6), 'hiddens_channel_first': (True, False)},
    {'kind': 'film', 'encoder': ['mini', 'mini'], 'cond_drop_prob': (0.1, 0.2)},
    {'kind': 'attention', 'encoder': ('mini',), 'model_kwargs': [{'dtype': torch.float32, 'max_length': 7}]},
]


def settings(**more):
    return arguments(**{'encoder': 'mini', **more})


class Body:
    """What the classes here have in common; a mixin, so that each is decorated by itself."""

    def forward(self, x, cond_fns):
        for condition in cond_fns:
            x = condition(x)
        return self.out(x)


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


def same(again, model):
    assert type(again) is type(model)
    assert again.depth == model.depth == 3
    ours, theirs = model.text_conditioner, again.text_conditioner
    assert type(ours) is type(theirs)
    for name in ('hidden_dims', 'null', 'hiddens_channel_first', 'dim_latent'):
        assert getattr(theirs, name) == getattr(ours, name), name
    drop_probs = [c.cond_drop_prob if isinstance(c.cond_drop_prob, float) else tuple(c.cond_drop_prob) for c in (ours, theirs)]
    assert drop_probs[0] == drop_probs[1]
    assert [vars(e).get('dtype') for e in theirs.text_models] == [vars(e).get('dtype') for e in ours.text_models]
    assert theirs.max_text_len == ours.max_text_len
    x = inputs()
    torch.testing.assert_close(again.eval()(x, **GUIDED), model(x, **GUIDED), rtol=1e-5, atol=1e-5)


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


def test_the_hub_keeps_what_it_knows_of_the_class(tmp_path):
    cls = hub()
    assert cls._hub_mixin_info.model_card_data.library_name == 'ours'
    cls(dim=4, **settings()).save_pretrained(tmp_path)
    config = json.loads((tmp_path / 'config.json').read_text())
    assert config['dim'] == 4
    assert config['text_condition_origins'][0]['name'] == 'mini'


# transformers: the configuration is an object, which the constructor is given


def transformer_classes():
    transformers = pytest.importorskip('transformers')

    class Config(transformers.PretrainedConfig):
        model_type = 'company-of-ours'

        def __init__(self, dim=5, depth=2, **more):
            super().__init__(**more)
            self.dim, self.depth = dim, depth

    @classifier_free_guidance_class_decorator
    class Transformer(Body, transformers.PreTrainedModel):
        config_class = Config

        def __init__(self, config):
            super().__init__(config)
            self.out = nn.Linear(6, config.dim)
            self.depth = config.depth
            self.post_init()

    return Config, Transformer


@pytest.mark.parametrize('given', SETTINGS, ids=lambda given: given['kind'])
def test_transformers(given, tmp_path):
    config, cls = transformer_classes()
    model = randomised(cls(config(dim=4, depth=3), **settings(**given))).eval()
    model.save_pretrained(tmp_path)
    same(cls.from_pretrained(tmp_path), model)
    assert cls.from_pretrained(tmp_path, text_condition_null='zeros').text_conditioner.null == 'zeros'


def test_a_configuration_describes_the_last_model_that_was_built_with_it(tmp_path):
    config, cls = transformer_classes()
    shared = config(dim=4, depth=3)
    cls(shared, **settings(kind='attention', attn_heads=3))
    model = randomised(cls(shared, **settings(kind='film'))).eval()
    assert not hasattr(shared, 'text_condition_attn_heads')
    model.save_pretrained(tmp_path)
    same(cls.from_pretrained(tmp_path), model)


# Lightning: arguments are read from the frame of the constructor


def lightning_class(save):
    lightning = pytest.importorskip('lightning')

    @classifier_free_guidance_class_decorator
    class Lit(Body, lightning.LightningModule):
        def __init__(self, dim=5, depth=2):
            super().__init__()
            save(self)
            self.out = nn.Linear(6, dim)
            self.depth = depth

    return Lit


def checkpoint_of(model, path):
    import lightning

    trainer = lightning.Trainer(logger=False, enable_checkpointing=False, accelerator='cpu', enable_progress_bar=False)
    trainer.strategy.connect(model)
    trainer.save_checkpoint(path)
    return path


SAVES = {
    'all': lambda self: self.save_hyperparameters(),
    'some': lambda self: self.save_hyperparameters('dim', 'depth'),
    'without': lambda self: self.save_hyperparameters(ignore=['nothing']),
}


@pytest.mark.parametrize('save', SAVES.values(), ids=SAVES)
@pytest.mark.parametrize('given', SETTINGS, ids=lambda given: given['kind'])
def test_lightning(save, given, tmp_path):
    cls = lightning_class(save)
    model = randomised(cls(dim=4, depth=3, **settings(**given))).eval()
    assert model.hparams.dim == 4
    assert model.hparams.text_condition_type == given['kind']
    path = checkpoint_of(model, tmp_path / 'one.ckpt')
    same(cls.load_from_checkpoint(path), model)
    assert cls.load_from_checkpoint(path, text_condition_null='empty', strict=False).text_conditioner.null == 'empty'
    assert 'text_condition_type' in inspect.signature(cls).parameters


def test_lightning_below_a_decorated_class(tmp_path):
    lightning = pytest.importorskip('lightning')

    @classifier_free_guidance_class_decorator
    class Net(Body, nn.Module):
        def __init__(self, dim=5):
            super().__init__()
            self.out = nn.Linear(6, dim)

    class Lit(Net, lightning.LightningModule):
        def __init__(self, dim=5, depth=2):
            super().__init__(dim)
            self.save_hyperparameters()
            self.depth = depth

    model = randomised(Lit(dim=4, depth=3, **settings())).eval()
    same(Lit.load_from_checkpoint(checkpoint_of(model, tmp_path / 'one.ckpt')), model)


def test_lightning_with_one_dictionary(tmp_path):
    lightning = pytest.importorskip('lightning')

    @classifier_free_guidance_class_decorator
    class Lit(Body, lightning.LightningModule):
        def __init__(self, hparams):
            super().__init__()
            self.save_hyperparameters(hparams)
            self.out = nn.Linear(6, hparams['dim'])
            self.depth = hparams['depth']

    model = randomised(Lit({'dim': 4, 'depth': 3}, **settings(kind='attention'))).eval()
    same(Lit.load_from_checkpoint(checkpoint_of(model, tmp_path / 'one.ckpt')), model)


def test_a_lightning_module_that_saves_nothing_has_no_hyperparameters():
    model = lightning_class(lambda self: None)(dim=4, **settings())
    assert not model.hparams


@classifier_free_guidance_class_decorator
class Plain(Body, nn.Module):
    def __init__(self, dim=5, depth=2):
        super().__init__()
        self.out, self.depth = nn.Linear(6, dim), depth


def test_plain_classes_stay_as_they_are():
    model = randomised(Plain(dim=4, depth=3, **settings())).eval()
    for copied in (copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))):
        same(copied(model), model)
    assert list(inspect.signature(Plain).parameters)[:3] == ['dim', 'depth', 'text_condition_type']
    assert not [name for name in vars(model) if 'text_condition' in name]


def test_a_conditioner_that_the_constructor_sets_is_kept():
    """A dictionary of settings that a class reads itself is not read a second time."""

    @classifier_free_guidance_class_decorator
    class Own(Body, nn.Module):
        def __init__(self, config):
            super().__init__()
            self.out = nn.Linear(6, 4)
            self.text_conditioner = self.made = Plain(**config).text_conditioner

    model = Own(settings(kind='attention'))
    assert model.text_conditioner is model.made
