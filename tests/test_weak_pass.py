"""Weakened passes: what the named modules become, and that nothing is left behind."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from classifier_free_guidance_pytorch.errors import ConfigError, UsageError
from classifier_free_guidance_pytorch.weak_pass import perturbed_attention, skip_layers


class Attention(nn.Module):
    """Self-attention with one value head for all query heads, as many models have it."""

    def __init__(self, dim, heads=4, shared=False):
        super().__init__()
        self.heads, self.kv_heads = heads, 1 if shared else heads
        self.to_q = nn.Linear(dim, dim)
        self.to_kv = nn.Linear(dim, 2 * dim // heads * self.kv_heads)
        self.to_out = nn.Linear(dim, dim)

    def forward(self, x, context=None):
        context = x if context is None else context
        q = self.to_q(x).unflatten(-1, (self.heads, -1)).transpose(1, 2)
        k, v = (t.unflatten(-1, (self.kv_heads, -1)).transpose(1, 2) for t in self.to_kv(context).chunk(2, dim=-1))
        out = F.scaled_dot_product_attention(q, k, v, enable_gqa=self.kv_heads != self.heads)
        return x + self.to_out(out.transpose(1, 2).flatten(2))


class Block(nn.Module):
    def __init__(self, dim, shared=False):
        super().__init__()
        self.attn = Attention(dim, shared=shared)
        self.mlp = nn.Sequential(nn.Linear(dim, dim), nn.GELU(), nn.Linear(dim, dim))

    def forward(self, x):
        return self.attn(x) + self.mlp(x)


class Model(nn.Module):
    def __init__(self, dim=16, depth=3, shared=False):
        super().__init__()
        self.blocks = nn.ModuleList(Block(dim, shared) for _ in range(depth))

    def forward(self, x):
        for block in self.blocks:
            x = block(x)
        return x


@pytest.fixture(params=[False, True], ids=['own values', 'shared values'])
def model(request):
    torch.manual_seed(0)
    return Model(shared=request.param).eval()


@pytest.fixture
def x():
    return torch.randn(2, 5, 16, generator=torch.Generator().manual_seed(1))


def fingerprint(model):
    return {name: dict(module.__dict__) for name, module in model.named_modules()}


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


def test_errors_say_what_to_do(model, x):
    with pytest.raises(ConfigError, match='skip_layers: expected at least one module name, got none'):
        skip_layers()
    with pytest.raises(ConfigError, match='skip_layers: expected the names of modules, got 3'):
        skip_layers(3)
    with pytest.raises(ConfigError, match="to must be 'values' or 'input', got 'keys'"):
        perturbed_attention('blocks.0.attn', to='keys')
    with (
        perturbed_attention('blocks.0.mlp').applied(model),
        pytest.raises(UsageError, match=r'blocks\.0\.mlp never called F\.scaled_dot_product_attention'),
    ):
        model(x)
    with perturbed_attention('blocks.0.attn').applied(model), pytest.raises(UsageError, match='only self-attention'):
        model.blocks[0].attn(x, x[:, :3])


@pytest.mark.parametrize('spec', [skip_layers('blocks.1'), perturbed_attention('blocks.*.attn')], ids=['skip', 'perturb'])
def test_a_compiled_model_is_weakened_too(model, x, spec):
    compiled = torch.compile(model, backend='eager')
    strong = model(x)
    with spec.applied(model):
        weak = model(x)
    torch.testing.assert_close(compiled(x), strong)
    with spec.applied(compiled):
        torch.testing.assert_close(compiled(x), weak)
    torch.testing.assert_close(compiled(x), strong)


def test_specs_are_values():
    assert skip_layers('a') == skip_layers('a') != skip_layers('b')
    assert len({perturbed_attention('a'), perturbed_attention('a'), skip_layers('a')}) == 2
