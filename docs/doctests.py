"""Shows the doctests of docstrings as code on the site: mkdocstrings would read `>>>` as a quotation."""

from __future__ import annotations

import re
from typing import Any

import griffe


class Doctests(griffe.Extension):
    """Puts a fence around every run of doctest lines."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        """Change the docstring of one object, as griffe has read it."""
        if obj.docstring is not None:
            run = re.compile(r'^( *)>>> .*(?:\n\1(?=\S).*)*', re.MULTILINE)
            obj.docstring.value = run.sub(lambda found: _fenced(found[0], found[1]), obj.docstring.value)


def _fenced(block: str, indent: str) -> str:
    return f'{indent}```pycon\n{block}\n{indent}```'
