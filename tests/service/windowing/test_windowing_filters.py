"""Streams whose noise is filtered before windows are cut."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.events import SensorSize
from models.filters import FilterConfig, HotPixelConfig
from service.errors import TimeJumpError
from service.streaming.backlog import drop, merge
from service.streaming.windowing import (
    CountWindows,
    EventStream,
    SnapshotError,
    StreamConfig,
    TimeWindows,
    Window,
    WindowLimits,
)
from tests.service.harness import make_events
from tests.service.windowing.streams import (
    CONFIGS,
    LIMITS,
    TIME_WINDOWS,
    Flush,
    Message,
    messages,
    plain,
    send,
    send_all,
    send_cut,
    state,
)

SENSOR = SensorSize(6, 2)
HOT = HotPixelConfig(learn_us=25, sigma=0.5, min_rate_hz=40_000)
FILTERS = st.sampled_from(
    [
        FilterConfig(background_activity_us=12),
        FilterConfig(refractory_us=9),
        FilterConfig(HOT),
        FilterConfig(HOT, 9, 30),
    ]
)


@st.composite
def filtered_streams(
    draw: st.DrawFn, configs: st.SearchStrategy[StreamConfig] = CONFIGS
) -> tuple[EventStream, list[Message]]:
    """A stream with filters before its first event, and messages of few pixels."""
    config = draw(configs)
    sent = [
        (message[0], *draw(st.sampled_from([(0, 0), (1, 0), (1, 1), (5, 1)])), message[3])
        if isinstance(message, tuple)
        else message
        for message in draw(messages(config))
    ]
    return EventStream.start(replace(config, filter=draw(FILTERS)), LIMITS, sensor=SENSOR), sent


def told(windows: list[Window]) -> list[Any]:
    return list(zip(plain(windows), [window.filtered for window in windows], strict=True))


def stored(stream: EventStream) -> EventStream:
    document, arrays = stream.snapshot()
    copies = {name: array.copy() for name, array in arrays.items()}
    config = StreamConfig.from_json(json.loads(json.dumps(stream.config.to_json())))
    assert config == stream.config
    return EventStream.restore(config, stream.limits, json.loads(json.dumps(document)), copies, sensor=SENSOR)


@settings(deadline=None)
@given(filtered_streams(), st.data())
def test_how_the_stream_is_cut_changes_neither_what_passes_nor_where_it_is_counted(
    given_stream: tuple[EventStream, list[Message]], data: st.DataObject
) -> None:
    start, sent = given_stream
    windows, one_by_one = send_all(start, sent)
    cut, in_batches = send_cut(start, sent, data.draw)
    assert told(cut) == told(windows)
    assert state(in_batches) == state(one_by_one)


@settings(deadline=None)
@given(filtered_streams(), st.data())
def test_a_snapshot_at_any_point_goes_on_with_the_same_filter_state(
    given_stream: tuple[EventStream, list[Message]], data: st.DataObject
) -> None:
    start, sent = given_stream
    expected, ended = send_all(start, sent)
    windows, stream = [], stored(start)
    for message in sent:
        more, stream = send(stream, message)
        windows += more
        if data.draw(st.booleans()):
            before = state(stream)
            stream = stored(stream)
            assert state(stream) == before
    assert told(windows) == told(expected)
    assert state(stream) == state(ended)


@settings(deadline=None)
@given(filtered_streams())
def test_every_event_is_given_or_counted(given_stream: tuple[EventStream, list[Message]]) -> None:
    start, sent = given_stream
    windows, stream = send_all(start, sent)
    last, stream = stream.flush()
    windows += last
    kept = sum(len(window.events) - window.repeated for window in windows)
    late = sum(window.late for window in windows) + stream.late
    dropped = sum(sum(window.filtered) for window in windows) + sum(stream.filtered)
    assert kept + late + dropped == sum(isinstance(message, tuple) for message in sent)


def stream_of(filter: FilterConfig, window: TimeWindows | CountWindows = TimeWindows(10, 10)) -> EventStream:  # noqa: B008
    return EventStream.start(StreamConfig(window, filter=filter), LIMITS, sensor=SENSOR)


def test_an_event_that_is_dropped_still_says_how_far_the_stream_has_come() -> None:
    stream = stream_of(FilterConfig(background_activity_us=5))
    windows, stream = stream.push(make_events((1, 0, 0, 1), (2, 1, 0, 1), (3, 5, 1, 1)))
    assert windows == []
    (window,), stream = stream.push(make_events((12, 5, 1, 1)))
    assert plain([window])[0].rows == ((2, 1, 0, 1),)
    assert window.filtered == (0, 0, 2)
    assert stream.filtered == (0, 0, 1)


def test_window_0_is_the_one_with_the_first_event_even_if_that_is_dropped() -> None:
    windows, _ = stream_of(FilterConfig(background_activity_us=5)).push(
        make_events((1, 0, 0, 1), (21, 0, 0, 1), (22, 1, 0, 1), (31, 4, 1, 0))
    )
    assert [(w.index, w.t_start, w.filtered) for w in windows] == [
        (0, 0, (0, 0, 1)),
        (1, 10, (0, 0, 0)),
        (2, 20, (0, 0, 1)),
    ]


@settings(deadline=None)
@given(filtered_streams(st.builds(StreamConfig, TIME_WINDOWS, reorder_us=st.sampled_from([0, 7, 30]))))
def test_windows_of_time_are_those_of_the_stream_without_filters(
    given_stream: tuple[EventStream, list[Message]],
) -> None:
    start, sent = given_stream
    sent = [message for message in sent if not isinstance(message, Flush)]
    windows, _ = send_all(start, sent)
    without, _ = send_all(EventStream.start(replace(start.config, filter=None), LIMITS), sent)
    assert [(w.index, w.t_start, w.t_end) for w in windows] == [(w.index, w.t_start, w.t_end) for w in without]


def test_windows_of_events_count_those_that_pass() -> None:
    filter = FilterConfig(refractory_us=3)
    rows = [(t, 0, 0, 1) for t in range(12)]
    windows, stream = stream_of(filter, CountWindows(2, 2)).push(make_events(*rows))
    assert [w.events.t.tolist() for w in windows] == [[0, 3], [6, 9]]
    assert [w.filtered for w in windows] == [(0, 2, 0), (0, 4, 0)]
    assert stream.filtered == (0, 2, 0)


def test_a_sensor_that_begins_anew_is_filtered_as_if_it_had_never_fired() -> None:
    config = StreamConfig(TimeWindows(10, 10), on_restart="reset", filter=FilterConfig(background_activity_us=50))
    stream = EventStream.start(config, LIMITS, sensor=SENSOR)
    _, stream = stream.push(make_events((40, 0, 0, 1), (41, 1, 0, 1)))
    windows, stream = stream.push(make_events((30, 1, 1, 1)))
    assert [w.filtered for w in windows] == [(0, 0, 1)]
    assert stream.filtered == (0, 0, 1)


def test_no_message_makes_the_filters_begin_anew_more_often_than_it_may_close_windows() -> None:
    config = StreamConfig(
        TimeWindows(10, 10), reorder_us=1, on_restart="reset", filter=FilterConfig(background_activity_us=50)
    )
    stream = EventStream.start(config, WindowLimits(windows=20, events=1000), sensor=SENSOR)
    rows = [(45 - 4 * (k % 2), 0, 0, 1) for k in range(20_000)]
    _, after = stream.push(make_events(*rows[:30]))
    assert after.filtered[2] > 0
    with pytest.raises(TimeJumpError, match=r"restarts .* at most 20"):
        stream.push(make_events(*rows))


def test_what_is_counted_is_kept_when_windows_are_dropped_or_merged() -> None:
    windows = [Window(k, 10 * k, 10 * k + 10, make_events(), filtered=(k, 0, 1)) for k in range(3)]
    assert drop(windows[:2], windows[2]).filtered == (3, 0, 3)
    assert merge(windows).filtered == (3, 0, 3)
    plain_windows = [replace(window, filtered=()) for window in windows]
    assert merge(plain_windows).filtered == drop(plain_windows[:1], plain_windows[1]).filtered == ()


def test_a_stream_without_filters_is_stored_as_it_was_before_there_were_any() -> None:
    stream = EventStream.start(StreamConfig(TimeWindows(10, 10)), LIMITS, sensor=SENSOR)
    assert "filter" not in stream.config.to_json()
    document, arrays = stream.snapshot()
    assert "filter" not in document
    assert set(arrays) == {"pending.t", "pending.x", "pending.y", "pending.p"}


def test_filters_need_a_sensor() -> None:
    config = StreamConfig(TimeWindows(10, 10), filter=FilterConfig(refractory_us=5))
    with pytest.raises(ValueError, match="size of its sensor"):
        EventStream.start(config, LIMITS)


BAD_CONFIGS: list[dict[str, Any]] = [
    {},
    {"hot_pixel": None, "refractory_us": 0},
    {"hot_pixel": None, "refractory_us": -1, "background_activity_us": 0},
    {"hot_pixel": None, "refractory_us": 10**12, "background_activity_us": 0},
    {"hot_pixel": {"learn_us": 5}, "refractory_us": 1, "background_activity_us": 0},
    {"hot_pixel": {"learn_us": 5, "sigma": "x", "min_rate_hz": 1.0}, "refractory_us": 1, "background_activity_us": 0},
    {
        "hot_pixel": {"learn_us": 5, "sigma": float("nan"), "min_rate_hz": 1.0},
        "refractory_us": 1,
        "background_activity_us": 0,
    },
]


@pytest.mark.parametrize("filter", BAD_CONFIGS, ids=str)
def test_settings_in_a_snapshot_that_cannot_be(filter: dict[str, Any]) -> None:
    good = StreamConfig(TimeWindows(10, 10), filter=FilterConfig(refractory_us=5)).to_json()
    with pytest.raises(SnapshotError):
        StreamConfig.from_json(good | {"filter": filter})


def test_what_a_snapshot_of_filters_cannot_hold() -> None:
    stream = stream_of(FilterConfig(HOT, 9, 30))
    _, stream = stream.push(make_events((1, 0, 0, 1), (2, 1, 0, 1), (40, 1, 1, 1)))
    document, arrays = stream.snapshot()
    assert set(arrays) >= {"filter.hot", "filter.surface"}
    assert stored(stream).filter is not None

    def refused(changes: dict[str, Any], others: dict[str, Any] | None = None) -> None:
        about = document | {"filter": document["filter"] | (others or {})}
        with pytest.raises(SnapshotError):
            EventStream.restore(stream.config, LIMITS, about, arrays | changes, sensor=SENSOR)

    surface = arrays["filter.surface"]
    refused({"filter.surface": surface[1:]})
    refused({"filter.surface": surface.astype(np.int32)})
    refused({"filter.surface": np.full_like(surface, 5)})
    refused({"filter.surface": np.where(surface == 40, 41, surface)})
    refused({"filter.surface": np.where(surface == 40, -3, surface)})
    refused({"filter.hot": np.full_like(arrays["filter.hot"], 2)})
    refused({"filter.counts": np.zeros((2, 6), np.int64)})
    refused({"filter.more": surface})
    refused({}, {"since": None})
    refused({}, {"since": 41})
    refused({}, {"dropped": [0, 0]})
    refused({}, {"dropped": [0, 0, -1]})
    refused({}, {"started": False})
    refused({}, {"started": 1.0})
