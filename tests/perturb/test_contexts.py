"""A perturbed pass belongs to the thread, task or context that entered its block; a module is left as it was found."""

import asyncio
import copy
import random
import weakref
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from contextvars import Context, copy_context
from threading import Barrier, Event

import pytest
import torch
from torch import nn

from classifier_free_guidance_pytorch.perturb import PerturbedAttention, perturbed_attention, skip_layers, skip_random_layers
from classifier_free_guidance_pytorch.perturb import context as perturb_context
from tests.perturb.models import fingerprint

SPECS = [
    skip_layers('blocks.1'),
    skip_layers('blocks.*.mlp'),
    skip_layers('blocks.1', 'blocks.2.mlp'),
    perturbed_attention('blocks.*.attn'),
    perturbed_attention('blocks.2.attn'),
]


def expected(model, x, specs):
    """The oracle: a copy of the model, with the forwards written over by hand."""
    model = copy.deepcopy(model)
    for spec in specs:
        for module in spec.modules(model).values():
            if isinstance(spec, PerturbedAttention):
                module.forward = lambda x, attn=module: x + attn.to_out(values_of(attn, x))
            else:
                module.forward = lambda x: x
    return model(x)


def values_of(attn, x):
    values = attn.to_kv(x).chunk(2, dim=-1)[1]  # (b, n, d / heads * kv_heads)
    return values.repeat(1, 1, attn.heads // attn.kv_heads)  # (b, n, d)


def together(*functions):
    """Run functions in one thread each, and raise what they raise."""
    with ThreadPoolExecutor(len(functions)) as pool:
        return [future.result(timeout=120) for future in [pool.submit(function) for function in functions]]


def entered(spec, model):
    """A context in which a block is open, and how to end it."""
    context, stack = Context(), ExitStack()
    context.run(stack.enter_context, spec.applied(model))
    return context, lambda: context.run(stack.close)


@pytest.mark.parametrize('others', [(), SPECS[:1], SPECS[2:3], SPECS[3:4]], ids=['none', 'the same', 'overlapping', 'attention'])
def test_two_threads_that_meet_in_every_forward(model, x, others):
    """Both run the model 300 times, and are inside the same forward each time: none of 600 results is another's."""
    both = Barrier(2, timeout=60)

    def meet(*_):
        both.wait()

    model.blocks[0].register_forward_hook(meet)
    before = fingerprint(model)

    def calls(specs):
        def run():
            results = []
            for _ in range(300):
                with ExitStack() as stack, torch.no_grad():
                    for spec in specs:
                        stack.enter_context(spec.applied(model))
                    results.append(model(x))
            return results

        return run

    jobs = [others, SPECS[:1]]
    bare = copy.deepcopy(model)
    bare.blocks[0]._forward_hooks.clear()
    for specs, results in zip(jobs, together(*map(calls, jobs)), strict=True):
        right = expected(bare, x, specs)
        assert len(results) == 300
        assert sum(not torch.allclose(result, right, atol=1e-6) for result in results) == 0
    assert fingerprint(model) == before


@pytest.mark.parametrize('seed', range(4))
def test_blocks_of_several_contexts_in_any_order(model, x, seed):
    """Each context sees its own blocks, whichever begin and end between; the last one to end leaves the model as it was."""
    draw = random.Random(seed)
    contexts = [(Context(), []) for _ in range(3)]
    bare, before = copy.deepcopy(model), fingerprint(model)
    for _ in range(25):
        context, opened = draw.choice(contexts)
        spec, stack = draw.choice(SPECS), ExitStack()
        if isinstance(spec, PerturbedAttention) and any(isinstance(other, PerturbedAttention) for other, _ in opened):
            spec, stack = opened.pop(draw.randrange(len(opened)))  # not the innermost one either
            context.run(stack.close)
        else:
            context.run(stack.enter_context, spec.applied(model))
            opened.append((spec, stack))
        for context, opened in contexts:
            torch.testing.assert_close(context.run(model, x), expected(bare, x, [spec for spec, _ in opened]))
    for context, opened in contexts:
        for _, stack in opened:
            context.run(stack.close)
    assert fingerprint(model) == before


def test_a_thread_started_in_a_block_is_another_context(model, x):
    strong = model(x)
    with SPECS[0].applied(model):
        weak = model(x)
        assert not torch.allclose(weak, strong)
        with ThreadPoolExecutor(1) as pool:
            torch.testing.assert_close(pool.submit(Context().run, model, x).result(), strong)
            torch.testing.assert_close(pool.submit(copy_context().run, model, x).result(), weak)


def test_whoever_inherited_a_block_is_strong_when_it_ends(model, x):
    """Also while an equal block is open elsewhere, whose dispatcher stays in place."""
    strong = model(x)
    other, end = entered(SPECS[0], model)
    with SPECS[0].applied(model):
        inherited = copy_context()
        weak = inherited.run(model, x)
    torch.testing.assert_close(inherited.run(model, x), strong)
    torch.testing.assert_close(other.run(model, x), weak)
    assert not torch.allclose(weak, strong)
    end()


def test_models_that_share_modules(x):
    """An equal perturbation of a larger model, elsewhere, adds no module to the block."""
    part = nn.Sequential(nn.Linear(16, 16))
    whole = nn.Sequential(part[0], nn.Linear(16, 16))
    (of_part, end_part), (of_whole, end_whole) = (entered(skip_layers('*'), model) for model in (part, whole))
    torch.testing.assert_close(of_part.run(whole, x), whole[1](x))
    assert of_whole.run(whole, x) is x
    end_part()
    end_whole()


def test_a_block_leaves_nothing_in_its_context(model):
    with SPECS[0].applied(model), SPECS[1].applied(model):
        assert len(perturb_context.blocks) == 2
    assert perturb_context.blocks == ()


def test_two_tasks_on_one_thread(model, x):
    """Tasks take turns at every await, inside and outside of their blocks."""
    before, rounds = fingerprint(model), 40
    right = [expected(model, x, specs) for specs in ([], SPECS[:1], SPECS[3:4])]

    async def calls(specs):
        wrong = 0
        for _ in range(rounds):
            with ExitStack() as stack:
                for spec in specs:
                    stack.enter_context(spec.applied(model))
                await asyncio.sleep(0)
                wrong += not torch.allclose(model(x), right[jobs.index(specs)], atol=1e-6)
                await asyncio.sleep(0)
                threaded = await asyncio.to_thread(model, x)
                wrong += not torch.allclose(threaded, right[jobs.index(specs)], atol=1e-6)
            wrong += not torch.allclose(model(x), right[0], atol=1e-6)
        return wrong

    async def all_at_once():
        return await asyncio.gather(*map(calls, jobs))

    jobs = [[], SPECS[:1], SPECS[3:4]]
    assert asyncio.run(all_at_once()) == [0, 0, 0]
    assert fingerprint(model) == before


def test_a_block_may_end_in_another_context(model, x):
    """As when a generator that holds one is closed elsewhere: it ends for the context that entered it."""
    before, strong = fingerprint(model), model(x)
    context, stack = Context(), ExitStack()
    context.run(stack.enter_context, SPECS[0].applied(model))
    Context().run(stack.close)
    assert fingerprint(model) == before
    _, end = entered(SPECS[0], model)
    torch.testing.assert_close(context.run(model, x), strong)
    end()


def test_a_failing_block_does_not_end_another(model, x):
    before = fingerprint(model)
    failed, waits = Event(), Event()

    def fail():
        with SPECS[0].applied(model):
            assert waits.wait(60)
            raise KeyError('boom')

    def failing():
        with pytest.raises(KeyError, match='boom'):
            fail()
        failed.set()

    def steady():
        with SPECS[0].applied(model):
            waits.set()
            assert failed.wait(60)
            return model(x)

    right = expected(model, x, SPECS[:1])
    torch.testing.assert_close(together(failing, steady)[1], right)
    assert fingerprint(model) == before


# what a user does to a module meanwhile


def doubled(y):
    return y * 2


def test_an_assigned_forward_stays(model, x):
    block = model.blocks[0]
    with skip_layers('blocks.0').applied(model):
        block.forward = doubled
        assert torch.equal(block(x), doubled(x)), 'called as it is, until the next block'
        with skip_layers('blocks.0').applied(model):
            assert block(x) is x
        assert block.forward is doubled
    assert block.__dict__['forward'] is doubled
    assert '__getstate__' not in block.__dict__


def test_an_assigned_forward_stays_whichever_block_ends_last(model, x):
    block = model.blocks[0]
    first, end_first = entered(skip_layers('blocks.0'), model)
    block.forward = doubled
    second, end_second = entered(skip_layers('blocks.0'), model)
    assert first.run(block, x) is second.run(block, x) is x
    assert torch.equal(block(x), doubled(x))
    end_first()
    assert second.run(block, x) is x
    end_second()
    assert block.__dict__['forward'] is doubled
    assert '__getstate__' not in block.__dict__


def test_a_deleted_forward_stays_deleted(model, x):
    block = model.blocks[0]
    block.forward = doubled
    strong = type(block).forward(block, x)
    with skip_layers('blocks.0').applied(model):
        del block.forward
        torch.testing.assert_close(block(x), strong)
    assert 'forward' not in block.__dict__


def test_what_was_read_in_a_block_perturbs_nothing_after_it(model, x):
    """Someone saves `forward`, wraps it, and puts it back when the block is over, as hooks of other libraries do."""
    before, strong = fingerprint(model), model(x)
    block = model.blocks[1]
    with skip_layers('blocks.1').applied(model):
        saved = block.forward
        assert saved(x) is x
    block.forward = saved
    torch.testing.assert_close(model(x), strong)
    with skip_layers('blocks.1').applied(model):
        assert block(x) is x
    assert fingerprint(model) == before
    block.forward = lambda y: saved(y)
    with skip_layers('blocks.1').applied(model):
        assert block(x) is x
    torch.testing.assert_close(model(x), strong)


def test_nothing_keeps_a_model_alive(model):
    gone = weakref.ref(copied := copy.deepcopy(model))
    with SPECS[0].applied(copied):
        inherited = copy_context()  # which keeps the block, but not its modules
    del copied
    assert gone() is None, inherited


def test_equal_random_perturbations_skip_what_each_of_them_has_drawn(model, x):
    """In two threads, and in a block within a block."""
    singles = [expected(model, x, [skip_layers(f'blocks.{i}')]) for i in range(3)]
    perturbation, met = skip_random_layers('blocks.?'), Barrier(2)

    def run():
        with perturbation.applied(model):
            met.wait()
            found = model(x)
            met.wait()
        return found

    for _ in range(8):
        for found in together(run, run):
            assert any(torch.equal(found, single) for single in singles)
    with perturbation.applied(model):
        before = model(x)
        with perturbation.applied(model):
            model(x)
        assert torch.equal(model(x), before)
