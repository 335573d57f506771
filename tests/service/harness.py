"""A real server process, and small clients that speak the wire contract and nothing more."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self
from urllib.parse import urlsplit

import httpx
import numpy as np
from numpy.typing import NDArray
from prometheus_client.parser import text_string_to_metric_families
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection, connect

from models.events import EventBatch, SensorSize
from service.streaming.checkpoints import MEDIA_TYPE as STATE_MEDIA_TYPE
from service.wire import messages
from service.wire.events import MEDIA_TYPE, encode_packet
from service.wire.masks import MaskEncoding, decode_mask
from service.wire.messages import RESULTS_MEDIA_TYPE, MessageType

REPOSITORY = Path(__file__).resolve().parents[2]
SENSOR = SensorSize(64, 48)
WINDOW_US = 20_000
PATIENCE_S = 120.0


@contextlib.contextmanager
def running_server(
    before: Sequence[str] = (), *, verify: ssl.SSLContext | bool = True, **settings: object
) -> Iterator[str]:
    """Run ``python -m service`` on a free port; its address. It must end well when it is told to.

    ``before`` stands before the command: a program that sets limits and becomes the server. ``verify`` is how a server
    that does TLS is asked whether it is ready.
    """
    environment = {**os.environ, "SPIKESEG_PORT": "0", "PYTHONUNBUFFERED": "1"}
    environment |= {f"SPIKESEG_{name.upper()}": str(value) for name, value in settings.items()}
    process = subprocess.Popen(
        [*before, sys.executable, "-m", "service"],
        cwd=REPOSITORY,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stderr is not None
    log: list[str] = []
    reader = threading.Thread(target=log.extend, args=(process.stderr,), daemon=True)
    reader.start()
    try:
        url = process.stdout.readline().strip()
        assert url, f"the server did not start:\n{''.join(log)}"
        _wait_until_ready(url, verify)
        yield url
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            code = process.wait(PATIENCE_S)
        except subprocess.TimeoutExpired:
            process.kill()
            raise
        reader.join(PATIENCE_S)
        said = process.stdout.read()
        process.stdout.close()
        process.stderr.close()
    assert code == 0, f"exit code {code}:\n{''.join(log)}"
    assert said == "", "only the address belongs on standard output"
    assert "Traceback" not in "".join(log), "".join(log)


def _wait_until_ready(url: str, verify: ssl.SSLContext | bool) -> None:
    end = time.monotonic() + PATIENCE_S
    while time.monotonic() < end:
        with contextlib.suppress(httpx.TransportError):
            if httpx.get(f"{url}/v2/health/ready", verify=verify).status_code == 200:
                return
        time.sleep(0.05)
    raise AssertionError("the server did not become ready")


def metric(url: str, name: str) -> float:
    """One of a server's metrics, over all labels.

    Raises
    ------
    LookupError
        If it has none of that name.
    """
    families = text_string_to_metric_families(httpx.get(f"{url}/metrics", timeout=PATIENCE_S).text)
    values = [sample.value for family in families for sample in family.samples if sample.name == name]
    if not values:
        raise LookupError(f"{url}/metrics has no {name}")
    return float(sum(values))


def random_events(
    seed: int | tuple[int, int],
    *,
    windows: int = 4,
    per_window: int = 1500,
    start_us: int = 0,
    sensor: SensorSize = SENSOR,
    window_us: int = WINDOW_US,
) -> EventBatch:
    """Events all over the sensor, enough to make neurons fire; none in the last microsecond."""
    rng = np.random.default_rng(seed)
    n = windows * per_window
    return EventBatch(
        np.sort(rng.integers(start_us, start_us + windows * window_us - 1, n)),
        rng.integers(0, sensor.width, n).astype(np.uint16),
        rng.integers(0, sensor.height, n).astype(np.uint16),
        rng.integers(0, 2, n).astype(np.uint8),
    )


def make_events(*rows: tuple[int, int, int, int]) -> EventBatch:
    """Events from rows of t, x, y, p."""
    t, x, y, p = np.array(rows, np.int64).reshape(-1, 4).T
    return EventBatch(t.copy(), x.astype(np.uint16), y.astype(np.uint16), p.astype(np.uint8))


def split(events: EventBatch, cuts: Iterable[int]) -> list[EventBatch]:
    """The events cut before each of these indices."""
    edges = [0, *sorted(cuts), len(events)]
    return [events[a:b] for a, b in itertools.pairwise(edges)]


@dataclass(frozen=True)
class Result:
    """One answered window, but for what differs from run to run."""

    window: int
    t_start: int
    t_end: int
    events: int
    mask: NDArray[np.uint8]
    activity: dict[str, Any] | None
    metadata: dict[str, Any]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Result) and self.key == other.key

    @property
    def key(self) -> tuple[Any, ...]:
        """Everything that must be the same however the stream is sent, membranes included by way of the spikes."""
        activity = json.dumps(self.activity, sort_keys=True)
        return self.window, self.t_start, self.t_end, self.events, self.mask.shape, self.mask.tobytes(), activity


def read_result(payload: bytes | memoryview) -> Result:
    """A ``RESULT`` message's payload."""
    metadata, data = messages.decode_result(payload)
    return as_result(metadata, data)


