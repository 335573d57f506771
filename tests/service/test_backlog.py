"""What becomes of windows that come faster than they are computed."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.events import EventBatch
from service.streaming.backlog import Backlog, Policy, drop, merge
from service.streaming.windowing import (
    CountWindows,
    EventStream,
    StreamConfig,
    TimeWindows,
    Window,
    WindowLimits,
)

LIMITS = WindowLimits(windows=1000, events=1000)
CONFIGS = [
    StreamConfig(TimeWindows(10, 10)),
    StreamConfig(TimeWindows(10, 10), gaps="leak"),
    StreamConfig(TimeWindows(10, 4)),
    StreamConfig(TimeWindows(10, 4), gaps="leak"),
    StreamConfig(CountWindows(4, 4)),
    StreamConfig(CountWindows(4, 1)),
    StreamConfig(TimeWindows(10, 10), on_restart="reset"),
]
times = st.lists(st.integers(0, 300), min_size=1, max_size=40).map(sorted)


def batch(found: list[int]) -> EventBatch:
    """Events that can be told apart by their x."""
    n = len(found)
    x = np.arange(n, dtype=np.uint16)
    return EventBatch(np.array(found, np.int64), x, np.zeros(n, np.uint16), np.zeros(n, np.uint8))


def windows_of(config: StreamConfig, *batches: list[int]) -> list[Window]:
    stream = EventStream.start(config, LIMITS)
    windows: list[Window] = []
    for found in batches:
        more, stream = stream.push(batch(found))
        windows += more
    return windows + stream.flush()[0]


def covered(windows: list[Window]) -> int:
    return sum(window.count + window.gap + window.dropped for window in windows)


@given(st.sampled_from(CONFIGS), times, st.integers(1, 6))
def test_what_waits_is_answered_as_it_is(config: StreamConfig, found: list[int], most: int) -> None:
    windows = windows_of(config, found)
    assert Backlog(Policy.WAIT, most).relieve(windows) == windows
    for policy in Policy:
        assert Backlog(policy, len(windows) or 1).relieve(windows) == windows


@given(st.sampled_from(CONFIGS), times, st.integers(1, 6))
def test_the_oldest_are_dropped(config: StreamConfig, found: list[int], most: int) -> None:
    windows = windows_of(config, found)
    left = Backlog(Policy.DROP_OLDEST, most).relieve(windows)
    assert [window.index for window in left] == [window.index for window in windows][-most:]
    assert covered(left) == covered(windows)
    assert all(window.dropped == 0 for window in left[1:])


@given(st.sampled_from(CONFIGS), times, st.integers(1, 6))
def test_merging_shows_every_event_once(config: StreamConfig, found: list[int], most: int) -> None:
    windows = windows_of(config, found)
    left = Backlog(Policy.MERGE, most).relieve(windows)
    assert len(left) <= most
    assert covered(left) == covered(windows)
    assert (left[0].t_start, left[-1].t_end) == (windows[0].t_start, windows[-1].t_end)
    first = {int(x) for window in windows for x in window.events.x}
    for window in left:
        seen = window.events.x.tolist()
        assert len(set(seen)) == len(seen)
    assert {int(x) for window in left for x in window.events.x} == first


def test_nothing_is_merged_over_a_restart() -> None:
    windows = windows_of(CONFIGS[-1], [0, 15, 25, 35], [5, 12, 28])
    assert [window.restart for window in windows] == [False] * 4 + [True, False, False]
    left = Backlog(Policy.MERGE, 1).relieve(windows)
    assert [(window.index, window.count, window.restart) for window in left] == [(0, 4, False), (4, 3, True)]


def test_a_dropped_restart_is_not_forgotten() -> None:
    windows = windows_of(CONFIGS[-1], [0, 15], [5, 12, 28])
    [left] = Backlog(Policy.DROP_OLDEST, 1).relieve(windows)
    assert (left.index, left.dropped, left.restart) == (4, 4, True)


@pytest.mark.parametrize("change", [{"gap": 3}, {"late": 2}, {"dropped": 5}])
def test_word_of_what_was_skipped_is_passed_on(change: dict[str, int]) -> None:
    first, second = Window(7, 0, 10, EventBatch.empty(), **change), Window(8, 10, 20, EventBatch.empty(), gap=1)
    dropped = drop([first], second)
    assert dropped.dropped == 1 + first.dropped
    assert dropped.gap == first.gap + 1
    assert dropped.late == first.late
    merged = merge([first, second])
    assert (merged.gap, merged.dropped) == (first.gap, first.dropped)
    assert merged.count == 3
    assert merged.late == first.late
