"""Decorated classes: the README's example, subclasses, signatures, names of one's own."""

import copy
import gc
import inspect
import pydoc
import weakref

import pytest
import torch
from torch import nn

from classifier_free_guidance_pytorch import (
    AttentionTextConditioner,
    ConcatTextConditioner,
    NullConditioner,
    TextConditioner,
    TextEmbeddingReturner,
    classifier_free_guidance,
    classifier_free_guidance_class_decorator,
)
from classifier_free_guidance_pytorch.errors import ConfigError, UsageError
from tests.conditioners.making import noise, randomised
from tests.decorator.models import KINDS, TEXTS, Denoiser, build
from tests.tiny_models import TinyEncoder

CLASSES = (TextConditioner, AttentionTextConditioner, ConcatTextConditioner, TextEmbeddingReturner, NullConditioner)


@classifier_free_guidance_class_decorator
class MLP(nn.Module):
    def __init__(self, dim):
        super().__init__()
        self.proj_in = nn.Sequential(nn.Linear(dim, dim * 2), nn.ReLU())
        self.proj_mid = nn.Sequential(nn.Linear(dim * 2, dim), nn.ReLU())
        self.proj_out = nn.Linear(dim, 1)

    def forward(self, inp, cond_fns):
        cond_hidden1, cond_hidden2 = cond_fns
        hiddens1 = cond_hidden1(self.proj_in(inp))
        hiddens2 = cond_hidden2(self.proj_mid(hiddens1))
        return self.proj_out(hiddens2)


def test_the_example_of_the_readme(tiny_t5, tiny_clip):
    model = MLP(
        dim=256, text_condition_type='film', text_condition_model_types=('t5', 'clip'),
        text_condition_hidden_dims=(512, 256), text_condition_cond_drop_prob=0.25,
    )  # fmt: skip
    texts, data = ['a dog', 'a small red circle above a ball'], noise(2, 256)
    assert model.embed_texts(texts).shape == (2, 32 + 16)
    pred = model(data, texts=texts)
    pred.sum().backward()
    randomised(model).eval()
    guided = model(data, texts=texts, cond_scale=3.0)
    cond, null = model(data, texts=texts), model(data, texts=texts, cond_drop_prob=1.0)
    torch.testing.assert_close(guided, null + 3.0 * (cond - null), rtol=1e-4, atol=1e-4)
    assert not torch.allclose(cond, null)


@pytest.mark.parametrize(
    ('kind', 'cls'),
    list(zip(KINDS, CLASSES, strict=True)),
)
def test_the_type_names_the_conditioner(kind, cls):
    assert type(build(kind).text_conditioner) is cls


def test_every_argument_of_the_conditioner_is_taken_and_passed_on():
    model = build(
        'attention', text_condition_hidden_dims=(4, 6), text_condition_dim_latent=5, text_condition_attn_heads=3,
        text_condition_null='zeros',
        text_condition_hiddens_channel_first=(True, False), text_condition_flash=False, text_condition_cond_drop_prob=0.3,
    ).text_conditioner  # fmt: skip
    assert (model.hidden_dims, model.dim_latent, model.null, model.cond_drop_prob) == ((4, 6), 5, 'zeros', 0.3)
    assert model.hiddens_channel_first == (True, False)
    assert (model.conditioners[0].attn.heads, model.conditioners[0].attn.flash) == (3, False)


def test_keys_in_a_decorated_model_are_under_text_conditioner():
    keys = {key for key in build().state_dict() if key.startswith('text_conditioner.')}
    assert keys == {f'text_conditioner.{key}' for key in TextConditioner((6,), [TinyEncoder()]).state_dict()}


def test_signatures_say_what_can_be_passed():
    constructor = inspect.signature(MLP).parameters
    assert next(iter(constructor)) == 'dim'
    for name in ('type', 'hidden_dims', 'model_types', 'cond_drop_prob', 'attn_heads', 'text_embed_stem_dim_mult', 'null'):
        assert constructor[f'text_condition_{name}'].kind is inspect.Parameter.KEYWORD_ONLY
    assert constructor['text_condition_type'].default == 'film'
    forward = inspect.signature(MLP.forward).parameters
    assert 'cond_fns' not in forward
    for name in ('inp', 'texts', 'text_embeds', 'negative_texts', 'text_condition', 'cond_scale', 'guidance', 'cfg_batched'):
        assert name in forward
    assert forward['cond_scale'].default == 1.0
    assert inspect.signature(Denoiser.forward).parameters['extra'].default is None
    text = pydoc.render_doc(MLP)
    assert 'cond_scale' in text
    assert 'text_condition_hidden_dims' in text
    assert MLP.__name__ == 'MLP'
    assert MLP.forward.__qualname__ == 'MLP.forward'


