"""The path of 1.0 to what is in `perturb` now."""

from classifier_free_guidance_pytorch.perturb import perturbed_attention, skip_layers

__all__ = ['perturbed_attention', 'skip_layers']
