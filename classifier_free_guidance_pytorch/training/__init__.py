"""Guidance learned: a model that answers any guidance scale in one pass.

The student reads the scale through its text conditioner, `text_condition_reads_scale=True`, so its `forward` stays as it is. It
learns from a teacher that makes all passes of a rule (`distillation_loss`), or from data alone (`guidance_free_loss`). The scales
that it was trained on it answers in one pass: `model.eval()(x, texts=texts, cond_scale=3.)`.
"""

from classifier_free_guidance_pytorch.training.distillation import distillation_loss, guided_target
from classifier_free_guidance_pytorch.training.guidance_free import guidance_free_loss, guidance_free_target

__all__ = ['distillation_loss', 'guidance_free_loss', 'guidance_free_target', 'guided_target']
