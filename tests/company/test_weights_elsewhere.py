"""Weights that are stored elsewhere, or otherwise, than they are computed with: offloaded, cast, packed, quantised, derived."""

import copy
import importlib

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, prune

from classifier_free_guidance_pytorch.errors import UsageError
from classifier_free_guidance_pytorch.layers import place_of
from tests.company.models import GUIDED, KINDS, TEXTS, build, inputs, linears

kinds = pytest.mark.parametrize('kind', KINDS)


def calls(model, x):
    """The numbers of a guided call in every form."""
    return torch.stack([
        model(x, **GUIDED),
        model(x, text_condition=model.prepare(TEXTS), cond_scale=3.0),
        model(x, text_embeds=model.encode_texts(TEXTS), cond_scale=3.0, cfg_batched=True),
        model(x),
    ])  # fmt: skip


def check(model, changed, tolerance):
    """The changed model computes what the model does, where gradients are wanted and where conditions are remembered."""
    x = inputs()
    for wanted in (True, False, False):
        with torch.set_grad_enabled(wanted):
            expected = calls(model, x)
            torch.testing.assert_close(calls(changed, x), expected, rtol=tolerance, atol=tolerance * float(expected.abs().max()))


@kinds
@pytest.mark.parametrize('null', ['learned', 'zeros', 'empty'])
def test_accelerate_offloads_to_the_cpu(kind, null):
    accelerate = pytest.importorskip('accelerate')
    null = 'zeros' if kind == 'raw' else null
    model = build(kind, null=null)
    changed = accelerate.cpu_offload(copy.deepcopy(model), execution_device=torch.device('cpu'))
    assert all(weight.is_meta for weight in changed.parameters())
    check(model, changed, 1e-6)
    prepared = changed.prepare(TEXTS)  # what offloading brings back are the same weights
    changed(inputs(), **GUIDED)
    torch.testing.assert_close(changed(inputs(), text_condition=prepared), model(inputs(), texts=TEXTS))


@kinds
def test_accelerate_offloads_to_a_disk(kind, tmp_path):
    accelerate = pytest.importorskip('accelerate')
    model = build(kind)
    changed = accelerate.disk_offload(copy.deepcopy(model), str(tmp_path), execution_device=torch.device('cpu'))
    check(model, changed, 1e-6)


@kinds
@pytest.mark.parametrize('compute', [torch.float32, torch.bfloat16], ids=str)
def test_diffusers_stores_in_float8(kind, compute):
    hooks = pytest.importorskip('diffusers.hooks')
    model = build(kind).to(compute)
    changed = copy.deepcopy(model)
    hooks.apply_layerwise_casting(changed, storage_dtype=torch.float8_e4m3fn, compute_dtype=compute)
    assert any(weight.dtype is torch.float8_e4m3fn for weight in changed.text_conditioner.parameters())
    assert {e.tokens.dtype for e in changed.encode_texts(TEXTS)} == {compute}
    x = inputs().to(compute)
    expected = calls(model, x)
    torch.testing.assert_close(calls(changed, x), expected, rtol=0, atol=0.3 * float(expected.abs().max()))


@kinds
def test_diffusers_stores_in_another_precision_than_it_computes_in(kind):
    hooks = pytest.importorskip('diffusers.hooks')
    model = build(kind)
    changed = copy.deepcopy(model)
    hooks.apply_layerwise_casting(changed, storage_dtype=torch.bfloat16, compute_dtype=torch.float32)
    assert {e.tokens.dtype for e in changed.encode_texts(TEXTS)} == {torch.float32}
    check(model, changed, 0.05)


@kinds
def test_dynamic_int8(kind):
    model = build(kind)
    changed = torch.ao.quantization.quantize_dynamic(model, {nn.Linear}, dtype=torch.qint8)
    assert linears(changed) == {}
    check(model, changed, 0.15)


class Packed(nn.Module):
    """A linear layer whose weight is packed in bytes, as libraries for 4 bits keep theirs."""

    def __init__(self, linear):
        super().__init__()
        self.in_features, self.out_features, self.bias = linear.in_features, linear.out_features, linear.bias
        weight = linear.weight.detach()
        self.scale = float(weight.abs().max()) / 127
        packed = (weight / self.scale).round().to(torch.int8).view(torch.uint8).reshape(-1, 1)
        self.weight = nn.Parameter(packed, requires_grad=False)

    def forward(self, x):
        weight = self.weight.view(torch.int8).view(self.out_features, self.in_features).to(x.dtype) * self.scale
        return nn.functional.linear(x, weight, self.bias)


@kinds
def test_packed_layers(kind):
    model = build(kind)
    changed = copy.deepcopy(model)
    for name, layer in linears(changed).items():
        changed.text_conditioner.set_submodule(name, Packed(layer))
    assert linears(changed) == {}
    check(model, changed, 0.1)


