"""The same rules inside other libraries: a diffusers pipeline's loop, a diffusers U-Net, and transformers' `generate`."""

from __future__ import annotations

import pytest
import torch

from classifier_free_guidance_pytorch import guidance
from classifier_free_guidance_pytorch.perturb import perturbed_attention, skip_layers

diffusers = pytest.importorskip('diffusers')


@pytest.fixture(scope='module')
def pipeline():
    """An unconditional-size Stable Diffusion: tiny, random, without text encoder and safety checker."""
    try:
        from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
    except RuntimeError as error:  # of imports inside diffusers
        pytest.skip(f'this diffusers does not work with this transformers: {error}')

    torch.manual_seed(0)
    unet = UNet2DConditionModel(
        sample_size=8, block_out_channels=(8, 16), layers_per_block=1, cross_attention_dim=12, norm_num_groups=4,
        attention_head_dim=4, down_block_types=('CrossAttnDownBlock2D', 'DownBlock2D'),
        up_block_types=('UpBlock2D', 'CrossAttnUpBlock2D'),
    )  # fmt: skip
    vae = AutoencoderKL(block_out_channels=(8,), norm_num_groups=4, latent_channels=4)
    pipe = StableDiffusionPipeline(
        vae=vae, text_encoder=None, tokenizer=None, unet=unet.eval(), safety_checker=None,
        scheduler=DDIMScheduler(clip_sample=False, steps_offset=1),
        feature_extractor=None, requires_safety_checker=False,
    )  # fmt: skip
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.fixture(scope='module')
def embeds():
    generator = torch.Generator().manual_seed(1)
    return {name: torch.randn(2, 5, 12, generator=generator) for name in ('cond', 'null')}


@torch.no_grad()
def sample(pipe, embeds, rule, scale, steps=4, weak_pass=None):
    """The loop of the pipeline, with a rule in place of its guidance."""
    pipe.scheduler.set_timesteps(steps)
    x = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(2)) * pipe.scheduler.init_noise_sigma
    state = rule.init_state()
    for step, t in enumerate(pipe.scheduler.timesteps):
        progress = step / steps
        alpha_bar = pipe.scheduler.alphas_cumprod[t]
        predictions = {}
        for name in rule.branches(scale, state, progress):
            if name == 'weak':
                with weak_pass.applied(pipe.unet):
                    predictions[name] = pipe.unet(x, t, embeds['cond']).sample
            else:
                predictions[name] = pipe.unet(x, t, embeds[name]).sample
        guided = rule(
            **predictions, scale=scale, state=state, x=x, alpha=alpha_bar**0.5, sigma=(1 - alpha_bar) ** 0.5, progress=progress
        )
        x = pipe.scheduler.step(guided, t, x).prev_sample
    return x


@pytest.mark.parametrize('phi', [0.0, 0.7])
def test_our_loop_is_the_pipeline(pipeline, embeds, phi):
    x = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(2))
    theirs = pipeline(
        prompt_embeds=embeds['cond'], negative_prompt_embeds=embeds['null'], guidance_scale=5.0, guidance_rescale=phi,
        num_inference_steps=4, latents=x, output_type='latent',
    ).images  # fmt: skip
    rule = guidance.CFG().then(guidance.rescale_to_cond(phi)) if phi else guidance.CFG()
    torch.testing.assert_close(sample(pipeline, embeds, rule, 5.0), theirs, rtol=1e-4, atol=1e-4)


def test_every_kind_of_rule_runs_in_the_loop(pipeline, embeds):
    plain = sample(pipeline, embeds, guidance.CFG(), 5.0)
    rules = [
        guidance.APG(norm=5.0, momentum=-0.5).in_x0('eps'),
        guidance.TCFG().then(guidance.renorm_to_cond()),
        guidance.FDG((5.0, 2.0)),
        guidance.ReuseDelta(guidance.CFG()),
        guidance.CFGZeroStar(zero_init=0.25),
    ]
    for rule in rules:
        found = sample(pipeline, embeds, rule, 5.0)
        assert found.isfinite().all()
        assert not torch.allclose(found, plain, atol=1e-3), rule


