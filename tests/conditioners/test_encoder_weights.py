"""What is remembered of an encoder is forgotten when its weights change."""

import pytest
import torch
from torch import nn

from classifier_free_guidance_pytorch.text import build_encoder
from tests.conditioners.making import KINDS, make, noise
from tests.decorator.models import build

TEXTS = ['a red circle', 'a blue square']


class LowRank(nn.Module):
    """A linear layer with a low-rank part beside it, as LoRA puts one in its place."""

    def __init__(self, base):
        super().__init__()
        self.base_layer = base
        self.a, self.b = nn.Linear(base.in_features, 2, bias=False), nn.Linear(2, base.out_features, bias=False)

    def forward(self, x):
        return self.base_layer(x) + self.b(self.a(x))


def add_low_rank(network):
    parent = next(one for one in network.modules() if hasattr(one, 'q_proj'))
    parent.q_proj = LowRank(parent.q_proj)


@torch.no_grad()
def write(network):
    next(network.parameters()).mul_(1.5)


def write_through_data(network):
    for weight in network.parameters():
        weight.data.mul_(1.5)


def load(network):
    network.load_state_dict({name: value * 1.5 for name, value in network.state_dict().items()})


@pytest.fixture
def encoder(hub):
    return build_encoder('hf', hub.hf_clip())  # nobody else uses this network while a test holds no other


@pytest.mark.parametrize('change', [write, write_through_data, load, add_low_rank])
@pytest.mark.parametrize('kind', KINDS)
@torch.no_grad()
def test_changed_weights_make_new_encodings(encoder, kind, change):
    conditioner, x = make(kind, encoders=[encoder]), noise(2, 6)
    before, features = conditioner(TEXTS)[0](x), conditioner.encode_texts(TEXTS)[0].pooled
    assert conditioner.encode_texts(TEXTS)[0].pooled is features
    change(encoder.model)
    after, expected = conditioner(TEXTS)[0](x), encoder.encode(TEXTS)
    assert not torch.equal(before, after)
    torch.testing.assert_close(after, conditioner(text_embeds=expected)[0](x))
    torch.testing.assert_close(conditioner.encode_texts(TEXTS)[0].pooled, expected.pooled)


@torch.no_grad()
def test_adapters_that_are_switched_off_and_on(encoder):
    peft = pytest.importorskip('peft')
    conditioner, x = make('film', encoders=[encoder]), noise(2, 6)
    without = conditioner(TEXTS)[0](x)
    model = peft.get_peft_model(encoder.model, peft.LoraConfig(target_modules=['q_proj'], init_lora_weights=False))
    adapted = conditioner(TEXTS)[0](x)
    assert not torch.allclose(adapted, without)
    with model.disable_adapter():
        torch.testing.assert_close(conditioner(TEXTS)[0](x), without)
    torch.testing.assert_close(conditioner(TEXTS)[0](x), adapted)


@torch.no_grad()
def test_the_empty_text_is_encoded_again_too(encoder):
    conditioner, x = make('film', encoders=[encoder], null='empty'), noise(2, 6)
    before = conditioner(TEXTS, cond_drop_prob=1.0)[0](x)
    write(encoder.model)
    after = conditioner(TEXTS, cond_drop_prob=1.0)[0](x)
    torch.testing.assert_close(after, conditioner(['', ''])[0](x))
    assert not torch.equal(before, after)


@torch.no_grad()
def test_a_guided_call_sees_it_and_encodes_no_more_often_than_it_must(encoder, monkeypatch):
    model, x, encoded = build('film', encoder=encoder), noise(2, 6), []
    encode = type(encoder).encode
    monkeypatch.setattr(type(encoder), 'encode', lambda self, *args, **more: encoded.append(args) or encode(self, *args, **more))
    before = [model(x, texts=TEXTS, cond_scale=3.0) for _ in range(3)]
    assert len(encoded) == 1
    write_through_data(encoder.model)
    after = [model(x, texts=TEXTS, cond_scale=3.0) for _ in range(3)]
    assert len(encoded) == 2
    assert torch.equal(before[0], before[2])
    assert torch.equal(after[0], after[2])
    assert not torch.equal(before[0], after[0])


def test_weights_that_nobody_else_has_are_not_looked_at(encoder, monkeypatch):
    """A sampling loop does not compare the hundreds of weights of an encoder that is not handed out."""
    conditioner = make('film', encoders=[encoder]).eval()
    looked = []
    (watch,) = conditioner.source._watches
    monkeypatch.setattr(watch, 'look', lambda module: looked.append(module) or 1)
    with torch.no_grad():
        conditioner(TEXTS), conditioner(TEXTS)
        assert looked == []
        assert encoder.model is not None
        conditioner(TEXTS)
    assert looked
