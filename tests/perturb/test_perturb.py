"""Perturbed passes: what the named modules become, and that nothing is left behind."""

from dataclasses import dataclass

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from classifier_free_guidance_pytorch.errors import ConfigError, ShapeError, UsageError
from classifier_free_guidance_pytorch.perturb import (
    Perturbation,
    PerturbedAttention,
    SkipLayers,
    noisy_output,
    perturbed_attention,
    shuffled_tokens,
    skip_layers,
    skip_random_layers,
    smoothed_attention,
)
from tests.perturb.models import Model, fingerprint


@pytest.fixture(params=[False, True], ids=['own values', 'shared values'])
def model(request):
    torch.manual_seed(0)
    return Model(shared=request.param).eval()


def test_skipped_layers_return_their_input(model, x):
    with skip_layers('blocks.1', 'blocks.2').applied(model):
        torch.testing.assert_close(model(x), model.blocks[0](x))
    with skip_layers('blocks.*', as_tuple=True).applied(model):
        assert model.blocks[0](x) == (x,)


def test_perturbed_attention_gives_every_query_its_own_value(model, x):
    attn = model.blocks[1].attn
    values = attn.to_kv(x).chunk(2, dim=-1)[1]
    if attn.kv_heads == 1:
        values = values.repeat(1, 1, attn.heads)
    with perturbed_attention('blocks.1.attn').applied(model):
        torch.testing.assert_close(attn(x), x + attn.to_out(values))
        plain = model.blocks[0].attn(x)
    torch.testing.assert_close(plain, model.blocks[0].attn(x), msg='a module that was not named has changed')


def test_perturbed_attention_of_multihead_attention(x):
    mha = nn.MultiheadAttention(16, 4, batch_first=True).eval()
    model = nn.ModuleDict({'attn': mha})
    # the oracle: attention whose mask leaves every query only itself
    expected, _ = mha(x, x, x, attn_mask=~torch.eye(5, dtype=torch.bool))
    with perturbed_attention('attn').applied(model):
        output, weights = model['attn'](x, x, x, need_weights=False)
    torch.testing.assert_close(output, expected)
    assert weights is None


@pytest.mark.parametrize('masked', [None, 'bool', 'float'])
@pytest.mark.parametrize('batch_first', [True, False])
@pytest.mark.parametrize('count', [4, -4])
def test_multihead_attention_to_an_image_and_other_tokens(count, batch_first, masked):
    """A class token before the patches, say: patches see it and themselves, and it sees all. Written out in float64."""
    mha = nn.MultiheadAttention(16, 4, batch_first=batch_first).double().eval()
    x = torch.randn(2, 6, 16, dtype=torch.float64)
    image = torch.zeros(6, dtype=torch.bool)
    image[:4] = count > 0
    image[-4:] |= count < 0
    hidden = image[:, None] & image & ~torch.eye(6, dtype=torch.bool)
    mask = None if masked is None else torch.ones(6, 6, dtype=torch.bool).triu(1)
    if masked == 'float':
        mask = torch.zeros(6, 6, dtype=torch.float64).masked_fill(mask, -1.5)
    q, k, v = (t.unflatten(-1, (4, 4)).transpose(1, 2) for t in F.linear(x, mha.in_proj_weight, mha.in_proj_bias).chunk(3, -1))
    logits = q @ k.mT / 2  # (b, h, n, n)
    if mask is not None:
        logits = logits.masked_fill(mask, float('-inf')) if masked == 'bool' else logits + mask
    expected = mha.out_proj((logits.masked_fill(hidden, float('-inf')).softmax(-1) @ v).transpose(1, 2).flatten(2))

    model = nn.ModuleDict({'attn': mha})
    given = x if batch_first else x.transpose(0, 1)
    with perturbed_attention('attn', image_tokens=count).applied(model):
        found = mha(given, given, given, attn_mask=mask, need_weights=False)[0]
    torch.testing.assert_close(found if batch_first else found.transpose(0, 1), expected)
    with (
        perturbed_attention('attn', image_tokens=60).applied(model),
        pytest.raises(ShapeError, match='image_tokens is 60, but the attention has 6 tokens in all'),
    ):
        mha(given, given, given)


def test_tokens_of_a_forward_that_names_no_argument_are_shuffled():
    class Anything(nn.Module):
        def forward(self, *args, **kwargs):
            return next(iter((*args, *kwargs.values())))

    model, x = nn.ModuleDict({'block': Anything()}), torch.randn(2, 9, 3)
    for call in (lambda: model['block'](x), lambda: model['block'](tokens=x)):
        with shuffled_tokens('block').applied(model):
            found = call()
        assert not torch.equal(found, x)
        torch.testing.assert_close(found.sort(1).values, x.sort(1).values)


def test_perturbed_attention_to_its_input(model, x):
    with perturbed_attention('blocks.*.attn', to='input').applied(model):
        torch.testing.assert_close(model.blocks[0](x), x + model.blocks[0].mlp(x))


@pytest.mark.parametrize('spec', [skip_layers('blocks.1'), perturbed_attention('blocks.*.attn')], ids=['skip', 'perturb'])
def test_the_model_is_restored(model, x, spec):
    before, expected = fingerprint(model), model(x)
    with spec.applied(model):
        assert not torch.allclose(model(x), expected), 'the weakened pass equals the strong one'
    assert fingerprint(model) == before
    torch.testing.assert_close(model(x), expected, rtol=0, atol=0)


