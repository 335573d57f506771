"""A server with narrow limits: too much, too late, too long."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from urllib.parse import urlsplit

import httpx
import pytest

from models.events import EventBatch, SensorSize
from service.wire import messages
from service.wire.events import MEDIA_TYPE, encode_packet
from tests.service.harness import (
    PATIENCE_S,
    SENSOR,
    WINDOW_US,
    HttpSession,
    RefusedError,
    Stream,
    hello,
    make_events,
    problem_of,
    random_events,
    same,
)

PACKETS = {"Content-Type": MEDIA_TYPE}
EVENTS = random_events(41, windows=2, per_window=500)


MAX_SESSIONS = 60


@pytest.fixture
def empty_server(strict_server: str, strict_http: httpx.Client) -> str:
    """The strict server, once the sessions of other tests are gone."""
    wait_until(lambda: active(strict_http) == 0)
    return strict_server


def active(http: httpx.Client) -> float:
    for line in http.get("/metrics").text.splitlines():
        if line.startswith("spikeseg_sessions_active "):
            return float(line.split()[1])
    raise AssertionError("no spikeseg_sessions_active")


def wait_until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < end, "it never came true"
        time.sleep(0.05)


def test_no_room_for_another_session(empty_server: str, strict_http: httpx.Client) -> None:
    with ExitStack() as stack:
        streams = [stack.enter_context(Stream(empty_server)) for _ in range(MAX_SESSIONS)]
        with pytest.raises(RefusedError) as caught:
            Stream(empty_server)
        assert caught.value.code == 4429
        assert caught.value.problem is not None
        assert caught.value.problem["retry_after"] >= 1
        response = strict_http.post("/v1/sessions", json={"sensor": {"width": 64, "height": 48}})
        problem_of(response, 429)
        assert int(response.headers["retry-after"]) >= 1
        answers = streams[0].events(EVENTS)
        assert answers
        assert same(streams[1].events(EVENTS), answers)
        streams[1].end()
        with Stream(empty_server) as another:
            assert same(another.events(EVENTS), answers)
        for stream in streams[2:]:
            stream.end()


def test_an_idle_session_is_freed_and_one_that_is_held_is_not(empty_server: str, strict_http: httpx.Client) -> None:
    with Stream(empty_server) as held:
        idle = HttpSession(strict_http)
        results = held.events(EVENTS[:600])
        assert active(strict_http) == 2
        wait_until(lambda: active(strict_http) == 1)
        problem_of(strict_http.get(idle.path), 404)
        results += held.events(EVENTS[600:])
    wait_until(lambda: active(strict_http) == 0)
    with pytest.raises(RefusedError) as caught:
        Stream.resume(empty_server, held.token)
    assert caught.value.code == 4404
    assert len(results) == 1


def test_an_ended_session_is_forgotten_after_a_while(strict_server: str) -> None:
    with Stream(strict_server) as stream:
        stream.end()

    def forgotten() -> bool:
        try:
            # To look at it is to keep it, so each try waits for longer than it is kept.
            time.sleep(1.2)
            Stream.resume(strict_server, stream.token).socket.close()
        except RefusedError as refused:
            return refused.code == 4404
        return False

    wait_until(forgotten)


def test_no_hello_in_time(strict_server: str) -> None:
    from websockets.exceptions import ConnectionClosed
    from websockets.sync.client import connect

    with connect(strict_server.replace("http", "ws", 1) + "/v1/stream") as silent:
        assert '"code": 4408' in str(silent.recv(timeout=PATIENCE_S))
        with pytest.raises(ConnectionClosed):
            silent.recv(timeout=PATIENCE_S)
        assert silent.close_code == 4408


@pytest.mark.parametrize(("size", "code"), [(10_001, 4413), (20_000, 4413), (50_000, 1009)])
def test_too_large_a_message(strict_server: str, size: int, code: int) -> None:
    with Stream(strict_server) as stream:
        assert stream.welcome["max_message_bytes"] == 10_000
        results = stream.events(EVENTS[:600])
        stream.socket.send(bytes(size))
        refused = stream.refusal()
        assert refused.code == code
        assert (refused.problem is not None) == (code == 4413)
    with Stream.resume(strict_server, stream.token) as resumed:
        assert resumed.sequence == 2
        results += resumed.events(EVENTS[600:])
    with Stream(strict_server) as other:
        assert same(other.events(EVENTS), results)


def test_the_largest_message_is_taken(strict_server: str) -> None:
    with Stream(strict_server) as stream:
        count = (10_000 - 16 - 32) // 8
        stream.socket.send(
            messages.encode_events(1, encode_packet(random_events(5, windows=2, per_window=count // 2), SENSOR))
        )
        assert len(stream.answer(1)) == 1


@pytest.mark.parametrize("known", [True, False])
def test_too_large_a_body(strict_http: httpx.Client, known: bool) -> None:
    """With a length that is announced, and with one that is not."""
    session = HttpSession(strict_http)
    results = session.events(EVENTS[:600])

    def pieces() -> Iterator[bytes]:
        for _ in range(30):
            yield bytes(1000)

    for path in (f"{session.path}/events", "/v1/segment"):
        content = bytes(30_000) if known else pieces()
        problem = problem_of(strict_http.post(path, content=content, headers=PACKETS), 413)
        assert "20000 bytes" in problem["detail"]
    results += session.events(EVENTS[600:])
    other = HttpSession(strict_http)
    assert same(other.events(EVENTS), results)


def test_too_large_a_recording(strict_http: httpx.Client) -> None:
    headers = {"Content-Type": "application/vnd.aedat4"}
    problem_of(strict_http.post("/v1/recordings", content=bytes(30_001), headers=headers), 413)
    problem_of(strict_http.post("/v1/recordings", content=bytes(30_000), headers=headers), 422)


def raw_request(server: str, text: bytes) -> bytes:
    """Bytes over a plain socket; what comes back until the server closes."""
    parts = urlsplit(server)
    with socket.create_connection((parts.hostname or "", parts.port or 0), timeout=PATIENCE_S) as plain:
        plain.sendall(text)
        answer = b""
        while data := plain.recv(65_536):
            answer += data
    return answer


@pytest.mark.parametrize("length", [b"100000000000", b"9" * 25])
def test_a_body_that_is_only_announced_is_refused_at_once(strict_server: str, length: bytes) -> None:
    head = b"POST /v1/segment HTTP/1.1\r\nHost: x\r\nContent-Type: application/vnd.spikeseg.events\r\nContent-Length: "
    answer = raw_request(strict_server, head + length + b"\r\n\r\n")
    assert answer.startswith((b"HTTP/1.1 413", b"HTTP/1.1 400"))


def test_a_body_that_never_ends_is_given_up(strict_server: str) -> None:
    head = b"POST /v1/segment HTTP/1.1\r\nHost: x\r\nContent-Type: application/vnd.spikeseg.events\r\n"
    answer = raw_request(strict_server, head + b"Content-Length: 1000\r\n\r\nSEV1")
    assert answer.startswith(b"HTTP/1.1 408")
    assert b"application/problem+json" in answer


def post_head(session: HttpSession, body: bytes) -> bytes:
    """The head of a request that brings events."""
    lines = [
        f"POST {session.path}/events HTTP/1.1",
        "Host: x",
        f"Content-Type: {MEDIA_TYPE}",
        f"Content-Length: {len(body)}",
    ]
    return "\r\n".join([*lines, "", ""]).encode()


def test_a_client_that_leaves_while_its_windows_are_computed(strict_server: str, strict_http: httpx.Client) -> None:
    """The request counts whole, or not at all."""
    sensor = SensorSize(96, 52)
    size = {"width": sensor.width, "height": sensor.height}
    session, untouched = HttpSession(strict_http, sensor=size), HttpSession(strict_http, sensor=size)
    events = random_events(42, windows=8, per_window=250, sensor=sensor)
    packet = encode_packet(events, sensor)
    parts = urlsplit(strict_server)
    with socket.create_connection((parts.hostname or "", parts.port or 0), timeout=PATIENCE_S) as plain:
        plain.sendall(post_head(session, packet) + packet)
    expected = untouched.events(events, sensor, sequence=1)
    assert same(session.events(events, sensor, sequence=1), expected)
    assert session.state()["next_window"] == 7
    assert same(session.advance(8 * WINDOW_US), untouched.advance(8 * WINDOW_US))


def test_a_body_that_breaks_off_leaves_the_session_as_it_was(strict_server: str, strict_http: httpx.Client) -> None:
    session = HttpSession(strict_http)
    parts = urlsplit(strict_server)
    packet = encode_packet(EVENTS, SENSOR)
    with socket.create_connection((parts.hostname or "", parts.port or 0), timeout=PATIENCE_S) as plain:
        plain.sendall(post_head(session, packet) + packet[:500])
    assert session.state()["next_sequence"] == 1
    assert len(session.events(EVENTS)) == 1


def test_too_many_windows_at_once(strict_server: str, strict_http: httpx.Client) -> None:
    with Stream(strict_server) as stream:
        assert len(stream.events(make_events((0, 0, 0, 0), (8 * WINDOW_US, 0, 0, 0)))) == 8
        stream.socket.send(messages.encode_advance(2, 17 * WINDOW_US))
        refused = stream.refusal()
    assert refused.code == 4422
    assert refused.problem is not None
    assert "9 windows, at most 8" in refused.problem["detail"]
    with Stream.resume(strict_server, stream.token) as resumed:
        assert [r.window for r in resumed.advance(16 * WINDOW_US)] == list(range(8, 16))
    session = HttpSession(strict_http)
    packet = encode_packet(make_events((0, 0, 0, 0), (5 * WINDOW_US, 0, 0, 0)), SENSOR)
    path = f"{session.path}/events"
    too_far = strict_http.post(path, content=packet, headers=PACKETS, params={"until_us": 9 * WINDOW_US})
    assert "9 windows" in problem_of(too_far, 422)["detail"]
    assert len(session.post(packet, until_us=8 * WINDOW_US)) == 8
    packet = encode_packet(make_events((0, 0, 0, 0), (9 * WINDOW_US, 0, 0, 0)), SENSOR)
    query = {"window_us": WINDOW_US}
    problem_of(strict_http.post("/v1/segment", content=packet, headers=PACKETS, params=query), 422)


def test_too_many_events_in_a_window(strict_http: httpx.Client) -> None:
    session = HttpSession(strict_http)
    many = make_events(*[(5, 1, 1, 1)] * 600)
    session.events(many)
    response = strict_http.post(f"{session.path}/events", content=encode_packet(many, SENSOR), headers=PACKETS)
    assert "1200 events" in problem_of(response, 422)["detail"]
    (result,) = session.events(make_events((WINDOW_US, 1, 1, 1)))
    assert result.events == 600


def test_sensor_and_window_outside_the_limits(strict_server: str) -> None:
    for changes in (
        {"sensor": {"width": 101, "height": 1}},
        {"sensor": {"width": 100, "height": 51}},
        {"window": {"us": 999}},
        {"window": {"us": 1_000_001}},
    ):
        with pytest.raises(RefusedError) as caught:
            Stream(strict_server, hello(**changes))
        assert caught.value.code == 4400


def test_a_demo_that_is_not_there(strict_http: httpx.Client) -> None:
    problem = problem_of(strict_http.get("/v1/recordings/demo"), 404)
    assert "nonexistent" not in str(problem)


def test_an_empty_stream_costs_nothing(strict_server: str) -> None:
    with Stream(strict_server) as stream:
        assert stream.events(EventBatch.empty()) == []
        assert stream.end() == []


def test_too_many_packets_in_a_body(strict_http: httpx.Client) -> None:
    packet = encode_packet(EventBatch.empty(), SENSOR)
    session = HttpSession(strict_http)
    assert session.post(packet * 20) == []
    response = strict_http.post(f"{session.path}/events", content=packet * 21, headers=PACKETS)
    assert "more than 20 packets" in problem_of(response, 422)["detail"]


def test_too_large_a_body_of_json(strict_http: httpx.Client) -> None:
    session = HttpSession(strict_http)
    body = b'{"t": [], "x": [], "y": [], "p": []}'
    headers = {"Content-Type": "application/json"}
    assert strict_http.post(f"{session.path}/events", content=body.ljust(5_000), headers=headers).status_code == 200
    problem_of(strict_http.post(f"{session.path}/events", content=body.ljust(5_001), headers=headers), 413)
