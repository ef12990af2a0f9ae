"""transformers and Lightning, which keep arguments in an object; and classes that nobody saves."""

import copy
import inspect
import pickle

import pytest
from torch import nn

from classifier_free_guidance_pytorch import classifier_free_guidance_class_decorator
from tests.company.saving import SETTINGS, Body, same, settings
from tests.conditioners.making import randomised

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
    lightning = pytest.importorskip('pytorch_lightning')

    @classifier_free_guidance_class_decorator
    class Lit(Body, lightning.LightningModule):
        def __init__(self, dim=5, depth=2):
            super().__init__()
            save(self)
            self.out = nn.Linear(6, dim)
            self.depth = depth

    return Lit


def checkpoint_of(model, path):
    import pytorch_lightning as lightning

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
    lightning = pytest.importorskip('pytorch_lightning')

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
    lightning = pytest.importorskip('pytorch_lightning')

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
