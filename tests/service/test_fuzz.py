"""Damaged input: always a clear refusal, never a failure of the server, and no harm to others."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

from service.streaming.checkpoints import MEDIA_TYPE as STATE_MEDIA_TYPE
from service.wire import messages
from service.wire.errors import WireError
from service.wire.events import MEDIA_TYPE, EventEncoding, decode_packet, decode_packets, encode_packet
from tests.service.harness import (
    PATIENCE_S,
    SENSOR,
    WINDOW_US,
    HttpSession,
    Result,
    Stream,
    hello,
    random_events,
    running_server,
    same,
)
from tests.service.mutations import framed, mutants

EVENTS = random_events(95, windows=3, per_window=40)
PACKETS = [
    encode_packet(EVENTS, SENSOR),
    encode_packet(EVENTS, SENSOR, encoding=EventEncoding.WIDE),
    encode_packet(EVENTS[:1], SENSOR),
    encode_packet(EVENTS[:0], SENSOR),
]
MESSAGES = [
    *(messages.encode_events(1, packet) for packet in PACKETS),
    messages.encode_advance(1, WINDOW_US),
    messages.encode_reset(1),
    messages.encode_flush(1),
    messages.encode_end(1),
    messages.encode_ack(1, 1, 16),
    messages.encode_goaway(1, "why"),
    messages.encode_result(1, {"window": 1}, b"mask"),
]


@schemathesis.serializer(MEDIA_TYPE, STATE_MEDIA_TYPE, "application/vnd.aedat4")
def serialize_binary(_context: object, value: object) -> bytes:
    """Whatever is drawn for a binary body."""
    data = getattr(value, "data", value)
    return data if isinstance(data, bytes) else str(data).encode(errors="replace")


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    """A server of its own, with room for what is left behind; its log must show no failure."""
    with running_server(max_sessions=5000, idle_seconds=20.0) as url:
        yield url


@pytest.fixture(autouse=True)
def victim(server: str) -> Iterator[None]:
    """Somebody else's stream on the same server, which must not notice anything."""
    first, second = EVENTS[:60], EVENTS[60:]
    with Stream(server) as stream:
        before = stream.events(first)
        yield
        after = stream.events(second) + stream.end()
    assert same(before + after, undisturbed(server))


def undisturbed(server: str) -> list[Result]:
    with Stream(server) as stream:
        return stream.events(EVENTS) + stream.end()


def test_100_000_damaged_packets_and_messages() -> None:
    refused = 0
    for data in mutants(PACKETS, 50_000, seed=1):
        try:
            decode_packet(data)
            decode_packets(data * 2, ordered=False)
        except WireError:
            refused += 1
    for data in mutants(MESSAGES, 50_000, seed=2):
        try:
            message = messages.decode_message(data)
            messages.decode_messages(data)
            decode: Any = {
                messages.MessageType.EVENTS: decode_packet,
                messages.MessageType.ADVANCE: messages.decode_advance,
                messages.MessageType.ACK: messages.decode_ack,
                messages.MessageType.GOAWAY: messages.decode_goaway,
                messages.MessageType.RESULT: messages.decode_result,
            }.get(message.type, len)
            decode(message.payload)
        except WireError:
            refused += 1
    assert 50_000 < refused < 100_000


def test_damaged_messages_over_the_websocket(server: str) -> None:
    address = server.replace("http", "ws", 1) + "/v1/stream"
    codes = set()
    sent = 0
    damaged = [*mutants(MESSAGES, 150, seed=3), *(framed(p, 1, 1) for p in mutants(PACKETS, 150, seed=4))]
    for data in damaged:
        with connect(address, compression=None, open_timeout=PATIENCE_S) as socket:
            socket.send(json.dumps(hello()))
            assert json.loads(socket.recv(PATIENCE_S))["type"] == "welcome"
            sent += 1
            try:
                socket.send(data)
                # What is no error is answered; in the end this one ends the session or is itself refused.
                socket.send(messages.encode_end(2))
                while True:
                    socket.recv(PATIENCE_S)
            except ConnectionClosed as closed:
                codes.add(closed.rcvd.code if closed.rcvd is not None else None)
    assert sent == len(damaged)
    assert codes <= {1000, 4413, 4422}
    assert 4422 in codes


