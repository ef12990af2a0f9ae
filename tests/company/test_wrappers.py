"""What people wrap around a model, or around its conditioner: right numbers, or one refusal that says what to wrap instead."""

import copy
import inspect

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from classifier_free_guidance_pytorch.errors import UsageError
from tests.company.models import GUIDED, KINDS, TEXTS, Net, build, inputs, linears

kinds = pytest.mark.parametrize('kind', KINDS)


@pytest.fixture
def one_process(tmp_path):
    dist.init_process_group('gloo', init_method=f'file://{tmp_path}/rendezvous', rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def check(model, wrapped, tolerance=0.0):
    """The wrapped model computes what the model does, in every way to call it."""
    x, exact = inputs(), {'rtol': tolerance, 'atol': tolerance}
    for wanted in (True, False, False):
        with torch.set_grad_enabled(wanted):
            torch.testing.assert_close(wrapped(x, **GUIDED), model(x, **GUIDED), **exact)
            torch.testing.assert_close(wrapped(x, **GUIDED, cfg_batched=True), model(x, **GUIDED), rtol=1e-5, atol=1e-5)
            torch.testing.assert_close(wrapped(x), model(x), **exact)
            embeds = model.encode_texts(TEXTS)
            torch.testing.assert_close(wrapped(x, text_embeds=embeds), model(x, text_embeds=embeds), **exact)


def trains(model, wrapped):
    """A training step of the wrapped model has the gradients of the model."""
    for module in (model, wrapped):
        module.train()
        module(inputs(), texts=TEXTS, cond_drop_prob=torch.tensor([0.0, 1.0, 0.0])).square().sum().backward()
    gradients = [[p.grad for p in module.parameters() if p.requires_grad] for module in (model, wrapped)]
    torch.testing.assert_close(*gradients, rtol=1e-5, atol=1e-5)


# accelerate

OPTIONS = [
    {},
    {'keep_fp32_wrapper': False},
    {'keep_torch_compile': False},
    {'keep_torch_compile': True},
    {'keep_fp32_wrapper': False, 'keep_torch_compile': False},
]


@kinds
@pytest.mark.parametrize('precision', ['no', 'bf16'])
@pytest.mark.parametrize('options', OPTIONS)
def test_accelerate(kind, precision, options):
    accelerate = pytest.importorskip('accelerate')
    known = inspect.signature(accelerate.Accelerator.unwrap_model).parameters
    if unknown := options.keys() - known.keys():
        pytest.skip(f'this accelerate has no {unknown}')
    accelerate.state.AcceleratorState._reset_state(True)  # it is one for the whole process
    accelerator = accelerate.Accelerator(mixed_precision=precision, cpu=True)
    model = build(kind)
    x, plain = inputs(), copy.deepcopy(model)
    prepared = accelerator.prepare(model)
    expected = plain(x, **GUIDED)
    torch.testing.assert_close(prepared(x, **GUIDED), expected, rtol=0.1, atol=0.1 if precision == 'bf16' else 1e-6)
    prepared.train()(x, texts=TEXTS).sum().backward()
    unwrapped = accelerator.unwrap_model(prepared, **options).eval()
    assert type(unwrapped) is Net
    if options.get('keep_fp32_wrapper', True) is False or precision == 'no':
        check(plain, unwrapped)


@kinds
def test_accelerate_unwraps_what_is_compiled(kind):
    other = pytest.importorskip('accelerate.utils.other')
    if 'keep_torch_compile' not in inspect.signature(other.extract_model_from_parallel).parameters:
        pytest.skip('this accelerate keeps what is compiled')
    model = build(kind)
    compiled = torch.compile(model, backend='eager')
    check(model, other.extract_model_from_parallel(compiled, keep_torch_compile=False))
    check(model, other.extract_model_from_parallel(nn.DataParallel(model), recursive=True))


# torch.compile


@kinds
def test_a_compiled_conditioner_in_a_model(kind):
    model, wrapped = build(kind), build(kind)
    wrapped.text_conditioner = torch.compile(wrapped.text_conditioner, backend='eager')
    check(model, wrapped)
    assert wrapped.max_cond_text_len == model.max_cond_text_len
    prepared = wrapped.prepare(TEXTS)
    torch.testing.assert_close(wrapped(inputs(), text_condition=prepared), model(inputs(), texts=TEXTS), rtol=0, atol=0)
    trains(model, wrapped)


@kinds
def test_a_conditioner_that_is_compiled_in_place(kind):
    model, wrapped = build(kind), build(kind)
    wrapped.text_conditioner.compile(backend='eager')
    check(model, wrapped)
    trains(model, wrapped)


@kinds
def test_a_compiled_conditioner_by_itself(kind):
    model = build(kind).text_conditioner
    compiled, x = torch.compile(model, backend='eager'), inputs()
    encodings = model.encode_texts(TEXTS)
    for given in ({'texts': TEXTS}, {'text_embeds': encodings}):
        ours, theirs = (one(**given, return_text_cond=True) for one in (model, compiled))
        for conditions in (ours[0], theirs[0]):
            assert len(conditions) == 1
        torch.testing.assert_close(theirs[0][0](x), ours[0][0](x), rtol=0, atol=0)
        torch.testing.assert_close(theirs[1].embed, ours[1].embed, rtol=0, atol=0)


@kinds
def test_compiled_layers(kind):
    model, wrapped = build(kind), build(kind)
    for name, layer in linears(wrapped).items():
        wrapped.text_conditioner.set_submodule(name, torch.compile(layer, backend='eager'))
    check(model, wrapped)
    trains(model, wrapped)


# processes


@kinds
def test_ddp(kind, one_process):
    model, wrapped = build(kind), DistributedDataParallel(build(kind))
    check(model, wrapped.eval())
    trains(model, wrapped)
    del wrapped


@kinds
def test_ddp_around_a_conditioner_is_refused_in_training(kind, one_process):
    """Its gradients would be summed in a forward that nobody calls."""
    model, wrapped = build(kind), build(kind)
    wrapped.text_conditioner = DistributedDataParallel(wrapped.text_conditioner)
    check(model, wrapped.eval())
    message = r'but DistributedDataParallel\(text_conditioner\) does its work around one call of it: wrap the whole model, Distr'
    with pytest.raises(UsageError, match=message):
        wrapped.train()(inputs(), texts=TEXTS)
    wrapped.text_conditioner = wrapped.text_conditioner.module


@kinds
def test_fsdp2(kind, one_process):
    fsdp = pytest.importorskip('torch.distributed.fsdp')
    model, sharded = build(kind), build(kind)
    fsdp.fully_shard(sharded, mesh=dist.init_device_mesh('cpu', (1,)))
    check(model, sharded, tolerance=1e-6)
    alone = build(kind)
    fsdp.fully_shard(alone.text_conditioner, mesh=dist.init_device_mesh('cpu', (1,)))
    for call in (lambda: alone(inputs(), **GUIDED), lambda: alone.prepare(TEXTS), lambda: alone.train()(inputs(), texts=TEXTS)):
        with pytest.raises(UsageError, match=r'but fully_shard\(text_conditioner\) does its work around one call of it: wrap'):
            call()


@kinds
def test_data_parallel_around_a_conditioner(kind):
    model, wrapped = build(kind), build(kind)
    wrapped.text_conditioner = nn.DataParallel(wrapped.text_conditioner)
    check(model, wrapped)
    trains(model, wrapped)
    torch.testing.assert_close(
        wrapped.eval()(inputs(), text_condition=wrapped.prepare(TEXTS)), model.eval()(inputs(), texts=TEXTS)
    )
