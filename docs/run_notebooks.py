"""Run the notebooks from the top, and keep what they print and draw: needs `pip install nbconvert ipykernel`.

python docs/run_notebooks.py [docs/notebooks/NAME.ipynb ...]
"""

from __future__ import annotations

import base64
import io
import os
import sys
from pathlib import Path
from typing import Any

COLOURS = 128  # of a stored picture; files stay small


def smaller(png: str) -> str:
    """Return a picture, in base64, with a palette."""
    from PIL import Image

    picture = Image.open(io.BytesIO(base64.b64decode(png))).convert('RGB')
    picture.quantize(COLOURS, dither=Image.Dither.NONE).save(out := io.BytesIO(), 'PNG', optimize=True)
    return base64.b64encode(out.getvalue()).decode()


def tidy(notebook: Any) -> Any:
    """Return a notebook that was run with its streams joined, no word of the clock, and smaller pictures."""
    from nbconvert.preprocessors import CoalesceStreamsPreprocessor

    notebook, _ = CoalesceStreamsPreprocessor().preprocess(notebook, {})
    for cell in notebook.cells:
        cell.metadata.pop('execution', None)
        for output in cell.get('outputs', []):
            if 'image/png' in output.get('data', {}):
                output.data['image/png'] = smaller(output.data['image/png'])
    return notebook


def main(paths: list[Path]) -> None:
    """Run each notebook in its own kernel, and write it back."""
    import nbformat
    from nbclient import NotebookClient

    os.environ['HF_HUB_DISABLE_PROGRESS_BARS'] = '1'
    for path in paths:
        notebook = nbformat.read(path, as_version=4)
        NotebookClient(notebook, timeout=None, kernel_name='python3').execute()
        nbformat.write(tidy(notebook), path)


if __name__ == '__main__':
    named = [Path(one) for one in sys.argv[1:]]
    main(named or sorted((Path(__file__).parent / 'notebooks').glob('*.ipynb')))
