"""Package metadata; the build system and the tools' settings are in pyproject.toml."""

import re
from pathlib import Path

from setuptools import find_packages, setup

ROOT = Path(__file__).parent
PACKAGE = 'classifier_free_guidance_pytorch'
REPOSITORY = 'https://github.com/lucidrains/classifier-free-guidance-pytorch'
VERSION = re.search(r"^__version__ = '(.+)'$", (ROOT / PACKAGE / '__init__.py').read_text(encoding='utf-8'), re.MULTILINE)[1]

CORPUS = ['datasets>=2.18', 'pyarrow>=16']
RAY = ['ray[data]>=2.20']
DISTRIBUTED = ['accelerate>=1.0']
TEST = [  # and ./demo, whose worlds the examples use
    *CORPUS,
    *RAY,
    *DISTRIBUTED,
    'diffusers>=0.37',
    'hypothesis>=6.100',
    'kornia>=0.8',
    'matplotlib>=3.8',
    'pytest>=8.1.1',
    'pytest-timeout>=2.3.1',
    'pytest-xdist>=3.5',
    'setuptools>=77.0.1',
]
DOCS = ['mkdocs-material>=9.7', 'mkdocstrings-python>=2.0']
DEV = [*TEST, *DOCS, 'basedpyright>=1.30', 'mypy>=1.11', 'ruff>=0.6']  # basedpyright is pyright with its own node.js


def read_on_an_index(page: str) -> str:
    """Return the README as a package index shows it: its pictures and links lead to this version of the repository."""
    page = re.sub(r'(!\[[^\]]*\])\((?!https?:)([^)]*)\)', rf'\1({REPOSITORY}/raw/v{VERSION}/\2)', page)
    return re.sub(r'(?<!!)(\[[^\]]+\])\((?!https?:|#)([^)]*)\)', rf'\1({REPOSITORY}/blob/v{VERSION}/\2)', page)


setup(
    name='classifier-free-guidance-pytorch',
    version=VERSION,
    description='Text conditioning and classifier-free guidance for any PyTorch module',
    long_description=read_on_an_index((ROOT / 'README.md').read_text(encoding='utf-8')),
    long_description_content_type='text/markdown',
    author='the classifier-free-guidance-pytorch maintainers',
    url=REPOSITORY,
    project_urls={
        'Documentation': f'{REPOSITORY}/tree/main/docs',
        'Changelog': f'{REPOSITORY}/blob/main/CHANGELOG.md',
        'Issues': f'{REPOSITORY}/issues',
    },
    license_expression='MIT',
    license_files=['LICENSE'],
    packages=find_packages(include=[PACKAGE, f'{PACKAGE}.*']),
    package_data={PACKAGE: ['py.typed', 'text/mini_weights/*', 'text/english_weights/*']},
    include_package_data=False,
    python_requires='>=3.10',
    install_requires=[
        'torch>=2.9',  # older ones do not trace every rule and conditioner
        'transformers>=4.57,<6',  # caches of older ones hide from a guided `generate` that both branches would write them
        'open_clip_torch>=2.29',
        'beartype>=0.19',
        'sentencepiece>=0.2',
        'protobuf>=4.21.3',  # transformers 5 reads T5's spiece.model with it; with older ones, a worker of Ray does not start
        'safetensors>=0.4.3',
        'tqdm>=4.66',
        'numpy>=1.26',
        'typing_extensions>=4.10',
    ],
    extras_require={
        'corpus': CORPUS,
        'ray': RAY,
        'distributed': DISTRIBUTED,
        'docs': DOCS,
        'test': TEST,
        'dev': DEV,
    },
    entry_points={'console_scripts': [f'cfg-embed={PACKAGE}.corpus.command:main']},
    keywords=['classifier-free guidance', 'text conditioning', 'diffusion', 'FiLM', 'cross-attention', 'pytorch'],
    classifiers=[
        'Development Status :: 5 - Production/Stable',
        'Intended Audience :: Developers',
        'Intended Audience :: Science/Research',
        'Operating System :: OS Independent',
        'Programming Language :: Python :: 3',
        *(f'Programming Language :: Python :: 3.{minor}' for minor in (10, 11, 12, 13)),
        'Topic :: Scientific/Engineering :: Artificial Intelligence',
        'Typing :: Typed',
    ],
)
