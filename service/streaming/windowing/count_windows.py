"""Windows of equally many events, one after the other or overlapping: from state and events to windows and state."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from models.events import EventBatch, SensorSize
from service.streaming.windowing.checks import check_begins, check_closed, check_fullest, check_time
from service.streaming.windowing.config import CountWindows, WindowLimits
from service.streaming.windowing.documents import events_from_arrays, integer, members, refusal
from service.streaming.windowing.parts import Parts, count_bytes, count_events, own, settle
from service.streaming.windowing.window import Window
from service.wire.events import MAX_TIME_US


@dataclass(frozen=True, slots=True)
class CountCutter:
    """The state between two messages.

    Window k holds the events ``[k * stride, k * stride + count)`` of the stream, counted from its beginning or from the
    last ``flush``.

    Attributes
    ----------
    size : CountWindows
    limits : WindowLimits
    index : int
        Number of the open window.
    horizon : int
        No event may be earlier than this time, in microseconds.
    shared : int
        How many of the pending events the window before the open one has held too.
    pending : tuple of EventBatch
        Events of the open window.
    """

    size: CountWindows
    limits: WindowLimits
    index: int = 0
    horizon: int = 0
    shared: int = 0
    pending: Parts = ()

    @property
    def nbytes(self) -> int:
        """Bytes that the pending events take."""
        return count_bytes(self.pending)

    def push(self, events: EventBatch, *, already: int = 0) -> tuple[list[Window], CountCutter]:
        """Add events; close the windows that are full.

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
            If more than ``limits.windows`` windows would be closed.
        WindowOverflowError
            If a window would hold more than ``limits.events`` events.
        """
        if not len(events):
            return [], self
        check_begins(int(events.t[0]), self.horizon)
        horizon = int(events.t[-1])
        count, stride = self.size.count, self.size.stride
        total = count_events(self.pending) + len(events)
        closed = max(0, (total - count) // stride + 1)
        check_closed(closed, already, self.limits, f"{len(events)} events")
        check_fullest(min(count, total), self.limits)
        if not closed:
            return [], replace(self, horizon=horizon, pending=settle([*self.pending, own(events)]))
        held = EventBatch.concatenate([*self.pending, events])
        windows = [
            _window(self.index + k, held[k * stride : k * stride + count], self.shared if k == 0 else count - stride)
            for k in range(closed)
        ]
        return windows, replace(
            self,
            index=self.index + closed,
            horizon=horizon,
            shared=count - stride,
            pending=settle([own(held[closed * stride :])]),
        )

    def advance(self, until_us: int, *, already: int = 0) -> tuple[list[Window], CountCutter]:  # noqa: ARG002
        """Take note that every event before ``until_us`` (microseconds) has come; no window closes by that.

        Raises
        ------
        TimeOrderError
            If ``until_us`` is negative or later than ``MAX_TIME_US``.
        """
        check_time(until_us)
        return [], replace(self, horizon=max(self.horizon, until_us))

    def closes(self, until_us: int) -> int:  # noqa: ARG002
        """How many windows end by a time if no events come: none."""
        return 0

    def pass_over(self, until_us: int, *, already: int = 0) -> tuple[list[Window], CountCutter]:
        """As ``advance``: there are no windows without events."""
        return self.advance(until_us, already=already)

    def flush(self, *, already: int = 0) -> tuple[list[Window], CountCutter]:
        """Close the open window before it is full if it holds events that no window has held yet.

        The window after it begins with the next event.

        Raises
        ------
        TimeJumpError
            If that is one window too many.
        """
        if count_events(self.pending) <= self.shared:
            return [], self
        check_closed(1, already, self.limits, "a flush")
        window = _window(self.index, EventBatch.concatenate(self.pending), self.shared)
        return [window], replace(
            self, index=self.index + 1, horizon=max(self.horizon, window.t_end), shared=0, pending=()
        )

    def anew(self) -> CountCutter:
        """As before the first event, but for the number of the next window."""
        return CountCutter(self.size, self.limits, index=self.index)

    def document(self) -> dict[str, Any]:
        """Everything but the pending events, as plain values that ``restore`` reads."""
        return {"index": self.index, "horizon": self.horizon, "shared": self.shared}

    def restore(self, document: object, arrays: Mapping[str, object], sensor: SensorSize | None) -> CountCutter:
        """The state of a document and of arrays called ``pending``, with the settings of this one.

        Raises
        ------
        SnapshotError
            If they are not what a stream with these settings can have left.
        """
        fields = members(document, "windows", ("index", "horizon", "shared"))
        index = integer(fields, "index", 0)
        # A flushed window ends one microsecond after its last event.
        horizon = integer(fields, "horizon", 0, MAX_TIME_US + 1)
        shared = integer(fields, "shared", 0, self.size.count - self.size.stride)
        most = min(self.size.count - 1, self.limits.events)
        pending = events_from_arrays(arrays, "pending", 0, min(horizon, MAX_TIME_US), most, sensor)
        if shared not in (0, self.size.count - self.size.stride) or shared > len(pending) or (shared and not index):
            raise refusal("shared", "does not fit the windows or the pending events")
        return replace(self, index=index, horizon=horizon, shared=shared, pending=settle([pending]))


def _window(index: int, events: EventBatch, repeated: int) -> Window:
    return Window(index, int(events.t[0]), int(events.t[-1]) + 1, events, repeated=repeated)
