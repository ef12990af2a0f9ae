"""What the package offers at its root, and what importing it costs."""

from __future__ import annotations

import inspect
import os
import subprocess
import sys
from pathlib import Path

import pytest

import classifier_free_guidance_pytorch as package

NAMES = {
    'TextConditioner', 'AttentionTextConditioner', 'ConcatTextConditioner', 'NullConditioner', 'TextEmbeddingReturner',
    'classifier_free_guidance', 'classifier_free_guidance_class_decorator',
    'T5Adapter', 'OpenClipAdapter', 'BGEAdapter', 'HFTextAdapter', 'TextEncoding', 'guidance',
    'CallKeywords', 'CondFns', 'Precomputed', 'PreparedCondition', 'TextCondReturn', 'TextConditionKeywords', 'TextConditioned',
    'Part', 'PooledEmbeddingReturner', 'text_conditioned',
}  # fmt: skip

# Third-party packages that `import torch` leaves alone and that this library may load on top of it.
LIGHT = {'classifier_free_guidance_pytorch', 'beartype', 'einops', 'typing_extensions'}
HEAVY = (
    'transformers', 'open_clip', 'torchvision', 'diffusers', 'accelerate', 'matplotlib', 'sentencepiece', 'safetensors',
    'tokenizers', 'huggingface_hub', 'timm', 'kornia', 'scipy', 'PIL', 'torch._dynamo', 'torch._inductor', 'torch.onnx',
)  # fmt: skip


def loaded_by(statement: str) -> set[str]:
    """The names of the modules in a fresh process that has run nothing but this statement."""
    code = f'import sys\n{statement}\nprint(*sys.modules, sep="\\n")'
    environment = {
        **os.environ,
        'PYTHONPATH': os.pathsep.join([str(Path(package.__file__).parents[1]), str(Path(package.__file__).parents[1] / 'demo')]),
    }
    run = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, env=environment, check=True)
    return set(run.stdout.split())


@pytest.fixture(scope='module')
def loaded_by_torch() -> set[str]:
    return loaded_by('import torch')


def too_much(loaded: set[str], loaded_by_torch: set[str]) -> set[str]:
    """What is loaded beyond torch: third-party packages that are not light, and anything known to be heavy."""
    beyond = loaded - loaded_by_torch
    packages = {name.partition('.')[0] for name in beyond} - set(sys.stdlib_module_names) - LIGHT - {'torch'}
    return {name for name in packages if not name.startswith('_')} | {name for name in HEAVY if name in beyond}


def test_the_names_at_the_root():
    assert set(package.__all__) == NAMES
    tools = {'Any', 'TYPE_CHECKING', 'annotations', 'importlib'}
    others = {name for name in vars(package) if not name.startswith('_')} - NAMES - tools
    # submodules become attributes when anything imports them
    assert [name for name in others if getattr(package, name) is not sys.modules.get(f'{package.__name__}.{name}')] == []
    assert inspect.ismodule(package.guidance)


def test_a_star_import_gives_the_same_names():
    namespace: dict = {}
    exec('from classifier_free_guidance_pytorch import *', namespace)
    assert namespace.keys() - {'__builtins__'} == NAMES


@pytest.mark.parametrize('name', sorted(NAMES))
def test_every_name_says_what_it_is(name):
    value = getattr(package, name)
    assert inspect.ismodule(value) or value.__module__.startswith('classifier_free_guidance_pytorch.')
    assert (value.__doc__ or '').strip()


def test_the_version_is_that_of_the_installed_distribution():
    from importlib.metadata import version

    assert package.__version__ == version('classifier-free-guidance-pytorch')


EVERYTHING = 'from classifier_free_guidance_pytorch import *'


def test_importing_the_package_does_not_load_torch():
    loaded = loaded_by('import classifier_free_guidance_pytorch, classifier_free_guidance_pytorch.errors')
    assert 'torch' not in loaded


def test_its_names_load_nothing_heavier_than_torch(loaded_by_torch):
    loaded = loaded_by(EVERYTHING)
    assert 'classifier_free_guidance_pytorch.text.t5' in loaded
    assert too_much(loaded, loaded_by_torch) == set()


@pytest.mark.parametrize('heavy', ['torch._dynamo', 'matplotlib', 'safetensors'])
def test_a_heavy_import_would_be_noticed(loaded_by_torch, heavy):
    assert heavy in too_much(loaded_by(f'import {heavy}; {EVERYTHING}'), loaded_by_torch)


def test_submodules_are_attributes_and_nothing_else_is():
    loaded_by('import classifier_free_guidance_pytorch as cfg; cfg.errors.ConfigError, cfg.perturb.skip_layers, cfg.corpus')
    with pytest.raises(AttributeError, match="module 'classifier_free_guidance_pytorch' has no attribute 'nothing'"):
        package.nothing
    assert set(dir(package)) >= NAMES


@pytest.mark.parametrize('command', ['cfg-embed', 'cfg-demo'])
def test_a_command_prints_its_help_and_version_without_torch(command):
    module = {'cfg-embed': 'classifier_free_guidance_pytorch.corpus.command', 'cfg-demo': 'cfg_demo.cli'}[command]
    for option in ('--help', '--version'):
        statement = f"""
import contextlib, io
from {module} import main
said = io.StringIO()
with contextlib.suppress(SystemExit), contextlib.redirect_stdout(said):
    main(['{option}'])
assert said.getvalue().startswith(('usage: {command}', '{command} 1.')), said.getvalue()"""
        assert loaded_by(statement) & {'torch', 'numpy', 'transformers', 'diffusers'} == set()
