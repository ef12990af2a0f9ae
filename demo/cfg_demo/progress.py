"""Progress bars: shown in a terminal, unless a command was given `--quiet`."""

from __future__ import annotations

from typing import Any

_quiet = False


def be_quiet(quiet: bool = True) -> None:
    """Show no bars in this process from now on."""
    global _quiet  # noqa: PLW0603  one switch for the process, as the command line has one
    _quiet = quiet


def progress_bar(iterable: Any = None, *, show: bool = True, **options: Any) -> Any:
    """Return a bar of tqdm.

    Args:
        iterable: What to loop over; without it the bar is updated by hand.
        show: Whether the caller wants one.
        options: As for `tqdm.tqdm`.
    """
    from tqdm import tqdm

    off = _quiet or not show
    return tqdm(iterable, disable=True if off else None, **options)  # None: off where there is no terminal
