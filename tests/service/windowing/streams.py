"""Streams of random messages, and windows as plain values to compare."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from hypothesis import strategies as st

from models.events import EventBatch
from service.errors import UnusableInputError
from service.streaming.windowing import CountWindows, EventStream, StreamConfig, TimeWindows, Window, WindowLimits
from tests.service.harness import make_events

LIMITS = WindowLimits(windows=5000, events=1000)

Row = tuple[int, int, int, int]


@dataclass(frozen=True)
class Plain:
    """A window as plain values."""

    index: int
    t_start: int
    t_end: int
    rows: tuple[Row, ...]
    gap: int = 0
    restart: bool = False
    late: int = 0


def rows_of(events: EventBatch) -> tuple[Row, ...]:
    return tuple(zip(events.t.tolist(), events.x.tolist(), events.y.tolist(), events.p.tolist(), strict=True))


def plain(windows: Iterable[Window]) -> list[Plain]:
    return [Plain(w.index, w.t_start, w.t_end, rows_of(w.events), w.gap, w.restart, w.late) for w in windows]


def at(*times: int) -> EventBatch:
    """Events at these times; each can be told from the others by its x."""
    return make_events(*[(t, k, 0, 0) for k, t in enumerate(times)])


def times(windows: Iterable[Window]) -> list[list[int]]:
    """The times of the windows' events."""
    return [w.events.t.tolist() for w in windows]


@dataclass(frozen=True)
class Advance:
    """Every event before that time has come."""

    until_us: int


@dataclass(frozen=True)
class Flush:
    """The open window is wanted now."""


Message = Row | Advance | Flush

TIME_WINDOWS = st.integers(1, 40).flatmap(lambda us: st.builds(TimeWindows, st.just(us), st.integers(1, us)))
COUNT_WINDOWS = st.integers(1, 12).flatmap(lambda n: st.builds(CountWindows, st.just(n), st.integers(1, n)))
CONFIGS = st.builds(
    StreamConfig,
    st.one_of(TIME_WINDOWS, COUNT_WINDOWS),
    gaps=st.sampled_from(["step", "leak"]),
    reorder_us=st.sampled_from([0, 0, 1, 7, 30, 64]),
    wrap_bits=st.sampled_from([None, None, 8]),
    on_restart=st.sampled_from(["refuse", "reset"]),
)

_STEPS = st.one_of(
    st.integers(-8, 12), st.integers(-8, 12), st.integers(-60, 60), st.sampled_from([-200, -150, -100, 150, 700])
)
_MESSAGES = st.one_of(
    *[st.tuples(st.just("event"), _STEPS)] * 6,
    st.tuples(st.just("advance"), st.integers(-5, 80)),
    st.tuples(st.just("flush"), st.just(0)),
)


@st.composite
def messages(draw: st.DrawFn, config: StreamConfig, most: int = 50) -> list[Message]:
    """Messages that a stream with these settings takes, one event at a time."""
    found: list[Message] = []
    stream = EventStream.start(config, LIMITS)
    time_us = draw(st.integers(0, 300))
    for k, (kind, step) in enumerate(draw(st.lists(_MESSAGES, max_size=most))):
        if kind == "event":
            time_us = max(0, time_us + step)
        told = max(0, time_us + step if kind == "advance" else time_us)
        told = told if config.wrap_bits is None else told % (1 << config.wrap_bits)
        message: Message = (told, k, 0, k % 2) if kind == "event" else Advance(told) if kind == "advance" else Flush()
        try:
            _, stream = send(stream, message)
        except UnusableInputError:
            continue
        found.append(message)
    return found


def send(stream: EventStream, message: Message) -> tuple[list[Window], EventStream]:
    match message:
        case Advance(until_us):
            return stream.advance(until_us)
        case Flush():
            return stream.flush()
        case _:
            return stream.push(make_events(message))


def send_all(stream: EventStream, sent: Sequence[Message]) -> tuple[list[Window], EventStream]:
    """All messages, one event at a time."""
    windows: list[Window] = []
    for message in sent:
        more, stream = send(stream, message)
        windows += more
    return windows, stream


def send_cut(stream: EventStream, sent: Sequence[Message], draw: Any) -> tuple[list[Window], EventStream]:
    """All messages, with events that follow each other sent together as it pleases ``draw``."""
    windows: list[Window] = []
    batch: list[Row] = []

    def push() -> None:
        nonlocal stream
        more, stream = stream.push(make_events(*batch))
        windows.extend(more)
        batch.clear()

    for message in sent:
        if not isinstance(message, tuple):
            push()
            more, stream = send(stream, message)
            windows.extend(more)
            continue
        if (stream.ordered and batch and message[0] < batch[-1][0]) or draw(st.integers(0, 4)) == 0:
            push()
        batch.append(message)
    push()
    return windows, stream


def state(stream: EventStream) -> tuple[Any, ...]:
    """Everything that a stream holds, to compare."""
    document, arrays = stream.snapshot()
    return document, {name: array.tolist() for name, array in arrays.items()}, stream.nbytes, stream.index
