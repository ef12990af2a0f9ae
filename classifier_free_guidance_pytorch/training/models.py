"""What a model must be for guidance to be learned: how its text conditioner is found, and what is refused."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from classifier_free_guidance_pytorch.conditioners import Conditioner
from classifier_free_guidance_pytorch.conditioners.wrapped import unwrapped
from classifier_free_guidance_pytorch.decorator.call import check_positive
from classifier_free_guidance_pytorch.decorator.outputs import at, guided_paths
from classifier_free_guidance_pytorch.decorator.signature import KeyNames
from classifier_free_guidance_pytorch.errors import ConfigError, ShapeError, UsageError


def model_in(wrapper: Any) -> Any:
    """Return the guided model itself, without what `torch.compile`, DDP or an average of weights wrap around it.

    Raises:
        ConfigError: There is none in it.
    """
    found = wrapper
    while not hasattr(type(found).forward if isinstance(found, nn.Module) else None, '__cfg_names__'):
        inner = getattr(found, '_orig_mod', None) or getattr(found, 'module', None)
        if inner is None:
            raise ConfigError(
                f'guidance is learned by a model whose forward is decorated or made by text_conditioned, but got a '
                f'{type(wrapper).__name__}'
            )
        found = inner
    return found


def prediction_of(output: Any, guide: Any) -> Tensor:
    """Return the one prediction in an output that is learned.

    Raises:
        ConfigError: `guide` names several, or none.
    """
    paths = guided_paths(output, guide)
    if len(paths) > 1:
        raise ConfigError(
            f'guide={guide!r} names {len(paths)} entries of the output, of which a loss takes one: add one loss for each'
        )
    return at(output, paths[0])


def key_names(model: Any) -> KeyNames:
    """Return under which names a guided model takes texts and dropout."""
    names: KeyNames = type(model_in(model)).forward.__cfg_names__
    return names


def conditioner_of(model: Any) -> Conditioner:
    """Return the text conditioner of a guided model.

    Raises:
        ConfigError: It has none, or is no guided model.
    """
    found = model_in(model)
    conditioner = unwrapped(getattr(found, key_names(found).text_conditioner, None))
    if conditioner is None:
        raise ConfigError(
            f'{type(found).__name__} has no text conditioner, which reads the guidance scale: decorate its class with '
            'classifier_free_guidance_class_decorator, or use text_conditioned'
        )
    return conditioner


def student_conditioner(model: Any) -> Conditioner:
    """Return the text conditioner of a model that is to learn guidance.

    Raises:
        ConfigError: It reads no scale.
        UsageError: The model is in eval mode.
    """
    conditioner = conditioner_of(model)
    if not conditioner.reads_scale:
        raise ConfigError(
            f'the {type(conditioner).__name__} of {type(model_in(model)).__name__} reads no guidance scale: build the model with '
            'text_condition_reads_scale=True (text_conditioned(..., reads_scale=True)); the weights of one that reads none can '
            'be loaded into it'
        )
    if not model.training:
        raise UsageError('guidance is learned in training mode, but the model is in eval mode: call model.train() first')
    return conditioner


def check_scales(scale: Any) -> None:
    """Raise `ConfigError` or `ShapeError` unless this is a scale above 0, or one for each sample."""
    is_real = not isinstance(scale, Tensor) or not (scale.is_complex() or scale.dtype == torch.bool)
    if isinstance(scale, bool) or not isinstance(scale, (int, float, Tensor)) or not is_real:
        raise ConfigError(f'cond_scale is a number above 0, or a tensor with one for each sample, but got {scale!r}')
    if isinstance(scale, Tensor) and scale.ndim > 1:
        raise ShapeError(f'cond_scale is one number for each sample, (b,), but got a tensor of shape {tuple(scale.shape)}')
    check_positive(scale)


def check_sample_weight(weight: Any) -> None:
    """Raise `ConfigError` unless there is none, or one real number for each sample."""
    if weight is not None and not (isinstance(weight, Tensor) and weight.ndim == 1 and weight.is_floating_point()):
        what = f'a tensor of {weight.dtype} and shape {tuple(weight.shape)}' if isinstance(weight, Tensor) else repr(weight)
        raise ConfigError(f'sample_weight is one real number for each sample, a tensor (b,), but got {what}')


def mean_square(error: Tensor, sample_weight: Tensor | None) -> Tensor:
    """Return the mean of the squares of errors `(b, ...)`, in which each sample counts as much as its weight `(b,)` says."""
    if sample_weight is None:
        return error.square().mean()
    if len(sample_weight) != len(error):
        raise ShapeError(f'sample_weight has {len(sample_weight)} numbers, but the prediction has {len(error)} samples')
    return (sample_weight.to(error) * error.square().flatten(1).mean(dim=1)).mean()


def check_same_text(conditioner: Conditioner, teacher: Any) -> None:
    """Raise `ConfigError` unless a teacher is conditioned in the same way, by the same encoders."""
    theirs = conditioner_of(teacher)
    if type(theirs) is not type(conditioner):
        raise ConfigError(
            f'the student is conditioned by a {type(conditioner).__name__}, but the teacher by a {type(theirs).__name__}: build '
            'both with the same text_condition_type'
        )
    ours, others = conditioner.source.identities, theirs.source.identities
    if len(ours) != len(others) or not all(one.may_be(other) for one, other in zip(ours, others, strict=True)):
        raise ConfigError(
            f'the student reads texts with {", ".join(map(str, ours))}, but the teacher with {", ".join(map(str, others))}: '
            'build both with the same text_condition_model_types'
        )
