"""How long the work takes that is under way, so that a thread that is stuck or gone shows."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable


class Watch:
    """Takes down when pieces of work are given to threads, and when they come back; for use from any thread.

    A piece that does not come back is all that can be seen of a thread that hangs, and of one that has died.

    Parameters
    ----------
    clock : callable
        Seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._last = 0
        self._begun: dict[int, float] = {}

    def begin(self) -> int:
        """A piece of work begins; its number, for ``end``."""
        with self._lock:
            self._last += 1
            self._begun[self._last] = self._clock()
            return self._last

    def end(self, number: int) -> None:
        """A piece of work has come to its end, well or not."""
        with self._lock:
            self._begun.pop(number, None)

    @property
    def longest_s(self) -> float:
        """How long the oldest piece has been under way, in seconds; 0 if there is none."""
        with self._lock:
            # A dict keeps the order in which they began.
            oldest = next(iter(self._begun.values()), None)
            return 0.0 if oldest is None else self._clock() - oldest
