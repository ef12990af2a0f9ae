"""Settings published in papers, each with its source."""

from __future__ import annotations

import math
from dataclasses import dataclass

from classifier_free_guidance_pytorch.errors import ConfigError
from classifier_free_guidance_pytorch.guidance._apg import APG
from classifier_free_guidance_pytorch.guidance._cfg import CFG
from classifier_free_guidance_pytorch.guidance._cfg_zero import CFGZeroStar
from classifier_free_guidance_pytorch.guidance._chain import Chain
from classifier_free_guidance_pytorch.guidance._fdg import FDG
from classifier_free_guidance_pytorch.guidance._nag import NAG
from classifier_free_guidance_pytorch.guidance._raag import RAAG
from classifier_free_guidance_pytorch.guidance._rescale import renorm_to_cond, rescale_to_cond
from classifier_free_guidance_pytorch.guidance._weak import Weak
from classifier_free_guidance_pytorch.guidance.checks import Scale, check_number
from classifier_free_guidance_pytorch.guidance.combine import Rule
from classifier_free_guidance_pytorch.guidance.schedule import Schedule
from classifier_free_guidance_pytorch.guidance.schedules import interval
from classifier_free_guidance_pytorch.guidance.skip_null import Adaptive
from classifier_free_guidance_pytorch.guidance.spaces import check_space


@dataclass(frozen=True)
class Preset:
    """A rule and a scale that were published together.

    Args:
        rule: The rule.
        scale: The scale, or a schedule of it, in this library's convention (1 is off).
        model: The model they were tuned for.
        source: Where they are written.
        predicts: What that model predicts, one of `guidance.SPACES`. A rule that works in a different space takes `x` and
            `sigma`.
    """

    rule: Rule
    scale: float | Schedule
    model: str
    source: str
    predicts: str

    def __post_init__(self) -> None:
        if not isinstance(self.rule, Rule):
            raise ConfigError(f'Preset: expected a rule, got {self.rule!r}')
        if not isinstance(self.scale, Schedule):
            check_number('Preset', 'scale', self.scale)
        check_space('Preset: predicts', self.predicts)

    def at(self, progress: float | None = None, *, sigma: Scale | None = None) -> Scale:
        """Return the scale at a step, whether or not it changes."""
        return self.scale(progress, sigma=sigma) if isinstance(self.scale, Schedule) else self.scale


_MAMBO = Preset(RAAG(8.0).then(rescale_to_cond(1.0)), 10.0, 'flow models', 'arXiv 2508.03442 (MAMBO-G), with rescale', 'flow')

PRESETS: dict[str, Preset] = {
    'rescale': Preset(
        CFG().then(rescale_to_cond(0.7)), 7.5, 'Stable Diffusion 2.1-v, zero terminal SNR', 'arXiv 2305.08891, section 3.4', 'v'
    ),
    'interval-sdxl': Preset(
        CFG(),
        interval(7.5, sigma=(0.28, 5.42)),
        'Stable Diffusion XL',
        'arXiv 2404.07724 (the interval; the scale is the usual one)',
        'eps',
    ),
    'fdg-sdxl': Preset(FDG((10.0, 5.0)), 10.0, 'Stable Diffusion XL', 'arXiv 2506.19713, table 8', 'eps'),
    'apg-sdxl': Preset(
        APG(eta=0.0, norm=15.0, momentum=-0.5).in_x0('eps'),
        15.0,
        'Stable Diffusion XL',
        'arXiv 2410.02416 (SDXL: eta 0, r 15, beta -0.5, w 15)',
        'eps',
    ),
    'cfg-zero-star-sd35': Preset(
        CFGZeroStar(zero_init=0.03),
        3.5,
        'Stable Diffusion 3.5 Large, 28 steps of which one is zero',
        'arXiv 2503.18886, models/sd/infer.py of its authors',
        'flow',
    ),
    'pag-sd15': Preset(
        CFG() + Weak(3.0),
        4.0,
        "Stable Diffusion 1.5, perturbed_attention('mid_block.*.attn1')",
        'arXiv 2403.17377, README of its authors (guidance_scale 4, pag_scale 3)',
        'eps',
    ),
    'slg-sd35-medium': Preset(
        CFG() + Weak(interval(2.5, progress=(0.01, 0.2), outside=0.0)),
        4.0,
        "Stable Diffusion 3.5 Medium, skip_layers('transformer_blocks.7', 'transformer_blocks.8', 'transformer_blocks.9')",
        'arXiv 2411.18664 (skipped layers), the setting of Stability-AI/sd3.5, sd3_infer.py',
        'flow',
    ),
    'interval-edm2-xxl': Preset(
        CFG(),
        interval(2.0, sigma=(0.189, 1.61)),
        'EDM2-XXL on ImageNet-512, FID, 32 steps',
        'arXiv 2404.07724, generate_zip.py of its authors: steps 17 to 22',
        'x0',
    ),
    'interval-edm2-xxl-dinov2': Preset(
        CFG(),
        interval(2.9, sigma=(0.599, 5.0)),
        'EDM2-XXL on ImageNet-512, FD-DINOv2, 32 steps',
        'arXiv 2404.07724, generate_zip.py of its authors: steps 13 to 19',
        'x0',
    ),
    'adaptive': Preset(Adaptive(CFG(), threshold=0.991), 7.5, 'EMU-768', 'arXiv 2312.12487, the threshold', 'eps'),
    'raag': _MAMBO,
    'mambo-g': _MAMBO,
    'qwen-image': Preset(
        CFG().then(renorm_to_cond(dim=-1, hi=math.inf)),
        4.0,
        'Qwen-Image, on tokens (b, n, d)',
        'arXiv 2508.02324, as in diffusers',
        'flow',
    ),
    'instruct-pix2pix': Preset(Chain((1.5, 7.5)), 7.5, 'InstructPix2Pix', 'arXiv 2211.09800', 'eps'),
    'guidance-edm2-xxl': Preset(CFG(), 1.2, 'EDM2-XXL on ImageNet-512, FID, null by EDM2-XS', 'arXiv 2312.02696', 'x0'),
    'autoguidance-edm2-s': Preset(Weak(1.1), 1.0, 'EDM2-S on ImageNet-512, FID', 'arXiv 2406.02507 (guidance 2.10)', 'x0'),
    'autoguidance-edm2-xxl': Preset(Weak(1.05), 1.0, 'EDM2-XXL on ImageNet-512, FID', 'arXiv 2406.02507 (guidance 2.05)', 'x0'),
    'nag-flux': Preset(NAG(tau=2.5, alpha=0.25), 5.0, 'FLUX.1-schnell', 'arXiv 2505.21179', 'flow'),
}
"""What was published, by name."""


def preset(name: str) -> Preset:
    """Look up a published setting.

    Args:
        name: One of `guidance.PRESETS`.

    Returns:
        The rule, its scale, the model it was tuned for and the source.

    Raises:
        ConfigError: An unknown name.

    >>> preset('instruct-pix2pix').rule
    Chain(scales=(1.5, 7.5), inner=None)
    """
    if not isinstance(name, str) or name not in PRESETS:
        raise ConfigError(f'unknown preset {name!r}; expected one of {", ".join(map(repr, PRESETS))}')
    return PRESETS[name]
