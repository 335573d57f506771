"""Windows of time: one after the other, overlapping, and with silences left out."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.errors import TimeJumpError, TimeOrderError, WindowOverflowError
from service.streaming.windowing import EventStream, StreamConfig, TimeWindows, WindowLimits
from service.wire.events import MAX_TIME_US
from tests.service.harness import make_events, split
from tests.service.windowing.streams import (
    LIMITS,
    TIME_WINDOWS,
    Plain,
    Row,
    at,
    messages,
    plain,
    send_all,
    times,
)

ROWS = st.lists(st.tuples(st.integers(0, 300), st.integers(0, 9), st.integers(0, 9), st.integers(0, 1)), max_size=40)


def start(us: int, stride_us: int, limits: WindowLimits = LIMITS, **settings: object) -> EventStream:
    return EventStream.start(StreamConfig(TimeWindows(us, stride_us), **settings), limits)  # type: ignore[arg-type]


def expected(size: TimeWindows, rows: list[Row], until_us: int) -> list[Plain]:
    """The windows by their definition, one by one."""
    if not rows:
        return []
    found: list[Plain] = []
    end = size.stride_us
    while end <= max(until_us, rows[-1][0]):
        if end > rows[0][0]:
            inside = tuple(row for row in rows if end - size.us <= row[0] < end)
            found.append(Plain(len(found), max(0, end - size.us), end, inside))
        end += size.stride_us
    return found


@settings(deadline=None)
@given(TIME_WINDOWS, ROWS, st.lists(st.integers(0, 40), max_size=8), st.integers(0, 400))
def test_the_windows_of_the_definition(size: TimeWindows, rows: list[Row], cuts: list[int], until_us: int) -> None:
    rows.sort(key=lambda row: row[0])
    stream, windows = start(size.us, size.stride_us), []
    for part in split(make_events(*rows), [min(cut, len(rows)) for cut in cuts]):
        more, stream = stream.push(part)
        windows += more
    more, stream = stream.advance(until_us)
    windows += more
    assert plain(windows) == expected(size, rows, until_us)
    assert stream.index == len(windows)


@settings(deadline=None)
@given(TIME_WINDOWS, st.sampled_from([0, 20]), st.data())
def test_leaking_gives_what_stepping_gives_but_for_the_silences(
    size: TimeWindows, reorder_us: int, data: st.DataObject
) -> None:
    step = StreamConfig(size, reorder_us=reorder_us, on_restart=data.draw(st.sampled_from(["refuse", "reset"])))
    sent = data.draw(messages(step))
    everything, stepped = send_all(EventStream.start(step, LIMITS), sent)
    everything += stepped.flush()[0]
    found, leaked = send_all(EventStream.start(replace(step, gaps="leak"), LIMITS), sent)
    assert leaked.index == stepped.index
    found += leaked.flush()[0]
    kept, gap, late = [], 0, 0
    for window in plain(everything):
        late += window.late
        if not window.rows:
            gap += 1
            continue
        kept.append(replace(window, gap=0 if window.restart else gap, late=late))
        gap = late = 0
    assert plain(found) == kept


def test_overlapping_windows_end_at_multiples_of_the_stride() -> None:
    windows, stream = start(20, 5).push(at(3, 12, 31))
    assert [(w.index, w.t_start, w.t_end) for w in windows] == [
        (0, 0, 5),
        (1, 0, 10),
        (2, 0, 15),
        (3, 0, 20),
        (4, 5, 25),
        (5, 10, 30),
    ]
    assert times(windows) == [[3], [3], [3, 12], [3, 12], [12], [12]]
    windows, _ = stream.advance(35)
    assert times(windows) == [[31]]


def test_a_stride_that_does_not_divide_the_length() -> None:
    windows, _ = start(10, 4).push(at(20, 33))
    assert [(w.t_start, w.t_end) for w in windows] == [(14, 24), (18, 28), (22, 32)]
    assert times(windows) == [[20], [20], []]


def test_a_silence_costs_nothing_however_long() -> None:
    """Walked window by window, it would not end."""
    limits = WindowLimits(windows=8, events=10)
    stream = start(2, 1, limits, gaps="leak")
    windows, stream = stream.push(at(5, 10**12 + 5))
    assert [(w.index, w.t_end, w.gap) for w in windows] == [(0, 6, 0), (1, 7, 0)]
    windows, stream = stream.advance(3 * 10**12)
    assert [(w.index, w.gap) for w in windows] == [(10**12, 10**12 - 2), (10**12 + 1, 0)]
    windows, stream = stream.advance(MAX_TIME_US)
    assert windows == []
    windows, stream = stream.push(at(MAX_TIME_US))
    windows, stream = stream.flush()
    assert [(w.index, w.gap) for w in windows] == [(MAX_TIME_US - 5, MAX_TIME_US - 5 - 10**12 - 2)]
    with pytest.raises(TimeJumpError):
        start(2, 1, limits).push(at(5, 10**12 + 5))


def test_leaking_counts_only_what_it_gives_towards_the_limit() -> None:
    stream = start(10, 10, WindowLimits(windows=2, events=10), gaps="leak")
    assert times(stream.push(at(5, 1005, 9005))[0]) == [[5], [1005]]
    with pytest.raises(TimeJumpError, match="3 windows, at most 2"):
        stream.push(at(5, 1005, 9005, 10_000))
    with pytest.raises(TimeJumpError):
        start(20, 1, WindowLimits(windows=19, events=10), gaps="leak").push(at(50, 70))
    _, stream = stream.push(at(5))
    with pytest.raises(TimeJumpError):
        stream.advance(10, already=2)


def test_the_fullest_of_overlapping_windows_counts() -> None:
    stream = start(20, 10, WindowLimits(windows=100, events=4))
    _, stream = stream.push(at(0, 1, 11, 12))
    with pytest.raises(WindowOverflowError):
        stream.push(at(13))
    with pytest.raises(WindowOverflowError):
        stream.push(at(13, 95))
    assert len(stream.push(at(20, 21))[0]) == 1
    with pytest.raises(WindowOverflowError, match="5 events"):
        stream.push(at(20, 21, 22))


def test_a_flush_gives_what_no_window_has_held() -> None:
    _, stream = start(20, 5).push(at(3, 12))
    windows, stream = stream.flush()
    assert [(w.index, w.t_start, w.t_end) for w in windows] == [(2, 0, 15)]
    assert stream.flush() == ([], stream)
    with pytest.raises(TimeOrderError):
        stream.push(at(14))
    windows, stream = stream.push(at(16, 20))
    assert [(w.index, w.t_end) for w in windows] == [(3, 20)]
    assert times(windows) == [[3, 12, 16]]
    _, stream = stream.advance(26)
    assert stream.flush()[0] == []


def test_before_the_first_event_there_is_no_window() -> None:
    windows, stream = start(20, 5, gaps="leak").advance(500_000)
    assert windows == []
    assert stream.flush() == ([], stream)
    with pytest.raises(TimeOrderError):
        stream.push(at(499_999))
    windows, _ = stream.push(at(500_001, 500_006))
    assert plain(windows) == [Plain(0, 499_985, 500_005, ((500_001, 0, 0, 0),))]


def test_windows_share_the_memory_of_their_events() -> None:
    windows, _ = start(1000, 1).push(at(*range(2000)))
    assert len(windows) == 1999
    assert np.shares_memory(windows[1500].events.t, windows[1501].events.t)
