"""How a session asks for its stream to be cut, timed and queued, over the real service."""

from __future__ import annotations

from typing import Any

import httpx
import numpy as np
import pytest

from clients import Client, StreamOptions
from models.events import EventBatch, SensorSize
from service.wire import messages
from service.wire.events import EventEncoding, encode_packet
from tests.service.harness import (
    PATIENCE_S,
    SENSOR,
    WINDOW_US,
    HttpSession,
    RefusedError,
    Result,
    Stream,
    hello,
    one_connection,
    problem_of,
    random_events,
    same,
    split,
)

EVENTS = random_events(81, windows=4)
END_US = 4 * WINDOW_US


@pytest.fixture(scope="module")
def reference(server: str) -> list[Result]:
    """The stream as it is answered without any options."""
    return one_connection(server, EVENTS, END_US)


def shifted(events: EventBatch, by_us: int) -> EventBatch:
    return EventBatch(events.t + by_us, events.x, events.y, events.p)


def send(stream: Stream, events: EventBatch, sensor: SensorSize = SENSOR) -> list[Result]:
    """Send events that need not be ordered."""
    packet = encode_packet(events, sensor, encoding=EventEncoding.WIDE, ordered=False)
    return stream.call(lambda n: messages.encode_events(n, packet))


@pytest.mark.parametrize("pieces", [1, 7])
def test_windows_of_events(server: str, pieces: int) -> None:
    with Stream(server, hello(window={"count": 1500})) as stream:
        assert stream.welcome["window"] == {"count": 1500}
        results = [
            r for part in split(EVENTS, range(0, len(EVENTS), len(EVENTS) // pieces)) for r in stream.events(part)
        ]
        results += stream.end()
    assert [result.events for result in results] == [1500] * 4
    assert [result.window for result in results] == [0, 1, 2, 3]
    assert results[1].t_start == int(EVENTS.t[1500])
    assert results[1].t_end == int(EVENTS.t[2999]) + 1


def test_overlapping_windows(server: str) -> None:
    stride = WINDOW_US // 2
    with Stream(server, hello(window={"us": WINDOW_US, "stride_us": stride})) as stream:
        assert stream.welcome["window"] == {"us": WINDOW_US, "stride_us": stride}
        results = stream.events(EVENTS) + stream.advance(END_US)
    assert [result.t_end for result in results] == list(range(stride, END_US + 1, stride))
    assert [result.t_start for result in results] == [max(0, result.t_end - WINDOW_US) for result in results]
    counts = [int(np.count_nonzero((EVENTS.t >= r.t_start) & (EVENTS.t < r.t_end))) for r in results]
    assert [result.events for result in results] == counts


def test_a_gap_that_leaks_costs_nothing(server: str) -> None:
    years = 100 * 365 * 24 * 3600 * 10**6 // WINDOW_US * WINDOW_US
    with Stream(server, hello(gaps="leak")) as stream:
        before = stream.events(EVENTS) + stream.advance(years)
        after = stream.events(shifted(EVENTS, years)) + stream.advance(years + END_US)
    assert [result.window for result in before] == [0, 1, 2, 3]
    assert after[0].window == years // WINDOW_US
    assert after[0].metadata["skipped"]["gap"] == years // WINDOW_US - 4
    # All has leaked away.
    assert [result.mask.tobytes() for result in after] == [result.mask.tobytes() for result in before]


@pytest.mark.parametrize("cut", [False, True])
def test_a_gap_is_the_same_however_it_is_told(server: str, cut: bool) -> None:
    gap = 5 * WINDOW_US
    late = shifted(EVENTS, END_US + gap)
    with Stream(server, hello(gaps="leak")) as stream:
        results = stream.events(EVENTS)
        for k in range(1, 6 if cut else 1):
            results += stream.advance(END_US + k * WINDOW_US)
        results += stream.events(late) + stream.advance(2 * END_US + gap)
    whole = EventBatch.concatenate([EVENTS, late])
    with Client(server, timeout=PATIENCE_S) as client:
        options = StreamOptions(gaps="leak")
        found = list(client.stream([whole], SENSOR, window_us=WINDOW_US, options=options))
    assert [result.window for result in found] == [result.window for result in results] == [0, 1, 2, 3, 9, 10, 11, 12]
    assert found[4].skipped.gap == 5
    for left, right in zip(found, results, strict=True):
        np.testing.assert_array_equal(left.mask, right.mask)


def test_events_out_of_order(server: str, reference: list[Result]) -> None:
    rng = np.random.default_rng(5)
    order = np.argsort(EVENTS.t + rng.integers(0, 2000, len(EVENTS)), kind="stable")
    mixed = EventBatch(EVENTS.t[order], EVENTS.x[order], EVENTS.y[order], EVENTS.p[order])
    with Stream(server, hello(time={"reorder_us": 2000})) as stream:
        results = [result for part in split(mixed, range(0, len(mixed), 700)) for result in send(stream, part)]
        results += stream.advance(END_US)
        too_late = send(stream, EVENTS[:5])
        last = send(stream, shifted(EVENTS[:1], END_US)) + stream.end()
    assert same(results, reference)
    assert too_late == []
    assert last[-1].metadata["skipped"]["late_events"] == 5
    with Stream(server) as strict, pytest.raises(RefusedError) as caught:
        send(strict, mixed)
    assert caught.value.code == 4422


def test_a_clock_that_overflows(server: str, reference: list[Result]) -> None:
    wrap = 2**20
    shift = wrap - 2 * WINDOW_US - wrap % WINDOW_US
    base = shift - shift % WINDOW_US
    raw = (EVENTS.t + base) % wrap
    wrapped = EventBatch(raw, EVENTS.x, EVENTS.y, EVENTS.p)
    with Stream(server, hello(time={"wrap_bits": 20})) as stream:
        results = [result for part in split(wrapped, range(0, len(raw), 900)) for result in send(stream, part)]
        results += stream.end()
    assert [result.t_start for result in results] == [result.t_start + base for result in reference]
    assert [result.mask.tobytes() for result in results] == [result.mask.tobytes() for result in reference]


def test_a_sensor_that_begins_anew(server: str, reference: list[Result]) -> None:
    later = shifted(EVENTS, 10 * WINDOW_US)
    with Stream(server, hello(time={"on_restart": "reset"})) as stream:
        first = stream.events(later)
        second = stream.events(EVENTS) + stream.advance(END_US)
    assert len(first) == 3
    # The window that was open when the sensor began anew, then those of a new beginning.
    assert [result.window for result in second] == [3, 4, 5, 6, 7]
    assert [result.metadata["skipped"]["restart"] for result in second] == [False, True, False, False, False]
    assert [result.mask.tobytes() for result in second[1:]] == [result.mask.tobytes() for result in reference]


def test_flush(server: str, http: httpx.Client) -> None:
    some = EVENTS[:500]
    with Stream(server) as stream:
        assert stream.events(some) == []
        flushed = stream.flush()
        assert stream.flush() == []
    session = HttpSession(http)
    over_http = session.events(some, flush=True)
    assert same(flushed, over_http)
    assert [result.events for result in flushed] == [500]
    response = http.post(f"{session.path}/events", params={"flush": True})
    assert response.json() == {"results": []}


def test_a_queue_that_merges_answers_for_every_window(server: str) -> None:
    many = random_events(82, windows=40, per_window=300)
    parts = split(many, range(0, len(many), 150))
    with Client(server, timeout=PATIENCE_S) as client:
        options = StreamOptions(queue="merge", queue_windows=2)
        results = list(client.stream(parts, SENSOR, window_us=WINDOW_US, options=options))
    assert sum(result.windows for result in results) == 40
    assert sum(result.events for result in results) == len(many)


def test_a_queue_that_drops_says_so(server: str) -> None:
    many = random_events(83, windows=40, per_window=300)
    with Stream(server, hello(queue={"policy": "drop-oldest", "windows": 3})) as stream:
        results = stream.events(many) + stream.advance(40 * WINDOW_US)
    assert [result.window for result in results] == [36, 37, 38, 39]
    assert [result.metadata["skipped"]["dropped"] for result in results] == [36, 0, 0, 0]


BAD_OPTIONS: list[tuple[dict[str, Any], str]] = [
    ({"window": {}}, "window"),
    ({"window": {"us": 20_000, "count": 5}}, "window"),
    ({"window": {"us": 20_000, "stride": 5}}, "window"),
    ({"window": {"us": 20_000, "stride_us": 30_000}}, "window"),
    ({"window": {"us": 20_000, "stride_us": 20}}, "window"),
    ({"window": {"count": 100, "stride": 1}}, "window"),
    ({"window": {"count": 0}}, "window.count"),
    ({"window": {"count": 10**9}}, "window.count"),
    ({"gaps": "skip"}, "gaps"),
    ({"time": {"reorder_us": -1}}, "time.reorder_us"),
    ({"time": {"reorder_us": True}}, "time.reorder_us"),
    ({"time": {"wrap_bits": 8}}, "time.wrap_bits"),
    ({"time": {"wrap_bits": 16, "reorder_us": 60_000}}, "time"),
    ({"time": {"on_restart": "ignore"}}, "time.on_restart"),
    ({"queue": {"policy": "drop"}}, "queue.policy"),
    ({"queue": {"windows": 0}}, "queue.windows"),
    ({"deadline_ms": 0}, "deadline_ms"),
    ({"deadline_ms": "soon"}, "deadline_ms"),
]


@pytest.mark.parametrize(("fields", "blamed"), BAD_OPTIONS, ids=[str(fields) for fields, _ in BAD_OPTIONS])
def test_options_that_cannot_be(server: str, http: httpx.Client, fields: dict[str, Any], blamed: str) -> None:
    with pytest.raises(RefusedError) as caught:
        Stream(server, hello(**fields))
    assert caught.value.code == 4400
    assert caught.value.problem is not None
    assert [error["field"] for error in caught.value.problem["errors"]] == [blamed]
    document = problem_of(http.post("/v1/sessions", json={"sensor": {"width": 64, "height": 48}, **fields}), 422)
    assert [error["field"] for error in document["errors"]] == [blamed]


@pytest.mark.parametrize("name", ["short", "with a space", "x" * 65, "dots.are.for.tokens"])
def test_a_name_that_cannot_be(server: str, http: httpx.Client, name: str) -> None:
    response = http.post("/v1/sessions", params={"session": name}, json={"sensor": {"width": 64, "height": 48}})
    assert problem_of(response, 422)["errors"][0]["field"] == "session"
    with Client(server, timeout=PATIENCE_S) as client:
        assert client.models()


def test_a_session_can_be_named_once(server: str, http: httpx.Client) -> None:
    name = "a-name-of-my-own"
    with Stream(server, session=name) as stream:
        assert stream.welcome["session"] == name
        with pytest.raises(RefusedError) as caught:
            Stream(server, session=name)
        assert caught.value.code == 4409
        response = http.post("/v1/sessions", params={"session": name}, json={"sensor": {"width": 64, "height": 48}})
        assert problem_of(response, 409)["type"].endswith("session-exists")
        stream.end()
