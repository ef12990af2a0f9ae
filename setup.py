"""Package metadata; the build system and the tools' settings are in pyproject.toml."""

from pathlib import Path

from setuptools import find_packages, setup

ROOT = Path(__file__).parent
VERSION = '1.0.0'

TEST = [
    'pytest>=8',
    'pytest-xdist>=3',
    'pytest-timeout>=2',
    'hypothesis>=6',
    'diffusers>=0.35',
    'kornia>=0.8',
    'accelerate>=1.0',
    'matplotlib>=3.8',
]
DEMO = ['matplotlib>=3.8']

setup(
    name='classifier-free-guidance-pytorch',
    version=VERSION,
    description='Text conditioning and classifier-free guidance for any PyTorch module',
    long_description=(ROOT / 'README.md').read_text(encoding='utf-8'),
    long_description_content_type='text/markdown',
    license='MIT',
    packages=find_packages(include=['classifier_free_guidance_pytorch*']),
    package_data={'classifier_free_guidance_pytorch': ['py.typed', 'text/mini_weights/*']},
    python_requires='>=3.10',
    install_requires=[
        'torch>=2.4',
        'einops>=0.8',
        'transformers>=4.44,<6',
        'open_clip_torch>=2.29',
        'beartype>=0.18',
        'sentencepiece>=0.2',
        'protobuf',
        'safetensors>=0.4',
        'tqdm>=4.66',
    ],
    extras_require={
        'demo': DEMO,
        'test': TEST,
        'dev': [*TEST, 'ruff>=0.6', 'mypy>=1.11', 'build'],
    },
    entry_points={'console_scripts': ['cfg-demo=classifier_free_guidance_pytorch.demo.cli:main']},
    keywords=['classifier-free guidance', 'text conditioning', 'diffusion', 'FiLM', 'cross-attention', 'pytorch'],
    classifiers=[
        'Development Status :: 5 - Production/Stable',
        'Intended Audience :: Science/Research',
        'Topic :: Scientific/Engineering :: Artificial Intelligence',
        *(f'Programming Language :: Python :: 3.{minor}' for minor in (10, 11, 12, 13)),
        'Typing :: Typed',
    ],
)