@kinds
def test_torchao(kind):
    quantization = pytest.importorskip('torchao.quantization')
    model = build(kind)
    changed = copy.deepcopy(model)
    quantization.quantize_(changed, quantization.Int8WeightOnlyConfig())
    check(model, changed, 0.1)


def pruned(layer):
    prune.l1_unstructured(layer, 'weight', amount=0.5)
    weight = layer.weight.detach().clone()
    return lambda plain: plain.weight.copy_(weight)


def weight_normed(layer):
    parametrizations.weight_norm(layer)


def orthogonal(layer):
    parametrizations.orthogonal(layer)
    weight = layer.weight.detach().clone()
    return lambda plain: plain.weight.copy_(weight)


def old_weight_norm(layer):
    torch.nn.utils.weight_norm(layer)


@kinds
@pytest.mark.parametrize('derive', [pruned, weight_normed, orthogonal, old_weight_norm])
@pytest.mark.filterwarnings('ignore:.*weight_norm.*deprecated:FutureWarning')
def test_weights_that_are_derived_from_others(kind, derive):
    model, changed = build(kind), build(kind)
    plain = linears(model)
    with torch.no_grad():
        for name, layer in linears(changed).items():
            (derive(layer) or (lambda layer: None))(plain[name])
    check(model, changed, 1e-5)
    x, before = inputs(), changed(inputs(), **GUIDED)
    prepared = changed.prepare(TEXTS)
    changed.train()(x, texts=TEXTS).sum().backward()
    torch.optim.SGD(changed.parameters(), lr=0.1).step()
    changed.eval()
    assert not torch.allclose(changed(x, **GUIDED), before), 'the remembered conditions outlived the weights'
    with pytest.raises(UsageError, match='weights have changed'):
        changed(x, text_condition=prepared)


@kinds
def test_weights_that_nobody_brings_back_are_named(kind):
    model = build(kind).to('meta')
    with pytest.raises(UsageError, match=r'weights of \w+ are on the device meta, so there is nothing to compute with'):
        model(inputs().to('meta'), **GUIDED)


@kinds
def test_replicas_of_data_parallel_compute_where_they_are(kind, monkeypatch):
    """On a machine with several GPUs a replica holds its weights as tensors, and several run at once."""
    replicate = importlib.import_module('torch.nn.parallel.replicate')
    copies = lambda tensors, devices, detach=False: [[t.clone() for t in tensors]] * 2  # noqa: E731
    monkeypatch.setattr(replicate, '_broadcast_coalesced_reshape', copies)
    model, x = build(kind), inputs()
    for replica in replicate.replicate(model, [0, 1]):
        assert list(replica.parameters()) == []
        assert replica.text_conditioner.place == place_of(model)
        torch.testing.assert_close(replica(x, **GUIDED), model(x, **GUIDED), rtol=0, atol=0)


@kinds
def test_data_parallel(kind):
    model, x = build(kind), inputs()
    parallel = nn.DataParallel(model)
    torch.testing.assert_close(parallel(x, **GUIDED), model(x, **GUIDED), rtol=0, atol=0)


def on_disk(accelerate, model, folder):
    places = {'into': 'cpu', 'out': 'cpu', 'text_conditioner': 'disk'}
    return accelerate.dispatch_model(copy.deepcopy(model), places, main_device='cpu', offload_dir=folder, force_hooks=True)


def from_a_checkpoint(accelerate, model, folder):
    accelerate.Accelerator(cpu=True).save_model(model, folder)
    with accelerate.init_empty_weights():
        empty = copy.deepcopy(model).to('meta')
    return accelerate.load_checkpoint_and_dispatch(empty, folder, device_map={'': 'cpu'}, force_hooks=True)


def assigned(accelerate, model, folder):
    empty = copy.deepcopy(model).to('meta')
    empty.load_state_dict(model.state_dict(), assign=True)
    return empty


def brought_back(accelerate, model, folder):
    changed = accelerate.cpu_offload(copy.deepcopy(model), execution_device=torch.device('cpu'))
    changed(inputs(), **GUIDED)
    accelerate.hooks.remove_hook_from_submodules(changed)
    return changed


@kinds
@pytest.mark.parametrize('load', [on_disk, from_a_checkpoint, assigned, brought_back])
def test_other_ways_to_the_same_weights(kind, load, tmp_path):
    accelerate, model = pytest.importorskip('accelerate'), build(kind)
    check(model, load(accelerate, model, str(tmp_path)).eval(), 1e-5)


@kinds
def test_weights_that_are_lent_for_one_call(kind):
    model, x = build(kind), inputs()
    weights = {name: weight.detach() for name, weight in model.named_parameters()}
    with torch.no_grad():
        before = model(x, **GUIDED)
        other = {name: weight * 2 for name, weight in weights.items()}
        lent = torch.func.functional_call(model, other, (x,), GUIDED)
        torch.testing.assert_close(model(x, **GUIDED), before, rtol=0, atol=0)
        model.load_state_dict(other)
        torch.testing.assert_close(lent, model(x, **GUIDED), rtol=1e-6, atol=1e-6)