def test_the_model_is_restored_after_an_exception_and_when_nested(model, x):
    before, expected = fingerprint(model), model(x)

    def failing():
        with skip_layers('blocks.1').applied(model), perturbed_attention('blocks.*.attn').applied(model):
            with skip_layers('blocks.1').applied(model):
                inner = model(x)
            torch.testing.assert_close(inner, model(x))
            raise KeyError('boom')

    with pytest.raises(KeyError, match='boom'):
        failing()
    assert fingerprint(model) == before
    torch.testing.assert_close(model(x), expected, rtol=0, atol=0)


@dataclass(frozen=True)
class Affine(Perturbation):
    """A perturbation of one's own: what the module returns, times a factor, plus a term."""

    factor: float
    term: float

    def run(self, name, module, forward, /, *args, **kwargs):
        return forward(*args, **kwargs) * self.factor + self.term


def test_an_inner_block_is_around_the_outer_one(model, x):
    strong = model.blocks[0](x)
    with Affine(('blocks.0',), 2.0, 0.0).applied(model), Affine(('blocks.0',), 1.0, 3.0).applied(model):
        torch.testing.assert_close(model.blocks[0](x), strong * 2 + 3)
        with skip_layers('blocks.0').applied(model):
            assert model.blocks[0](x) is x


def test_a_forward_of_the_instance_is_kept(model, x):
    own = lambda y: y * 2  # noqa: E731
    model.blocks[0].forward = own
    with skip_layers('blocks.0').applied(model):
        assert model.blocks[0](x) is x
    assert model.blocks[0].__dict__['forward'] is own


def test_unknown_names_are_answered_with_the_closest(model):
    with (
        pytest.raises(ConfigError, match=r"Model has no module named 'block.1.attn'; the closest are 'blocks.1.attn'"),
        skip_layers('blocks.0', 'block.1.attn').applied(model),
    ):
        pass
    assert 'forward' not in model.blocks[0].__dict__


@pytest.mark.parametrize(
    ('make', 'message'),
    [
        (lambda: skip_layers(), 'skip_layers: expected at least one module name, got none'),
        (lambda: perturbed_attention(), 'perturbed_attention: expected at least one module name, got none'),
        (lambda: SkipLayers('blocks.0'), "skip_layers: expected at least one module name, got 'blocks.0'"),
        (lambda: skip_layers(3), 'skip_layers: expected the names of modules, got 3'),
        (lambda: skip_layers('blocks.0', ''), "skip_layers: expected the names of modules, got ''"),
        (lambda: skip_layers(['blocks.0']), r"skip_layers: expected the names of modules, got \['blocks.0'\]"),
        (lambda: perturbed_attention('blocks.0.attn', to='keys'), "to must be 'values' or 'input', got 'keys'"),
        (lambda: perturbed_attention('blocks.0.attn', to=None), "to must be 'values' or 'input', got None"),
        (lambda: smoothed_attention('a', grid=(2, 'a')), r"grid must be how the tokens lie, \(h, w\), got \(2, 'a'\)"),
        (lambda: shuffled_tokens('a', generator=3), 'shuffled_tokens: generator must be a torch.Generator, .* got 3'),
        (lambda: skip_random_layers('a', generator=3), 'skip_random_layers: generator must be a torch.Generator'),
        (lambda: noisy_output('a', std=1.0, generator=3), 'noisy_output: generator must be a torch.Generator'),
    ],
)
def test_what_no_perturbation_is_made_from(make, message):
    with pytest.raises(ConfigError, match=message):
        make()


@pytest.mark.parametrize('model', [None, 'model', Model, Model().forward], ids=['None', 'a string', 'a class', 'a method'])
def test_what_it_cannot_be_applied_to(model):
    message = f'skip_layers: expected an nn.Module to apply it to, got {type(model).__name__}'
    with pytest.raises(ConfigError, match=message), skip_layers('blocks.0').applied(model):
        pass


def test_errors_inside_a_block_say_what_to_do(model, x):
    with (
        perturbed_attention('blocks.0.mlp').applied(model),
        pytest.raises(UsageError, match=r'blocks\.0\.mlp never called F\.scaled_dot_product_attention'),
    ):
        model(x)
    with perturbed_attention('blocks.0.attn').applied(model), pytest.raises(UsageError, match='only self-attention'):
        model.blocks[0].attn(x, x[:, :3])
    with skip_layers('blocks.0').applied(model), pytest.raises(UsageError, match=r'blocks\.0 was called without arguments'):
        model.blocks[0]()


def test_keywords_reach_a_perturbed_module(model, x):
    attn = model.blocks[0].attn
    with skip_layers('blocks.1').applied(model):
        assert model.blocks[1](x=x) is x
    with perturbed_attention('blocks.0.attn').applied(model):
        torch.testing.assert_close(attn(context=x, x=x), attn(x))
    named = nn.ModuleDict({'layer': nn.Identity()})
    with skip_layers('layer').applied(named):
        assert named['layer'](name=x, module=3, forward=4) is x


def test_specs_are_values():
    assert skip_layers('a') == skip_layers('a') != skip_layers('b')
    assert len({perturbed_attention('a'), perturbed_attention('a'), skip_layers('a')}) == 2
    assert isinstance(skip_layers('a', 'b'), SkipLayers)
    assert isinstance(perturbed_attention('a'), PerturbedAttention)
    assert issubclass(SkipLayers, Perturbation)
    assert issubclass(PerturbedAttention, Perturbation)
    assert skip_layers('a', 'b').names == ('a', 'b')
    with pytest.raises(TypeError, match='abstract'):
        Perturbation(('a',))


def test_the_path_of_1_0():
    from classifier_free_guidance_pytorch import perturb, weak_pass

    assert weak_pass.skip_layers is perturb.skip_layers
    assert weak_pass.perturbed_attention is perturb.perturbed_attention