class Child(Denoiser):
    """Its own constructor and forward, both through `super()`, with the text conditioning fixed."""

    def __init__(self, encoder, **kwargs):
        super().__init__(
            dim=6, text_condition_type='film', text_condition_model_types=[encoder], text_condition_hidden_dims=(6, 6), **kwargs
        )
        self.after = nn.Linear(6, 6)

    def forward(self, x, cond_fns, raw_text_cond):
        return self.after(super().forward(x, cond_fns[:1], raw_text_cond=raw_text_cond)) + cond_fns[1](x)


class Grandchild(Child):
    def forward(self, x, cond_fns, raw_text_cond):
        return 2 * super().forward(x, cond_fns, raw_text_cond)


class Passing(Denoiser):
    """Overrides forward without a word about text."""

    def forward(self, *args, **kwargs):
        return super().forward(*args, **kwargs) * 2


class NoForward(Denoiser):
    def __init__(self, **kwargs):
        self.before = 1
        super().__init__(**kwargs)
        self.late = nn.Linear(2, 2)


def guided_by_formula(model, x):
    cond, null = model(x, texts=TEXTS), model(x)
    guided = model(x, texts=TEXTS, cond_scale=3.0)
    torch.testing.assert_close(guided, null + 3.0 * (cond - null), rtol=1e-5, atol=1e-5)
    assert not torch.allclose(cond, null)
    return guided


def test_subclasses_of_a_decorated_class():
    x = noise(3, 6)
    child, grandchild = (randomised(cls(TinyEncoder())).eval() for cls in (Child, Grandchild))
    torch.testing.assert_close(2 * guided_by_formula(child, x), guided_by_formula(grandchild, x))
    child.passes = 0
    child(x, texts=TEXTS, cond_scale=3.0)
    assert child.passes == 2, 'a forward that calls super().forward is guided twice'
    assert child.text_conditioner.source.encoders[0].calls == 1
    assert len(child.text_conditioner.hidden_dims) == 2


def test_the_caller_has_the_last_word_over_a_subclass():
    class Fixed(Denoiser):
        def __init__(self, **kwargs):
            super().__init__(text_condition_type='attention', text_condition_hidden_dims=(6,), **kwargs)

    assert type(build(cls=Fixed).text_conditioner) is TextConditioner
    encoder = TinyEncoder()
    assert type(Fixed(text_condition_model_types=[encoder]).text_conditioner) is AttentionTextConditioner


def test_subclasses_that_say_nothing_of_text():
    for cls in (Passing, NoForward):
        model = build(cls=cls)
        guided_by_formula(model, noise(3, 6)) if cls is NoForward else model(noise(3, 6), texts=TEXTS, cond_scale=3.0)
    doubled, plain = build(cls=Passing), build()
    x = noise(3, 6)
    expected = 2 * plain(x, texts=TEXTS, cond_scale=3.0)
    torch.testing.assert_close(doubled(x, texts=TEXTS, cond_scale=3.0), expected)


def test_decorating_twice_is_decorating_once():
    before = Denoiser.forward, Denoiser.__init__
    assert classifier_free_guidance_class_decorator(Denoiser) is Denoiser
    assert (Denoiser.forward, Denoiser.__init__) == before

    @classifier_free_guidance_class_decorator
    class DecoratedChild(Denoiser):
        def forward(self, x, cond_fns):
            return cond_fns[0](x)

    model = build(cls=DecoratedChild)
    guided_by_formula(model, noise(3, 6))
    with pytest.raises(ConfigError, match=r'Denoiser is decorated already, with other names'):
        classifier_free_guidance_class_decorator(Denoiser, texts_key_name='captions')


