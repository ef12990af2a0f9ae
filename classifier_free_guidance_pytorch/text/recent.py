"""A cache of the last few results, for sampling loops that pass the same texts at every step."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable
from threading import RLock
from typing import Any, TypeVar

T = TypeVar('T')


class RecentCache:
    """A thread-safe cache of the last few results, by key. Copies and pickles of it are empty.

    Args:
        size: How many results to keep. A prompt and its negative need two, and a few more cost little.

    Example:
        >>> cache = RecentCache()
        >>> cache.get(('a dog',), lambda: 1), cache.get(('a dog',), lambda: 2)
        (1, 1)
    """

    def __init__(self, size: int = 4) -> None:
        self.size = size
        self._lock = RLock()
        self._entries: OrderedDict[Hashable, Any] = OrderedDict()

    def get(self, key: Hashable, compute: Callable[[], T]) -> T:
        """Return the result for this key, and compute it if it is not among the last few."""
        with self._lock:
            if key not in self._entries:
                self._entries[key] = compute()
            self._entries.move_to_end(key)
            while len(self._entries) > self.size:
                self._entries.popitem(last=False)
            return self._entries[key]

    def clear(self) -> None:
        """Drop all results."""
        with self._lock:
            self._entries.clear()

    def __deepcopy__(self, memo: dict[int, Any]) -> RecentCache:
        return RecentCache(self.size)

    def __reduce__(self) -> tuple[Any, ...]:
        return RecentCache, (self.size,)
