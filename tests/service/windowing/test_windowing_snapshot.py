"""Streams that are put away and taken up again."""

from __future__ import annotations

import contextlib
import copy
import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.events import SensorSize
from service.errors import ServiceError
from service.streaming.windowing import (
    CountWindows,
    EventStream,
    SnapshotError,
    StreamConfig,
    TimeWindows,
    WindowLimits,
)
from tests.service.harness import make_events
from tests.service.windowing.streams import CONFIGS, LIMITS, at, messages, plain, send, send_all, state

Document = dict[str, Any]


def stored(stream: EventStream) -> EventStream:
    document, arrays = stream.snapshot()
    copies = {name: np.frombuffer(array.tobytes(), array.dtype) for name, array in arrays.items()}
    return EventStream.restore(stream.config, stream.limits, json.loads(json.dumps(document)), copies)


@settings(deadline=None)
@given(CONFIGS, st.data())
def test_a_snapshot_at_any_point_changes_nothing(config: StreamConfig, data: st.DataObject) -> None:
    sent = data.draw(messages(config))
    start = EventStream.start(config, LIMITS)
    expected, ended = send_all(start, sent)
    windows, stream = [], stored(start)
    for message in sent:
        more, stream = send(stream, message)
        windows += more
        if data.draw(st.booleans()):
            before = state(stream)
            stream = stored(stream)
            assert state(stream) == before
    assert plain(windows) == plain(expected)
    assert state(stream) == state(ended)


JUNK = st.sampled_from([None, True, -1, 0, 1, 7, 40, 300, 2**53, 2**70, 1.5, float("nan"), "x", [], {}, [1]])
ARRAYS = st.sampled_from(
    [
        None,
        [1, 2],
        np.array(5),
        np.zeros((2, 2), np.int64),
        np.array([5.0]),
        np.array([5, 4], np.int64),
        np.array([-3], np.int64),
        np.array([2**62], np.int64),
        np.array([7], ">i8"),
        np.array([1], np.uint16),
        np.array([2], np.uint8),
        np.array([None], object),
        np.arange(40, dtype=np.int64),
    ]
)


@settings(deadline=None)
@given(CONFIGS, st.data())
def test_nothing_but_a_snapshot_error(config: StreamConfig, data: st.DataObject) -> None:
    _, stream = send_all(EventStream.start(config, LIMITS), data.draw(messages(config, 15)))
    document, arrays = stream.snapshot()
    document = copy.deepcopy(document)
    for _ in range(data.draw(st.integers(1, 3))):
        within = data.draw(st.sampled_from([document, document["windows"], document["clock"], arrays]))
        if not within:
            continue
        name = data.draw(st.sampled_from([*within, "more"]))
        if data.draw(st.integers(0, 9)) == 0:
            within.pop(name, None)
        else:
            within[name] = data.draw(ARRAYS if within is arrays else JUNK)
        if not isinstance(document.get("windows"), dict) or not isinstance(document.get("clock", 0), dict | None):
            break
        document.setdefault("clock", None)
    try:
        restored = EventStream.restore(config, LIMITS, document, arrays)
    except SnapshotError:
        return
    # What has been let in is a stream like any other.
    for message in data.draw(messages(config, 15)):
        with contextlib.suppress(ServiceError):
            _, restored = send(restored, message)
        restored = stored(restored)


@pytest.mark.parametrize("document", [None, [], "x", {}, {"latest": 0}])
def test_what_is_no_document(document: object) -> None:
    config = StreamConfig(TimeWindows(10, 10))
    arrays = EventStream.start(config, LIMITS).snapshot()[1]
    with pytest.raises(SnapshotError):
        EventStream.restore(config, LIMITS, document, arrays)


def refused(stream: EventStream, why: str, **changes: Any) -> None:
    """Some members of the document or of its windows, or some arrays, are others."""
    document, arrays = copy.deepcopy(stream.snapshot())
    for name, value in changes.items():
        within = arrays if name in arrays else document if name in document else document["windows"]
        within[name] = value
    with pytest.raises(SnapshotError, match=why):
        EventStream.restore(stream.config, stream.limits, document, arrays)


