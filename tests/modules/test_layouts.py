"""Backbones of other libraries: widths and layouts are found, nothing changes before training, and guidance is what it says."""

import pytest
import torch
from torch import nn

from classifier_free_guidance_pytorch import Part, text_conditioned
from classifier_free_guidance_pytorch.text.torchvision_repair import repair_torchvision
from tests.conditioners.making import noise, randomised
from tests.tiny_models import TinyEncoder

IMAGES, LATENTS, TIMES = noise(2, 3, 64, 64), noise(2, 4, 8, 8), torch.tensor([1, 500])
IDS = torch.randint(3, 40, (2, 5), generator=torch.Generator().manual_seed(0))
SMALL = {'vocab_size': 40, 'bos_token_id': 1, 'eos_token_id': 2}


def timm(name, **sizes):
    return lambda: pytest.importorskip('timm').create_model(name, **sizes)


def of(library, name, **sizes):
    return lambda: getattr(pytest.importorskip(library), name)(**sizes)


def of_transformers(config, name, **sizes):
    def make():
        transformers = pytest.importorskip('transformers')
        return getattr(transformers, name)(getattr(transformers, config)(**sizes))

    return make


BLOCKS = {'layers_per_block': 1, 'block_out_channels': (8, 16), 'norm_num_groups': 4, 'attention_head_dim': 4, 'sample_size': 8}
SD = of(
    'diffusers', 'UNet2DConditionModel', **BLOCKS, in_channels=4, out_channels=4, cross_attention_dim=16,
    down_block_types=('DownBlock2D', 'CrossAttnDownBlock2D'), up_block_types=('CrossAttnUpBlock2D', 'UpBlock2D'),
)  # fmt: skip
VIDEO = of(
    'diffusers', 'UNet3DConditionModel', **BLOCKS, in_channels=4, out_channels=4, cross_attention_dim=16,
    down_block_types=('CrossAttnDownBlock3D', 'DownBlock3D'), up_block_types=('UpBlock3D', 'CrossAttnUpBlock3D'),
)  # fmt: skip
DIT = of(
    'diffusers', 'DiTTransformer2DModel', num_attention_heads=2, attention_head_dim=8, in_channels=4, num_layers=1, sample_size=8
)
GPT2 = of_transformers('GPT2Config', 'GPT2LMHeadModel', **SMALL, n_embd=16, n_layer=1, n_head=2)
LLAMA = of_transformers(
    'LlamaConfig', 'LlamaModel', **SMALL, hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2
)
ENCODER = {'num_layers': 1, 'encoder_layer': nn.TransformerEncoderLayer(16, 2, batch_first=True)}

# what is made, what it is called with, and the parts with their widths and whether channels come first
CASES = {
    'vit': (timm('vit_tiny_patch16_224', img_size=64, depth=1), (IMAGES,), {'blocks.0': (192, False)}),
    'swin': (
        timm('swin_tiny_patch4_window7_224', img_size=64, window_size=2),
        (IMAGES,),
        {'layers.0': (96, False), 'layers.3': (768, False)},
    ),
    'convnext': (timm('convnext_atto'), (IMAGES,), {'stages.0': (40, True), 'stages.3': (320, True)}),
    'resnet': (timm('resnet18'), (IMAGES,), {'layer1': (64, True), 'layer4': (512, True)}),
    'gpt2': (GPT2, {'input_ids': IDS}, {'transformer.h.0': (16, False), 'transformer.h.0.mlp.c_proj': (16, False)}),
    'llama': (LLAMA, {'input_ids': IDS}, {'layers.0': (16, False), 'layers.0.input_layernorm': (16, False)}),
    'dit': (DIT, (LATENTS, TIMES, torch.tensor([1, 2])), {'transformer_blocks.0': (16, False)}),
    'stable diffusion': (
        SD,
        (LATENTS, TIMES, noise(2, 3, 16)),
        {
            'mid_block': (16, True),
            'up_blocks.0.attentions.0': (16, True),
            'up_blocks.0.attentions.0.transformer_blocks.0.attn1': (16, False),
        },
    ),
    'video': (VIDEO, (noise(2, 4, 3, 8, 8), TIMES, noise(2, 3, 16)), {'mid_block': (16, True)}),
    'transformer': (lambda: nn.TransformerEncoder(**ENCODER), (noise(2, 5, 16),), {'layers.0': (16, False)}),
    'lstm': (lambda: nn.Sequential(nn.LSTM(8, 6, batch_first=True)), (noise(2, 5, 8),), {'0': (6, False)}),
}


@pytest.mark.filterwarnings('ignore:The PyTorch API of nested tensors')
@pytest.mark.parametrize('condition', ['film', 'attention', 'concat'])
def test_sequences_of_unequal_length(condition):
    """In eval mode `nn.TransformerEncoder` computes nothing for padding; what it returns for the tokens is as with padding."""
    x, padding = noise(2, 5, 16), torch.tensor([[False] * 5, [False] * 3 + [True] * 2])
    example, call = {'src': x, 'src_key_padding_mask': padding}, {'texts': ['a dog', 'a small red circle'], 'cond_scale': 3.0}
    layer = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True)
    model = text_conditioned(nn.TransformerEncoder(layer, 2), 'layers.*', condition, example=example, model_types=[TinyEncoder()])
    randomised(model.text_conditioner)
    padded = model.eval()(**example, **call)
    with torch.no_grad():
        nested = model(**example, **call)
    assert not nested[padding].any()
    torch.testing.assert_close(nested[~padding], padded[~padding], rtol=1e-4, atol=1e-4)


def prediction(output):
    while not isinstance(output, torch.Tensor):
        output = next(iter(output.values())) if hasattr(output, 'values') else output[0]
    return output


@pytest.mark.parametrize('case', CASES)
@torch.no_grad()
def test_backbones(case):
    repair_torchvision()
    make, example, parts = CASES[case]
    torch.manual_seed(0)
    net = make().eval()

    def call(**text):
        return prediction(net(**example, **text) if isinstance(example, dict) else net(*example, **text))

    expected = call()
    at = {name: Part(repeat_batch=3 if case == 'video' else 1) for name in parts}
    model = text_conditioned(net, at, example=example, model_types=[TinyEncoder()])
    assert {name: (part.dim, part.channel_first) for name, part in model.text_parts.items()} == parts
    texts = ['a dog', 'a small red circle']
    torch.testing.assert_close(call(texts=texts), expected, rtol=0, atol=1e-6)
    randomised(model.text_conditioner)
    cond, null, guided = call(texts=texts), call(), call(texts=texts, cond_scale=3.0)
    assert not torch.allclose(cond, null)
    assert ((guided - null - 3 * (cond - null)).abs().max() / guided.abs().max()).item() < 1e-4
