"""Package metadata of the demo, a distribution beside the library's own."""

import re
from pathlib import Path

from setuptools import find_packages, setup

HERE = Path(__file__).parent
PACKAGE = 'cfg_demo'
REPOSITORY = 'https://github.com/lucidrains/classifier-free-guidance-pytorch'
VERSION = re.search(r"^__version__ = '(.+)'$", (HERE / PACKAGE / '__init__.py').read_text(encoding='utf-8'), re.MULTILINE)[1]

setup(
    name='cfg-demo',
    version=VERSION,
    description='Classifier-free guidance, shown: small text-conditioned models that train and draw on a laptop',
    long_description=(HERE / 'README.md').read_text(encoding='utf-8'),
    long_description_content_type='text/markdown',
    author='the classifier-free-guidance-pytorch maintainers',
    url=f'{REPOSITORY}/tree/main/demo',
    project_urls={'Issues': f'{REPOSITORY}/issues'},
    license_expression='MIT',
    license_files=['LICENSE'],
    packages=find_packages(include=[PACKAGE, f'{PACKAGE}.*']),
    package_data={PACKAGE: ['py.typed', '**/*.safetensors', '**/weights/README.md', 'mini/README.md', 'emoji/paraphrases.json']},
    include_package_data=False,
    python_requires='>=3.10',
    install_requires=[
        'classifier-free-guidance-pytorch>=1.0',  # which brings torch, transformers, safetensors, numpy and tqdm
        'diffusers>=0.41',
        'einops>=0.8',
        'gradio>=6',
        'matplotlib>=3.8',
        'pillow>=10',
        'scikit-learn>=1.3',
        'starlette>=0.40',  # which Gradio runs on
    ],
    entry_points={'console_scripts': [f'cfg-demo={PACKAGE}.cli:main']},
    keywords=['classifier-free guidance', 'text to image', 'diffusion', 'demo'],
    classifiers=[
        'Intended Audience :: Developers',
        'Intended Audience :: Science/Research',
        'Operating System :: OS Independent',
        'Programming Language :: Python :: 3',
        *(f'Programming Language :: Python :: 3.{minor}' for minor in (10, 11, 12, 13)),
        'Topic :: Scientific/Engineering :: Artificial Intelligence',
        'Typing :: Typed',
    ],
)