def as_result(metadata: dict[str, Any], data: bytes) -> Result:
    """A result's metadata and encoded mask."""
    about = metadata["mask"]
    assert about["bytes"] == len(data)
    mask = decode_mask(data, MaskEncoding(about["encoding"]), about["width"], about["height"])
    return Result(
        metadata["window"],
        metadata["t_start"],
        metadata["t_end"],
        metadata["events"],
        mask,
        metadata.get("activity"),
        metadata,
    )


def hello(**changes: Any) -> dict[str, Any]:
    """A valid hello, changed."""
    fields: dict[str, Any] = {
        "type": "hello",
        "version": 1,
        "sensor": {"width": SENSOR.width, "height": SENSOR.height},
        "window": {"us": WINDOW_US},
    }
    return {**fields, **changes}


class RefusedError(Exception):
    """The server has closed the connection."""

    def __init__(self, code: int, reason: str, problem: dict[str, Any] | None) -> None:
        super().__init__(code, reason, problem)
        self.code = code
        self.reason = reason
        self.problem = problem


class Stream:
    """One WebSocket connection; ``greet`` is the hello, text or not.

    With ``narrow`` it takes from the network only what is asked for, but for some kilobytes. What else the handshake
    has, such as ``additional_headers``, goes to the client library as it is.
    """

    def __init__(
        self,
        server: str,
        greet: dict[str, Any] | str | bytes | None = None,
        *,
        session: str | None = None,
        narrow: bool = False,
        **handshake: Any,
    ) -> None:
        self._closing = contextlib.ExitStack()
        address = server.replace("http", "ws", 1) + "/v1/stream"
        if session is not None:
            address += f"?session={session}"
        self.socket: ClientConnection = self._closing.enter_context(
            connect(
                address,
                sock=_narrow_socket(server) if narrow else None,
                compression=None,
                max_size=None,
                max_queue=1 if narrow else 16,
                open_timeout=PATIENCE_S,
                ping_interval=None,
                **handshake,
            )
        )
        greet = hello() if greet is None else greet
        self.socket.send(json.dumps(greet) if isinstance(greet, dict) else greet)
        self.welcome: dict[str, Any] = json.loads(self._receive())
        self.sequence: int = self.welcome["next_sequence"]
        self.acked: int = self.welcome["acked"]

    @classmethod
    def resume(cls, server: str, token: str, **fields: Any) -> Self:
        """Take up an earlier session."""
        return cls(server, {"type": "hello", "version": 1, "resume": token, **fields})

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._closing.close()

    @property
    def token(self) -> str:
        """What the session is resumed with."""
        return str(self.welcome["resume"])

    def events(self, events: EventBatch, sensor: SensorSize = SENSOR) -> list[Result]:
        """Send events; the results up to the acknowledgement."""
        return self.call(lambda n: messages.encode_events(n, encode_packet(events, sensor)))

    def advance(self, until_us: int) -> list[Result]:
        """Say that everything before a time has been sent."""
        return self.call(lambda n: messages.encode_advance(n, until_us))

    def reset(self) -> list[Result]:
        """Membranes to rest."""
        return self.call(messages.encode_reset)

    def flush(self) -> list[Result]:
        """Have the open window answered."""
        return self.call(messages.encode_flush)

    def end(self) -> list[Result]:
        """End the session."""
        return self.call(messages.encode_end)

    def call(self, encode: Callable[[int], bytes]) -> list[Result]:
        """Send the next message and read its results."""
        sequence = self.sequence
        self.socket.send(encode(sequence))
        self.sequence += 1
        return self.answer(sequence)

    def answer(self, sequence: int) -> list[Result]:
        """Results up to the acknowledgement of a message."""
        results: list[Result] = []
        while True:
            message = self.message()
            if message.type is MessageType.ACK:
                ack = messages.decode_ack(message.payload)
                self.acked = ack.acked
                if message.sequence < sequence:
                    # Word of what reached the state store since.
                    continue
                assert message.sequence == sequence
                return results
            assert message.type is MessageType.RESULT
            results.append(read_result(message.payload))
            assert results[-1].window == message.sequence

    def message(self) -> messages.Message:
        """The next binary message."""
        data = self._receive()
        assert isinstance(data, bytes)
        return messages.decode_message(data)

    def refusal(self) -> RefusedError:
        """Why the server closes the connection; it must."""
        try:
            data = self._receive()
        except RefusedError as refused:
            return refused
        raise AssertionError(f"not refused but answered: {data[:200]!r}")

    def drop(self) -> None:
        """Break the connection without a word."""
        self.socket.socket.close()

    def _receive(self) -> str | bytes:
        problem = None
        try:
            data = self.socket.recv(timeout=PATIENCE_S)
            if not isinstance(data, str) or json.loads(data)["type"] != "error":
                return data
            problem = json.loads(data)
            self.socket.recv(timeout=PATIENCE_S)
        except ConnectionClosed as closed:
            if closed.rcvd is None:
                raise AssertionError("the server went away without a close frame") from None
            raise RefusedError(closed.rcvd.code, closed.rcvd.reason, problem) from None
        raise AssertionError("an error that is not followed by a close")


