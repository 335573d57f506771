"""Windows of equally many events."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.errors import TimeJumpError, TimeOrderError, WindowOverflowError
from service.streaming.windowing import CountWindows, EventStream, StreamConfig, WindowLimits
from tests.service.harness import make_events, split
from tests.service.windowing.streams import COUNT_WINDOWS, LIMITS, Plain, Row, at, plain, times

ROWS = st.lists(st.tuples(st.integers(0, 300), st.integers(0, 9), st.integers(0, 9), st.integers(0, 1)), max_size=60)


def start(count: int, stride: int, limits: WindowLimits = LIMITS, **settings: object) -> EventStream:
    return EventStream.start(StreamConfig(CountWindows(count, stride), **settings), limits)  # type: ignore[arg-type]


def expected(size: CountWindows, rows: list[Row]) -> list[Plain]:
    """The windows by their definition, the last one being flushed."""
    found: list[Plain] = []
    begin = held = 0
    while held < len(rows):
        inside = rows[begin : begin + size.count]
        found.append(Plain(len(found), inside[0][0], inside[-1][0] + 1, tuple(inside)))
        held = begin + size.count
        begin += size.stride
    return found


@settings(deadline=None)
@given(COUNT_WINDOWS, ROWS, st.lists(st.integers(0, 60), max_size=8))
def test_the_windows_of_the_definition(size: CountWindows, rows: list[Row], cuts: list[int]) -> None:
    rows.sort(key=lambda row: row[0])
    stream, windows = start(size.count, size.stride), []
    for part in split(make_events(*rows), [min(cut, len(rows)) for cut in cuts]):
        more, stream = stream.push(part)
        windows += more
        if len(part):
            assert stream.advance(int(part.t[-1])) == ([], stream)
    last, stream = stream.flush()
    assert plain(windows + last) == expected(size, rows)
    assert len(last) <= 1
    assert stream.index == len(windows + last)
    assert stream.flush() == ([], stream)


def test_a_window_closes_with_its_last_event() -> None:
    windows, stream = start(3, 3).push(at(10, 20))
    assert windows == []
    windows, stream = stream.push(at(20, 20, 25))
    assert plain(windows) == [Plain(0, 10, 21, ((10, 0, 0, 0), (20, 1, 0, 0), (20, 0, 0, 0)))]
    assert stream.nbytes == 2 * 13


def test_overlapping_windows() -> None:
    windows, stream = start(4, 1).push(at(1, 2, 3, 4, 5, 6))
    assert times(windows) == [[1, 2, 3, 4], [2, 3, 4, 5], [3, 4, 5, 6]]
    assert stream.flush() == ([], stream)
    windows, stream = start(4, 2).push(at(1, 2, 3, 4, 5))
    assert times(stream.flush()[0]) == [[3, 4, 5]]


def test_after_a_flush_the_next_window_begins_with_the_next_event() -> None:
    _, stream = start(4, 2).push(at(1, 2, 3, 4, 5))
    windows, stream = stream.flush()
    assert [(w.index, w.t_start, w.t_end) for w in windows] == [(1, 3, 6)]
    with pytest.raises(TimeOrderError):
        stream.push(at(5))
    windows, _ = stream.push(at(6, 7, 8, 9, 10, 11))
    assert [(w.index, w.t_start) for w in windows] == [(2, 6), (3, 8)]


def test_time_closes_no_window_but_bounds_what_comes() -> None:
    _, stream = start(4, 4).push(at(1, 2, 3))
    windows, stream = stream.advance(1_000_000)
    assert windows == []
    with pytest.raises(TimeOrderError):
        stream.push(at(999_999))
    windows, _ = stream.push(at(1_000_000))
    assert times(windows) == [[1, 2, 3, 1_000_000]]


def test_a_window_is_complete_once_its_last_event_is_final() -> None:
    windows, stream = start(2, 2, reorder_us=10).push(at(5, 4, 15))
    assert windows == []
    windows, stream = stream.push(at(16))
    assert times(windows) == [[4, 5]]
    windows, _ = stream.advance(17)
    assert times(windows) == [[15, 16]]


def test_limits() -> None:
    stream = start(2, 1, WindowLimits(windows=3, events=100))
    assert len(stream.push(at(1, 2, 3, 4))[0]) == 3
    with pytest.raises(TimeJumpError, match="4 windows, at most 3"):
        stream.push(at(1, 2, 3, 4, 5))
    _, stream = start(5, 5, WindowLimits(windows=3, events=4)).push(at(1, 2, 3, 4))
    with pytest.raises(WindowOverflowError):
        stream.push(at(5))
    _, stream = start(2, 2, WindowLimits(windows=3, events=100), reorder_us=100).push(at(1, 2, 3, 4, 5, 6))
    assert len(stream.advance(7)[0]) == 3
    with pytest.raises(TimeJumpError):
        stream.advance(7, already=1)
    with pytest.raises(TimeJumpError):
        stream.push(at(7))[1].flush()
