"""Distillation of a guidance rule: one pass that predicts what the passes of the teacher are combined into.

    target = rule(teacher(x, text), teacher(x, null), scale)
    loss   = mean |student(x, text, scale) - target|^2           (Meng et al., 2022, arXiv 2210.03142, stage 1)

Nothing but the scale is asked of the student: whatever the rule makes of its predictions, at any noise level, is a function of
`x`, the text and the scale, which the student can learn. A rule that remembers is none: it has a different answer for the same
`x` in every sampling run.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from classifier_free_guidance_pytorch.decorator.keywords import GUIDANCE_KEYWORDS
from classifier_free_guidance_pytorch.errors import ConfigError, ShapeError, UsageError
from classifier_free_guidance_pytorch.guidance import CFG, Preset, Rule, Schedule
from classifier_free_guidance_pytorch.training.models import (
    check_same_text,
    check_sample_weight,
    check_scales,
    key_names,
    mean_square,
    model_in,
    prediction_of,
    student_conditioner,
)


def guided_target(
    teacher: Any,
    *inputs: Any,
    cond_scale: float | Tensor | Schedule,
    guidance: Rule | Preset | None = None,
    guide: Any = None,
    **keywords: Any,
) -> Tensor:
    """Return the guided prediction of a teacher, without gradients.

    Args:
        teacher: A guided model in eval mode.
        inputs: The positional arguments of its forward.
        cond_scale: The guidance scale: a number, one for each sample, or a schedule.
        guidance: The rule; classifier-free guidance by default.
        guide: Which entry of the output is guided, the first by default.
        **keywords: Any other keyword of a guided call: `texts`, `negative_texts`, `weak`, `guidance_kwargs`, ...

    Raises:
        UsageError: The teacher is in training mode, or the rule remembers between the steps of a sampling run.
        ConfigError: No guided model, or keywords that it refuses.

    Example:
        >>> import torch
        >>> from classifier_free_guidance_pytorch import text_conditioned
        >>> x = torch.randn(2, 4)
        >>> teacher = text_conditioned(torch.nn.Sequential(torch.nn.Linear(4, 4)), '0', example=x, model_types='mini').eval()
        >>> guided_target(teacher, x, texts=['a red circle', 'a blue square'], cond_scale=torch.tensor([1.5, 3.])).shape
        torch.Size([2, 4])
    """
    model_in(teacher)  # or says that it is no guided model
    if teacher.training:
        raise UsageError('the teacher is in training mode, in which it drops texts and is not guided: call teacher.eval() first')
    if keywords.get('return_unconditioned'):
        raise ConfigError('return_unconditioned asks for two predictions, of which a target is one: leave it out')
    rule = guidance.rule if isinstance(guidance, Preset) else guidance
    if isinstance(rule, Rule) and rule.remembers:
        raise UsageError(
            f'{rule!r} remembers between the steps of a sampling run, but a training step draws its noise levels at random and '
            'belongs to no run: distil the same rule without its memory (momentum=0 for APG)'
        )
    with torch.no_grad():
        output = teacher(*inputs, cond_scale=cond_scale, guidance=guidance or CFG(), guide=guide, **keywords)
    return prediction_of(output, guide)


def distillation_loss(
    student: Any,
    teacher: Any,
    *inputs: Any,
    cond_scale: float | Tensor,
    teacher_scale: float | Tensor | Schedule | None = None,
    guidance: Rule | Preset | None = None,
    guide: Any = None,
    sample_weight: Tensor | None = None,
    **keywords: Any,
) -> Tensor:
    """Return the mean squared error between the one pass of a student and the guided prediction of a teacher.

    The student sees every text: it is no part of this loss what it predicts without.

    Args:
        student: A model in training mode whose text conditioner reads the scale.
        teacher: A guided model in eval mode, with the same kind of conditioning and the same encoders.
        inputs: The positional arguments of their forwards.
        cond_scale: The scale that the student reads, above 0: one for each sample, drawn anew at every step.
        teacher_scale: The scale at which the teacher is guided, where it is another one: for an interval or any other schedule,
            what that makes of `cond_scale` at the noise level of each sample.
        guidance: The rule; classifier-free guidance by default.
        guide: Which entry of the output is guided, the first by default.
        sample_weight: How much the error of each sample counts, `(b,)`; all count 1 by default. What guidance adds grows with
            `s - 1`, so high scales decide the loss unless they count less.
        **keywords: Every other argument of a call, `texts` or `text_embeds` above all. What says how to guide (`negative_texts`,
            `weak`, `guidance_kwargs`, ...) is for the teacher alone, and the rest for both.

    Raises:
        ConfigError: Scales that are not above 0, a student without the scale input, another kind of conditioning or encoder,
            weights that are no tensor `(b,)`, or a keyword that has no part here.
        ShapeError: The predictions differ in shape, or there are more or fewer weights than samples.
        UsageError: The student is in eval mode, the teacher in training mode, or the rule remembers.
    """
    conditioner, names = student_conditioner(student), key_names(student)
    check_scales(cond_scale)
    check_sample_weight(sample_weight)
    check_same_text(conditioner, teacher)
    if keywords.get(names.cond_drop_prob) is not None:
        raise ConfigError(f'{names.cond_drop_prob} has no part in this loss, in which the student sees every text: leave it out')
    guiding = {*GUIDANCE_KEYWORDS, names.negative_texts, names.negative_text_embeds}
    shared = {name: value for name, value in keywords.items() if name not in guiding}
    scale = cond_scale if teacher_scale is None else teacher_scale
    target = guided_target(teacher, *inputs, cond_scale=scale, guidance=guidance, guide=guide, **keywords)
    output = student(*inputs, cond_scale=cond_scale, **{**shared, names.cond_drop_prob: 0.0})
    prediction = prediction_of(output, guide)
    if prediction.shape != target.shape:
        raise ShapeError(
            f'the student predicts {tuple(prediction.shape)}, but the teacher {tuple(target.shape)}: only the widths inside of '
            'them may differ'
        )
    conditioner.learn_scales(cond_scale)
    return mean_square(prediction - target.to(prediction.dtype), sample_weight)
