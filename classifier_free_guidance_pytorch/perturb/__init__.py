"""Perturbed passes of a model, for `guidance.Weak`: perturbed attention, skipped layers, shuffled tokens.

A perturbation names modules and what becomes of them, for whoever runs the model inside its block and for nobody else:

    perturbation = skip_layers('blocks.7', 'blocks.8')
    with perturbation.applied(model):
        weak = model(x, t)
    guided = guidance.Weak(2.8)(cond, weak=weak)

context       which blocks are open in this thread, task or context
dispatch      the `forward` of a module while blocks are open on it
arguments     what a module is given, and what it returns
multihead     the values and masks of an `nn.MultiheadAttention`
perturbation  names, look-up and block, for all kinds; skip, attention, guided, shuffle: some kinds each
"""

from classifier_free_guidance_pytorch.perturb.attention import (
    PerturbedAttention,
    SmoothedAttention,
    perturbed_attention,
    smoothed_attention,
)
from classifier_free_guidance_pytorch.perturb.guided import GuidedAttention, guided_attention
from classifier_free_guidance_pytorch.perturb.perturbation import Perturbation
from classifier_free_guidance_pytorch.perturb.shuffle import NoisyOutput, ShuffledTokens, noisy_output, shuffled_tokens
from classifier_free_guidance_pytorch.perturb.skip import SkipLayers, SkipRandomLayers, skip_layers, skip_random_layers

__all__ = [
    'GuidedAttention', 'NoisyOutput', 'Perturbation', 'PerturbedAttention', 'ShuffledTokens', 'SkipLayers', 'SkipRandomLayers',
    'SmoothedAttention', 'guided_attention', 'noisy_output', 'perturbed_attention', 'shuffled_tokens', 'skip_layers',
    'skip_random_layers', 'smoothed_attention',
]  # fmt: skip
