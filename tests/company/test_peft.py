"""PEFT: adapters on any linear layer, a conditioner that is trained whole, and adapters that are switched off again."""

import copy

import pytest
import torch

from classifier_free_guidance_pytorch import guidance
from classifier_free_guidance_pytorch.errors import UsageError
from tests.company.models import GUIDED, KINDS, TEXTS, build, inputs, linears
from tests.conditioners.making import randomised

peft = pytest.importorskip('peft')
kinds = pytest.mark.parametrize('kind', KINDS)


def merged_by_hand(model, adapted):
    """The plain model with what the adapters add in its weights."""
    other = copy.deepcopy(model)
    layers = dict(other.named_modules())
    with torch.no_grad():
        for name, layer in adapted.base_model.model.named_modules():
            if isinstance(layer, peft.tuners.lora.Linear):
                layers[name].weight += layer.get_delta_weight('default')
    return other


def calls(model, x, kind):
    outputs = [model(x, **GUIDED), model(x), model(x, **GUIDED, cfg_batched=True), model(x, texts=TEXTS[:1], cond_scale=2.0)]
    if kind == 'attention':
        outputs.append(model(x, texts=TEXTS, guidance=guidance.NAG(), cond_scale=3.0))
    return torch.stack(outputs)


def with_lora(model, targets, **more):
    adapted = peft.get_peft_model(copy.deepcopy(model), peft.LoraConfig(r=2, target_modules=targets, **more)).eval()
    return randomised_adapters(adapted)


def randomised_adapters(adapted):
    with torch.no_grad():
        for name, weight in adapted.named_parameters():
            if 'lora_' in name:
                weight.copy_(torch.randn(weight.shape, generator=torch.Generator().manual_seed(len(name))) * 0.5)
    return adapted


@kinds
def test_lora_on_every_linear_layer(kind):
    model, x = build(kind), inputs()
    adapted = with_lora(model, 'all-linear')
    assert not linears(adapted.base_model.model).keys() & linears(model).keys()
    expected = merged_by_hand(model, adapted)
    torch.testing.assert_close(calls(adapted, x, kind), calls(expected, x, kind), rtol=1e-4, atol=1e-4)
    assert not torch.allclose(adapted(x, **GUIDED), model(x, **GUIDED), atol=1e-2)
    torch.testing.assert_close(adapted.merge_and_unload()(x, **GUIDED), expected(x, **GUIDED), rtol=1e-4, atol=1e-4)


@kinds
def test_lora_on_each_linear_layer_alone(kind):
    model, x = build(kind), inputs()
    for name in linears(model):
        adapted = with_lora(model, [f'text_conditioner.{name}'])
        expected = merged_by_hand(model, adapted)
        torch.testing.assert_close(calls(adapted, x, kind), calls(expected, x, kind), rtol=1e-4, atol=1e-4, msg=name)
        assert not torch.allclose(calls(adapted, x, kind), calls(model, x, kind), atol=1e-3), name


@kinds
def test_lora_trains(kind):
    adapted = with_lora(build(kind), 'all-linear').train()
    adapted(inputs(), texts=TEXTS).square().sum().backward()
    trained = {name: weight.grad for name, weight in adapted.named_parameters() if weight.requires_grad}
    assert all(gradient is not None and gradient.any() for gradient in trained.values())
    assert all('lora_' in name for name in trained)


@kinds
@torch.no_grad()  # as one samples, so that conditions are remembered
def test_adapters_that_are_switched_off(kind):
    """What was remembered, or prepared, with an adapter is not used without it, and the other way round."""
    model, x = build(kind), inputs()
    adapted = with_lora(model, 'all-linear')
    with_adapter = adapted(x, **GUIDED)
    prepared = adapted.base_model.model.prepare(TEXTS)
    with adapted.disable_adapter():
        torch.testing.assert_close(adapted(x, **GUIDED), model(x, **GUIDED), rtol=0, atol=0)
        with pytest.raises(UsageError, match=r'prepare\(texts\) again \(adapters that were switched on or off count as well\)'):
            adapted(x, text_condition=prepared)
        without = adapted.base_model.model.prepare(TEXTS)
        torch.testing.assert_close(adapted(x, text_condition=without, cond_scale=3.0), model(x, **GUIDED), rtol=0, atol=0)
    torch.testing.assert_close(adapted(x, **GUIDED), with_adapter, rtol=0, atol=0)
    torch.testing.assert_close(adapted(x, text_condition=prepared, cond_scale=3.0), with_adapter, rtol=0, atol=0)
    with pytest.raises(UsageError, match='weights have changed'):
        adapted(x, text_condition=without)


