"""Compiled models: perturbed inside a block, strong outside it and in every other context, with no graph used by another."""

import copy
from contextvars import Context
from threading import Barrier, Event

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch._dynamo.testing import CompileCounter

from classifier_free_guidance_pytorch.errors import ConfigError
from classifier_free_guidance_pytorch.perturb import perturbed_attention, skip_layers
from tests.perturb.models import Model, fingerprint
from tests.perturb.test_contexts import together
from tests.releases import OLDER_TORCH

keeps_graphs = pytest.mark.skipif(OLDER_TORCH, reason='torch 2.9 compiles every block anew')


class Reshaped(nn.Module):
    """Self-attention without a method of tensors that `torch.compile` cannot trace while attention is replaced."""

    def __init__(self, dim, heads=4):
        super().__init__()
        self.heads = heads
        self.to_qkv = nn.Linear(dim, 3 * dim)

    def forward(self, x):
        b, n, d = x.shape
        q, k, v = self.to_qkv(x).reshape(b, n, 3, self.heads, d // self.heads).permute(2, 0, 3, 1, 4)
        return x + F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(b, n, d)


@pytest.fixture(autouse=True)
def _fresh_graphs():
    torch._dynamo.reset()


@pytest.fixture
def model():
    torch.manual_seed(0)
    model = Model()
    for block in model.blocks:
        block.attn = Reshaped(16)
    return model.eval()


SPECS = [skip_layers('blocks.1'), perturbed_attention('blocks.*.attn'), perturbed_attention('blocks.0.attn', to='input')]


def weak_of(model, x, spec):
    """The oracle: a copy of the model, never compiled."""
    model = copy.deepcopy(model)
    with spec.applied(model):
        return model(x)


def in_place(model, **options):
    model.compile(**options)
    return model


def by_parts(model, **options):
    """Each block is compiled on its own, as "regional compilation" does."""
    for index, block in enumerate(model.blocks):
        model.blocks[index] = torch.compile(block, **options)
    return model


@pytest.mark.parametrize(
    ('compiled_by', 'fullgraph', 'spec'),
    [(torch.compile, False, SPECS[0]), (torch.compile, True, SPECS[1]), (in_place, True, SPECS[0]), (by_parts, True, SPECS[1])],
    ids=['whole', 'fullgraph', 'in place', 'by parts'],
)
def test_each_context_gets_its_own_result(model, x, compiled_by, fullgraph, spec):
    if compiled_by is by_parts and OLDER_TORCH:
        pytest.skip('torch 2.9 compiles every block anew')
    strong, weak = model(x), weak_of(model, x, spec)
    compiled = compiled_by(copy.deepcopy(model), backend='eager', fullgraph=fullgraph)
    before = fingerprint(compiled)
    for strong_first in (False, True):
        with spec.applied(compiled):
            if strong_first:
                torch.testing.assert_close(Context().run(compiled, x), strong)
            torch.testing.assert_close(compiled(x), weak)
            torch.testing.assert_close(Context().run(compiled, x), strong)
        torch.testing.assert_close(compiled(x), strong)
    assert fingerprint(compiled) == before


@keeps_graphs
@pytest.mark.parametrize('spec', SPECS, ids=['skip', 'attention', 'input'])
def test_later_blocks_find_the_graphs_of_the_first(model, x, spec):
    """Three graphs, whatever the number of steps: the model as it is, perturbed, and strong beside an open block."""
    counter = CompileCounter()
    compiled = torch.compile(model, backend=counter, fullgraph=True)
    for _ in range(12):
        compiled(x)
        with spec.applied(compiled):
            compiled(x)
            Context().run(compiled, x)
    assert counter.frame_count == 3


@keeps_graphs
@pytest.mark.parametrize('spec', [skip_layers('blocks.*'), perturbed_attention('blocks.*.attn')], ids=['skip', 'attention'])
def test_parts_of_one_kind_share_their_graphs(x, spec):
    """Nothing of a graph depends on which of the blocks it is: ten of them need few, and no limit of recompilations is met."""
    model, counter = Model(depth=10).eval(), CompileCounter()
    for block in model.blocks:
        block.attn = Reshaped(16)
    strong, weak = model(x), weak_of(model, x, spec)
    by_parts(model, backend=counter, fullgraph=True)
    with spec.applied(model):
        torch.testing.assert_close(model(x), weak)
        torch.testing.assert_close(Context().run(model, x), strong)
    assert counter.frame_count <= 4


def test_attention_that_cannot_be_traced_breaks_the_graph(x):
    """`unflatten` cannot be traced while attention is replaced: correct with graph breaks, refused by `fullgraph=True`."""
    model, spec = Model(depth=1).eval(), perturbed_attention('blocks.0.attn')
    strong, weak = model(x), weak_of(model, x, spec)
    compiled = torch.compile(model, backend='eager')
    with spec.applied(model):
        torch.testing.assert_close(compiled(x), weak)
    torch._dynamo.reset()
    whole = torch.compile(model, backend='eager', fullgraph=True)
    with spec.applied(model):
        with pytest.raises(torch._dynamo.exc.Unsupported):
            whole(x)
        torch.testing.assert_close(Context().run(whole, x), strong)
    torch.testing.assert_close(whole(x), strong)


def test_a_block_inside_compiled_code(model, x):
    """It breaks the graph there, and nothing of it stays."""
    spec = SPECS[0]
    expected, before = model(x) - weak_of(model, x, spec), fingerprint(model)

    @torch.compile(backend='eager')
    def difference(x):
        strong = model(x)
        with spec.applied(model):
            return strong - model(x)

    for _ in range(2):
        torch.testing.assert_close(difference(x), expected)
    assert fingerprint(model) == before


@keeps_graphs
def test_two_threads_that_meet_in_every_compiled_call(model, x):
    spec, both = SPECS[1], Barrier(2, timeout=60)

    def backend(graph, inputs):
        def run(*args):
            both.wait()
            return graph.forward(*args)

        return run

    strong, weak = model(x), weak_of(model, x, spec)
    compiled = torch.compile(model, backend=backend, fullgraph=True)
    before = fingerprint(model)

    def strong_calls():
        return sum(not torch.allclose(compiled(x), strong, atol=1e-6) for _ in range(100))

    def weak_calls():
        wrong = 0
        for _ in range(100):
            with spec.applied(compiled):
                wrong += not torch.allclose(compiled(x), weak, atol=1e-6)
        return wrong

    assert together(strong_calls, weak_calls) == [0, 0]
    assert fingerprint(model) == before


def test_a_block_waits_for_a_compilation(model, x):
    """A compilation that met the modules before the block begins and after it would fail on its own guards."""
    compiling, tried = Event(), Event()

    def backend(graph, inputs):
        compiling.set()
        tried.wait(0.5)
        return graph.forward

    strong, weak = model(x), weak_of(model, x, SPECS[0])
    compiled = torch.compile(model, backend=backend)

    def perturbing():
        assert compiling.wait(60)
        with SPECS[0].applied(compiled):
            tried.set()
            return compiled(x)

    results = together(lambda: compiled(x), perturbing)
    torch.testing.assert_close(results, [strong, weak])


def test_inductor(model, x):
    strong, weak = model(x), weak_of(model, x, SPECS[0])
    compiled = torch.compile(model, fullgraph=True)
    with torch.no_grad():
        for _ in range(2):
            with SPECS[0].applied(compiled):
                torch.testing.assert_close(compiled(x), weak, rtol=1e-4, atol=1e-5)
                torch.testing.assert_close(Context().run(compiled, x), strong, rtol=1e-4, atol=1e-5)


def test_names_are_those_of_the_model_before_it_was_compiled(model):
    names = ['blocks.1', 'blocks.1.mlp']
    spec = skip_layers(*names)
    modules = {name: model.get_submodule(name) for name in names}
    compiled = torch.compile(by_parts(model))
    assert list(spec.modules(compiled)) == names
    assert all(found is modules[name] for name, found in spec.modules(compiled).items())
    with pytest.raises(ConfigError, match=r"Model has no module named 'blocks.7'; the closest are 'blocks.2', "):
        skip_layers('blocks.7').modules(compiled)