def test_a_class_whose_forward_is_decorated_already():
    @classifier_free_guidance_class_decorator
    class Both(nn.Module):
        def __init__(self):
            super().__init__()
            self.passes = 0

        @classifier_free_guidance
        def forward(self, x, cond_fns):
            self.passes += 1
            return cond_fns[0](x)

    model = build(cls=Both)
    guided_by_formula(model, noise(3, 6))
    model.passes = 0
    model(noise(3, 6), texts=TEXTS, cond_scale=3.0)
    assert model.passes == 2


NAMES = {
    'cond_drop_prob_keyname': 'drop', 'texts_key_name': 'captions', 'text_embeds_key_name': 'features',
    'cond_fns_keyname': 'conditions', 'text_conditioner_name': 'reader',
}  # fmt: skip


def test_every_name_can_be_chosen():
    @classifier_free_guidance_class_decorator(**NAMES)
    class Renamed(nn.Module):
        def __init__(self, dim=6):
            super().__init__()
            self.inner = nn.Linear(dim, dim)

        def forward(self, x, conditions):
            return conditions[0](self.inner(x))

    model, x = build(cls=Renamed), noise(3, 6)
    assert isinstance(model.reader, TextConditioner)
    assert not hasattr(model, 'text_conditioner')
    cond, null = model(x, captions=TEXTS), model(x, captions=TEXTS, drop=1.0)
    torch.testing.assert_close(model(x, captions=TEXTS, cond_scale=3.0), null + 3.0 * (cond - null))
    torch.testing.assert_close(model(x, features=model.embed_texts(TEXTS), cond_scale=3.0), null + 3.0 * (cond - null))
    negative = model(x, captions=['grey'])
    for call in ({'negative_captions': ['grey']}, {'negative_features': model.encode_texts(['grey'])}):
        torch.testing.assert_close(model(x, captions=TEXTS, cond_scale=3.0, **call), negative + 3.0 * (cond - negative))
    torch.testing.assert_close(model(x, text_condition=model.prepare(TEXTS)), cond)
    assert model.max_cond_text_len == 16
    with pytest.raises(ConfigError, match=r"'texts' is no keyword of .*Renamed.forward"):
        model(x, texts=TEXTS)
    assert 'captions' in inspect.signature(Renamed.forward).parameters


def test_the_conditioner_may_be_set_by_hand():
    @classifier_free_guidance_class_decorator
    class ByHand(nn.Module):
        def __init__(self):
            super().__init__()
            self.text_conditioner = TextConditioner((6,), [TinyEncoder()])

        def forward(self, x, cond_fns):
            return cond_fns[0](x)

    guided_by_formula(randomised(ByHand()).eval(), noise(3, 6))


def test_a_conditioner_that_is_missing_is_asked_for():
    class Bare(nn.Module):
        @classifier_free_guidance
        def forward(self, x, cond_fns):
            return cond_fns[0](x)

    with pytest.raises(UsageError, match=r'Bare has no text conditioner: set self.text_conditioner to one'):
        Bare()(noise(3, 6), texts=TEXTS)


def test_models_share_no_state():
    one, two = build(), build()
    with torch.no_grad():
        one.text_conditioner.null_text_embed.zero_()
    assert two.text_conditioner.null_text_embed.any()
    one(noise(3, 6), texts=TEXTS)
    assert (one.encoder.calls, two.encoder.calls) == (1, 0)
    one(noise(3, 6), texts=TEXTS, cond_scale=3.0)
    assert two.passes == 0


def test_models_are_freed():
    """Nothing keeps a model alive: no cached property, no memo, no prepared condition that is gone."""
    gc.collect()
    model = build('attention')
    model(noise(3, 6), texts=TEXTS, cond_scale=3.0)
    prepared = model.prepare(TEXTS)
    model(noise(3, 6), text_condition=prepared)
    assert model.max_cond_text_len == 16
    copied = copy.deepcopy(model)
    gone = [weakref.ref(model), weakref.ref(copied), weakref.ref(prepared)]
    del model, copied, prepared
    gc.collect()
    assert [ref() for ref in gone] == [None, None, None]


def test_methods_of_the_class_are_kept():
    @classifier_free_guidance_class_decorator
    class Own(nn.Module):
        max_cond_text_len = 3

        def embed_texts(self, texts):
            return 'own'

        def forward(self, x, cond_fns):
            return x

    model = build(cls=Own)
    assert model.embed_texts(TEXTS) == 'own'
    assert model.max_cond_text_len == 3
    assert len(model.encode_texts(TEXTS)[0]) == 3