def _narrow_socket(server: str) -> socket.socket:
    parts = urlsplit(server)
    narrow = socket.socket()
    narrow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    narrow.connect((parts.hostname or "", parts.port or 0))
    return narrow


class HttpSession:
    """A session over HTTP."""

    def __init__(self, http: httpx.Client, *, snapshot: bytes | None = None, **fields: Any) -> None:
        self.http = http
        body = {"sensor": {"width": SENSOR.width, "height": SENSOR.height}, "window": {"us": WINDOW_US}, **fields}
        if snapshot is None:
            response = http.post("/v1/sessions", json=body)
        else:
            response = http.post("/v1/sessions", content=snapshot, headers={"Content-Type": STATE_MEDIA_TYPE})
        assert response.status_code == 201, response.text
        self.fields: dict[str, Any] = response.json()
        self.path = f"/v1/sessions/{self.fields['session']}"

    def events(self, events: EventBatch, sensor: SensorSize = SENSOR, **query: Any) -> list[Result]:
        """Send events; the results."""
        return self.post(encode_packet(events, sensor), **query)

    def post(self, body: bytes, **query: Any) -> list[Result]:
        """Send a body of packets; the results."""
        response = self.http.post(
            f"{self.path}/events",
            params=query,
            content=body,
            headers={"Content-Type": MEDIA_TYPE, "Accept": RESULTS_MEDIA_TYPE},
        )
        assert response.status_code == 200, response.text
        return [read_result(message.payload) for message in messages.decode_messages(response.content)]

    def advance(self, until_us: int) -> list[Result]:
        """Say that everything before a time has been sent."""
        response = self.http.post(
            f"{self.path}/events", params={"until_us": until_us}, headers={"Accept": RESULTS_MEDIA_TYPE}
        )
        assert response.status_code == 200, response.text
        return [read_result(message.payload) for message in messages.decode_messages(response.content)]

    def state(self) -> dict[str, Any]:
        """How the session stands."""
        response = self.http.get(self.path)
        assert response.status_code == 200, response.text
        document: dict[str, Any] = response.json()
        return document


def one_connection(server: str, events: EventBatch, until_us: int, **fields: Any) -> list[Result]:
    """The answers to a stream that is sent as one message over a fresh session."""
    with Stream(server, hello(**fields)) as stream:
        return stream.events(events) + stream.advance(until_us)


def problem_of(response: httpx.Response, status: int) -> dict[str, Any]:
    """The problem document of a refused request, checked for what every one must have."""
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/problem+json"
    document: dict[str, Any] = response.json()
    assert document["status"] == status
    assert document["type"].startswith("urn:spikeseg:problem:")
    assert document["title"]
    assert document["detail"]
    for error in document.get("errors", []):
        assert set(error) == {"field", "message"}
    return document


def same(left: Sequence[Result], right: Sequence[Result]) -> bool:
    """Whether two runs gave the same windows, masks and spikes, bit for bit."""
    return [result.key for result in left] == [result.key for result in right]
