"""Sessions that filter the noise of their sensor, over the real service."""

from __future__ import annotations

from typing import Any

import httpx
import numpy as np
import pytest

from clients import Client, StreamOptions
from models.events import EventBatch
from models.filters import REASONS, FilterConfig, FilterState, HotPixelConfig, filter_events
from service.streaming.checkpoints import MEDIA_TYPE as STATE_MEDIA_TYPE
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
    running_server,
    same,
    split,
)

WINDOWS = 6
END_US = WINDOWS * WINDOW_US
HOT_PIXEL = (11, 7)
FIELDS: dict[str, Any] = {
    "hot_pixel": {"learn_us": 2 * WINDOW_US, "sigma": 8, "min_rate_hz": 500},
    "refractory_us": 200,
    "background_activity_us": 5_000,
}
CONFIG = FilterConfig(HotPixelConfig(2 * WINDOW_US, 8.0, 500.0), refractory_us=200, background_activity_us=5_000)


def noisy() -> EventBatch:
    """Random events, and a pixel that fires every 250 µs."""
    events = random_events(31, windows=WINDOWS)
    t = np.concatenate([events.t, np.arange(0, END_US - 1, 250)])
    order = np.argsort(t, kind="stable")
    more = len(t) - len(events)
    x = np.append(events.x, np.full(more, HOT_PIXEL[0], np.uint16))
    y = np.append(events.y, np.full(more, HOT_PIXEL[1], np.uint16))
    p = np.append(events.p, np.ones(more, np.uint8))
    return EventBatch(t[order], x[order], y[order], p[order])


EVENTS = noisy()
FILTERED = filter_events(FilterState(CONFIG, SENSOR), EVENTS)


def filtered_of(results: list[Result]) -> list[dict[str, int]]:
    return [result.metadata["skipped"]["filtered"] for result in results]


@pytest.fixture(scope="module")
def reference(server: str) -> list[Result]:
    """The stream, cut in one piece, through a session with filters."""
    with Stream(server, hello(filter=FIELDS)) as stream:
        return stream.events(EVENTS) + stream.advance(END_US)


def test_a_session_with_filters_sees_what_passes_them(server: str, reference: list[Result]) -> None:
    beforehand = one_connection(server, FILTERED.events, END_US)
    assert [result.mask.tobytes() for result in reference] == [result.mask.tobytes() for result in beforehand]
    assert [result.events for result in reference] == [result.events for result in beforehand]
    assert sum(result.events for result in reference) == len(FILTERED.events) < len(EVENTS)


