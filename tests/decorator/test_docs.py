"""The page of the decorator: its code runs, and its table of keywords is that of the code."""

from __future__ import annotations

import re
from pathlib import Path

from classifier_free_guidance_pytorch.decorator.keywords import describe
from classifier_free_guidance_pytorch.decorator.signature import KeyNames

PATH = Path(__file__).parents[2] / 'docs' / 'decorator.md'
PAGE = PATH.read_text(encoding='utf-8')


def table() -> str:
    """The table of the page, from the declarations."""
    rows = [f'| `{name}` | `{default!r}` | {said} |' for name, (default, _, said) in describe(KeyNames()).items()]
    return '\n'.join(('| keyword | default | meaning |', '|---|---|---|', *rows))


def test_the_table_of_keywords_is_that_of_the_code():
    """To renew it: `python -m tests.decorator.test_docs`."""
    assert table() in PAGE


def test_every_block_runs():
    blocks = re.findall(r'```python\n(.*?)```', PAGE, re.DOTALL)
    assert len(blocks) >= 6
    names: dict[str, object] = {}
    for block in blocks:
        exec(compile(block, 'docs/decorator.md', 'exec'), names)


if __name__ == '__main__':
    between = re.compile(r'(<!-- begin keywords -->\n).*?(<!-- end keywords -->)', re.DOTALL)
    PATH.write_text(between.sub(lambda found: f'{found[1]}{table()}\n{found[2]}', PAGE), encoding='utf-8')