def test_damaged_hellos(server: str) -> None:
    address = server.replace("http", "ws", 1) + "/v1/stream"
    with Stream(server) as stream:
        token = stream.token
    resume = {"type": "hello", "version": 1, "resume": token, "mask": "raw"}
    full = hello(
        gaps="leak",
        time={"reorder_us": 5},
        queue={"policy": "merge", "windows": 2},
        deadline_ms=5.0,
        filter={"hot_pixel": {"learn_us": 5, "sigma": 1.5, "min_rate_hz": 2}, "background_activity_us": 5},
    )
    seeds = [json.dumps(document).encode() for document in (hello(), full, resume)]
    codes = set()
    for data in mutants(seeds, 200, seed=5):
        with connect(address, compression=None, open_timeout=PATIENCE_S) as socket:
            socket.send(data.decode("utf-8", errors="replace"))
            try:
                assert json.loads(socket.recv(PATIENCE_S))["type"] in ("welcome", "error")
                socket.send(messages.encode_end(1))
                while True:
                    socket.recv(PATIENCE_S)
            except ConnectionClosed as closed:
                codes.add(closed.rcvd.code if closed.rcvd is not None else None)
    assert codes <= {1000, 4400, 4404, 4409, 4422}
    assert 4400 in codes


def test_damaged_bodies_over_http(server: str) -> None:
    with httpx.Client(base_url=server, timeout=PATIENCE_S) as http:
        session = HttpSession(http)
        statuses = set()
        events = b'{"t":[1,2],"x":[3,4],"y":[5,6],"p":[0,1]}'
        fields = json.dumps({"sensor": {"width": 64, "height": 48}}).encode()
        calls = [
            ("POST", "/v1/segment", MEDIA_TYPE, PACKETS),
            ("POST", f"{session.path}/events", MEDIA_TYPE, PACKETS),
            ("POST", "/v1/segment?width=64&height=48", "application/json", [events]),
            ("POST", "/v1/sessions", "application/json", [fields]),
        ]
        session.events(EVENTS)
        state = http.get(f"{session.path}/state").content
        calls.append(("PUT", f"{session.path}/state", STATE_MEDIA_TYPE, [state]))
        for number, (method, path, media_type, seeds) in enumerate(calls):
            for data in mutants(seeds, 60, seed=10 + number):
                answer = http.request(method, path, content=data, headers={"Content-Type": media_type})
                statuses.add(answer.status_code)
                assert answer.status_code < 500, (method, path, answer.text)
                if answer.status_code >= 400:
                    assert answer.json()["detail"]
        assert statuses <= {200, 201, 404, 413, 422}
        assert http.get(session.path).status_code == 200


def test_what_the_openapi_document_allows_never_fails_the_server(server: str) -> None:
    schema = schemathesis.openapi.from_url(f"{server}/openapi.json")
    operations = [found.ok() for found in schema.get_all_operations()]
    statuses: dict[str, set[int]] = {operation.label: set() for operation in operations}
    assert "POST /v1/sessions/{id}/events" in statuses
    for operation in operations:

        @given(case=operation.as_strategy())
        @settings(max_examples=8, deadline=None, database=None, suppress_health_check=list(HealthCheck))
        def check(case: schemathesis.Case) -> None:
            response = case.call(timeout=PATIENCE_S)
            statuses[case.operation.label].add(response.status_code)
            assert response.status_code < 500, (case.as_curl_command(), response.text)
            if response.status_code >= 400:
                assert "application/problem+json" in response.headers["content-type"]

        check()
    assert all(statuses.values())
