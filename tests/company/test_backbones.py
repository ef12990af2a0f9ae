"""Networks of the libraries that people use, as they are: three lines each, then a step of training and every way to guide."""

import pytest
import torch

from classifier_free_guidance_pytorch import text_conditioned
from classifier_free_guidance_pytorch.text.torchvision_repair import repair_torchvision
from tests.conditioners.making import noise, randomised
from tests.tiny_models import TinyEncoder

TEXTS = ['a dog', 'a small red circle']
TIMES, LATENTS = torch.tensor([1, 500]), noise(2, 4, 8, 8)
IDS = torch.randint(0, 40, (2, 5), generator=torch.Generator().manual_seed(0))
BLOCKS = {'layers_per_block': 1, 'block_out_channels': (8, 16), 'norm_num_groups': 4, 'attention_head_dim': 4, 'sample_size': 8}


def of(library, name, **sizes):
    return getattr(pytest.importorskip(library), name)(**sizes)


def continuous():
    lucid = pytest.importorskip('x_transformers')
    layers = lucid.Encoder(dim=16, depth=1, heads=2)
    return lucid.ContinuousTransformerWrapper(dim_in=8, dim_out=8, max_seq_len=8, attn_layers=layers)


def of_tokens():
    lucid = pytest.importorskip('x_transformers')
    return lucid.TransformerWrapper(num_tokens=40, max_seq_len=8, attn_layers=lucid.Decoder(dim=16, depth=1, heads=2))


def gpt2():
    transformers = pytest.importorskip('transformers')
    return transformers.GPT2LMHeadModel(transformers.GPT2Config(vocab_size=40, n_embd=16, n_layer=1, n_head=2))


def sd3():
    return of(
        'diffusers', 'SD3Transformer2DModel', sample_size=8, patch_size=2, in_channels=4, out_channels=4, num_layers=1,
        num_attention_heads=3, attention_head_dim=8, joint_attention_dim=16, caption_projection_dim=24, pooled_projection_dim=16,
        pos_embed_max_size=8,
    )  # fmt: skip


def flux():
    return of(
        'diffusers', 'FluxTransformer2DModel', patch_size=1, in_channels=4, num_layers=1, num_single_layers=1,
        attention_head_dim=16, num_attention_heads=2, joint_attention_dim=16, pooled_projection_dim=16, axes_dims_rope=(4, 4, 8),
    )  # fmt: skip


FLUX = {
    'hidden_states': noise(2, 9, 4), 'encoder_hidden_states': noise(2, 3, 16, seed=1), 'pooled_projections': noise(2, 16),
    'timestep': torch.tensor([0.1, 0.7]), 'img_ids': torch.zeros(9, 3), 'txt_ids': torch.zeros(3, 3),
}  # fmt: skip
CONDITIONED = {'cross_attention_dim': 16, 'down_block_types': ('DownBlock2D', 'CrossAttnDownBlock2D')}
PLAIN = {'down_block_types': ('DownBlock2D', 'AttnDownBlock2D'), 'up_block_types': ('AttnUpBlock2D', 'UpBlock2D')}

