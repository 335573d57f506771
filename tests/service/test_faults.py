"""Clients that misbehave, networks that vanish, clocks that jump, and a machine that has run out of something."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import numpy as np
import pytest
from redis import Redis
from websockets.exceptions import InvalidStatus
from websockets.frames import Frame, Opcode
from websockets.sync.client import connect

from clients import Client
from models.events import SensorSize
from service.protocols import MAX_FRAGMENTS, MAX_HEAD_BYTES
from service.wire import messages
from service.wire.aedat4 import write_aedat4
from service.wire.events import MEDIA_TYPE, encode_packet
from tests.clients.cutting_proxy import Cut, CuttingProxy
from tests.service.harness import (
    PATIENCE_S,
    SENSOR,
    WINDOW_US,
    HttpSession,
    RefusedError,
    Stream,
    hello,
    metric,
    one_connection,
    problem_of,
    random_events,
    running_server,
    same,
)
from tests.service.real_servers import running_redis

MAX_CONNECTIONS = 20
MOST_WINDOWS = 256
PONG_SECONDS = 2
EVENTS = random_events(61, windows=4, per_window=500)
END_US = 4 * WINDOW_US
# A mask of almost a megabyte, and not much to compute.
WIDE = SensorSize(1280, 720)
WIDE_HELLO = {"sensor": {"width": WIDE.width, "height": WIDE.height}, "mask": "raw"}
WIDE_WINDOWS = 20
HUGE_FAKETIME = 30 * 86_400


@pytest.fixture(scope="module")
def impatient() -> Iterator[str]:
    """Address of a server that does not wait for long."""
    with running_server(
        send_seconds=2,
        head_seconds=2,
        hello_seconds=3,
        ping_seconds=0.5,
        pong_seconds=PONG_SECONDS,
        queue_messages=4,
        max_connections=MAX_CONNECTIONS,
    ) as url:
        yield url


@pytest.fixture(scope="module")
def reference(impatient: str) -> list[Any]:
    """The answers to ``EVENTS``."""
    return one_connection(impatient, EVENTS, END_US)


def wait_until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < end, "it never came true"
        time.sleep(0.05)


def wait_for_no_connections(url: str) -> None:
    wait_until(lambda: metric(url, "spikeseg_connections") == 0)


def memory_mb(url: str) -> float:
    return metric(url, "process_resident_memory_bytes") / 1e6


def stands_still(url: str) -> bool:
    """Whether no window is computed for a while."""
    before = metric(url, "spikeseg_batch_rows_sum")
    time.sleep(0.7)
    return 0 < metric(url, "spikeseg_batch_rows_sum") == before


def plain_connection(url: str) -> socket.socket:
    parts = urlsplit(url)
    return socket.create_connection((parts.hostname or "", parts.port or 0), timeout=PATIENCE_S)


def read_all(plain: socket.socket) -> bytes:
    """What comes until the other side closes, in good order or not."""
    found = b""
    try:
        while data := plain.recv(65_536):
            found += data
    except ConnectionResetError:
        pass
    return found


def accepts(url: str) -> bool:
    """Whether a new connection gets an answer."""
    try:
        return httpx.get(f"{url}/v2/health/live", timeout=PATIENCE_S).status_code == 200
    except httpx.TransportError:
        return False


def is_served(url: str, reference: list[Any]) -> bool:
    return same(one_connection(url, EVENTS, END_US), reference)


# Slow readers


def test_a_client_that_stops_reading_is_closed_with_a_code_and_loses_nothing(
    impatient: str, reference: list[Any]
) -> None:
    until_us = WIDE_WINDOWS * WINDOW_US
    with Stream(impatient, hello(**WIDE_HELLO)) as other:
        events = random_events(62, windows=1, sensor=WIDE)
        expected = other.events(events, WIDE) + other.advance(until_us)
        other.end()
    assert len(expected) == WIDE_WINDOWS
    before_mb = memory_mb(impatient)
    with Stream(impatient, hello(**WIDE_HELLO), narrow=True) as slow:
        assert slow.events(events, WIDE) == []
        slow.socket.send(messages.encode_advance(2, until_us))
        assert is_served(impatient, reference)
        wait_for_no_connections(impatient)
        # Answers wait in the session, a few megabytes of them, not all in the socket's queue.
        assert memory_mb(impatient) < before_mb + 60
        found: list[messages.Message] = []
        with pytest.raises(RefusedError) as caught:
            found.extend(iter(slow.message, None))
        assert caught.value.code == 4408
        assert 0 < len(found) < WIDE_WINDOWS
    with Stream.resume(impatient, slow.token) as resumed:
        assert resumed.sequence == 2
        assert same(resumed.advance(until_us), expected)
        resumed.end()


def test_a_client_that_breaks_the_protocol_while_it_does_not_read(impatient: str) -> None:
    """Its messages wait, so that the session hears of it late."""
    with Stream(impatient, hello(**WIDE_HELLO), narrow=True) as slow:
        slow.events(random_events(62, windows=1, sensor=WIDE), WIDE)
        for number in range(2, 8):
            slow.socket.send(messages.encode_advance(number, (number - 1) * WIDE_WINDOWS * WINDOW_US))
        wait_until(lambda: stands_still(impatient))
        slow.socket.socket.sendall(b"\xff" * 16)
        wait_for_no_connections(impatient)
    with Stream.resume(impatient, slow.token) as resumed:
        assert resumed.sequence == 2
        resumed.end()


def test_clients_that_never_read_again_are_dropped_with_all_that_they_hold(
    impatient: str, reference: list[Any]
) -> None:
    """Over the WebSocket, and over HTTP, where the whole answer waits to be sent."""
    with httpx.Client(base_url=impatient, timeout=PATIENCE_S) as http:
        session = HttpSession(http, **WIDE_HELLO)
        session.events(random_events(62, windows=1, sensor=WIDE), WIDE)
        open_before = metric(impatient, "process_open_fds")
        with Stream(impatient, hello(**WIDE_HELLO), narrow=True) as slow, socket.socket() as deaf:
            slow.events(random_events(62, windows=1, sensor=WIDE), WIDE)
            slow.socket.send(messages.encode_advance(2, WIDE_WINDOWS * WINDOW_US))
            deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            deaf.connect((urlsplit(impatient).hostname or "", urlsplit(impatient).port or 0))
            path = f"{session.path}/events?until_us={WIDE_WINDOWS * WINDOW_US}"
            deaf.sendall(f"POST {path} HTTP/1.1\r\nHost: x\r\nAccept: {messages.RESULTS_MEDIA_TYPE}\r\n\r\n".encode())
            wait_until(lambda: session.state()["next_window"] == WIDE_WINDOWS)
            assert metric(impatient, "process_open_fds") >= open_before + 2
            # Seven seconds: for so long the system lets data wait that nobody takes.
            wait_until(lambda: metric(impatient, "process_open_fds") <= open_before)
            assert is_served(impatient, reference)


# Networks that are gone without a word


def test_a_connection_that_is_half_open_is_found_and_its_session_goes_on(impatient: str) -> None:
    whole = one_connection(impatient, EVENTS, END_US)
    first, rest = EVENTS[:700], EVENTS[700:]
    wait_for_no_connections(impatient)
    with CuttingProxy(impatient, [Cut("up", 8_000, stall=True)]) as proxy:
        with Stream(proxy.url) as stream:
            results = stream.events(first)
            # The proxy swallows some of these, and whatever comes after them, pongs too.
            stream.socket.send(messages.encode_events(2, encode_packet(rest, SENSOR)))
            wait_for_no_connections(impatient)
            assert metric(impatient, "spikeseg_sessions_active") >= 1
        with Stream.resume(proxy.url, stream.token) as resumed:
            assert resumed.sequence == 2
            results += resumed.events(rest) + resumed.advance(END_US)
            resumed.end()
    assert same(results, whole)


def test_the_python_client_takes_up_a_session_that_was_given_up(impatient: str, reference: list[Any]) -> None:
    with CuttingProxy(impatient, [Cut("up", 8_000, stall=True)]) as proxy, Client(proxy.url) as client:
        with client.stream(quarters(), SENSOR, window_us=WINDOW_US) as stream:
            results = list(stream)
        assert stream.reconnects == 1
    assert [result.window for result in results] == [result.window for result in reference]
    for result, expected in zip(results, reference, strict=True):
        assert np.array_equal(result.mask, expected.mask)


def test_a_client_whose_pongs_wait_behind_its_messages_is_not_taken_for_gone(impatient: str) -> None:
    """The server reads on only when it has answered: for longer than it waits for a pong."""
    camera = SensorSize(346, 260)
    # A network by the paper's protocol takes its time for every window.
    greeting = hello(sensor={"width": camera.width, "height": camera.height}, model="paper-deeplab")
    with Stream(impatient, greeting) as stream:
        stream.events(random_events(63, windows=1, sensor=camera), camera)
        number, until, windows, took = 2, 0, 8, 0.0
        # As many windows as it takes on this machine.
        while took < 2 * PONG_SECONDS:
            windows = min(2 * windows, MOST_WINDOWS)
            begun = time.monotonic()
            for _ in range(2):
                until += windows * WINDOW_US
                stream.socket.send(messages.encode_advance(number, until))
                number += 1
            answered = sum(len(stream.answer(earlier)) for earlier in (number - 2, number - 1))
            assert answered == 2 * windows
            took = time.monotonic() - begun
            if windows == MOST_WINDOWS and took < 2 * PONG_SECONDS:
                pytest.skip("this machine answers as much as a message may ask for in less than it waits for a pong")
        stream.sequence = number
        stream.end()


# Floods


def test_connections_that_say_nothing_are_closed_and_others_served(impatient: str, reference: list[Any]) -> None:
    with ExitStack() as stack:
        silent = [stack.enter_context(plain_connection(impatient)) for _ in range(200)]
        assert is_served(impatient, reference)
        assert [read_all(connection) for connection in silent] == [b""] * len(silent)


def test_a_head_that_trickles_in_is_given_up(impatient: str) -> None:
    with plain_connection(impatient) as slow:
        slow.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n")
        answer = read_all(slow)
    assert answer.startswith(b"HTTP/1.1 408 ")
    assert b"application/problem+json" in answer
    with httpx.Client(base_url=impatient) as http, plain_connection(impatient) as second:
        # So is the head of a later request over the same connection, and not that of one that has an answer.
        assert http.get("/v2/health/live").status_code == 200
        second.sendall(b"GET /v2/health/live HTTP/1.1\r\nHost: x\r\n\r\n")
        assert second.recv(65_536).startswith(b"HTTP/1.1 200")
        second.sendall(b"GET / HT")
        assert b"HTTP/1.1 408 " in read_all(second)


def test_a_head_without_end_is_refused(impatient: str) -> None:
    with plain_connection(impatient) as endless:
        endless.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n" + b"a: b\r\n" * (MAX_HEAD_BYTES // 6))
        answer = read_all(endless)
    assert answer.startswith(b"HTTP/1.1 431 ")
    assert b"urn:spikeseg:problem:head-too-large" in answer


def test_what_is_no_http_is_answered_with_a_problem(impatient: str) -> None:
    with plain_connection(impatient) as strange:
        strange.sendall(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n")
        answer = read_all(strange)
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert b"urn:spikeseg:problem:bad-request" in answer


def test_a_flood_of_handshakes_is_answered_with_429(impatient: str, reference: list[Any]) -> None:
    address = impatient.replace("http", "ws", 1) + "/v1/stream"
    wait_for_no_connections(impatient)
    with ExitStack() as stack:
        held = stack.enter_context(Stream(impatient))
        results = held.events(EVENTS[:700])
        accepted, refused = [], []
        for _ in range(2 * MAX_CONNECTIONS):
            try:
                accepted.append(stack.enter_context(connect(address, ping_interval=None)))
            except InvalidStatus as answer:
                refused.append(answer.response)
        assert (len(accepted), len(refused)) == (MAX_CONNECTIONS - 1, MAX_CONNECTIONS + 1)
        for response in refused:
            assert response.status_code == 429
            assert int(response.headers["Retry-After"]) > 0
            assert json.loads(response.body or b"")["type"] == "urn:spikeseg:problem:capacity"
        results += held.events(EVENTS[700:]) + held.advance(END_US)
        assert same(results, reference)
        held.end()
        # Those that never say hello make room for others.
        for connection in accepted:
            assert json.loads(connection.recv(timeout=PATIENCE_S))["code"] == 4408
    assert is_served(impatient, reference)


def test_a_flood_of_tiny_messages_holds_nobody_up(impatient: str, reference: list[Any]) -> None:
    count = 3000
    with Stream(impatient, narrow=True) as flooding:

        def send() -> None:
            for number in range(1, count + 1):
                flooding.socket.send(messages.encode_advance(number, 1))

        sender = threading.Thread(target=send)
        sender.start()
        assert is_served(impatient, reference)
        for number in range(1, count + 1):
            assert flooding.answer(number) == []
        sender.join()
        flooding.sequence = count + 1
        flooding.end()


def test_a_flood_of_pings_whose_pongs_nobody_reads_takes_no_memory(impatient: str, reference: list[Any]) -> None:
    ping = Frame(Opcode.PING, b"p" * 125).serialize(mask=True)
    greet = Frame(Opcode.TEXT, json.dumps(hello()).encode()).serialize(mask=True)
    before_mb = memory_mb(impatient)
    with socket.socket() as flooding:
        flooding.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        flooding.connect((urlsplit(impatient).hostname or "", urlsplit(impatient).port or 0))
        flooding.sendall(
            b"GET /v1/stream HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
        )
        assert flooding.recv(1024).startswith(b"HTTP/1.1 101 ")
        flooding.sendall(greet)
        for _ in range(250):
            flooding.sendall(ping * 1000)
        assert memory_mb(impatient) < before_mb + 20
        assert is_served(impatient, reference)


def test_a_message_in_countless_fragments_is_refused(impatient: str) -> None:
    with Stream(impatient) as stream:
        plain = stream.socket.socket
        plain.sendall(Frame(Opcode.BINARY, b"", fin=False).serialize(mask=True))
        plain.sendall(Frame(Opcode.CONT, b"", fin=False).serialize(mask=True) * MAX_FRAGMENTS)
        assert stream.refusal().code == 1009
    with Stream.resume(impatient, stream.token) as resumed:
        assert resumed.sequence == 1


def test_a_flood_of_requests_is_answered_and_streams_go_on(impatient: str, reference: list[Any]) -> None:
    packet = encode_packet(EVENTS[:400], SENSOR)

    def ask(index: int) -> int:
        with httpx.Client(base_url=impatient, timeout=PATIENCE_S) as http:
            if index % 2:
                return http.post("/v1/segment", content=b"junk", headers={"Content-Type": MEDIA_TYPE}).status_code
            return http.post("/v1/segment", content=packet, headers={"Content-Type": MEDIA_TYPE}).status_code

    with ThreadPoolExecutor(16) as pool:
        statuses = pool.map(ask, range(120))
        assert is_served(impatient, reference)
        assert list(statuses) == [200, 422] * 60


# Clocks


def test_a_wall_clock_that_jumps_ends_no_session(tmp_path: Path) -> None:
    library = find_faketime()
    clock = tmp_path / "clock"
    clock.write_text("+0\n")
    faked = {
        "LD_PRELOAD": str(library),
        "FAKETIME_TIMESTAMP_FILE": str(clock),
        "FAKETIME_NO_CACHE": "1",
        "DONT_FAKE_MONOTONIC": "1",
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
    }
    before = ["env", *(f"{name}={value}" for name, value in faked.items())]
    with running_server(before, reap_seconds=0.05, lifetime_seconds=3600, idle_seconds=60) as url:
        whole = one_connection(url, EVENTS, END_US)
        with Stream(url) as stream, httpx.Client(base_url=url, timeout=PATIENCE_S) as http:
            other = HttpSession(http)
            results, others = [], []
            for jump, part in zip((0, HUGE_FAKETIME, -HUGE_FAKETIME, 0), quarters(), strict=True):
                clock.write_text(f"{jump:+d}\n")
                date = http.get("/v2/health/live").headers["date"]
                # The server has seen the jump, and has looked for sessions that are too old.
                wait_until(lambda date=date: http.get("/v2/health/live").headers["date"] != date)
                time.sleep(0.2)
                results += stream.events(part)
                others += other.events(part)
            stream.drop()
            with Stream.resume(url, stream.token) as resumed:
                results += resumed.advance(END_US)
            others += other.advance(END_US)
    assert same(results, whole)
    assert same(others, whole)


def quarters() -> list[Any]:
    return [EVENTS[begin : begin + 500] for begin in range(0, 2000, 500)]


def find_faketime() -> Path:
    found = list(Path("/usr/lib").glob("*/faketime/libfaketime.so.1"))
    if not found:
        pytest.skip("libfaketime is not installed (Debian: faketime)")
    return found[0]


# A machine that has run out of something


@pytest.fixture(scope="module")
def recording(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("recording") / "some.aedat4"
    write_aedat4(path, random_events(64, windows=4, per_window=20_000), SENSOR, compression="none")
    data = path.read_bytes()
    assert len(data) > 2**20
    return data


@contextmanager
def full_disk(folder: Path) -> Iterator[list[str]]:
    """A disk of a few kilobytes for temporary files."""
    if os.geteuid() != 0:
        pytest.skip("only root can mount a small disk")
    mounting = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", folder], capture_output=True)
    if mounting.returncode:
        pytest.skip("a disk cannot be mounted here")
    try:
        yield ["env", f"TMPDIR={folder}"]
    finally:
        subprocess.run(["umount", folder], check=True)


@contextmanager
def small_files(_: Path) -> Iterator[list[str]]:
    """No file may be larger than some kilobytes, as under a quota."""
    yield [find_prlimit(), "--fsize=65536"]


def find_prlimit() -> str:
    found = shutil.which("prlimit")
    if found is None:
        pytest.skip("prlimit is not installed (Debian: util-linux)")
    return found


@pytest.mark.parametrize("limit", [full_disk, small_files])
def test_a_full_disk_is_told_and_streams_go_on(
    limit: Callable[[Path], Any], tmp_path: Path, recording: bytes, reference: list[Any]
) -> None:
    headers = {"Content-Type": "application/vnd.aedat4"}
    with limit(tmp_path) as before, running_server(before) as url, httpx.Client(base_url=url) as http:
        for path in ("/v1/recordings", "/v1/segment", "/v1/recordings"):
            response = http.post(path, content=recording, headers=headers, timeout=PATIENCE_S)
            document = problem_of(response, 507)
            assert document["type"] == "urn:spikeseg:problem:storage-full"
            assert int(response.headers["retry-after"]) > 0
        assert list(tmp_path.glob("aedat4-*")) == []
        assert is_served(url, reference)


def test_no_file_descriptors_left_is_told_and_gets_better(recording: bytes, reference: list[Any]) -> None:
    headers = {"Content-Type": "application/vnd.aedat4"}
    with (
        running_server([find_prlimit(), "--nofile=64"]) as url,
        httpx.Client(base_url=url, timeout=PATIENCE_S) as http,
        Stream(url) as stream,
    ):
        results = stream.events(EVENTS[:700])
        assert http.get("/v2/health/live").status_code == 200
        with ExitStack() as stack:
            crowd = [stack.enter_context(plain_connection(url)) for _ in range(100)]
            # What is open goes on.
            results += stream.events(EVENTS[700:]) + stream.advance(END_US)
            response = http.post("/v1/recordings", content=recording, headers=headers)
            problem_of(response, 503)
            assert int(response.headers["retry-after"]) > 0
        assert len(crowd) == 100
        wait_until(lambda: accepts(url))
        assert is_served(url, reference)
        assert http.post("/v1/recordings", content=recording, headers=headers).status_code == 200
    assert same(results, reference)


# A store that is slow


def test_a_session_that_is_deleted_while_a_checkpoint_is_under_way_stays_deleted(tmp_path: Path) -> None:
    with (
        running_redis(tmp_path) as redis,
        running_server(store_url=redis.url, checkpoint_seconds=0, store_seconds=30) as url,
        httpx.Client(base_url=url, timeout=PATIENCE_S) as http,
        Redis.from_url(redis.url) as store,
    ):
        with Stream(url) as stream:
            stream.events(EVENTS[:700])
            wait_until(lambda: metric(url, "spikeseg_checkpoint_seconds_count") >= 1)
            redis.freeze()
            stream.events(EVENTS[700:1400])
            stream.drop()
        wait_for_no_connections(url)
        session = f"/v1/sessions/{stream.welcome['session']}"
        with ThreadPoolExecutor(1) as pool:
            deleting = pool.submit(http.delete, session)
            time.sleep(0.5)
            assert not deleting.done()
            redis.thaw()
            assert deleting.result().status_code == 204
        problem_of(http.get(session), 404)
        with pytest.raises(RefusedError) as caught:
            Stream.resume(url, stream.token)
        assert caught.value.code == 4404
        [key] = store.keys("spikeseg:*")
        assert store.hexists(key, "data") == 0
        assert metric(url, "spikeseg_state_bytes") == 0
