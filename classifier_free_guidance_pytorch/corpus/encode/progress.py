"""What a run shows on the standard error: bars with captions per second and the time left, and single lines."""

from __future__ import annotations

import sys
from typing import Any

from classifier_free_guidance_pytorch.errors import printable


def progress_bar(what: str, total: int | None, quiet: bool, done: int = 0) -> Any:
    """Return a bar over captions.

    Args:
        what: The title.
        total: The number of captions; None where it is unknown.
        quiet: Show nothing; else a bar is shown in a terminal only.
        done: How many of them were done before; they count neither for the speed nor for the time left.
    """
    from tqdm import tqdm

    off = quiet or None  # None: shown in a terminal only
    return tqdm(desc=what, total=total, initial=done, unit=' captions', disable=off, smoothing=0.05, dynamic_ncols=True)


class SharedBar:
    """A bar over captions for several encoders: a caption that one of them has encoded counts as a fraction of one."""

    def __init__(self, bar: Any, encoders: int) -> None:
        self.bar = bar
        self.encoders = encoders
        self._open = 0

    def __call__(self, captions: int) -> None:
        """Count captions that one of the encoders has encoded."""
        whole, self._open = divmod(self._open + captions, self.encoders)
        self.bar.update(whole)


def log(line: str, quiet: bool) -> None:
    """Print a line to the standard error without damage to a bar."""
    if not quiet:
        from tqdm import tqdm

        tqdm.write(printable(f'cfg-embed: {line}'), file=sys.stderr)
