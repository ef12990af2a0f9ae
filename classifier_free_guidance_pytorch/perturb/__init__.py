"""Perturbed passes of a model, for `guidance.Weak`: perturbed attention and skipped layers.

A perturbation names modules and what becomes of them, for whoever runs the model inside its block and for nobody else:

    perturbation = skip_layers('blocks.7', 'blocks.8')
    with perturbation.applied(model):
        weak = model(x, t)
    guided = guidance.Weak(2.8)(cond, weak=weak)

context       which blocks are open in this thread, task or context
dispatch      the `forward` of a module while blocks are open on it
perturbation  names, look-up and block, for all kinds; skip, attention: one kind each
"""

from classifier_free_guidance_pytorch.perturb.attention import PerturbedAttention, perturbed_attention
from classifier_free_guidance_pytorch.perturb.perturbation import Perturbation
from classifier_free_guidance_pytorch.perturb.skip import SkipLayers, skip_layers

__all__ = ['Perturbation', 'PerturbedAttention', 'SkipLayers', 'perturbed_attention', 'skip_layers']
