"""`torch.compile` with CUDA graphs, and graphs recorded by hand: one recording for all steps."""

import pytest
import torch
from torch._dynamo.testing import CompileCounter
from torch._dynamo.utils import counters

from classifier_free_guidance_pytorch import guidance
from tests.clients.test_compile import net
from tests.conditioners.making import noise
from tests.decorator.models import TEXTS
from tests.guidance.cases import CASES, call, inputs

KINDS = ('film', 'attention', 'concat')
SCHEDULES = (guidance.linear(1.0, 6.0), guidance.interval(5.0, progress=(0.25, 0.75)), guidance.cosine(7.0, 1.0))


@pytest.fixture(autouse=True)
def _fresh_graphs():
    torch._dynamo.reset()
    counters.clear()


@pytest.fixture
def with_graphs(device):
    """Compiles with CUDA graphs; in a rehearsal, traces."""

    def compiled(fn):
        if device.type == 'cuda':
            return torch.compile(fn, fullgraph=True, mode='reduce-overhead')
        return torch.compile(fn, fullgraph=True, backend='eager')

    yield compiled
    assert counters['inductor']['cudagraph_skips'] == 0, 'a graph was compiled, but not recorded'


def stepped(fn, *arguments, **keywords):
    torch.compiler.cudagraph_mark_step_begin()
    return fn(*arguments, **keywords).clone()  # the next step writes over it


@pytest.mark.parametrize('kind', KINDS)
@torch.no_grad()
def test_changing_scales_and_batch_sizes(kind, device, with_graphs):
    model = net(kind).to(device)
    compiled = with_graphs(model)
    for batch in (3, 2, 3, 1):
        prepared = model.prepare(TEXTS[:batch])
        for step in range(3):
            x = noise(batch, 6, seed=step).to(device)
            scale = torch.full((batch,), 1.5 + step, device=device)
            guided = stepped(compiled, x, text_condition=prepared, cond_scale=scale)
            expected = model(x, text_condition=prepared, cond_scale=scale)
            torch.testing.assert_close(guided, expected, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize('schedule', SCHEDULES, ids=str)
@torch.no_grad()
def test_schedules(schedule, device, with_graphs):
    model = net('film').to(device)
    compiled, prepared = with_graphs(model), model.prepare(TEXTS)
    for step in range(6):
        x, scale = noise(3, 6, seed=step).to(device), torch.full((), float(schedule(step / 6)), device=device)
        guided = stepped(compiled, x, text_condition=prepared, cond_scale=scale)
        torch.testing.assert_close(guided, model(x, text_condition=prepared, cond_scale=scale), rtol=1e-3, atol=1e-3)


@torch.no_grad()
def test_one_graph_for_all_steps(device):
    model, counter = net('attention').to(device), CompileCounter()
    compiled, prepared = torch.compile(model, fullgraph=True, backend=counter), model.prepare(TEXTS)
    for step in range(4):
        compiled(noise(3, 6, seed=step).to(device), text_condition=prepared, cond_scale=torch.full((), 2.0 + step, device=device))
    assert counter.frame_count == 1


@pytest.mark.parametrize('name', ['APG momentum', 'Adaptive', 'ReuseDelta'])
@torch.no_grad()
def test_rules_that_remember(name, device, with_graphs):
    """Memory that one step writes and the next reads lies in the graph's own pool, unless it is taken out of it."""
    rule = CASES[name]
    steps = [inputs(rule, (3, 4, 6, 5), seed).map(lambda tensor: tensor.to(device)) for seed in range(5)]
    state, eager_state = (rule.init_state(steps[0].kwargs['cond']) for _ in range(2))
    compiled = with_graphs(lambda kwargs, scale: rule(**kwargs, scale=scale, state=state))
    for step, batch in enumerate(steps):
        scale = torch.tensor([1.0 + step, 3.0, 0.5 * step], device=device)
        guided = compiled(batch.kwargs, scale).clone()
        torch.testing.assert_close(guided, call(rule, batch, scale, eager_state), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize('kind', ['film', 'attention', 'concat', 'raw'])
@pytest.mark.parametrize('batched', [False, True])
@torch.no_grad()
def test_a_graph_recorded_by_hand(kind, batched, device, on_gpu):
    model, x = net(kind).to(device), noise(3, 6).to(device)
    prepared, scale = model.prepare(TEXTS), torch.full((), 2.0, device=device)

    def step():
        return model(x, text_condition=prepared, cond_scale=scale, cfg_batched=batched)

    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            step()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        guided = step()
    for seed in range(3):
        x.copy_(noise(3, 6, seed=seed))
        scale.fill_(1.5 + seed)
        graph.replay()
        torch.testing.assert_close(guided, step(), rtol=1e-4, atol=1e-4)
