"""Sessions over HTTP: the same answers as over the WebSocket, and refusals that change nothing."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import numpy as np
import pytest

from models.events import EventBatch, SensorSize
from service.wire.events import MEDIA_TYPE, EventEncoding, encode_packet, encode_packets, events_to_json
from service.wire.messages import RESULTS_MEDIA_TYPE
from tests.service.harness import (
    SENSOR,
    WINDOW_US,
    HttpSession,
    Result,
    as_result,
    make_events,
    one_connection,
    problem_of,
    random_events,
    same,
    split,
)

WINDOWS = 4
END_US = WINDOWS * WINDOW_US
HALF = 2500
EVENTS = random_events(21, windows=WINDOWS)
LAST_T = int(EVENTS.t[HALF - 1])


@pytest.fixture(scope="module")
def reference(server: str) -> list[Result]:
    return one_connection(server, EVENTS, END_US)


@pytest.fixture
def session(http: httpx.Client) -> HttpSession:
    return HttpSession(http)


def test_a_session_says_what_a_welcome_says(http: httpx.Client) -> None:
    response = http.post("/v1/sessions", json={"sensor": {"width": 64, "height": 48}})
    assert response.status_code == 201
    document = response.json()
    assert response.headers["location"] == f"/v1/sessions/{document['session']}"
    assert set(document) == {
        *("session", "resume", "model", "classes", "unlabelled", "sensor", "window", "mask", "metrics"),
        *("gaps", "time", "queue", "deadline_ms", "next_sequence", "next_window", "acked", "credit"),
        *("max_message_bytes", "filter", "frames"),
    }
    looked_up = http.get(response.headers["location"]).json()
    assert looked_up.pop("state_bytes") > 0
    assert looked_up == {key: value for key, value in document.items() if key != "resume"}


@pytest.mark.parametrize("pieces", [1, 2, 9])
def test_any_cutting_into_requests_gives_the_same_masks(
    session: HttpSession, reference: list[Result], pieces: int
) -> None:
    cuts = np.random.default_rng(pieces).integers(0, len(EVENTS), pieces - 1).tolist()
    results = [result for part in split(EVENTS, cuts) for result in session.events(part)]
    results += session.advance(END_US)
    assert same(results, reference)
    state = session.state()
    assert (state["next_sequence"], state["next_window"]) == (pieces + 2, WINDOWS)


def test_until_us_comes_after_the_events(session: HttpSession, reference: list[Result]) -> None:
    assert same(session.events(EVENTS, until_us=END_US), reference)


def test_a_body_may_hold_many_packets(session: HttpSession, reference: list[Result]) -> None:
    body = b"".join(encode_packets(EVENTS, SENSOR, packet_us=3_000, max_events=100))
    assert same(session.post(body, until_us=END_US), reference)


def test_wide_records_and_json_give_the_same_masks(http: httpx.Client, reference: list[Result]) -> None:
    wide = encode_packet(EVENTS, SENSOR, encoding=EventEncoding.WIDE)
    assert same(HttpSession(http).post(wide, until_us=END_US), reference)
    session = HttpSession(http)
    response = http.post(
        f"{session.path}/events",
        params={"until_us": END_US},
        content=events_to_json(EVENTS),
        headers={"Content-Type": "application/json; charset=utf-8"},
    )
    assert same(results_in_json(response), reference)


def results_in_json(response: httpx.Response) -> list[Result]:
    assert response.status_code == 200, response.text
    assert response.headers["content-type"] == "application/json"
    found = []
    for metadata in response.json()["results"]:
        data = base64.b64decode(metadata["mask"].pop("data"), validate=True)
        found.append(as_result(metadata, data))
    return found


@pytest.mark.parametrize("mask", ["zlib", "raw", "png"])
def test_json_answers_hold_the_mask_in_base64(http: httpx.Client, reference: list[Result], mask: str) -> None:
    session = HttpSession(http)
    response = http.post(
        f"{session.path}/events",
        params={"until_us": END_US, "mask": mask},
        content=encode_packet(EVENTS, SENSOR),
        headers={"Content-Type": MEDIA_TYPE},
    )
    results = results_in_json(response)
    assert same(results, reference)
    assert all(result.metadata["mask"]["encoding"] == mask for result in results)


def test_a_session_can_do_without_metrics(http: httpx.Client) -> None:
    session = HttpSession(http, metrics=False, mask="png")
    (result,) = session.events(EVENTS[:100], until_us=WINDOW_US)
    assert result.activity is None
    assert result.metadata["mask"]["encoding"] == "png"


def test_reset_gives_the_first_window_again(session: HttpSession, reference: list[Result]) -> None:
    assert same(session.events(EVENTS, until_us=END_US), reference)
    document = session.http.post(f"{session.path}/reset").json()
    assert (document["next_window"], document["next_sequence"]) == (0, 3)
    assert same(session.events(EVENTS, until_us=END_US), reference)


def test_a_numbered_request_is_applied_once(session: HttpSession, reference: list[Result]) -> None:
    first = session.events(EVENTS[:HALF], sequence=1)
    assert same(session.events(EVENTS[:HALF], sequence=1), first)
    second = session.events(EVENTS[HALF:], sequence=2, until_us=END_US)
    assert same(session.events(EVENTS[HALF:], sequence=2, until_us=END_US), second)
    assert same(session.events(EVENTS[:HALF], sequence=1), first)
    assert same(first + second, reference)
    skipping = session.http.post(f"{session.path}/events", params={"until_us": END_US, "sequence": 4})
    assert problem_of(skipping, 422)["errors"][0]["field"] == "sequence"
    assert session.state()["next_sequence"] == 3


def test_requests_at_the_same_time_are_taken_one_by_one(session: HttpSession, reference: list[Result]) -> None:
    """The same request from four clients at once: one is applied, the others get its answers."""
    results: list[Result] = []
    with ThreadPoolExecutor(4) as pool:
        for number, part in enumerate(split(EVENTS, [700, 2000, 4500]), 1):
            calls = [pool.submit(session.events, part, sequence=number) for _ in range(4)]
            answers = [call.result() for call in calls]
            assert all(same(answer, answers[0]) for answer in answers)
            results += answers[0]
    results += session.advance(END_US)
    assert same(results, reference)


def test_a_deleted_session_is_gone(session: HttpSession) -> None:
    assert session.http.delete(session.path).status_code == 204
    for response in (
        session.http.get(session.path),
        session.http.delete(session.path),
        session.http.post(f"{session.path}/events", params={"until_us": 0}),
        session.http.post(f"{session.path}/reset"),
    ):
        problem_of(response, 404)


def test_empty_windows_and_empty_packets(session: HttpSession) -> None:
    assert session.events(EventBatch.empty()) == []
    assert session.advance(5) == []
    assert session.events(make_events((5, 1, 1, 1))) == []
    silent = session.advance(3 * WINDOW_US)
    assert [result.events for result in silent] == [1, 0, 0]


PACKETS = {"Content-Type": MEDIA_TYPE}
JSON = {"Content-Type": "application/json"}
GOOD = encode_packet(EVENTS[HALF:], SENSOR)


def json_events(**changes: Any) -> bytes:
    t = LAST_T + 1
    return json.dumps({"t": [t, t], "x": [0, 1], "y": [0, 1], "p": [0, 1], **changes}).encode()


Request = tuple[dict[str, Any], int, str]
BAD_REQUESTS: dict[str, Request] = {
    "no content type": ({"content": GOOD}, 415, MEDIA_TYPE),
    "another content type": ({"content": GOOD, "headers": {"Content-Type": "text/plain"}}, 415, MEDIA_TYPE),
    "a form": ({"data": {"t": "1"}}, 415, MEDIA_TYPE),
    "octets": ({"content": GOOD, "headers": {"Content-Type": "application/octet-stream"}}, 415, MEDIA_TYPE),
    "a body without a type, with a time": ({"content": GOOD, "params": {"until_us": END_US}}, 415, MEDIA_TYPE),
    "another accept": ({"content": GOOD, "headers": {**PACKETS, "Accept": "text/html"}}, 406, RESULTS_MEDIA_TYPE),
    "an empty body": ({"content": b"", "headers": PACKETS}, 422, "empty"),
    "a packet cut short": ({"content": GOOD[:-1], "headers": PACKETS}, 422, "cut short"),
    "a second packet cut short": ({"content": GOOD + GOOD[:31], "headers": PACKETS}, 422, "packet 1"),
    "a second packet that goes back": ({"content": GOOD + GOOD, "headers": PACKETS}, 422, "packet 1"),
    "a second packet of another sensor": (
        {"content": GOOD + encode_packet(EventBatch.empty(), SensorSize(5, 5)), "headers": PACKETS},
        422,
        "5x5",
    ),
    "another sensor": ({"content": encode_packet(EVENTS[HALF:], SensorSize(99, 99)), "headers": PACKETS}, 422, "99x99"),
    "time going back": ({"content": encode_packet(EVENTS[:10], SENSOR), "headers": PACKETS}, 422, "earlier"),
    "a jump in time": ({"params": {"until_us": 10**12}}, 422, "windows"),
    "events and a jump in time": (
        {"content": GOOD, "headers": PACKETS, "params": {"until_us": 10**12}},
        422,
        "windows",
    ),
    "a negative time": ({"params": {"until_us": -1}}, 422, "until_us"),
    "a time with a fraction": ({"params": {"until_us": 1.5}}, 422, "until_us"),
    "a huge time": ({"params": {"until_us": "9" * 5000}}, 422, "until_us"),
    "a time of NaN": ({"params": {"until_us": "nan"}}, 422, "until_us"),
    "an unknown mask": ({"content": GOOD, "headers": PACKETS, "params": {"mask": "jpeg"}}, 422, "mask"),
    "a number of 0": ({"content": GOOD, "headers": PACKETS, "params": {"sequence": 0}}, 422, "sequence"),
    "no JSON": ({"content": b"{", "headers": JSON}, 422, "JSON"),
    "not UTF-8": ({"content": b'{"t": "\xff"}', "headers": JSON}, 422, "JSON"),
    "deep nesting": ({"content": b"[" * 200_000, "headers": JSON}, 422, "JSON"),
    "a JSON array": ({"content": b"[]", "headers": JSON}, 422, "object"),
    "a field missing": ({"content": b'{"t": [], "x": [], "y": []}', "headers": JSON}, 422, "p is missing"),
    "an unknown field": ({"content": json_events(q=1), "headers": JSON}, 422, "unknown field"),
    "a field that is no array": ({"content": json_events(x=5), "headers": JSON}, 422, "array"),
    "lengths that differ": ({"content": json_events(x=[0]), "headers": JSON}, 422, "equal length"),
    "true": ({"content": json_events(p=[0, True]), "headers": JSON}, 422, "p[1] = true"),
    "null": ({"content": json_events(p=[None, 1]), "headers": JSON}, 422, "p[0] = null"),
    "a fraction": ({"content": json_events(x=[0, 1.0]), "headers": JSON}, 422, "x[1] = 1.0"),
    "NaN": ({"content": json_events(x=[0, float("nan")]), "headers": JSON}, 422, "NaN"),
    "infinity": ({"content": json_events(t=[0, float("-inf")]), "headers": JSON}, 422, "-Infinity"),
    "a huge integer": ({"content": json_events(t=[LAST_T, 10**30]), "headers": JSON}, 422, "t[1]"),
    "an integer too long to read": ({"content": b'{"t": [' + b"9" * 5000 + b"]}", "headers": JSON}, 422, "JSON"),
    "a negative x": ({"content": json_events(x=[0, -1]), "headers": JSON}, 422, "x[1] = -1"),
    "x outside": ({"content": json_events(x=[0, SENSOR.width]), "headers": JSON}, 422, "x[1] = 64"),
    "a polarity of -1": ({"content": json_events(p=[-1, 1]), "headers": JSON}, 422, "p[0] = -1"),
    "a polarity of 2": ({"content": json_events(p=[0, 2]), "headers": JSON}, 422, "p[1] = 2"),
    "no AEDAT4": ({"content": GOOD, "headers": {"Content-Type": "application/vnd.aedat4"}}, 422, "AEDAT"),
}


@pytest.mark.parametrize("what", BAD_REQUESTS)
def test_a_bad_request_is_refused_and_changes_nothing(session: HttpSession, reference: list[Result], what: str) -> None:
    arguments, status, says = BAD_REQUESTS[what]
    results = session.events(EVENTS[:HALF])
    before = session.state()
    document = problem_of(session.http.post(f"{session.path}/events", **arguments), status)
    assert says in json.dumps(document, ensure_ascii=False)
    assert session.state() == before
    results += session.events(EVENTS[HALF:], until_us=END_US)
    assert same(results, reference)


BAD_SESSIONS: dict[str, Request] = {
    "no content type": ({"content": b"{}"}, 415, "application/json"),
    "no JSON": ({"content": b"{", "headers": JSON}, 422, "JSON"),
    "an empty body": ({"content": b"", "headers": JSON}, 422, "JSON"),
    "not UTF-8": ({"content": b'{"model": "\xff"}', "headers": JSON}, 422, "JSON"),
    "half a surrogate pair": ({"content": b'{"model": "\\ud800"}', "headers": JSON}, 422, "JSON"),
    "deep nesting": ({"content": b"[" * 60_000, "headers": JSON}, 422, "JSON"),
    "no sensor": ({"json": {}}, 422, "sensor"),
    "null": ({"json": None, "headers": JSON}, 422, ""),
    "a list": ({"json": []}, 422, ""),
    "a sensor of nothing": ({"json": {"sensor": {}}}, 422, "sensor.width"),
    "a width that is true": ({"json": {"sensor": {"width": True, "height": 1}}}, 422, "sensor.width"),
    "a huge height": ({"json": {"sensor": {"width": 1, "height": 10**30}}}, 422, "sensor.height"),
    "too many pixels": ({"json": {"sensor": {"width": 4096, "height": 4096}}}, 422, "too large"),
    "too short a window": ({"json": {"sensor": {"width": 1, "height": 1}, "window": {"us": 5}}}, 422, "window.us"),
    "an unknown field": ({"json": {"sensor": {"width": 1, "height": 1}, "colour": 1}}, 422, "colour"),
    "an unknown mask": ({"json": {"sensor": {"width": 1, "height": 1}, "mask": "npy"}}, 422, "mask"),
    "an unknown model": ({"json": {"sensor": {"width": 1, "height": 1}, "model": "nope"}}, 404, "edge-s"),
    "too large a body": ({"content": b" " * 70_000, "headers": JSON}, 413, "65536"),
}


@pytest.mark.parametrize("what", BAD_SESSIONS)
def test_a_session_that_cannot_be_opened(http: httpx.Client, what: str) -> None:
    arguments, status, says = BAD_SESSIONS[what]
    assert says in json.dumps(problem_of(http.post("/v1/sessions", **arguments), status))


CALLS: dict[str, Callable[[httpx.Client], httpx.Response]] = {
    "get": lambda http: http.get("/v1/sessions/nope"),
    "delete": lambda http: http.delete("/v1/sessions/nope"),
    "events": lambda http: http.post("/v1/sessions/nope/events", content=GOOD, headers=PACKETS),
    "reset": lambda http: http.post("/v1/sessions/nope/reset"),
}


@pytest.mark.parametrize("call", CALLS)
def test_an_unknown_session_is_not_found(http: httpx.Client, call: str) -> None:
    problem_of(CALLS[call](http), 404)