def test_every_dropped_event_is_in_the_metadata_of_a_window_by_reason(reference: list[Result]) -> None:
    verdicts = FILTERED.verdicts
    expected = [
        {
            reason: int(((verdicts == k) & (EVENTS.t // WINDOW_US == window)).sum())
            for k, reason in enumerate(REASONS, 1)
        }
        for window in range(WINDOWS)
    ]
    assert filtered_of(reference) == expected
    assert all(sum(each[reason] for each in expected) for reason in REASONS)


@pytest.mark.parametrize("size", [700, 5000])
def test_how_the_stream_is_cut_changes_nothing(server: str, reference: list[Result], size: int) -> None:
    with Stream(server, hello(filter=FIELDS)) as stream:
        results = [r for part in split(EVENTS, range(0, len(EVENTS), size)) for r in stream.events(part)]
        results += stream.advance(END_US)
    assert same(results, reference)
    assert filtered_of(results) == filtered_of(reference)


def test_without_the_option_nothing_is_filtered_or_said_of_it(server: str) -> None:
    with Stream(server) as stream:
        assert stream.welcome["filter"] is None
        results = stream.events(EVENTS) + stream.advance(END_US)
    assert sum(result.events for result in results) == len(EVENTS)
    assert all("filtered" not in result.metadata["skipped"] for result in results)


def test_the_welcome_says_what_is_filtered(server: str, http: httpx.Client) -> None:
    with Stream(server, hello(filter={"hot_pixel": {}})) as stream:
        assert stream.welcome["filter"] == {
            "hot_pixel": {"learn_us": 1_000_000, "sigma": 10.0, "min_rate_hz": 100.0},
            "refractory_us": 0,
            "background_activity_us": 0,
        }
    assert HttpSession(http, filter=FIELDS).fields["filter"] == FIELDS


def test_after_a_reset_the_filters_have_seen_nothing(server: str, reference: list[Result]) -> None:
    with Stream(server, hello(filter=FIELDS)) as stream:
        stream.events(EVENTS[: len(EVENTS) // 2])
        stream.reset()
        results = stream.events(EVENTS) + stream.advance(END_US)
    assert same(results, reference)
    assert filtered_of(results) == filtered_of(reference)


def test_a_server_that_goes_on_from_a_snapshot_filters_on(http: httpx.Client, reference: list[Result]) -> None:
    half = len(EVENTS) // 2
    session = HttpSession(http, filter=FIELDS)
    before = session.events(EVENTS[:half])
    snapshot = http.get(f"{session.path}/state").content
    with running_server() as other, httpx.Client(base_url=other, timeout=PATIENCE_S) as there:
        moved = HttpSession(there, snapshot=snapshot)
        results = before + moved.events(EVENTS[half:], until_us=END_US)
    assert same(results, reference)
    assert filtered_of(results) == filtered_of(reference)


def test_a_snapshot_of_a_session_without_filters_does_not_fit(http: httpx.Client) -> None:
    plain, filtering = HttpSession(http), HttpSession(http, filter=FIELDS)
    snapshot = http.get(f"{plain.path}/state").content
    response = http.put(f"{filtering.path}/state", content=snapshot, headers={"Content-Type": STATE_MEDIA_TYPE})
    problem_of(response, 422)


def test_a_client_asks_for_filters_and_is_told_what_they_dropped(server: str) -> None:
    options = StreamOptions(filter_background_us=5_000, filter_refractory_us=200, filter_hot=True)
    with Client(server, timeout=PATIENCE_S) as client:
        results = list(client.stream([EVENTS], SENSOR, window_us=WINDOW_US, options=options))
    config = FilterConfig(HotPixelConfig(), refractory_us=200, background_activity_us=5_000)
    expected = filter_events(FilterState(config, SENSOR), EVENTS).verdicts
    found = {reason: sum(result.skipped.filtered[reason] for result in results) for reason in REASONS}
    assert found == {reason: int((expected == k).sum()) for k, reason in enumerate(REASONS, 1)}


def test_dropped_events_are_counted_by_reason(http: httpx.Client) -> None:
    def counted() -> dict[str, float]:
        lines = http.get("/metrics").text.splitlines()
        name = 'spikeseg_events_filtered_total{model="edge-s",reason="%s"} '
        return {r: sum(float(line.split()[1]) for line in lines if line.startswith(name % r)) for r in REASONS}

    HttpSession(http).events(EVENTS[:10], until_us=WINDOW_US)
    before = counted()
    results = HttpSession(http, filter=FIELDS).events(EVENTS, until_us=END_US)
    after = counted()
    told = {reason: sum(each[reason] for each in filtered_of(results)) for reason in REASONS}
    assert {reason: after[reason] - before[reason] for reason in REASONS} == told
    assert sum(told.values()) == len(EVENTS) - len(FILTERED.events)


BAD_FILTERS: list[tuple[dict[str, Any], str]] = [
    ({}, "filter"),
    ({"hot_pixel": None, "refractory_us": 0}, "filter"),
    ({"background_activity_us": -1}, "filter.background_activity_us"),
    ({"background_activity_us": 5.5}, "filter.background_activity_us"),
    ({"background_activity_us": True}, "filter.background_activity_us"),
    ({"refractory_us": 10**9}, "filter.refractory_us"),
    ({"hot_pixel": {"learn_us": 0}}, "filter.hot_pixel.learn_us"),
    ({"hot_pixel": {"sigma": -1}}, "filter.hot_pixel.sigma"),
    ({"hot_pixel": {"rate": 1}}, "filter.hot_pixel.rate"),
    ({"fast_decay": {}}, "filter.fast_decay"),
]


@pytest.mark.parametrize(("fields", "blamed"), BAD_FILTERS, ids=[str(fields) for fields, _ in BAD_FILTERS])
def test_filters_that_cannot_be(server: str, http: httpx.Client, fields: dict[str, Any], blamed: str) -> None:
    with pytest.raises(RefusedError) as caught:
        Stream(server, hello(filter=fields))
    assert caught.value.code == 4400
    assert caught.value.problem is not None
    assert [error["field"] for error in caught.value.problem["errors"]] == [blamed]
    document = problem_of(
        http.post("/v1/sessions", json={"sensor": {"width": 64, "height": 48}, "filter": fields}), 422
    )
    assert [error["field"] for error in document["errors"]] == [blamed]


def test_the_events_of_frames_are_filtered_too(http: httpx.Client) -> None:
    """The emulated sensor's background activity is dropped; so is all that it has when nothing moves."""
    raw = {"Content-Type": "application/octet-stream"}
    still = bytes(SENSOR.width * SENSOR.height)
    results: list[dict[str, Any]] = []
    session = HttpSession(http, frames={"noise_rate_hz": 5}, filter={"background_activity_us": 20})
    for k in range(8):
        response = http.post(f"{session.path}/frames", params={"t_us": k * WINDOW_US}, content=still, headers=raw)
        assert response.status_code == 200, response.text
        results += response.json()["results"]
    dropped = sum(result["skipped"]["filtered"]["background_activity"] for result in results)
    assert dropped > 10 * sum(result["events"] for result in results)
