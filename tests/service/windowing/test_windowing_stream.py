"""Whole streams: what holds for every way of cutting, restarts of the sensor, and what a message may do."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.events import EventBatch
from service.errors import ServiceError, TimeJumpError, TimeOrderError, WindowOverflowError
from service.streaming.windowing import CountWindows, EventStream, StreamConfig, TimeWindows, WindowLimits
from service.wire.events import MAX_TIME_US
from tests.service.harness import make_events
from tests.service.windowing.streams import (
    CONFIGS,
    LIMITS,
    Plain,
    at,
    messages,
    plain,
    send_all,
    send_cut,
    state,
    times,
)

TENS = TimeWindows(us=10, stride_us=10)


def start(limits: WindowLimits = LIMITS, **settings: object) -> EventStream:
    return EventStream.start(StreamConfig(TENS, **settings), limits)  # type: ignore[arg-type]


@settings(deadline=None)
@given(CONFIGS, st.data())
def test_how_the_stream_is_cut_never_changes_the_windows(config: StreamConfig, data: st.DataObject) -> None:
    sent = data.draw(messages(config))
    stream = EventStream.start(config, LIMITS)
    windows, one_by_one = send_all(stream, sent)
    cut, in_batches = send_cut(stream, sent, data.draw)
    assert plain(cut) == plain(windows)
    assert state(in_batches) == state(one_by_one)
    assert plain(in_batches.flush()[0]) == plain(one_by_one.flush()[0])


@settings(deadline=None)
@given(CONFIGS, st.data())
def test_every_event_is_given_or_counted_as_late(config: StreamConfig, data: st.DataObject) -> None:
    sent = data.draw(messages(config))
    windows, stream = send_all(EventStream.start(config, LIMITS), sent)
    last, stream = stream.flush()
    given_rows = {row[1:] for w in plain(windows + last) for row in w.rows}
    late = sum(w.late for w in windows + last) + stream.late
    assert len(given_rows) + late == sum(isinstance(message, tuple) for message in sent)
    assert stream.flush()[0] == []
    assert (late > 0) <= (config.reorder_us > 0)


@settings(deadline=None, max_examples=50)
@given(CONFIGS, st.data())
def test_numbers_grow_by_the_windows_in_between(config: StreamConfig, data: st.DataObject) -> None:
    windows, stream = send_all(EventStream.start(config, LIMITS), data.draw(messages(config)))
    windows += stream.flush()[0]
    for before, after in itertools.pairwise(windows):
        if after.restart:
            assert after.gap == 0
            assert after.index > before.index
        else:
            assert after.index == before.index + after.gap + 1
            assert after.t_end >= before.t_end
    assert all(w.index == 0 or w.gap == 0 for w in windows if config.gaps == "step")
    assert not any(w.restart for w in windows if config.on_restart == "refuse")


@settings(deadline=None, max_examples=50)
@given(CONFIGS, st.data())
def test_a_stream_is_never_changed(config: StreamConfig, data: st.DataObject) -> None:
    _, stream = send_all(EventStream.start(config, LIMITS), data.draw(messages(config)))
    before = state(stream)
    for limits in (LIMITS, WindowLimits(windows=1, events=3)):
        same = EventStream.restore(config, LIMITS, *stream.snapshot())
        strict = EventStream(config, limits, same.cutter, same.clock, same.reorder, same.latest, same.late)
        for call in (
            lambda s: s.push(at(0, 255, 3, 128, 200, 90) if not s.ordered else at(0, 3, 90, 128, 200, 255)),
            lambda s: s.advance(250),
            lambda s: s.advance(-1),
            lambda s: s.flush(),
            lambda s: s.restart(),
        ):
            old = state(strict)
            try:
                call(stream)
                call(strict)
            except ServiceError:
                pass
            assert state(strict) == old
    assert state(stream) == before


@settings(deadline=None, max_examples=50)
@given(CONFIGS, st.data())
def test_a_restart_that_is_asked_for_forgets_everything(config: StreamConfig, data: st.DataObject) -> None:
    fresh = EventStream.start(config, LIMITS)
    _, stream = send_all(fresh, data.draw(messages(config)))
    assert stream.restart() == fresh


def test_what_a_batch_must_be() -> None:
    assert start().ordered
    assert not start(reorder_us=5).ordered
    assert not start(wrap_bits=32).ordered
    for stream in (start(), start(reorder_us=5), start(wrap_bits=32), start(on_restart="reset", wrap_bits=32)):
        assert stream.push(EventBatch.empty()) == ([], stream)


@pytest.mark.parametrize("settings", [{"reorder_us": 5}, {"wrap_bits": 52}, {"reorder_us": 5, "on_restart": "reset"}])
def test_times_of_unordered_batches_are_checked(settings: dict[str, object]) -> None:
    for wrong in (-1, MAX_TIME_US + 1, -(2**63), 2**63 - 1):
        with pytest.raises(TimeOrderError) as caught:
            start(**settings).push(at(5, wrong, 6))
        assert [error.field for error in caught.value.errors] == ["t"]


@pytest.mark.parametrize("until_us", [-1, -(2**63), 2**63 - 1, MAX_TIME_US + 1, 2**70])
@pytest.mark.parametrize("settings", [{}, {"reorder_us": 5}, {"wrap_bits": 32}])
def test_times_out_of_range(until_us: int, settings: dict[str, object]) -> None:
    for stream in (start(**settings), start(**settings).push(at(5))[1]):
        with pytest.raises(TimeOrderError):
            stream.advance(until_us)


def test_an_earlier_time_is_refused_unless_the_sensor_may_restart() -> None:
    _, stream = start().push(at(25))
    with pytest.raises(TimeOrderError, match="24 µs is earlier than 25"):
        stream.push(at(24))
    with pytest.raises(TimeOrderError, match=r"t\[1\] = 24 µs is earlier than t\[0\] = 25"):
        start(wrap_bits=32).push(at(25, 24))


def test_a_restart_gives_the_open_window_and_begins_anew() -> None:
    stream = start(on_restart="reset")
    windows, stream = stream.push(at(1005, 1018))
    more, stream = stream.push(at(3, 31))
    windows += more
    windows += stream.flush()[0]
    assert [(w.index, w.t_start, w.t_end, w.restart) for w in windows] == [
        (0, 1000, 1010, False),
        (1, 1010, 1020, False),
        (2, 0, 10, True),
        (3, 10, 20, False),
        (4, 20, 30, False),
        (5, 30, 40, False),
    ]
    assert times(windows) == [[1005], [1018], [3], [], [], [31]]


def test_the_silence_before_a_restart_is_unknown() -> None:
    stream = start(on_restart="reset", gaps="leak")
    windows, stream = stream.push(at(5, 1000))
    more, stream = stream.advance(2000)
    windows += more
    more, stream = stream.push(at(1500))
    windows += more
    windows += stream.flush()[0]
    assert [(w.index, w.gap, w.restart) for w in windows] == [(0, 0, False), (100, 99, False), (200, 0, True)]


def test_a_restart_within_what_may_be_late_is_none() -> None:
    stream = start(on_restart="reset", reorder_us=20)
    _, stream = stream.push(at(100, 80))
    assert stream.reorder is not None
    assert len(stream.reorder.held) == 1
    windows, stream = stream.push(at(79))
    assert [(w.t_start, w.t_end) for w in windows] == [(80, 90), (90, 100), (100, 110)]
    windows, _ = stream.flush()
    assert [(w.index, w.t_start, w.restart) for w in windows] == [(3, 70, True)]


def test_a_restart_in_the_middle_of_a_batch() -> None:
    windows, stream = start(on_restart="reset", wrap_bits=8).push(at(100, 105, 20, 25, 3))
    windows += stream.flush()[0]
    assert times(windows) == [[100, 105], [20, 25], [3]]
    assert [w.restart for w in windows] == [False, True, True]


def test_a_jump_back_of_more_than_half_the_range_is_an_overflow_and_no_restart() -> None:
    stream = start(on_restart="reset", wrap_bits=8, gaps="leak")
    windows, stream = stream.push(at(200, 20, 148))
    assert [(w.t_start, w.restart) for w in windows] == [(200, False), (270, False)]
    windows, _ = stream.push(at(20, 40))
    assert [(w.t_start, w.restart) for w in windows] == [(400, False), (20, True)]


def test_restarts_count_towards_the_limit_of_windows() -> None:
    stream = start(WindowLimits(windows=50, events=100), on_restart="reset", wrap_bits=32)
    sawtooth = at(*[40_000 - k for k in range(40_000)])
    with pytest.raises(TimeJumpError):
        stream.push(sawtooth)
    assert len(stream.push(sawtooth[:51])[0]) == 50


def test_restarts_in_a_long_batch() -> None:
    t = np.concatenate([np.arange(3_000, 12_000), np.arange(1_000, 9_500), np.arange(0, 5_000)]).tolist()
    stream = start(on_restart="reset", reorder_us=50)
    windows, stream = stream.push(make_events(*[(time, k, 0, 0) for k, time in enumerate(t)]))
    windows += stream.flush()[0]
    assert [w.index for w in windows] == list(range(900 + 850 + 500))
    assert [w.index for w in windows if w.restart] == [900, 1750]
    assert [time for w in windows for time in w.events.t.tolist()] == t
    strict = start(WindowLimits(windows=2_200, events=100), on_restart="reset", reorder_us=50)
    with pytest.raises(TimeJumpError, match="at most 2200"):
        strict.push(at(*t))


def test_windows_before_and_after_a_restart_count_together() -> None:
    stream = start(WindowLimits(windows=5, events=100), on_restart="reset", reorder_us=1)
    assert len(stream.push(at(120, 145, 20, 41))[0]) == 5
    with pytest.raises(TimeJumpError, match="6 windows, at most 5"):
        stream.push(at(120, 145, 20, 51))


def test_an_advance_overflows_too() -> None:
    _, stream = start(wrap_bits=8).push(at(250))
    windows, stream = stream.advance(4)
    assert [(w.t_start, w.t_end) for w in windows] == [(250, 260)]
    assert stream.advance(3) == ([], stream)
    windows, stream = stream.push(at(14))
    assert [(w.t_start, w.t_end) for w in windows] == [(260, 270)]


def test_an_advance_that_says_nothing_new_leaves_the_clock() -> None:
    _, stream = start(wrap_bits=8).push(at(250))
    assert stream.advance(140) == ([], stream)
    assert stream.push(at(4))[1].cutter.horizon == 260


def test_late_events_are_told_by_the_window_that_is_given_next() -> None:
    stream = start(reorder_us=10)
    windows, stream = stream.push(at(5, 30, 19, 18, 41, 30, 40, 45, 60, 2))
    assert plain(windows) == [
        Plain(0, 0, 10, ((5, 0, 0, 0),)),
        Plain(1, 10, 20, (), late=0),
        Plain(2, 20, 30, (), late=2),
        Plain(3, 30, 40, ((30, 1, 0, 0),), late=1),
        Plain(4, 40, 50, ((40, 6, 0, 0), (41, 4, 0, 0), (45, 7, 0, 0))),
    ]
    windows, stream = stream.flush()
    assert [(w.index, w.late) for w in windows] == [(5, 1), (6, 0)]
    windows, stream = stream.push(at(69))
    assert windows == []
    windows, stream = stream.push(at(90))
    assert [(w.t_start, w.late) for w in windows] == [(70, 1)]


def test_late_events_before_a_restart_are_told_after_it() -> None:
    _, stream = start(reorder_us=10, on_restart="reset").push(at(25))
    _, stream = stream.flush()
    windows, stream = stream.push(at(27, 3))
    assert windows == []
    assert plain(stream.flush()[0]) == [Plain(1, 0, 10, ((3, 1, 0, 0),), restart=True, late=1)]


def test_a_flush_gives_what_waits_in_the_buffer() -> None:
    _, stream = start(reorder_us=1000).push(at(25, 3, 14))
    windows, stream = stream.flush()
    assert times(windows) == [[3], [14], [25]]
    assert stream.nbytes == 0
    windows, stream = stream.push(at(29, 30))
    windows, stream = stream.flush()
    assert [(w.index, w.t_start, w.late) for w in windows] == [(3, 30, 1)]


def test_after_a_flush_the_clock_may_not_go_back_but_that_is_no_restart() -> None:
    _, stream = start(on_restart="reset").push(at(25))
    _, stream = stream.flush()
    with pytest.raises(TimeOrderError):
        stream.push(at(27))
    assert stream.push(at(30))[1].index == 1
    assert stream.push(at(24))[1].restarted


def test_the_end_of_time() -> None:
    for how in ({}, {"reorder_us": 7}, {"wrap_bits": 52, "reorder_us": 7}, {"gaps": "leak"}):
        stream = start(**how)
        largest = 2**52 - 1 if "wrap_bits" in how else MAX_TIME_US
        _, stream = stream.push(at(largest))
        windows, stream = stream.flush()
        assert times(windows) == [[largest]]
        if stream.reorder is not None:
            assert stream.push(at(largest))[1].late == 1
        assert stream.advance(largest) == ([], stream)


def test_the_limits_hold_for_the_message_as_a_whole() -> None:
    limits = WindowLimits(windows=3, events=4)
    _, stream = start(limits, reorder_us=5).push(at(0))
    assert len(stream.push(at(39))[0]) == 3
    with pytest.raises(TimeJumpError, match="4 windows, at most 3"):
        stream.push(at(45))
    with pytest.raises(TimeJumpError):
        stream.advance(20, already=2)
    with pytest.raises(TimeJumpError):
        start(limits, reorder_us=100).push(at(0, 50))[1].flush()
    with pytest.raises(WindowOverflowError, match="5 events would wait"):
        stream.push(at(1, 2, 3, 4))
    with pytest.raises(WindowOverflowError, match="a window would hold 5"):
        stream.push(at(1, 2, 3, 4, 20))


def test_what_is_kept_does_not_hold_on_to_the_batch() -> None:
    rng = np.random.default_rng(0)
    for window in (TENS, TimeWindows(1000, 7), CountWindows(90, 13)):
        for reorder_us in (0, 20, 500):
            stream = EventStream.start(StreamConfig(window, reorder_us=reorder_us), LIMITS)
            t = 0
            for _ in range(60):
                batch = at(*(t + np.sort(rng.integers(0, 40, 15))).tolist())
                t = int(batch.t[-1])
                _, stream = stream.push(batch)
                held = stream.cutter.pending + (stream.reorder.held if stream.reorder else ())
                for part in held:
                    assert not np.shares_memory(part.t, batch.t)
                    assert part.t.base is None or part.t.base.nbytes <= 2 * part.t.nbytes


@pytest.mark.parametrize(
    "config",
    [
        StreamConfig(TimeWindows(10_000, 10_000)),
        StreamConfig(TimeWindows(10_000, 1_000)),
        StreamConfig(CountWindows(1_000, 1_000)),
        StreamConfig(TimeWindows(10_000, 10_000), reorder_us=900),
    ],
)
def test_many_small_batches_are_kept_in_few_pieces(config: StreamConfig) -> None:
    stream = EventStream.start(config, LIMITS)
    sizes = [7, 6, 5, 4, 3, 2, 1] * 30
    for size, end in zip(sizes, np.cumsum(sizes).tolist(), strict=True):
        _, stream = stream.push(at(*range(end - size, end)))
        held = stream.cutter.pending + (stream.reorder.held if stream.reorder else ())
        assert len(held) <= 10
    assert stream.nbytes == sum(sizes) * 13
