"""Cutting a stream into windows."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.events import EventBatch
from service.errors import TimeJumpError, TimeOrderError, WindowOverflowError
from service.streaming.windows import Window, WindowLimits, WindowStream
from service.wire.events import MAX_TIME_US
from tests.service.harness import make_events, split

WINDOW_US = 10
LIMITS = WindowLimits(windows=1000, events=1000)
FRESH = WindowStream(WINDOW_US, LIMITS)

Row = tuple[int, int, int, int]


@dataclass(frozen=True)
class Plain:
    """A window as plain values."""

    index: int
    t_start: int
    t_end: int
    rows: tuple[Row, ...]


def plain(windows: list[Window]) -> list[Plain]:
    return [
        Plain(
            w.index,
            w.t_start,
            w.t_end,
            tuple(zip(w.events.t.tolist(), w.events.x.tolist(), w.events.y.tolist(), w.events.p.tolist(), strict=True)),
        )
        for w in windows
    ]


def expected(rows: list[Row], until_us: int) -> list[Plain]:
    """The windows by their definition, one by one."""
    if not rows:
        return []
    first = rows[0][0] // WINDOW_US
    known = max(rows[-1][0], until_us)
    found = []
    for k in range(first, known // WINDOW_US):
        start, end = k * WINDOW_US, (k + 1) * WINDOW_US
        found.append(Plain(k - first, start, end, tuple(row for row in rows if start <= row[0] < end)))
    return found


ROWS = st.lists(
    st.tuples(st.integers(0, 300), st.integers(0, 9), st.integers(0, 9), st.integers(0, 1)), max_size=40
).map(lambda rows: sorted(rows, key=lambda row: row[0]))


@given(ROWS, st.lists(st.integers(0, 40), max_size=10), st.integers(0, 400), st.data())
def test_any_cutting_gives_the_windows_of_the_definition(
    rows: list[Row], cuts: list[int], until_us: int, data: st.DataObject
) -> None:
    events = make_events(*rows)
    stream, windows = FRESH, []
    for part in split(events, [min(cut, len(rows)) for cut in cuts]):
        more, stream = stream.push(part)
        windows += more
        # Something that is known already, or a time up to the next event, may be said in between.
        done = sum(len(w.events) for w in windows) + sum(map(len, stream.pending))
        bound = rows[done][0] if done < len(rows) else until_us
        more, stream = stream.advance(data.draw(st.integers(0, bound)))
        if done == 0:
            assert not more
        windows += more
    more, stream = stream.advance(until_us)
    windows += more
    reached = stream.horizon
    assert plain(windows) == expected(rows, reached)
    assert stream.index == len(windows)
    last, ended = stream.finish()
    assert sum(len(w.events) for w in windows + last) == len(rows)
    assert ended.pending == ()
    assert ended.finish() == ([], ended)


@given(ROWS)
def test_a_stream_is_never_changed(rows: list[Row]) -> None:
    _, stream = FRESH.push(make_events(*rows))
    before = (stream.start, stream.index, stream.horizon, stream.pending, plain(stream.finish()[0]))
    stream.push(make_events((10_000, 0, 0, 0)))
    stream.advance(9_000)
    stream.finish()
    stream.restart()
    assert (stream.start, stream.index, stream.horizon, stream.pending, plain(stream.finish()[0])) == before


def test_an_event_at_the_end_of_a_window_belongs_to_the_next() -> None:
    windows, stream = FRESH.push(make_events((0, 0, 0, 0), (9, 0, 0, 0), (10, 0, 0, 0)))
    assert [len(w.events) for w in windows] == [2]
    windows, _ = stream.advance(20)
    assert [len(w.events) for w in windows] == [1]


def test_time_never_goes_back() -> None:
    _, stream = FRESH.push(make_events((25, 0, 0, 0)))
    assert stream.push(make_events((25, 0, 0, 0)))[0] == []
    with pytest.raises(TimeOrderError, match="24 µs is earlier than 25"):
        stream.push(make_events((24, 0, 0, 0)))
    _, stream = stream.advance(28)
    with pytest.raises(TimeOrderError):
        stream.push(make_events((27, 0, 0, 0)))
    windows, stream = stream.finish()
    assert (windows[0].t_start, windows[0].t_end) == (20, 30)
    with pytest.raises(TimeOrderError):
        stream.push(make_events((29, 0, 0, 0)))
    assert stream.restart() == FRESH


def test_before_the_first_event_time_only_bounds_what_comes() -> None:
    windows, stream = FRESH.advance(500_000)
    assert windows == []
    with pytest.raises(TimeOrderError):
        stream.push(make_events((499_999, 0, 0, 0)))
    windows, stream = stream.push(make_events((500_000, 0, 0, 0), (500_010, 0, 0, 0)))
    assert [(w.index, w.t_start) for w in windows] == [(0, 500_000)]


@pytest.mark.parametrize("until_us", [-1, -(2**63), MAX_TIME_US + 1, 2**63 - 1])
def test_times_out_of_range(until_us: int) -> None:
    for stream in (FRESH, FRESH.push(make_events((5, 0, 0, 0)))[1]):
        with pytest.raises(TimeOrderError):
            stream.advance(until_us)


def test_a_jump_in_time_is_refused() -> None:
    fresh = WindowStream(WINDOW_US, WindowLimits(windows=3, events=100))
    _, stream = fresh.push(make_events((5, 0, 0, 0)))
    assert len(stream.push(make_events((39, 0, 0, 0)))[0]) == 3
    assert len(stream.advance(39)[0]) == 3
    with pytest.raises(TimeJumpError, match="4 windows, at most 3"):
        stream.push(make_events((40, 0, 0, 0)))
    with pytest.raises(TimeJumpError):
        stream.advance(40)
    with pytest.raises(TimeJumpError):
        stream.advance(MAX_TIME_US)
    with pytest.raises(TimeJumpError):
        fresh.push(make_events((0, 0, 0, 0), (MAX_TIME_US, 0, 0, 0)))


def test_a_window_holds_so_many_events_and_no_more() -> None:
    fresh = WindowStream(WINDOW_US, WindowLimits(windows=3, events=4))
    _, stream = fresh.push(make_events(*[(1, 0, 0, 0)] * 3))
    _, full = stream.push(make_events((2, 0, 0, 0), (11, 0, 0, 0)))
    assert full.index == 1
    for rows in ([(1, 0, 0, 0)] * 2, [(1, 0, 0, 0)] * 2 + [(11, 0, 0, 0)]):
        with pytest.raises(WindowOverflowError):
            stream.push(make_events(*rows))
    with pytest.raises(WindowOverflowError):
        stream.push(make_events(*[(11, 0, 0, 0)] * 5, (21, 0, 0, 0)))


def test_many_small_batches_are_kept_in_few_pieces() -> None:
    stream = WindowStream(1_000_000, LIMITS)
    for t in range(1000):
        _, stream = stream.push(make_events((t, 0, 0, 0)))
        assert len(stream.pending) <= 10
    assert np.array_equal(EventBatch.concatenate(stream.pending).t, np.arange(1000))
    assert stream.nbytes == 1000 * 13


def test_what_is_kept_does_not_hold_on_to_the_batch() -> None:
    _, stream = FRESH.push(make_events(*[(t, 0, 0, 0) for t in range(95)]))
    assert all(part.t.base is None for part in stream.pending)
