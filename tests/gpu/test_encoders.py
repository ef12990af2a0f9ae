"""Frozen encoders follow the model that uses them."""

import pytest
import torch

from classifier_free_guidance_pytorch import BGEAdapter, HFTextAdapter, OpenClipAdapter, T5Adapter, TextConditioner
from classifier_free_guidance_pytorch.text.mini import MiniAdapter

TEXTS = ['a small red circle', 'a dog chasing after a round ball', '']


@pytest.fixture
def encoders(hub):
    """Makes each of the encoders."""

    def clip():
        hub.clip()
        return OpenClipAdapter()

    return {
        'mini': MiniAdapter,
        't5': lambda: T5Adapter(hub.t5()),
        'bge': lambda: BGEAdapter(hub.bge()),
        'clip': clip,
        'decoder': lambda: HFTextAdapter(hub.decoder(), pooling='last'),
        'siglip': lambda: HFTextAdapter(hub.siglip(), pooling='last'),
    }


@pytest.mark.parametrize('name', ['mini', 't5', 'bge', 'clip', 'decoder', 'siglip'])
def test_encoders_follow(name, encoders, device):
    if name == 'clip':
        pytest.importorskip('torchvision', reason='open_clip imports it')
    encoder = encoders[name]()
    exact = encoder.encode(TEXTS)
    for dtype, allowed in ((torch.float32, 1e-3), (torch.bfloat16, 0.15), (torch.float16, 0.03)):
        there = encoder.encode(TEXTS, device=device, dtype=dtype)
        assert {part.device.type for part in (there.tokens, there.mask, there.pooled)} == {device.type}
        assert there.tokens.dtype == there.pooled.dtype == dtype
        assert torch.equal(there.mask.cpu(), exact.mask)
        torch.testing.assert_close(there.tokens.cpu().float(), exact.tokens, rtol=allowed, atol=allowed)
        torch.testing.assert_close(there.pooled.cpu().float(), exact.pooled, rtol=allowed, atol=allowed)
    assert torch.equal(encoder.encode(TEXTS, device='cpu', dtype=torch.float32).tokens, exact.tokens)


def test_a_conditioner_takes_its_encoder_along(device):
    conditioner = TextConditioner((6,), model_types='mini').eval()
    conditioner(TEXTS)
    for dtype in (torch.float32, torch.bfloat16):
        conditioner.to(device, dtype)
        (condition,) = conditioner(TEXTS)
        assert condition(torch.randn(3, 6, device=device, dtype=dtype)).dtype == dtype
        weights = list(conditioner.text_models[0].model.parameters())
        assert {weight.device.type for weight in weights} == {device.type}


def test_a_text_alone_is_as_in_a_batch(encoders, device):
    for name in ('mini', 't5'):
        encoder = encoders[name]()
        together = encoder.encode(TEXTS, device=device)
        for row, text in enumerate(TEXTS):
            alone = encoder.encode([text], device=device)
            torch.testing.assert_close(together.pooled[row], alone.pooled[0], rtol=1e-3, atol=1e-3)