def test_times_must_fit_the_windows() -> None:
    _, stream = EventStream.start(StreamConfig(TimeWindows(20, 10)), LIMITS).push(at(5, 12, 18))
    assert stream.snapshot()[0]["windows"] == {"started": True, "index": 1, "horizon": 18, "gap": 0}
    refused(stream, "between 0 and 17", horizon=17, latest=17)
    refused(stream, "between 10 and 25", horizon=25)
    refused(stream, "latest is later", latest=19)
    refused(stream, "pending must be empty", started=False)
    refused(stream, "gap must be", gap=1)
    refused(stream, "clock must be null", clock={"turns": 0, "last": None})
    refused(stream, "ordered by time", **{"pending.t": np.array([5, 18, 12], np.int64)})
    refused(stream, "as many times", **{"pending.x": np.zeros(2, np.uint16)})
    refused(stream, "must be 0 or 1", **{"pending.p": np.full(3, 2, np.uint8)})
    refused(stream, "array of uint16", **{"pending.y": np.zeros(3, np.int64)})


def test_counts_must_fit_the_windows() -> None:
    _, stream = EventStream.start(StreamConfig(CountWindows(4, 2)), LIMITS).push(at(1, 2, 3, 4, 5))
    assert stream.snapshot()[0]["windows"] == {"index": 1, "horizon": 5, "shared": 2}
    for shared in (1, 3):
        refused(stream, "shared", shared=shared)
    refused(stream, "shared", index=0)
    four = {name: np.zeros(4, array.dtype) for name, array in stream.snapshot()[1].items()}
    refused(stream, "at most 3", **four)


def test_clocks_and_buffers_must_fit() -> None:
    config = StreamConfig(TimeWindows(10, 10), reorder_us=20, wrap_bits=8)
    _, stream = EventStream.start(config, LIMITS).push(at(250, 4))
    assert stream.snapshot()[0]["clock"] == {"turns": 1, "last": 4}
    for clock in (None, {"turns": 2, "last": 4}, {"turns": -2, "last": 4}, {"turns": 1, "last": 256}):
        refused(stream, "clock|turns|last", clock=clock)
    refused(stream, "turns", clock={"turns": 1, "last": None})
    refused(stream, "held.t", **{"held.t": np.array([239, 260], np.int64)})
    refused(stream, "held.t", **{"held.t": np.array([250, 261], np.int64)})


def test_a_snapshot_is_of_one_way_of_cutting() -> None:
    snapshot = EventStream.start(StreamConfig(CountWindows(4, 2)), LIMITS).snapshot()
    for config in (StreamConfig(TimeWindows(4, 2)), StreamConfig(CountWindows(4, 2), reorder_us=5)):
        with pytest.raises(SnapshotError):
            EventStream.restore(config, LIMITS, *snapshot)


def test_more_events_than_are_taken_here() -> None:
    for reorder_us in (0, 50):
        config = StreamConfig(TimeWindows(100, 100), reorder_us=reorder_us)
        _, stream = EventStream.start(config, LIMITS).push(at(1, 2, 3))
        with pytest.raises(SnapshotError, match="holds 3 events, at most 2"):
            EventStream.restore(config, WindowLimits(windows=5, events=2), *stream.snapshot())


def test_events_outside_the_sensor() -> None:
    for reorder_us in (0, 50):
        config = StreamConfig(TimeWindows(100, 100), reorder_us=reorder_us)
        _, stream = EventStream.start(config, LIMITS).push(make_events((1, 5, 7, 1)))
        EventStream.restore(config, LIMITS, *stream.snapshot(), sensor=SensorSize(6, 8))
        for sensor in (SensorSize(5, 8), SensorSize(6, 7)):
            with pytest.raises(SnapshotError, match="outside"):
                EventStream.restore(config, LIMITS, *stream.snapshot(), sensor=sensor)


def test_arrays_are_copied() -> None:
    config = StreamConfig(TimeWindows(100, 100))
    _, stream = EventStream.start(config, LIMITS).push(at(1, 2, 3))
    document, arrays = stream.snapshot()
    mine = {name: array.copy() for name, array in arrays.items()}
    restored = EventStream.restore(config, LIMITS, document, mine)
    mine["pending.t"][:] = 0
    assert state(restored) == state(stream)
