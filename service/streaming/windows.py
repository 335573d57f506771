"""Cutting an event stream into windows: a pure function from state and events to windows and state.

How the stream is cut into batches never changes the windows.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from models.events import EventBatch
from service.errors import FieldError, TimeJumpError, TimeOrderError, WindowOverflowError
from service.wire.events import MAX_TIME_US


@dataclass(frozen=True, slots=True)
class Window:
    """A complete window ``[t_start, t_end)`` of the sensor's clock, in microseconds, and its events."""

    index: int
    t_start: int
    t_end: int
    events: EventBatch


@dataclass(frozen=True, slots=True)
class WindowLimits:
    """What one message may do.

    Attributes
    ----------
    windows : int
        Most windows that it may close.
    events : int
        Most events in one window.
    """

    windows: int
    events: int


@dataclass(frozen=True, slots=True)
class WindowStream:
    """The state of a stream between two messages.

    Attributes
    ----------
    window_us : int
        Length of a window in microseconds; windows begin at its multiples.
    limits : WindowLimits
    start : int or None
        Beginning of the open window; None before the first event.
    index : int
        Number of the open window, which is also how many have been closed.
    horizon : int
        No event may be earlier than this time.
    pending : tuple of EventBatch
        Events of the open window.
    """

    window_us: int
    limits: WindowLimits
    start: int | None = None
    index: int = 0
    horizon: int = 0
    pending: tuple[EventBatch, ...] = ()

    @property
    def nbytes(self) -> int:
        """Bytes that the pending events take."""
        return sum(b.t.nbytes + b.x.nbytes + b.y.nbytes + b.p.nbytes for b in self.pending)

    def push(self, events: EventBatch) -> tuple[list[Window], WindowStream]:
        """Add events; close the windows that end at or before the last one.

        Parameters
        ----------
        events : EventBatch
            Ordered by time, times between 0 and ``MAX_TIME_US``.

        Raises
        ------
        TimeOrderError
            If the first event is earlier than an event or an ``advance`` before it.
        TimeJumpError
            If more than ``limits.windows`` windows would be closed.
        WindowOverflowError
            If a window would hold more than ``limits.events`` events.
        """
        if not len(events):
            return [], self
        first, last = int(events.t[0]), int(events.t[-1])
        if first < self.horizon:
            message = f"t[0] = {first} µs is earlier than {self.horizon} µs, up to where the stream has been received"
            raise TimeOrderError(message, [FieldError("t", message)])
        start = first - first % self.window_us if self.start is None else self.start
        closed = self._count_closed(start, last)
        # cuts[k] is where the k-th window of this batch ends, the last one being left open.
        cuts = np.searchsorted(events.t, start + self.window_us * np.arange(1, closed + 1, dtype=np.int64)).tolist()
        parts = [events[a:b] for a, b in zip([0, *cuts], [*cuts, len(events)], strict=True)]
        held = sum(map(len, self.pending))
        fullest = max(held + len(parts[0]), *map(len, parts))
        if fullest > self.limits.events:
            raise WindowOverflowError(
                f"a window would hold {fullest} events, at most {self.limits.events} are taken; use shorter windows"
            )
        windows = []
        pending = self.pending
        for k, part in enumerate(parts[:-1]):
            windows.append(self._window(start, k, EventBatch.concatenate([*pending, part])))
            pending = ()
        return windows, replace(
            self,
            start=start + closed * self.window_us,
            index=self.index + closed,
            horizon=last,
            pending=_append(pending, parts[-1]),
        )

    def advance(self, until_us: int, *, already: int = 0) -> tuple[list[Window], WindowStream]:
        """Take note that every event before ``until_us`` has come; close the windows that end by then.

        A time that has been passed already says nothing new. Before the first event there is no window to close.

        Parameters
        ----------
        until_us : int
            Microseconds.
        already : int
            Windows that the same message has closed; they count towards the limit.

        Raises
        ------
        TimeOrderError
            If ``until_us`` is negative or later than ``MAX_TIME_US``.
        TimeJumpError
            If more than ``limits.windows`` windows would be closed.
        """
        if not 0 <= until_us <= MAX_TIME_US:
            message = f"the time {until_us} µs is not between 0 and {MAX_TIME_US}"
            raise TimeOrderError(message, [FieldError("t", message)])
        if until_us <= self.horizon:
            return [], self
        if self.start is None:
            return [], replace(self, horizon=until_us)
        closed = self._count_closed(self.start, until_us, already)
        pending = self.pending
        windows = []
        for k in range(closed):
            windows.append(self._window(self.start, k, EventBatch.concatenate(pending)))
            pending = ()
        return windows, replace(
            self,
            start=self.start + closed * self.window_us,
            index=self.index + closed,
            horizon=until_us,
            pending=pending,
        )

    def finish(self) -> tuple[list[Window], WindowStream]:
        """Close the open window if it holds events; the end of a stream."""
        if self.start is None or not self.pending:
            return [], self
        window = self._window(self.start, 0, EventBatch.concatenate(self.pending))
        return [window], replace(
            self, start=window.t_end, index=self.index + 1, horizon=max(self.horizon, window.t_end), pending=()
        )

    def restart(self) -> WindowStream:
        """The stream as it was before its first event."""
        return WindowStream(self.window_us, self.limits)

    def _count_closed(self, start: int, until_us: int, already: int = 0) -> int:
        closed = (until_us - start) // self.window_us
        if closed + already > self.limits.windows:
            message = (
                f"going to {until_us} µs would close {closed + already} windows, at most {self.limits.windows} are "
                "taken at a time; send less at once, or reset the session if its clock has jumped"
            )
            raise TimeJumpError(message, [FieldError("t", message)])
        return closed

    def _window(self, start: int, k: int, events: EventBatch) -> Window:
        t_start = start + k * self.window_us
        return Window(self.index + k, t_start, t_start + self.window_us, events)


def _append(pending: tuple[EventBatch, ...], part: EventBatch) -> tuple[EventBatch, ...]:
    """Keep a part of a batch; what is kept owns its memory, so that it does not hold on to the whole batch.

    Parts are joined once they are as long as the one before, so that many small messages cost little: there are never
    more of them than the logarithm of the events that they hold.
    """
    if not len(part):
        return pending
    tail = [EventBatch(part.t.copy(), part.x.copy(), part.y.copy(), part.p.copy())]
    kept = list(pending)
    size = len(part)
    while kept and len(kept[-1]) <= size:
        size += len(kept[-1])
        tail.insert(0, kept.pop())
    return (*kept, EventBatch.concatenate(tail))
