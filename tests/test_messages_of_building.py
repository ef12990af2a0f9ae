"""Every error of a user who builds a conditioner or decorates a class, by its sentence."""

import pytest
from torch import nn

import classifier_free_guidance_pytorch as cfg
from classifier_free_guidance_pytorch.errors import ConfigError, MissingDependencyError
from tests.conditioners.making import KINDS, make
from tests.decorator.models import build
from tests.tiny_models import TinyEncoder

BUILDING = {
    'no hiddens': ({'hidden_dims': ()}, r'hidden_dims lists the width of each of the hiddens to condition, .* but got \(\)'),
    'a width of zero': ({'hidden_dims': (6, 0)}, 'hidden_dims lists the width'),
    'a width that is a word': ({'hidden_dims': (6, 5, 4, 'x', 3)}, 'hidden_dims'),
    'one width': ({'hidden_dims': 6}, 'hidden_dims=6'),
    'a probability': ({'cond_drop_prob': 1.2}, r'cond_drop_prob is a probability in \[0, 1\]'),
    'probabilities': ({'cond_drop_prob': (0.1, 0.1)}, 'has 2 probabilities for 1 encoder'),
    'layouts': (
        {'hiddens_channel_first': (True, False)},
        'hiddens_channel_first has 2 entries for 1 hidden_dims: pass one for all',
    ),
    'a null': ({'null': 'mean'}, "null='mean'"),
    'a type': (
        {'model_types': 'gpt'},
        r"model_types has 'gpt', which is unknown: pass one of 't5', 'clip', 'bge', 'hf', 'mini', 'english', or an",
    ),
    'no types': ({'model_types': ()}, 'model_types is empty, but a conditioner needs at least one encoder'),
    'names': ({'model_names': ('a', 'b')}, 'model_names needs one entry per model type, so 1, but got 2'),
    'no encoder': ({'model_types': [object()]}, 'model_types has a object, which is not an encoder: it lacks encode, dim_latent'),
    'a name for an object': (
        {'model_names': 'big'},
        'which is built already, so its entry of model_names and model_kwargs must be None',
    ),
    'kwargs': ({'model_types': 't5', 'model_kwargs': {'depth': 3}}, "model_kwargs of 't5' has 'depth', but T5Adapter knows"),
}
BUILDING_ONE = {
    'film': {'text_embed_stem_dim_mult': (0, 'text_embed_stem_dim_mult is a positive integer, but got 0')},
    'concat': {'text_embed_stem_dim_mult': (-1, 'text_embed_stem_dim_mult is a positive integer')},
    'attention': {
        'attn_heads': (0, 'attn_dim_head and attn_heads are positive integers, but got 4 and 0'),
        'attn_dim_head': (0, 'attn_dim_head and attn_heads are positive integers'),
        'dim_latent': (0, 'dim_latent is a positive integer, but got 0'),
        'flash': ('yes', "flash='yes'"),
    },
}


@pytest.mark.parametrize('kind', KINDS)
@pytest.mark.parametrize(('arguments', 'message'), BUILDING.values(), ids=BUILDING)
def test_arguments_of_a_conditioner(kind, arguments, message):
    with pytest.raises(ConfigError, match=message):
        KINDS[kind](**{'hidden_dims': (6,), 'model_types': [TinyEncoder()], **arguments})


@pytest.mark.parametrize('kind', KINDS)
def test_arguments_of_one_kind(kind):
    for name, (value, message) in BUILDING_ONE[kind].items():
        with pytest.raises(ConfigError, match=message):
            make(kind, **{name: value})


def test_a_model_that_cannot_be_found_says_where_to_look():
    with pytest.raises(MissingDependencyError, match=r'local'):
        cfg.TextConditioner((6,), 't5', model_names='nobody/nothing')


DECORATED = {
    'a type': (
        {'text_condition_type': 'magic'},
        "text_condition_type is one of film, attention, concat, raw, pooled, null, but got 'magic'",
    ),
    'an argument': (
        {'text_condition_attn_heads': 2},
        r"text_condition_attn_heads is no argument of text_condition_type='film', which",
    ),
    'a typo': ({'text_condition_hiden_dims': (6,)}, 'text_condition_hiden_dims is no argument'),
    'a typo without text': ({'text_condition_type': 'null', 'text_condition_heads': 2}, 'text_condition_heads is no argument'),
}


@pytest.mark.parametrize(('arguments', 'message'), DECORATED.values(), ids=DECORATED)
def test_arguments_of_a_decorated_class(arguments, message):
    with pytest.raises(ConfigError, match=message):
        build(**{'kind': arguments.pop('text_condition_type', 'film'), **arguments})


def test_without_text_the_arguments_of_every_kind_are_taken():
    build('null', text_condition_null='zeros', text_condition_attn_heads=3)


def test_widths_are_asked_for():
    @cfg.classifier_free_guidance_class_decorator
    class Empty(nn.Module):
        def forward(self, x, cond_fns):
            return x

    with pytest.raises(ConfigError, match=r'Empty needs text_condition_hidden_dims, the widths of the hiddens .* such as'):
        Empty(text_condition_type='film')


def test_classes_that_cannot_be_decorated():
    class Deaf(nn.Module):
        def forward(self, x):
            return x

    with pytest.raises(ConfigError, match=r'Deaf.forward\(self, x\) has no way to receive a condition: name the parameter'):
        cfg.classifier_free_guidance_class_decorator(Deaf)
    for thing in (len, int, Deaf()):
        with pytest.raises(ConfigError, match=r'is for classes of torch.nn.Module, but got'):
            cfg.classifier_free_guidance_class_decorator(thing)


@pytest.mark.parametrize('dims', [(8, 'a'), ('a', 8), (8, 0), (8, True), (8, 1.5), (), 'ab', [8, None], (8,) * 40 + ('a',)])
def test_every_width_is_looked_at(dims):
    """A type checker that looks at one item by chance would let most of these pass most of the time."""
    for _ in range(12):
        for cls in (cfg.NullConditioner, cfg.TextConditioner, cfg.ConcatTextConditioner, cfg.AttentionTextConditioner):
            if dims == () and cls is cfg.NullConditioner:  # it stands in for raw and pooled, which condition no hiddens
                continue
            with pytest.raises(ConfigError, match='hidden_dims'):
                cls(dims, model_types=[TinyEncoder()])


def test_arguments_that_no_conditioner_has_are_refused_without_text_too():
    with pytest.raises(ConfigError, match='modle_types is no argument of any conditioner; a NullConditioner takes those of all'):
        cfg.NullConditioner((8,), modle_types='t5')
    cfg.NullConditioner((8,), model_types='t5', attn_heads=3, text_embed_stem_dim_mult=4, dim_latent=7, null='empty')