@pytest.mark.parametrize(
    'weak_pass',
    [perturbed_attention('mid_block.*.attn1'), skip_layers('mid_block.resnets.0')],
    ids=['perturbed attention', 'skipped layer'],
)
def test_weakened_passes_of_a_unet(pipeline, embeds, weak_pass):
    rule = guidance.CFG() + guidance.Weak(3.0)
    found = sample(pipeline, embeds, rule, 5.0, weak_pass=weak_pass)
    assert not torch.allclose(found, sample(pipeline, embeds, guidance.CFG(), 5.0), atol=1e-3)


def test_perturbed_attention_is_the_identity_processor_of_diffusers(pipeline, embeds):
    from diffusers.models.attention_processor import PAGIdentitySelfAttnProcessor2_0

    attn = pipeline.unet.mid_block.attentions[0].transformer_blocks[0].attn1
    hiddens = torch.randn(2, 9, attn.to_q.in_features, generator=torch.Generator().manual_seed(3))
    with torch.no_grad(), perturbed_attention('mid_block.*.attn1').applied(pipeline.unet):
        ours = attn(hiddens)
    before = attn.processor
    try:
        attn.set_processor(PAGIdentitySelfAttnProcessor2_0())
        with torch.no_grad():
            theirs = attn(torch.cat((hiddens, hiddens))).chunk(2)[1]
    finally:
        attn.set_processor(before)
    torch.testing.assert_close(ours, theirs)


class GuidedLogits:
    """A `LogitsProcessor` that guides by any rule of distributions; the unconditional pass reads the last tokens only."""

    def __init__(self, model, rule, scale, null_prompt):
        self.model, self.rule, self.scale, self.null_prompt = model, rule, scale, null_prompt
        self.passes = 0

    def __call__(self, input_ids, scores):
        if self.rule.branches(self.scale) == ('cond',):
            return self.rule(scores, scale=self.scale)
        self.passes += 1
        generated = input_ids[:, self.prompt_length :]
        null = self.model(torch.cat((self.null_prompt, generated), dim=1)).logits[:, -1]
        return self.rule(scores, null, self.scale)


@pytest.fixture(scope='module')
def language_model():
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    config = GPT2Config(n_layer=2, n_head=2, n_embd=32, vocab_size=40, n_positions=64, bos_token_id=0, eos_token_id=None)
    model = GPT2LMHeadModel(config).eval()
    with torch.no_grad():  # sharper than at initialisation, so that greedy choices differ
        for parameter in model.parameters():
            parameter.mul_(4.0)
    return model


@pytest.mark.parametrize('scale', [1.0, 1.5, 4.0])
def test_generate_with_our_processor_is_generate_with_theirs(language_model, scale):
    from transformers import LogitsProcessorList

    prompt, null_prompt = torch.randint(0, 40, (2, 6)), torch.randint(0, 40, (2, 4))
    options = {'max_new_tokens': 12, 'do_sample': False, 'pad_token_id': 0, 'attention_mask': torch.ones_like(prompt)}
    theirs = language_model.generate(prompt, guidance_scale=scale, negative_prompt_ids=null_prompt, **options)
    ours_processor = GuidedLogits(language_model, guidance.Logits(), scale, null_prompt)
    ours_processor.prompt_length = prompt.shape[1]
    ours = language_model.generate(prompt, logits_processor=LogitsProcessorList([ours_processor]), **options)
    assert torch.equal(ours, theirs)
    assert ours_processor.passes == (0 if scale == 1 else 12)


def test_importing_guidance_loads_torch_and_no_model_library():
    import subprocess
    import sys

    code = (
        'import sys, classifier_free_guidance_pytorch.guidance; '
        "print([m for m in ('transformers', 'diffusers', 'open_clip', 'torchvision', 'matplotlib', 'kornia') "
        'if m in sys.modules])'
    )
    assert subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=True).stdout.strip() == '[]'
