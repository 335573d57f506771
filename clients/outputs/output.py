"""What every output is, and the events or the frame that belong to a result."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np

from clients.errors import OutputError
from clients.items import Frame
from clients.pictures import Pixels, pixels
from clients.results import Result
from models.events import EventBatch


class Output(ABC):
    """Something that results are written to, one after the other; a context manager. It is whole once closed."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @abstractmethod
    def write(self, result: Result, events: EventBatch, frame: Pixels | None = None) -> None:
        """Write a window.

        Parameters
        ----------
        result : Result
        events : EventBatch
            Those of the window.
        frame : uint8 array (H, W) or (H, W, 3), optional
            What a camera saw at its end, grey or RGB.

        Raises
        ------
        OutputError
            If it cannot be written.
        """

    def close(self) -> None:  # noqa: B027 most outputs hold nothing open
        """Complete what is written; harmless when that has been done."""


class WindowEvents:
    """The events of windows that are still to be answered: they pass by on their way into a stream."""

    def __init__(self) -> None:
        self._held: deque[EventBatch] = deque()

    def watch(self, batches: Iterable[EventBatch]) -> Iterator[EventBatch]:
        """Pass batches on, and keep them."""
        for batch in batches:
            if len(batch):
                self._held.append(_in_order(batch))
            yield batch

    def take(self, t_start: int, t_end: int) -> EventBatch:
        """The events of [t_start, t_end) µs; those before ``t_start`` are forgotten, as windows come in order."""
        while self._held and int(self._held[0].t[-1]) < t_start:
            self._held.popleft()
        parts = []
        for batch in self._held:
            low, high = np.searchsorted(batch.t, (t_start, t_end)).tolist()
            parts.append(batch[low:high])
            if int(batch.t[-1]) >= t_end:
                break
        return EventBatch.concatenate(parts)


class WindowFrames:
    """What a camera saw at the end of windows that are still to be answered: its frames pass by into a stream."""

    def __init__(self) -> None:
        self._held: deque[Frame] = deque()

    def watch(self, frames: Iterable[Frame]) -> Iterator[Frame]:
        """Pass frames on, and keep them."""
        for frame in frames:
            self._held.append(frame)
            yield frame

    def take(self, t_end: int) -> Pixels | None:
        """The last frame before ``t_end`` µs; those before it are forgotten, as windows come in order."""
        while len(self._held) > 1 and self._held[1].t_us < t_end:
            self._held.popleft()
        if not self._held or self._held[0].t_us >= t_end:
            return None
        return pixels(self._held[0].picture)


def _in_order(batch: EventBatch) -> EventBatch:
    if not (batch.t[1:] < batch.t[:-1]).any():
        return batch
    order = np.argsort(batch.t, kind="stable")
    return EventBatch(batch.t[order], batch.x[order], batch.y[order], batch.p[order])


def unwritable(path: Path, error: OSError) -> OutputError:
    """The error of a file that cannot be written."""
    return OutputError(f"{error.filename or path}: {error.strerror or error}")
