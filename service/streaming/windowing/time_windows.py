"""Windows of time, one after the other or overlapping: from state and events to windows and state."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.events import EventBatch, SensorSize
from service.streaming.windowing.checks import check_begins, check_closed, check_fullest, check_time
from service.streaming.windowing.config import Gaps, TimeWindows, WindowLimits
from service.streaming.windowing.documents import events_from_arrays, flag, integer, members, refusal
from service.streaming.windowing.parts import Parts, count_bytes, count_events, own, settle
from service.streaming.windowing.window import Window
from service.wire.events import MAX_TIME_US


@dataclass(frozen=True, slots=True)
class TimeCutter:
    """The state between two messages.

    A window ends at ``e``, a multiple of the stride, and holds the events of ``[e - us, e)``. The first one ends at the
    first multiple after the first event.

    Attributes
    ----------
    size : TimeWindows
    gaps : "step" or "leak"
        Whether windows without events are given, or only counted.
    limits : WindowLimits
    started : bool
        Whether there has been an event.
    index : int
        Number of the open window, the one that ends next.
    horizon : int
        No event may be earlier than this time, in microseconds.
    gap : int
        Windows since the last one given, all without events.
    pending : tuple of EventBatch
        Events that the open window and those after it hold.
    """

    size: TimeWindows
    gaps: Gaps
    limits: WindowLimits
    started: bool = False
    index: int = 0
    horizon: int = 0
    gap: int = 0
    pending: Parts = ()

    @property
    def nbytes(self) -> int:
        """Bytes that the pending events take."""
        return count_bytes(self.pending)

    def begin(self, first_us: int) -> TimeCutter:
        """Begin with the window of this time, in microseconds, unless there has been an event."""
        return self if self.started else replace(self, started=True, horizon=first_us)

    def push(self, events: EventBatch, *, already: int = 0) -> tuple[list[Window], TimeCutter]:
        """Add events; close the windows that end at or before the last one.

        Parameters
        ----------
        events : EventBatch
            Ordered by time, times between 0 and ``MAX_TIME_US``.
        already : int
            Windows that the same message has closed; they count towards the limit.

        Raises
        ------
        TimeOrderError
            If the first event is earlier than an event or an ``advance`` before it.
        TimeJumpError
            If more than ``limits.windows`` windows would be given.
        WindowOverflowError
            If a window would hold more than ``limits.events`` events.
        """
        if not len(events):
            return [], self
        first, last = int(events.t[0]), int(events.t[-1])
        check_begins(first, self.horizon)
        return self._close(self._number_at(self.horizon if self.started else first), events, last, already)

    def advance(self, until_us: int, *, already: int = 0) -> tuple[list[Window], TimeCutter]:
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
            If more than ``limits.windows`` windows would be given.
        """
        check_time(until_us)
        if until_us <= self.horizon:
            return [], self
        if not self.started:
            return [], replace(self, horizon=until_us)
        return self._close(self._number_at(self.horizon), EventBatch.empty(), until_us, already)

    def closes(self, until_us: int) -> int:
        """How many windows end by ``until_us`` (microseconds), which comes after all that has been received."""
        return max(0, self._number_at(until_us) - self._number_at(self.horizon)) if self.started else 0

    def pass_over(self, until_us: int, *, already: int = 0) -> tuple[list[Window], TimeCutter]:
        """As ``advance``, but of the windows without events only the last one is given: the others are its ``gap``.

        Raises
        ------
        TimeOrderError, TimeJumpError
            As ``advance``.
        """
        check_time(until_us)
        if until_us <= self.horizon or not self.started:
            return self.advance(until_us)
        return self._close(self._number_at(self.horizon), EventBatch.empty(), until_us, already, silent=True)

    def flush(self, *, already: int = 0) -> tuple[list[Window], TimeCutter]:
        """Close the open window before its time if it holds events that no window has held yet.

        Raises
        ------
        TimeJumpError
            If that is one window too many.
        """
        number = self._number_at(self.horizon)
        end = number * self.size.stride_us
        if not self.pending or self.pending[-1].t[-1] < end - self.size.stride_us:
            return [], self
        return self._close(number, EventBatch.empty(), end, already)

    def anew(self) -> TimeCutter:
        """As before the first event, but for the number of the next window."""
        return TimeCutter(self.size, self.gaps, self.limits, index=self.index)

    def document(self) -> dict[str, Any]:
        """Everything but the pending events, as plain values that ``restore`` reads."""
        return {"started": self.started, "index": self.index, "horizon": self.horizon, "gap": self.gap}

    def restore(self, document: object, arrays: Mapping[str, object], sensor: SensorSize | None) -> TimeCutter:
        """The state of a document and of arrays called ``pending``, with the settings of this one.

        Raises
        ------
        SnapshotError
            If they are not what a stream with these settings can have left.
        """
        fields = members(document, "windows", ("started", "index", "horizon", "gap"))
        started = flag(fields, "started")
        index = integer(fields, "index", 0)
        # A flushed window may end after the latest possible event.
        horizon = integer(fields, "horizon", 0, MAX_TIME_US + self.size.stride_us)
        gap = integer(fields, "gap", 0, index if started and self.gaps == "leak" else 0)
        earliest = self._number_at(horizon) * self.size.stride_us - self.size.us
        pending = events_from_arrays(
            arrays, "pending", max(0, earliest), min(horizon, MAX_TIME_US), self.limits.events, sensor
        )
        if len(pending) and not started:
            raise refusal("pending", "must be empty before the first event")
        return replace(self, started=started, index=index, horizon=horizon, gap=gap, pending=settle([pending]))

    def _number_at(self, time_us: int) -> int:
        """Which multiple of the stride is the first one after a time."""
        return time_us // self.size.stride_us + 1

    def _close(
        self, first: int, events: EventBatch, horizon: int, already: int, *, silent: bool = False
    ) -> tuple[list[Window], TimeCutter]:
        """Add events and close the windows from the ``first`` multiple of the stride to the last one by ``horizon``.

        With ``silent``, windows without events are passed over, but for the last one if they are given otherwise.
        """
        length, stride = self.size.us, self.size.stride_us
        stop = self._number_at(horizon)
        if stop == first:
            check_fullest(count_events(self.pending) + len(events), self.limits)
            pending = settle([*self.pending, own(events)])
            return [], replace(self, started=True, horizon=horizon, pending=pending)
        held = EventBatch.concatenate([*self.pending, events])
        if self.gaps == "step" and not silent:
            check_closed(stop - first, already, self.limits, f"going to {horizon} µs")
            numbers = np.arange(first, stop, dtype=np.int64)
        else:
            lows, counts = self._occupied(held.t, first, stop)
            check_closed(int(counts.sum()), already, self.limits, f"going to {horizon} µs")
            numbers = _expand(lows, counts)
            if self.gaps == "step" and (not len(numbers) or numbers[-1] < stop - 1):
                check_closed(len(numbers) + 1, already, self.limits, f"going to {horizon} µs")
                numbers = np.append(numbers, stop - 1)
        begins = np.searchsorted(held.t, numbers * stride - length)
        ends = np.searchsorted(held.t, numbers * stride)
        # What ends before the window before it has been in that one.
        shared = np.maximum(np.searchsorted(held.t, (numbers - 1) * stride) - begins, 0)
        rest = held[int(np.searchsorted(held.t, stop * stride - length)) :]
        check_fullest(max(len(rest), int((ends - begins).max(initial=0))), self.limits)
        windows = []
        previous = first - 1 - self.gap
        columns = (numbers.tolist(), begins.tolist(), ends.tolist(), shared.tolist())
        for number, begin, end, repeated in zip(*columns, strict=True):
            t_end = number * stride
            index = self.index + number - first
            gap = number - previous - 1
            windows.append(Window(index, max(0, t_end - length), t_end, held[begin:end], gap, repeated=repeated))
            previous = number
        return windows, replace(
            self,
            started=True,
            index=self.index + stop - first,
            horizon=horizon,
            gap=stop - 1 - previous,
            pending=settle([own(rest)]),
        )

    def _occupied(self, t: NDArray[np.int64], first: int, stop: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """The windows from ``first`` to ``stop`` that hold events, as runs of consecutive numbers.

        Returns
        -------
        lows, counts : int64 array, (N,)
            Where each run begins, and how many windows it has.
        """
        length, stride = self.size.us, self.size.stride_us
        # Only between events that are further apart than a window is long can there be windows without events.
        far = np.diff(t) > length
        begins, ends = np.append(t[:1], t[1:][far]), np.append(t[:-1][far], t[-1:])
        lows = np.maximum(begins // stride + 1, first)
        highs = np.minimum((ends + length) // stride, stop - 1)
        return lows, np.maximum(highs - lows + 1, 0)


def _expand(lows: NDArray[np.int64], counts: NDArray[np.int64]) -> NDArray[np.int64]:
    """``lows[i], lows[i] + 1, …``, ``counts[i]`` of them, for one i after the other."""
    before = np.cumsum(counts) - counts
    return np.repeat(lows - before, counts) + np.arange(counts.sum(), dtype=np.int64)
