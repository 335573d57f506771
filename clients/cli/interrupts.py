"""Ctrl-C between results and not within one, so that whatever is written of a result is written whole."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class Interrupts:
    """Raises ``KeyboardInterrupt`` on SIGINT, at once or when what must not be interrupted is over."""

    def __init__(self) -> None:
        self._held = False
        self._pending = False

    @contextmanager
    def held(self) -> Iterator[None]:
        """Let nothing in here be interrupted.

        Raises
        ------
        KeyboardInterrupt
            At the end, if SIGINT has come meanwhile.
        """
        self._held = True
        try:
            yield
        finally:
            self._held = False
        if self._pending:
            raise KeyboardInterrupt

    def _heed(self, signum: int, frame: FrameType | None) -> None:  # noqa: ARG002
        if self._held:
            self._pending = True
        else:
            raise KeyboardInterrupt


@contextmanager
def interrupts() -> Iterator[Interrupts]:
    """Heed SIGINT so; in other threads than the main one, to which no signals come, nothing is changed."""
    found = Interrupts()
    if threading.current_thread() is not threading.main_thread():
        yield found
        return
    before = signal.signal(signal.SIGINT, found._heed)
    try:
        yield found
    finally:
        signal.signal(signal.SIGINT, before)
