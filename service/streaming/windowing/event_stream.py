"""A stream of events to windows: overflows undone, restarts found, order restored, noise filtered, windows cut.

How the stream is cut into batches never changes the windows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.events import EventBatch, SensorSize
from models.filters import FilterState, Verdict, filter_events
from service.streaming.windowing.checks import check_begins, check_closed, check_ordered, check_time, check_times
from service.streaming.windowing.clock import Clock
from service.streaming.windowing.config import StreamConfig, TimeWindows, WindowLimits
from service.streaming.windowing.count_windows import CountCutter
from service.streaming.windowing.documents import (
    array_names,
    events_from_arrays,
    events_to_arrays,
    flag,
    integer,
    members,
    refusal,
)
from service.streaming.windowing.errors import SnapshotError
from service.streaming.windowing.noise import NOTHING, Counts, add, is_of_filter, state_from_document, state_to_document
from service.streaming.windowing.parts import count_events, settle
from service.streaming.windowing.reorder import Reorder
from service.streaming.windowing.time_windows import TimeCutter
from service.streaming.windowing.window import Window
from service.wire.events import MAX_TIME_US

Cutter = TimeCutter | CountCutter

LIGHT_BYTES = 1 << 18
"""So many bytes of events are decoded, and cut into windows, in a small part of a millisecond."""
_EVENT_BYTES = 13

_RUN = 8192
"""Restarts are looked for in so many events at a time, so that a batch full of them does not take long."""


@dataclass(frozen=True, slots=True)
class EventStream:
    """The state of a stream between two messages; ``start`` makes the first.

    Every call leaves it as it is and gives the state after it, so that nothing has changed if an error is raised.

    Attributes
    ----------
    config : StreamConfig
    limits : WindowLimits
    cutter : TimeCutter or CountCutter
        Where the windows stand.
    clock : Clock or None
        Where the sensor's clock stands, if it overflows.
    reorder : Reorder or None
        Events that wait for others, if events may come late.
    latest : int
        Latest time, in microseconds, that the sensor's clock has reached since it began.
    late : int
        Events thrown away as too late since the last window given.
    restarted : bool
        Whether the sensor's clock has begun anew since the last window given.
    filter : FilterState or None
        What the noise filters remember, if there are any.
    filtered : tuple of int
        Events that they have dropped since the last window given, by reason; empty without filters.
    """

    config: StreamConfig
    limits: WindowLimits
    cutter: Cutter
    clock: Clock | None
    reorder: Reorder | None
    latest: int = 0
    late: int = 0
    restarted: bool = False
    filter: FilterState | None = None
    filtered: Counts = ()

    @classmethod
    def start(cls, config: StreamConfig, limits: WindowLimits, *, sensor: SensorSize | None = None) -> EventStream:
        """A stream before its first event; noise filters need to know the sensor.

        Raises
        ------
        ValueError
            If there are filters and no sensor is given.
        """
        if config.filter is not None and sensor is None:
            raise ValueError("a stream with noise filters needs the size of its sensor")
        window, reorder_us, bits = config.window, config.reorder_us, config.wrap_bits
        return cls(
            config,
            limits,
            TimeCutter(window, config.gaps, limits) if isinstance(window, TimeWindows) else CountCutter(window, limits),
            None if bits is None else Clock(bits, late=reorder_us > 0),
            Reorder(reorder_us, limits.events) if reorder_us else None,
            filter=None if config.filter is None or sensor is None else FilterState(config.filter, sensor),
            filtered=() if config.filter is None else NOTHING,
        )

    @property
    def index(self) -> int:
        """Number of the window that is given next, if none without events comes before it."""
        return self.cutter.index

    @property
    def nbytes(self) -> int:
        """Bytes that the events take that are held, and the maps of the noise filters."""
        return sum(part.nbytes for part in (self.cutter, self.reorder, self.filter) if part is not None)

    def is_light(self, more: int) -> bool:
        """Whether cutting so many more events into windows takes less time than a change of threads."""
        if self.filter is not None or not (self.config.ordered and self.config.disjoint):
            return False
        return self.nbytes + _EVENT_BYTES * more <= LIGHT_BYTES

    @property
    def ordered(self) -> bool:
        """Whether the events of a batch must be ordered by time."""
        return self.config.ordered

    def push(self, events: EventBatch) -> tuple[list[Window], EventStream]:
        """Add events; give the windows that are complete by them.

        Parameters
        ----------
        events : EventBatch
            With times as the sensor gives them. If ``ordered``, the caller has found that they are ordered and between
            0 and ``MAX_TIME_US``; otherwise that is checked as far as it is needed.

        Raises
        ------
        TimeOrderError
            If a time is out of range, or earlier than what has been received although events may neither come late nor
            the sensor restart.
        TimeJumpError
            If more than ``limits.windows`` windows would be given.
        WindowOverflowError
            If a window, or the reorder buffer, would hold more than ``limits.events`` events.
        """
        if self.config.on_restart == "refuse" or self.ordered:
            windows, stream, _ = self._push(events, 0)
            return windows, stream
        windows, stream, restarts = [], self, 0
        for begin in range(0, len(events), _RUN):
            more, stream, silent = stream._push(events[begin : begin + _RUN], len(windows) + restarts)
            windows += more
            restarts += silent
        return windows, stream

    def advance(self, until_us: int, *, already: int = 0) -> tuple[list[Window], EventStream]:
        """Take note that every event before ``until_us`` has come; give the windows that are complete by then.

        A time that has been passed already says nothing new.

        Parameters
        ----------
        until_us : int
            Microseconds, as the sensor's clock gives them.
        already : int
            Windows that the same message has closed; they count towards the limit.

        Raises
        ------
        TimeOrderError
            If ``until_us`` is out of range.
        TimeJumpError
            If more than ``limits.windows`` windows would be given.
        WindowOverflowError
            If a window would hold more than ``limits.events`` events.
        """
        clock, reorder, cutter = self.clock, self.reorder, self.cutter
        if clock is None:
            check_time(until_us)
        else:
            check_time(until_us, clock.largest)
            t, clock = clock.unwrap(np.array([until_us], np.int64))
            until_us = int(t[0])
        if until_us <= cutter.horizon:
            return [], self
        events = EventBatch.empty()
        if reorder is not None:
            events, reorder = reorder.advance(until_us)
        cut = self._cut(events, already, until_us=until_us)
        return self._next(cut, reorder=reorder, clock=clock, latest=max(self.latest, until_us))

    def misses(self, until_us: int) -> bool:
        """Whether to go to ``until_us`` (microseconds) would close more windows than one message may."""
        return self.cutter.closes(until_us) > self.limits.windows

    def pass_over(self, until_us: int) -> tuple[list[Window], EventStream]:
        """Take note that the sensor was away until ``until_us``; give what is open, and a window that tells of the gap.

        For a stream whose events are in order and whose clock does not overflow.

        Parameters
        ----------
        until_us : int
            Microseconds.

        Raises
        ------
        TimeOrderError
            If ``until_us`` is out of range.
        """
        windows, cutter = self.cutter.pass_over(until_us)
        dropped = [NOTHING] * len(windows) if self.filter is not None else ()
        cut = _Cut(windows, cutter, self.filter, dropped, NOTHING if self.filter is not None else ())
        return self._next(cut, latest=max(self.latest, until_us))

    def flush(self) -> tuple[list[Window], EventStream]:
        """Give the open window, and those before it, if there are events that no window has held yet.

        The stream goes on; events before the end of the window given last are earlier than what has been received.

        Raises
        ------
        TimeJumpError
            If more than ``limits.windows`` windows would be given; an ``advance`` before it helps.
        WindowOverflowError
            If a window would hold more than ``limits.events`` events.
        """
        return self._flush(0)

    def restart(self) -> EventStream:
        """The stream as it was before its first event."""
        return EventStream.start(self.config, self.limits, sensor=None if self.filter is None else self.filter.sensor)

    def let_go(self) -> EventStream:
        """The same without what the noise filters remember: no event will come any more."""
        return self if self.filter is None else replace(self, filter=self.filter.at_rest())

    def snapshot(self) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
        """Everything that the stream holds.

        Returns
        -------
        document : dict
            Plain values, as JSON can hold them.
        arrays : dict of str to array
            Columns of the events that are held: int64 times, uint16 coordinates, uint8 polarities. Nobody changes them.
        """
        document = {
            "latest": self.latest,
            "late": self.late,
            "restarted": self.restarted,
            "clock": None if self.clock is None else self.clock.document(),
            "windows": self.cutter.document(),
        }
        arrays = events_to_arrays(EventBatch.concatenate(self.cutter.pending), "pending")
        if self.reorder is not None:
            arrays |= events_to_arrays(self.reorder.joined(), "held")
        if self.filter is not None:
            document["filter"], maps = state_to_document(self.filter, self.filtered)
            arrays |= maps
        return document, arrays

    @classmethod
    def restore(
        cls,
        config: StreamConfig,
        limits: WindowLimits,
        document: object,
        arrays: Mapping[str, object],
        *,
        sensor: SensorSize | None = None,
    ) -> EventStream:
        """The stream that ``snapshot`` was called on.

        Parameters
        ----------
        config : StreamConfig
            The one that the stream was started with.
        limits : WindowLimits
        document : dict
        arrays : mapping of str to array
            They are copied.
        sensor : SensorSize, optional
            What the events must lie inside of; noise filters need it.

        Raises
        ------
        SnapshotError
            If anything in the document or the arrays is not what such a stream can have left.
        """
        start = cls.start(config, limits, sensor=sensor)
        names = ("latest", "late", "restarted", "clock", "windows")
        fields = members(document, "stream", names if start.filter is None else (*names, "filter"))
        expected = array_names("pending") + (array_names("held") if start.reorder is not None else [])
        if not isinstance(arrays, Mapping):
            raise refusal("arrays", "must be a mapping")
        maps = {} if start.filter is None else {name: array for name, array in arrays.items() if is_of_filter(name)}
        if set(arrays) - set(maps) != set(expected):
            raise SnapshotError(f"the stream's arrays must be {', '.join(expected)}")
        latest = integer(fields, "latest", 0, MAX_TIME_US)
        cutter = start.cutter.restore(fields["windows"], arrays, sensor)
        if latest - config.reorder_us > cutter.horizon:
            raise refusal("latest", "is later than the windows say")
        clock, reorder = start.clock, start.reorder
        if clock is not None:
            clock = clock.restore(fields["clock"], latest)
        elif fields["clock"] is not None:
            raise refusal("clock", "must be null for a clock that does not overflow")
        if reorder is not None:
            # All that is final has been handed on, so both stand at the same time.
            held = events_from_arrays(arrays, "held", cutter.horizon, latest, limits.events, sensor)
            reorder = replace(reorder, final=cutter.horizon, held=settle([held]))
        filter, filtered = start.filter, start.filtered
        if filter is not None:
            filter, filtered = state_from_document(filter, fields["filter"], maps, cutter.horizon, latest)
        return replace(
            start,
            cutter=cutter,
            clock=clock,
            reorder=reorder,
            latest=latest,
            late=integer(fields, "late", 0),
            restarted=flag(fields, "restarted"),
            filter=filter,
            filtered=filtered,
        )

    def _push(self, events: EventBatch, already: int) -> tuple[list[Window], EventStream, int]:
        """The windows, the stream after them, and how many restarts gave no window."""
        windows: list[Window] = []
        stream, silent = self, 0
        while len(events):
            unwrapped, clock = stream._unwrap(events)
            # Every restart but the first gives a window, unless its events were filtered out; then it counts as one, so
            # that there are no more of them than the limit allows.
            run = stream._count_until_restart(unwrapped.t)
            more, stream = stream._take(unwrapped[:run], clock, already + silent + len(windows))
            windows += more
            events = events[run:]
            if len(events):
                more, stream = stream._begin_anew(already + silent + len(windows))
                windows += more
                silent += not more and self.filter is not None
                check_closed(silent + len(windows), already, self.limits, "restarts of the sensor's clock")
        return windows, stream, silent

    def _unwrap(self, events: EventBatch) -> tuple[EventBatch, Clock | None]:
        if self.clock is not None:
            t, clock = self.clock.unwrap(events.t)
            return EventBatch(t, events.x, events.y, events.p), clock
        if not self.ordered:
            check_times(events.t)
        return events, None

    def _count_until_restart(self, t: NDArray[np.int64]) -> int:
        """How many events come before one that is earlier than can be, if that means that the clock began anew."""
        if self.config.on_restart == "refuse":
            return len(t)
        if self.ordered:
            return 0 if t[0] < self.latest else len(t)
        seen = np.full(len(t), self.latest, np.int64)
        seen[1:] = np.maximum(np.maximum.accumulate(t[:-1]), self.latest)
        back = t < seen - self.config.reorder_us
        return int(back.argmax()) if back.any() else len(t)

    def _take(self, events: EventBatch, clock: Clock | None, already: int) -> tuple[list[Window], EventStream]:
        """Add events within which the clock does not begin anew; ``clock`` is how it stands after them."""
        if not len(events):
            return [], self
        latest = max(self.latest, int(events.t[-1] if self.ordered else events.t.max()))
        if self.reorder is None:
            if not self.ordered:
                check_ordered(events.t)
            return self._next(self._cut(events, already), clock=clock, latest=latest)
        release, reorder = self.reorder.push(events)
        # A flushed window may end later than any time can be.
        cut = self._cut(release.events, already, until_us=min(reorder.final, MAX_TIME_US))
        # Each window was complete with the first event that lies so far after its end that none can be as late.
        ends = np.array([window.t_end for window in cut.windows], np.int64)
        late = release.late[np.searchsorted(release.seen, ends + reorder.tolerance_us)]
        return self._next(
            cut,
            late.tolist(),
            int(release.late[-1]),
            reorder=reorder,
            clock=clock,
            latest=latest,
        )

    def _flush(self, already: int) -> tuple[list[Window], EventStream]:
        reorder, events = self.reorder, EventBatch.empty()
        if reorder is not None:
            events, reorder = reorder.drain()
        cut = self._cut(events, already, flush=True)
        if reorder is not None:
            _, reorder = reorder.advance(cut.cutter.horizon)
        return self._next(cut, reorder=reorder)

    def _begin_anew(self, already: int) -> tuple[list[Window], EventStream]:
        """Give what is open and go on as before the first event, but for the number of the next window."""
        windows, ended = self._flush(already)
        fresh = self.restart()
        return windows, replace(
            fresh, cutter=ended.cutter.anew(), late=ended.late, restarted=True, filtered=ended.filtered
        )

    def _cut(self, events: EventBatch, already: int, *, until_us: int | None = None, flush: bool = False) -> _Cut:
        """Filter events that are in order and cut them into windows; then advance, or flush, if that is wanted.

        Also those that are dropped say where windows of time begin, and how far the stream has come.
        """
        filter, cutter, kept, verdicts = self.filter, self.cutter, events, np.empty(0, np.uint8)
        if filter is not None and len(events):
            check_begins(int(events.t[0]), cutter.horizon)
            cutter = cutter.begin(int(events.t[0])) if isinstance(cutter, TimeCutter) else cutter
            found = filter_events(filter, events)
            filter, kept, verdicts = found.state, found.events, found.verdicts
            until_us = max(until_us or 0, int(events.t[-1]))
        windows, cutter = cutter.push(kept, already=already)
        full = len(windows)
        if until_us is not None:
            more, cutter = cutter.advance(until_us, already=already + len(windows))
            windows += more
        if flush:
            more, cutter = cutter.flush(already=already + len(windows))
            windows += more
        if filter is None:
            return _Cut(windows, cutter)
        # How many events each window was complete after: as far as windows of time go, those before its end.
        if isinstance(self.cutter, CountCutter):
            size, pending = self.cutter.size, count_events(self.cutter.pending)
            last = np.arange(full) * size.stride + size.count - pending - 1
            ends = (np.flatnonzero(verdicts == Verdict.KEPT)[last] + 1).tolist()
            ends += [len(events)] * (len(windows) - full)
        else:
            ends = np.searchsorted(events.t, [window.t_end for window in windows]).tolist()
        told = _count_reasons(verdicts, [*ends, len(events)])
        return _Cut(windows, cutter, filter, told[:-1], told[-1])

    def _next(
        self, cut: _Cut, late: Sequence[int] = (), late_in_all: int = 0, **changes: Any
    ) -> tuple[list[Window], EventStream]:
        """The windows with what is known of the time before them, and the stream after them.

        Parameters
        ----------
        cut : _Cut
        late : sequence of int
            How many events the message had thrown away when each window was complete; none if empty.
        late_in_all : int
            How many it has thrown away.
        **changes
            Attributes of the stream after them.
        """
        windows = cut.windows
        told = -self.late
        filtered = tuple(-count for count in self.filtered)
        given = []
        for k, window in enumerate(windows):
            known = late[k] if late else 0
            dropped = cut.dropped[k] if cut.dropped else ()
            given.append(
                replace(
                    window,
                    late=known - told,
                    restart=self.restarted and k == 0,
                    filtered=tuple(a - b for a, b in zip(dropped, filtered, strict=True)),
                )
            )
            told, filtered = known, dropped
        changes |= {
            "cutter": cut.cutter,
            "filter": cut.filter,
            "filtered": tuple(a - b for a, b in zip(cut.dropped_in_all, filtered, strict=True)),
            "late": late_in_all - told,
            "restarted": self.restarted and not windows,
        }
        return given, replace(self, **changes)


def _count_reasons(verdicts: NDArray[np.uint8], ends: Sequence[int]) -> list[Counts]:
    """How many events before each end, which do not go back, were dropped for each reason."""
    counts, told, begin = NOTHING, [], 0
    for end in ends:
        part = verdicts[begin:end]
        reasons = (int(np.count_nonzero(part == reason)) for reason in Verdict if reason != Verdict.KEPT)
        counts, begin = add(counts, tuple(reasons)), end
        told.append(counts)
    return told


@dataclass(frozen=True, slots=True)
class _Cut:
    """What some events have made.

    Attributes
    ----------
    windows : list of Window
    cutter : TimeCutter or CountCutter
    filter : FilterState or None
    dropped : list of tuple of int
        How many of the events had been dropped when each window was complete, by reason; empty without filters.
    dropped_in_all : tuple of int
        How many were dropped.
    """

    windows: list[Window]
    cutter: Cutter
    filter: FilterState | None = None
    dropped: Sequence[Counts] = ()
    dropped_in_all: Counts = ()
