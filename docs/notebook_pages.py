"""The notebooks as pages of the site: their text, their code, and what it printed and drew when they were last run."""

from __future__ import annotations

import json
from typing import Any

from mkdocs.structure.files import File, Files


class NotebookFile(File):
    """A notebook, which mkdocs takes for a page."""

    def is_documentation_page(self) -> bool:
        """Return True: mkdocs itself knows pages by their ending only."""
        return True


def on_files(files: Files, config: Any, **_: Any) -> Files:
    """Make a page of every notebook."""
    for file in list(files):
        if file.src_uri.endswith('.ipynb'):
            files.remove(file)
            files.append(NotebookFile(file.src_uri, config.docs_dir, config.site_dir, config.use_directory_urls))
    return files


def on_page_read_source(page: Any, **_: Any) -> str | None:
    """Return the Markdown of a notebook; other pages are read by mkdocs."""
    return as_markdown(json.loads(page.file.content_string)) if isinstance(page.file, NotebookFile) else None


def as_markdown(notebook: dict[str, Any]) -> str:
    """Return a notebook as Markdown, its pictures in it."""
    parts = []
    for cell in notebook['cells']:
        source = ''.join(cell['source'])
        if cell['cell_type'] == 'markdown':
            parts.append(source)
        else:
            parts += [f'```python\n{source}\n```', *filter(None, map(_output, cell['outputs']))]
    return '\n\n'.join(parts) + '\n'


def _output(output: dict[str, Any]) -> str:
    data = output.get('data', {})
    if 'image/png' in data:
        png = ''.join(data['image/png']).replace('\n', '')
        return f'<img alt="What the cell above draws" src="data:image/png;base64,{png}">'
    text = ''.join(output.get('text', data.get('text/plain', ''))).rstrip()
    return f'```text\n{text}\n```' if text else ''