# the network, what it is called with, and its parts
CASES = {
    'denoising-diffusion Unet': (
        lambda: of('denoising_diffusion_pytorch', 'Unet', dim=8, dim_mults=(1, 2)), (noise(2, 3, 8, 8), TIMES), 'downs.*.0'),
    'denoising-diffusion Unet1D': (
        lambda: of('denoising_diffusion_pytorch', 'Unet1D', dim=8, dim_mults=(1, 2), channels=3),
        (noise(2, 3, 16), TIMES), 'mid_block1'),
    'imagen Unet': (
        lambda: of('imagen_pytorch', 'Unet', dim=8, dim_mults=(1, 2), cond_on_text=False, text_embed_dim=16, num_resnet_blocks=1),
        (noise(2, 3, 8, 8), TIMES.float()), 'mid_block1'),
    'rectified-flow Unet': (
        lambda: of('rectified_flow_pytorch', 'Unet', dim=8, dim_mults=(1, 2)), (noise(2, 3, 8, 8), TIMES / 1000), 'mid_block1'),
    'x-transformers, continuous': (continuous, (noise(2, 5, 8),), 'attn_layers'),
    'x-transformers, tokens': (of_tokens, (IDS,), 'attn_layers.layers.*.1'),
    'vit-pytorch ViT': (
        lambda: of('vit_pytorch', 'ViT', image_size=16, patch_size=4, num_classes=5, dim=16, depth=1, heads=2, mlp_dim=32),
        (noise(2, 3, 16, 16),), 'transformer'),
    'timm ViT': (
        lambda: pytest.importorskip('timm').create_model('vit_tiny_patch16_224', img_size=32, depth=1),
        (noise(2, 3, 32, 32),), 'blocks.*'),
    'UNet2DCondition': (
        lambda: of('diffusers', 'UNet2DConditionModel', **BLOCKS, **CONDITIONED,
                   up_block_types=('CrossAttnUpBlock2D', 'UpBlock2D')),
        (LATENTS, TIMES, noise(2, 3, 16)), {'mid_block': 'attention', 'up_blocks.*': 'film'}),
    'UNet2D': (
        lambda: of('diffusers', 'UNet2DModel', **BLOCKS, **PLAIN, in_channels=4, out_channels=4),
        (LATENTS, TIMES), 'up_blocks.*'),
    'DiT': (
        lambda: of('diffusers', 'DiTTransformer2DModel', num_attention_heads=2, attention_head_dim=8, in_channels=4,
                   num_layers=1, sample_size=8),
        (LATENTS, TIMES, torch.tensor([1, 2])), 'transformer_blocks.*'),
    'SD3': (sd3, (LATENTS, noise(2, 3, 16, seed=1), noise(2, 16, seed=2), TIMES), 'pos_embed'),
    'Flux': (flux, FLUX, 'single_transformer_blocks.*.proj_out'),
    'GPT-2': (gpt2, {'input_ids': IDS}, 'transformer.h.*'),
    'SpaceTimeUnet': (
        lambda: of('make_a_video_pytorch', 'SpaceTimeUnet', dim=8, channels=3, dim_mult=(1, 2), self_attns=(False, False),
                   temporal_compression=(False, False), resnet_block_depths=(1, 1), condition_on_timestep=False),
        {'x': noise(2, 3, 4, 8, 8)}, 'mid_block1'),
}  # fmt: skip


def prediction(output):
    while not isinstance(output, torch.Tensor):
        output = next(iter(output.values())) if hasattr(output, 'values') else output[0]
    return output


@pytest.mark.parametrize('case', CASES)
def test_a_network_as_it_is_trains_and_is_guided(case, hub):
    repair_torchvision()
    hub.t5('google/t5-v1_1-base')  # which imagen looks up when it is imported
    make, example, at = CASES[case]
    torch.manual_seed(0)
    net = make().eval()
    for weight in net.parameters():
        if not weight.any():  # as where a network starts by predicting zeros
            torch.nn.init.normal_(weight, std=0.1)
    model = text_conditioned(net, at, example=example, model_types=[TinyEncoder()], cond_drop_prob=0.2)

    def call(**text):
        return prediction(model(**example, **text) if isinstance(example, dict) else model(*example, **text))

    model.train().only_text_trains()
    call(texts=TEXTS).square().mean().backward()
    unused = [name for name, weight in model.text_conditioner.named_parameters() if weight.grad is None]
    assert unused == []

    randomised(model.eval().text_conditioner)
    with torch.no_grad():
        cond, null = call(texts=TEXTS), call()
        guided = call(texts=TEXTS, cond_scale=3.0)
        expected = null + 3 * (cond - null)
        assert not torch.allclose(cond, null)
        close = {'rtol': 1e-4, 'atol': 1e-5 * float(expected.abs().max())}
        torch.testing.assert_close(guided, expected, **close)
        torch.testing.assert_close(call(texts=TEXTS, cond_scale=3.0, cfg_batched=True), expected, **close)
        torch.testing.assert_close(call(text_condition=model.prepare(TEXTS), cond_scale=3.0), expected, **close)
