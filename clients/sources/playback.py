"""Playing a source: from where, how fast, and how often."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from itertools import count

from clients.cutting import regroup
from clients.errors import SourceError
from clients.items import Frame
from clients.sources.source import Source
from clients.sources.video import FrameSource
from models.events import EventBatch

CHUNK_US = 10_000


def play(
    source: Source,
    *,
    speed: float | None = None,
    skip_us: int = 0,
    duration_us: int | None = None,
    loops: int | None = 1,
    chunk_us: int = CHUNK_US,
    now: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], object] = time.sleep,
) -> Iterator[EventBatch]:
    """Events of a source as a player gives them.

    A live source plays at its own pace: only ``duration_us`` applies to it.

    Parameters
    ----------
    source : Source
    speed : float, optional
        1 is as fast as it was recorded, 2 twice as fast; if not given, as fast as it is asked for: over a stream, as
        fast as the service acknowledges.
    skip_us : int
        Begin so long after the first event, in microseconds.
    duration_us : int, optional
        End so long after that, by the sensor's clock.
    loops : int, optional
        How often; for ever if None. Later rounds go on in time where the round before ended.
    chunk_us : int
        Batches hold the events between two multiples of this time.
    now, sleep : callable
        The clock, in seconds.

    Yields
    ------
    EventBatch
        None of them empty, unless the source is live.

    Raises
    ------
    SourceError
        If a number is out of range, or the events cannot be had.
    """
    _require_possible(speed, skip_us, duration_us, loops, chunk_us)
    if source.live:
        yield from _within(source.batches(), duration_us)
        return
    batches = regroup(_rounds(source, skip_us, duration_us, loops), chunk_us)
    yield from batches if speed is None else at_pace(batches, chunk_us, speed=speed, now=now, sleep=sleep)


def play_frames(
    source: FrameSource,
    *,
    speed: float | None = None,
    skip_us: int = 0,
    duration_us: int | None = None,
    loops: int | None = 1,
    now: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], object] = time.sleep,
) -> Iterator[Frame]:
    """Frames of a source as a player gives them, for a stream with ``StreamOptions(frames=…)``.

    The parameters and errors are those of :func:`play`; times count from the first frame, and with ``speed`` each frame
    comes when its own time has.
    """
    _require_possible(speed, skip_us, duration_us, loops)
    if source.live:
        speed, skip_us, loops = None, 0, 1
    begun: float | None = None
    first_us = shift = reached = 0
    step = 1
    for number in count():
        if number == loops:
            return
        begin: int | None = None
        played = False
        for frame in source.frames():
            if begin is None:
                begin = frame.t_us + skip_us
                # A round's first frame comes as long after the round before as frames came after each other there.
                shift = reached + step - begin if number else 0
            if duration_us is not None and frame.t_us >= begin + duration_us:
                break
            if frame.t_us < begin:
                continue
            step = frame.t_us + shift - reached if played else step
            reached, played = frame.t_us + shift, True
            if speed is not None:
                if begun is None:
                    begun, first_us = now(), reached
                wait_s = begun + (reached - first_us) / 1e6 / speed - now()
                if wait_s > 0:
                    sleep(wait_s)
            yield Frame(reached, frame.picture)
        if not played:
            return


def at_pace(
    batches: Iterable[EventBatch],
    span_us: int,
    *,
    speed: float = 1.0,
    now: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], object] = time.sleep,
) -> Iterator[EventBatch]:
    """Hold each batch back until its span of time is over, as a sensor would; times count from the first one's begin.

    Parameters
    ----------
    batches : iterable of EventBatch
        Each within one multiple of ``span_us``.
    span_us : int
        Microseconds.
    speed : float
        By how much time runs faster than it did.
    now, sleep : callable
        The clock, in seconds.
    """
    begun: float | None = None
    first = 0
    for batch in batches:
        slot = int(batch.t[0]) // span_us
        if begun is None:
            begun, first = now(), slot
        wait_s = begun + (slot + 1 - first) * span_us / 1e6 / speed - now()
        if wait_s > 0:
            sleep(wait_s)
        yield batch


def _require_possible(
    speed: float | None, skip_us: int, duration_us: int | None, loops: int | None, chunk_us: int = CHUNK_US
) -> None:
    if speed is not None and not 0 < speed < float("inf"):
        raise SourceError(f"the speed {speed} is not above 0")
    if skip_us < 0 or chunk_us < 1 or (duration_us is not None and duration_us <= 0):
        raise SourceError("a time to skip must not be negative, a duration and a chunk must be above 0 µs")
    if loops is not None and loops < 1:
        raise SourceError(f"{loops} rounds play nothing")


def _rounds(source: Source, skip_us: int, duration_us: int | None, loops: int | None) -> Iterator[EventBatch]:
    reached = 0
    for number in count():
        if number == loops:
            return
        shift: int | None = 0 if number == 0 else None
        for batch in _within(source.batches(skip_us), duration_us):
            if not len(batch):
                continue
            if shift is None:
                shift = reached + 1 - int(batch.t[0])
            batch = EventBatch(batch.t + shift, batch.x, batch.y, batch.p) if shift else batch
            reached = int(batch.t[-1])
            yield batch
        if shift is None or not reached:
            # Nothing is played however often it is asked for.
            return


def _within(batches: Iterator[EventBatch], duration_us: int | None) -> Iterator[EventBatch]:
    """The events up to so long after the first one."""
    end: int | None = None
    for batch in batches:
        if duration_us is not None and len(batch):
            end = int(batch.t[0]) + duration_us if end is None else end
            if int(batch.t[-1]) >= end:
                yield batch[: int(batch.t.searchsorted(end))]
                return
        yield batch
