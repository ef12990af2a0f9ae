"""What a run shows: bars with captions per second and the time left, and a line now and then; all on the standard error."""

from __future__ import annotations

import sys
from typing import Any


def progress_bar(what: str, total: int | None, quiet: bool, done: int = 0) -> Any:
    """A bar over captions, `done` of which count neither for the speed nor for the time left."""
    from tqdm import tqdm

    return tqdm(desc=what, total=total, initial=done, unit=' captions', disable=quiet, smoothing=0.05, dynamic_ncols=True)


class SharedBar:
    """A bar that counts a caption when each of several encoders is done with one, whichever that is."""

    def __init__(self, bar: Any, encoders: int) -> None:
        self.bar = bar
        self.encoders = encoders
        self._open = 0

    def __call__(self, captions: int) -> None:
        """One of the encoders is done with so many."""
        whole, self._open = divmod(self._open + captions, self.encoders)
        self.bar.update(whole)


def say(line: str, quiet: bool) -> None:
    """A line on the standard error that leaves a bar intact."""
    if not quiet:
        from tqdm import tqdm

        tqdm.write(f'cfg-embed: {line}', file=sys.stderr)