@kinds
@torch.no_grad()
def test_several_adapters(kind):
    model, x = build(kind), inputs()
    adapted = with_lora(model, 'all-linear')
    first = adapted(x, **GUIDED)
    adapted.add_adapter('second', peft.LoraConfig(r=3, target_modules='all-linear'))
    adapted.set_adapter('second')
    torch.testing.assert_close(adapted.eval()(x, **GUIDED), model(x, **GUIDED), rtol=1e-5, atol=1e-5)  # a new one is zero
    adapted.set_adapter('default')
    torch.testing.assert_close(adapted(x, **GUIDED), first, rtol=0, atol=0)
    for layer in adapted.modules():
        if isinstance(layer, peft.tuners.lora.Linear):
            layer.set_scale('default', 0.0)
    torch.testing.assert_close(adapted(x, **GUIDED), model(x, **GUIDED), rtol=1e-5, atol=1e-5)


@kinds
def test_a_conditioner_that_is_trained_whole(kind, tmp_path):
    model, x = build(kind), inputs()
    adapted = peft.get_peft_model(copy.deepcopy(model), peft.LoraConfig(
        r=2, target_modules=['into'], modules_to_save=['text_conditioner'])).eval()  # fmt: skip
    torch.testing.assert_close(adapted(x, **GUIDED), model(x, **GUIDED), rtol=1e-5, atol=1e-5)
    randomised(adapted.base_model.model.text_conditioner.modules_to_save['default'], seed=5)
    other = copy.deepcopy(model)
    randomised(other.text_conditioner, seed=5)
    torch.testing.assert_close(calls(adapted, x, kind), calls(other, x, kind), rtol=1e-5, atol=1e-5)
    prepared = adapted.base_model.model.prepare(TEXTS)
    torch.testing.assert_close(adapted(x, text_condition=prepared, cond_scale=3.0), other(x, **GUIDED), rtol=1e-5, atol=1e-5)
    with adapted.disable_adapter():
        torch.testing.assert_close(adapted(x, **GUIDED), model(x, **GUIDED), rtol=1e-5, atol=1e-5)
        with pytest.raises(UsageError, match='prepared by another model'):
            adapted(x, text_condition=prepared)
    adapted.train()(x, texts=TEXTS).square().sum().backward()
    copied = adapted.base_model.model.text_conditioner
    assert all(weight.grad is not None for weight in copied.modules_to_save['default'].parameters())
    assert all(weight.grad is None for weight in copied.original_module.parameters())

    adapted.eval().save_pretrained(tmp_path)
    again = peft.PeftModel.from_pretrained(copy.deepcopy(model), tmp_path).eval()
    torch.testing.assert_close(again(x, **GUIDED), other(x, **GUIDED), rtol=1e-5, atol=1e-5)


@kinds
@pytest.mark.parametrize('config', ['IA3Config', 'LoHaConfig', 'OFTConfig', 'VeraConfig'])
def test_other_adapters(kind, config):
    model, x = build(kind), inputs()
    more = {'IA3Config': {'feedforward_modules': []}, 'OFTConfig': {'oft_block_size': 2, 'r': 0}}.get(config, {})
    targets = [f'text_conditioner.{name}' for name in linears(model)]
    targets = targets[:1] if config in ('VeraConfig', 'OFTConfig') else targets
    try:
        adapted = peft.get_peft_model(copy.deepcopy(model), getattr(peft, config)(target_modules=targets, **more)).eval()
    except (ValueError, TypeError) as error:
        pytest.skip(str(error))
    with torch.no_grad():
        for weight in adapted.parameters():
            if weight.requires_grad:
                weight.add_(0.1)
    expected = calls(adapted, x, kind)
    assert not torch.allclose(expected, calls(model, x, kind), atol=1e-4)
    torch.testing.assert_close(calls(adapted.merge_and_unload(), x, kind), expected, rtol=1e-3, atol=1e-3)
