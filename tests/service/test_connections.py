"""What a connection may bring that is no request, in bytes and in time; no token is needed to try."""

from __future__ import annotations

import re
import socket
from contextlib import suppress

import pytest

from tests.service.harness import PATIENCE_S, metric

POST = b"POST /v1/segment HTTP/1.1\r\nHost: x\r\nContent-Type: application/vnd.spikeseg.events\r\n"
CHUNKED = POST + b"Transfer-Encoding: chunked\r\n\r\n"
HANDSHAKE = (
    b"GET /v1/stream HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
)


def until_closed(server: str, head: bytes, more: bytes = b"", most: int = 200 * 2**20) -> tuple[bytes, int]:
    """Send some bytes, then ``more`` again and again, until the server closes; its answer, and how much was sent."""
    host, port = server.removeprefix("http://").split(":")
    answer, sent = b"", 0
    with socket.create_connection((host, int(port)), timeout=PATIENCE_S) as plain:
        with suppress(ConnectionError):
            plain.sendall(head)
            while more and sent < most:
                plain.sendall(more)
                sent += len(more)
        with suppress(ConnectionError):
            while data := plain.recv(65_536):
                answer += data
    return answer, sent


@pytest.mark.parametrize(
    ("head", "more"),
    [
        (CHUNKED + b"0\r\n", b"a:b\r\n" * 10_000),
        (CHUNKED + b"0\r\na:", b"b" * 50_000),
        (CHUNKED + b"1;a=", b"b" * 50_000),
        (CHUNKED, b"1;aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa=b\r\nx\r\n" * 1_000),
        (b"GET / HTTP/1.1\r\nHost: x\r\na:", b"b" * 50_000),
        (b"GET / HTTP/1.1\r\nHost: x\r\n", b"a:b\r\n" * 10_000),
        (b"GET /", b"b" * 50_000),
    ],
    ids=["trailers", "a trailer", "a chunk extension", "chunk extensions", "a header", "headers", "a target"],
)
def test_what_is_no_body_is_bounded(server: str, head: bytes, more: bytes) -> None:
    before = metric(server, "process_resident_memory_bytes")
    _, sent = until_closed(server, head, more)
    assert sent < 20 * 2**20, "the connection is closed long before"
    assert metric(server, "process_resident_memory_bytes") - before < 50e6


@pytest.mark.parametrize(("size", "status"), [(60_000, b"404"), (120_000, b"431")])
def test_a_head_that_comes_at_once_has_the_same_limit(server: str, size: int, status: bytes) -> None:
    answer, _ = until_closed(
        server, b"GET /x HTTP/1.1\r\nHost: x\r\nConnection: close\r\na: " + b"b" * size + b"\r\n\r\n"
    )
    assert answer.startswith(b"HTTP/1.1 " + status)


@pytest.mark.parametrize("body", [b"Content-Length: 1\r\n", b"Transfer-Encoding: chunked\r\n"])
def test_a_handshake_that_announces_a_body_is_refused_at_once(server: str, body: bytes) -> None:
    answer, _ = until_closed(server, HANDSHAKE + body + b"\r\n")
    assert answer.startswith(b"HTTP/1.1 400")
    assert b"a WebSocket handshake has no body" in answer


def test_a_handshake_of_http_1_0_is_refused(server: str) -> None:
    answer, _ = until_closed(server, HANDSHAKE.replace(b"HTTP/1.1", b"HTTP/1.0") + b"\r\n")
    assert answer.startswith(b"HTTP/1.1 400")
    assert b"takes HTTP/1.1" in answer


def test_the_tail_of_a_body_is_not_the_head_of_the_next_request(server: str) -> None:
    body = bytes(1_000_000)
    post = POST.replace(b"events", b"unknown") + b"Content-Length: 1000000\r\n\r\n" + body
    answer, _ = until_closed(server, post * 3 + b"GET /v2/health/live HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
    assert re.findall(rb"HTTP/1\.1 (\d+)", answer) == [b"415"] * 3 + [b"200"]


def test_line_feeds_between_requests_do_not_keep_a_connection(server: str) -> None:
    answer, _ = until_closed(server, b"GET /v2/health/live HTTP/1.1\r\nHost: x\r\n\r\n\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 200")


def test_a_body_that_goes_on_after_the_refusal_ends_with_the_connection(strict_server: str) -> None:
    answer, sent = until_closed(strict_server, POST + b"Content-Length: 900000000\r\n\r\n", bytes(100_000))
    assert answer.startswith(b"HTTP/1.1 413") or not answer
    assert sent < 20 * 2**20
