"""What frameworks record of a constructor's arguments, so that a saved model is built again as it was.

The constructor of a decorated class takes `text_condition_*` away before its own code runs, and with it the code of frameworks.
So they are told here, after the model was built, and asked here, before the next one is.

    PyTorchModelHubMixin (huggingface_hub)   a dictionary that is made before the constructor runs
    ConfigMixin (diffusers)                  `register_to_config`
    PreTrainedModel (transformers)           the attributes of its `config`, which its constructor is given again
    LightningModule                          `hparams`, where the constructor has called `save_hyperparameters`
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from torch import nn

from classifier_free_guidance_pytorch.conditioners.arguments import as_plain

PREFIX = 'text_condition_'


def show(cls: Any, signature: inspect.Signature) -> None:
    """Let frameworks see the signature of a decorated constructor, each where it looks.

    Args:
        cls: The class, whose constructor is in place.
        signature: The constructor's own parameters and `text_condition_*`.
    """
    cls.__signature__ = signature.replace(parameters=list(signature.parameters.values())[1:])
    if not hasattr(cls, 'save_hyperparameters'):  # Lightning looks for each parameter among the variables of the constructor
        cls.__init__.__signature__ = signature
    show_to_hub(cls)


def show_to_hub(cls: Any) -> None:
    """Let `PyTorchModelHubMixin` see a signature that was not yet there when the class was made, or is that of a base."""
    if hasattr(cls, '_hub_mixin_init_parameters'):
        own = inspect.signature(cls.__init__).parameters
        cls._hub_mixin_init_parameters = {**own, **cls.__signature__.parameters}
        defaults = cls._hub_mixin_jsonable_default_values  # not of those that were never given: a kind does not take all
        cls._hub_mixin_jsonable_default_values = {n: value for n, value in defaults.items() if not n.startswith(PREFIX)}


def recorded(*given: Any) -> dict[str, Any]:
    """Return `text_condition_*`, without the prefix, from the arguments of a constructor: those that a configuration holds."""
    for value in given:
        is_config = hasattr(value, 'to_diff_dict')  # of transformers
        stated = vars(value) if is_config else value if isinstance(value, Mapping) else {}
        if found := {name.removeprefix(PREFIX): stated[name] for name in stated if str(name).startswith(PREFIX)}:
            return found
    return {}


def record(module: nn.Module, arguments: Mapping[str, Any]) -> None:
    """Tell the framework of a module with which `text_condition_*` it was built.

    Args:
        module: The module, built.
        arguments: Their values by name, without the prefix.
    """
    stated = {PREFIX + name: as_plain(value) for name, value in arguments.items()}
    of_any: Any = module
    if (of_hub := getattr(module, '_hub_mixin_config', None)) is not None:  # a dictionary, or a dataclass that has no such fields
        of_any._hub_mixin_config = {**(of_hub if isinstance(of_hub, dict) else asdict(of_hub)), **stated}
    if '_internal_dict' in module.__dict__:  # registered already
        of_any.register_to_config(**stated)
    if '_hparams_initial' in module.__dict__:  # saved already
        of_any.hparams.update(stated)
    config = getattr(module, 'config', None)
    if hasattr(module, 'save_pretrained') and hasattr(config, 'to_diff_dict'):
        for name in [name for name in vars(config) if name.startswith(PREFIX)]:  # of a model that was built with it before
            delattr(config, name)
        for name, value in stated.items():
            setattr(config, name, value)
