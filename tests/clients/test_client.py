"""The client against the real server, over connections that hold and connections that do not."""

from __future__ import annotations

import http.server
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Iterator
from typing import Any, TypeVar

import httpx
import numpy as np
import pytest

from clients import Advance, Client, FrameOptions, Result, ResultStream, Retries, StreamOptions, stream_protocol
from clients.cutting import cut, regroup
from clients.errors import (
    CapacityError,
    ClientError,
    ConnectError,
    ConnectionLostError,
    HelloError,
    InputError,
    ProtocolError,
    ServiceError,
    SessionInUseError,
    TimeJumpError,
    TimeOrderError,
    UnknownModelError,
    UnknownSessionError,
    from_close,
    from_problem,
)
from models.classes import DDD17_CLASSES
from models.events import EventBatch, SensorSize
from service import errors as service_errors
from tests.clients.cutting_proxy import Cut, CuttingProxy, Direction
from tests.service.harness import (
    PATIENCE_S,
    REPOSITORY,
    SENSOR,
    WINDOW_US,
    Stream,
    make_events,
    one_connection,
    random_events,
    split,
)

WINDOWS = 4
BATCH = 500


@pytest.fixture(scope="module")
def events() -> EventBatch:
    return random_events(7, windows=WINDOWS, start_us=1_000_000)


@pytest.fixture(scope="module")
def undisturbed(server: str, events: EventBatch) -> list[Result]:
    """What the events are answered with when nothing goes wrong."""
    with Client(server, timeout=PATIENCE_S) as client:
        return list(client.stream(batches_of(events), SENSOR, window_us=WINDOW_US))


def batches_of(events: EventBatch) -> list[EventBatch]:
    """The events in parts that keep to no window."""
    return split(events, range(BATCH, len(events), BATCH))


def assert_same(results: Iterable[Result], expected: Iterable[Result]) -> None:
    """Every window once, in order, with the same mask and the same spikes, bit for bit."""
    found, wanted = list(results), list(expected)
    assert [result.window for result in found] == [result.window for result in wanted]
    for left, right in zip(found, wanted, strict=True):
        assert (left.t_start, left.t_end, left.events) == (right.t_start, right.t_end, right.events)
        np.testing.assert_array_equal(left.mask, right.mask)
        assert left.activity == right.activity
        assert left.class_share == right.class_share


@pytest.fixture(scope="module")
def traffic(server: str, events: EventBatch) -> dict[Direction, int]:
    """Bytes that pass each way when nothing goes wrong."""
    with CuttingProxy(server, []) as proxy, Client(proxy.url, timeout=PATIENCE_S) as client:
        list(client.stream(batches_of(events), SENSOR, window_us=WINDOW_US))
        return dict(proxy.passed)


E = TypeVar("E", bound=ClientError)


def results_until(error: type[E], stream: ResultStream) -> tuple[list[Result], E]:
    """What a stream gives before it fails, and how it does."""
    results: list[Result] = []
    try:
        for result in stream:
            results.append(result)  # noqa: PERF402 those before the error are wanted
    except error as caught:
        return results, caught
    raise AssertionError("the stream did not fail")


def assert_over(server: str, stream: ResultStream) -> None:
    """The server no longer keeps the stream's session, so that there is room for others."""
    assert httpx.get(f"{server}/v1/sessions/{stream.session.id}").status_code == 404


def test_models(client: Client) -> None:
    models = client.models()
    [model] = [model for model in models if model.default]
    assert model.name == "edge-s"
    assert model.classes == DDD17_CLASSES
    assert model.unlabelled == 255
    assert model.window_us > 0


def test_segment(client: Client, events: EventBatch, undisturbed: list[Result]) -> None:
    result = client.segment(events, SENSOR, window_us=WINDOW_US)
    assert result.mask.shape == (SENSOR.height, SENSOR.width)
    assert result.mask.dtype == np.uint8
    assert_same([result], undisturbed[-1:])
    assert result.latency.total_ms >= result.latency.compute_ms > 0


@pytest.mark.parametrize("mask", ["zlib", "raw", "png"])
def test_stream_is_the_same_however_it_is_sent(
    client: Client, server: str, events: EventBatch, undisturbed: list[Result], mask: str
) -> None:
    assert [result.window for result in undisturbed] == list(range(WINDOWS))
    with client.stream([events], SENSOR, window_us=WINDOW_US, mask=mask) as stream:  # type: ignore[arg-type]
        assert_same(stream, undisturbed)
        assert stream.reconnects == 0
        with pytest.raises(StopIteration):
            next(stream)
    reference = one_connection(server, events, int(undisturbed[-1].t_end))
    for result, expected in zip(undisturbed, reference, strict=True):
        np.testing.assert_array_equal(result.mask, expected.mask)
        assert result.activity is not None
        assert expected.activity is not None
        assert result.activity.sops == expected.activity["sops"]
        assert [layer.spikes for layer in result.activity.layers] == [
            layer["spikes"] for layer in expected.activity["layers"]
        ]


@pytest.mark.parametrize(
    ("source", "sensor", "options", "message"),
    [
        (make_events((1, 1, 1, 1)), SENSOR, None, "an iterable of batches, .*not a single EventBatch"),
        ("street.aedat4", SENSOR, None, "as open_source gives one, not a single str"),
        ([], None, None, "give the sensor's size"),
        ([], (64, 48), None, r"is a SensorSize\(width, height\), not \(64, 48\)"),
        ([], SENSOR, FrameOptions(), "options are StreamOptions"),
        ([], SENSOR, StreamOptions(frames=True), "its frames are FrameOptions"),  # type: ignore[arg-type]
    ],
)
def test_arguments_of_another_kind_are_told_apart_before_a_session_is_opened(
    client: Client, source: Any, sensor: Any, options: Any, message: str
) -> None:
    with pytest.raises(InputError, match=message):
        client.stream(source, sensor, options=options)


@pytest.mark.parametrize(
    ("field", "values", "message"),
    [
        ("x", np.array([1, -1]), r"x\[1\] = -1 is outside the 64x48 sensor"),
        ("p", np.array([1, -1]), r"p\[1\] = -1 is neither 0 \(OFF\) nor 1 \(ON\)"),
        ("t", np.array([1.0, 2.0]), "t is of float64, not of integers"),
    ],
)
def test_columns_of_other_types_never_become_other_numbers(
    client: Client, field: str, values: Any, message: str
) -> None:
    columns: dict[str, Any] = {name: np.array([0, 1]) for name in ("t", "x", "y", "p")} | {field: values}
    for attempt in (lambda e: client.segment(e, SENSOR), lambda e: list(client.stream([e], SENSOR))):
        with pytest.raises(InputError, match=message) as refused:
            attempt(EventBatch(**columns))
        assert refused.value.fields == (field,)


def test_nothing_cannot_be_segmented(client: Client) -> None:
    with pytest.raises(InputError, match="there are no events"):
        client.segment(EventBatch.empty(), SENSOR)


def test_stream_without_events(client: Client) -> None:
    assert list(client.stream([], SENSOR)) == []
    assert list(client.stream([EventBatch.empty()] * 3, SENSOR)) == []


def test_large_batches_are_cut_to_what_the_server_takes(small_server: str, client: Client) -> None:
    # Of the server's limits, a single message of these would break two: 8 windows and 10 000 bytes.
    many = random_events(3, windows=12, per_window=1500)
    with Client(small_server, timeout=PATIENCE_S) as small:
        results = list(small.stream([many], SENSOR, window_us=WINDOW_US))
    assert_same(results, client.stream([many], SENSOR, window_us=WINDOW_US))
    assert len(results) == 12


def test_events_are_taken_no_faster_than_they_are_answered(client: Client) -> None:
    taken = 0

    def source() -> Iterator[EventBatch]:
        nonlocal taken
        for k in range(14):
            taken += 1
            yield make_events((k * WINDOW_US, 1, 1, 1), (k * WINDOW_US + 5, 2, 3, 0))

    for result in client.stream(source(), SENSOR, window_us=WINDOW_US):
        # The messages in flight, the one that closes this window, and one that waits to be sent.
        assert taken <= result.window + 1 + stream_protocol.MAX_MESSAGES_IN_FLIGHT + 2


@pytest.mark.parametrize("part", [0.001, 0.06, 0.3, 0.55, 0.8, 0.95])
@pytest.mark.parametrize("direction", ["up", "down"])
def test_a_cut_connection(
    server: str,
    events: EventBatch,
    undisturbed: list[Result],
    traffic: dict[Direction, int],
    direction: Direction,
    part: float,
) -> None:
    cuts: list[Cut | None] = [Cut(direction, int(traffic[direction] * part))]
    with CuttingProxy(server, cuts) as proxy, Client(proxy.url, timeout=PATIENCE_S) as client:
        with client.stream(batches_of(events), SENSOR, window_us=WINDOW_US) as stream:
            assert_same(stream, undisturbed)
        assert proxy.connections == 2


def test_a_connection_that_is_cut_before_the_last_acknowledgement(
    server: str, events: EventBatch, undisturbed: list[Result]
) -> None:
    last = len(batches_of(events)) + 1
    cuts: list[Cut | None] = [Cut("down", before=b'{"acked":%d,' % last)]
    with CuttingProxy(server, cuts) as proxy, Client(proxy.url, timeout=PATIENCE_S) as client:
        with client.stream(batches_of(events), SENSOR, window_us=WINDOW_US) as stream:
            assert_same(stream, undisturbed)
            assert stream.reconnects == 1
        assert proxy.connections == 2


def test_a_connection_that_is_cut_again_and_again(server: str, events: EventBatch, undisturbed: list[Result]) -> None:
    cuts: list[Cut | None] = [
        Cut("up", 100),
        Cut("down", 300),
        Cut("down", 2_500),
        Cut("up", 5_000, reset=True),
        Cut("down", 1_500, reset=True),
        Cut("up", 9_000),
        Cut("down", 3_500),
        Cut("up", 12_000),
        Cut("down", 3_500, reset=True),
    ]
    with CuttingProxy(server, cuts) as proxy, Client(proxy.url, timeout=PATIENCE_S) as client:
        with client.stream(batches_of(events), SENSOR, window_us=WINDOW_US) as stream:
            assert_same(stream, undisturbed)
            assert stream.reconnects >= 4
        assert proxy.connections >= 7


def test_a_connection_that_falls_silent(server: str, events: EventBatch, undisturbed: list[Result]) -> None:
    cuts: list[Cut | None] = [Cut("down", 2_500, stall=True)]
    with CuttingProxy(server, cuts) as proxy, Client(proxy.url, timeout=4.0) as client:
        with client.stream(batches_of(events), SENSOR, window_us=WINDOW_US) as stream:
            assert_same(stream, undisturbed)
        assert proxy.connections > 1


def test_attempts_that_lead_nowhere_end(server: str, events: EventBatch) -> None:
    cuts: list[Cut | None] = [None, *[Cut("down", 200)] * 50]
    few = Retries(attempts=3, first_s=0.01)
    with CuttingProxy(server, cuts) as proxy, Client(proxy.url, timeout=PATIENCE_S, resume=few) as client:

        def source() -> Iterator[EventBatch]:
            yield events[:4000]
            proxy.break_all()
            yield events[4000:]

        with pytest.raises(ConnectionLostError, match="given up after 3 attempts"):
            list(client.stream(source(), SENSOR, window_us=WINDOW_US))


def test_a_session_that_is_gone_when_it_is_resumed(server: str, events: EventBatch) -> None:
    with CuttingProxy(server, []) as proxy, Client(proxy.url, timeout=PATIENCE_S) as client:

        def source() -> Iterator[EventBatch]:
            yield events[:4000]
            proxy.break_all()
            end = time.monotonic() + PATIENCE_S
            while httpx.delete(f"{server}/v1/sessions/{stream.session.id}").status_code == 409:
                assert time.monotonic() < end
                time.sleep(0.02)
            yield events[4000:]

        stream = client.stream(source(), SENSOR, window_us=WINDOW_US)
        with pytest.raises(UnknownSessionError) as caught:
            list(stream)
    assert caught.value.close_code == 4404


def test_a_session_that_another_connection_takes(server: str, client: Client, events: EventBatch) -> None:
    def source() -> Iterator[EventBatch]:
        yield events[:4000]
        with Stream.resume(server, stream.session.resume):
            # The other connection has the session once it is welcomed.
            yield events[4000:]
            yield EventBatch.empty()

    stream = client.stream(source(), SENSOR, window_us=WINDOW_US)
    with pytest.raises(SessionInUseError) as caught:
        list(stream)
    assert caught.value.close_code == 4409
    # It was not ended: it is the other one's.
    assert httpx.get(f"{server}/v1/sessions/{stream.session.id}").status_code == 200


def test_unknown_model(client: Client, events: EventBatch) -> None:
    with pytest.raises(UnknownModelError, match="huge") as streamed:
        client.stream([events], SENSOR, model="huge")
    assert (streamed.value.code, streamed.value.close_code) == ("unknown-model", 4404)
    with pytest.raises(UnknownModelError, match="huge") as called:
        client.segment(events, SENSOR, model="huge")
    assert (called.value.code, called.value.status, called.value.close_code) == ("unknown-model", 404, None)


def test_a_sensor_or_window_that_the_server_does_not_take(client: Client, events: EventBatch) -> None:
    with pytest.raises(HelloError) as sensor:
        client.stream([events], SensorSize(60_000, 2))
    assert sensor.value.fields == ("sensor",)
    assert sensor.value.close_code == 4400
    with pytest.raises(HelloError) as window:
        client.stream([events], SENSOR, window_us=1)
    assert window.value.fields == ("window.us",)
    with pytest.raises(InputError) as called:
        client.segment(events, SENSOR, window_us=1)
    assert called.value.fields == ("window.us",)
    assert called.value.status == 422


def test_coordinates_outside(server: str, client: Client, events: EventBatch, undisturbed: list[Result]) -> None:
    outside = make_events((int(events.t[-1]) + 1, SENSOR.width, 0, 1))
    stream = client.stream([events, outside], SENSOR, window_us=WINDOW_US)
    before, error = results_until(InputError, stream)
    # What came before is answered, but for the window that was still open.
    assert_same(before, undisturbed[:-1])
    assert "outside the 64x48 sensor" in error.message
    assert (error.code, error.fields) == ("unusable-input", ("x",))
    assert_over(server, stream)
    with pytest.raises(InputError, match="outside the 64x48 sensor") as called:
        client.segment(outside, SENSOR)
    assert called.value.fields == ("x",)


def test_times_going_back(server: str, client: Client, events: EventBatch, undisturbed: list[Result]) -> None:
    stream = client.stream([events, events[:10], events[10:20]], SENSOR, window_us=WINDOW_US)
    before, error = results_until(TimeOrderError, stream)
    assert_same(before, undisturbed[:-1])
    assert "earlier" in error.message
    assert (error.code, error.close_code, error.fields) == ("time-order", 4422, ("t",))
    assert_over(server, stream)
    with pytest.raises(StopIteration):
        next(stream)
    # The client itself is none the worse.
    assert_same(client.stream([events], SENSOR, window_us=WINDOW_US), undisturbed)

    back = EventBatch.concatenate([events[100:200], events[:100]])
    with pytest.raises(InputError, match="is earlier than") as local:
        list(client.stream([back], SENSOR))
    assert local.value.fields == ("t",)


@pytest.mark.parametrize("by_advance", [False, True])
def test_a_pause_of_twenty_seconds(client: Client, by_advance: bool) -> None:
    pause_us = 20_000_000
    last: Advance | EventBatch = Advance(pause_us) if by_advance else make_events((pause_us, 1, 1, 1))
    results = list(client.stream([make_events((0, 1, 1, 1)), last], SENSOR, window_us=WINDOW_US))
    ends = [result.t_end for result in results]
    assert ends == [WINDOW_US * (k + 1) for k in range(len(ends))]
    assert ends[-1] in (pause_us, pause_us + WINDOW_US)


def test_a_jump_in_time(server: str, client: Client) -> None:
    stream = client.stream([make_events((0, 1, 1, 1), (10**12, 1, 1, 1))], SENSOR, window_us=WINDOW_US)
    with pytest.raises(TimeJumpError, match="windows"):
        list(stream)
    assert_over(server, stream)


def test_a_source_that_fails(server: str, client: Client, events: EventBatch) -> None:
    def source() -> Iterator[EventBatch]:
        yield events
        raise RuntimeError("the camera is unplugged")

    stream = client.stream(source(), SENSOR, window_us=WINDOW_US)
    with pytest.raises(RuntimeError, match="unplugged"):
        list(stream)
    assert_over(server, stream)


def test_streams_that_are_left_make_room(small_server: str) -> None:
    events = random_events(2)
    with Client(small_server, timeout=PATIENCE_S) as client:
        first, second = (client.stream([events], SENSOR, window_us=WINDOW_US) for _ in range(2))
        assert next(first).window == 0
        with pytest.raises(CapacityError) as caught:
            client.stream([events], SENSOR)
        assert caught.value.status == 429
        assert caught.value.retry_after_s is not None
        first.close()
        assert_over(small_server, first)
        assert first.closed
        assert not second.closed
        assert len(list(client.stream([events], SENSOR, window_us=WINDOW_US))) == 4
    # Closing the client has closed its other stream.
    assert_over(small_server, second)


def test_nobody_answers(events: EventBatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with Client(f"http://127.0.0.1:{port}") as client:
        with pytest.raises(ConnectError, match="nobody answers"):
            client.models()
        with pytest.raises(ConnectError, match="nobody answers"):
            client.segment(events, SENSOR)
        with pytest.raises(ConnectError, match="nobody answers"):
            client.stream([events], SENSOR)
    for address in ("127.0.0.1:8000", "ftp://127.0.0.1", "http://", "http://127.0.0.1:port"):
        with pytest.raises(ConnectError, match="not an address"):
            Client(address)


@pytest.mark.parametrize("version", ["HTTP/1.0", "HTTP/1.1"])
def test_a_server_of_something_else(events: EventBatch, version: str) -> None:
    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = version

        def do_GET(self) -> None:
            self.send_error(404)

        def log_message(self, *_: object) -> None:
            """Nothing."""

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as other:
        threading.Thread(target=other.serve_forever, daemon=True).start()
        with Client(f"http://127.0.0.1:{other.server_port}", timeout=PATIENCE_S) as client:
            with pytest.raises(ProtocolError, match="not the service"):
                client.models()
            with pytest.raises(ProtocolError, match="not a stream of the service"):
                client.stream([events], SENSOR)
        other.shutdown()


def every_service_error(kind: type[service_errors.ServiceError]) -> Iterator[type[service_errors.ServiceError]]:
    yield kind
    for below in kind.__subclasses__():
        yield from every_service_error(below)


@pytest.mark.parametrize("kind", list(every_service_error(service_errors.ServiceError)), ids=lambda kind: kind.code)
def test_every_error_of_the_service_has_a_type(kind: type[service_errors.ServiceError]) -> None:
    problem = kind("why", [service_errors.FieldError("t", "too late")]).problem()
    called = from_problem(problem)
    assert (called.code, called.status, called.message) == (kind.code, kind.status, "why")
    assert called.fields == ("t",)
    assert type(called) is not ServiceError or kind.status in (406, 415)

    if kind.close_code != service_errors.INTERNAL_CLOSE_CODE:
        streamed = from_problem(
            {**problem, "problem": problem["type"], "type": "error", "code": kind.close_code},
            close_code=kind.close_code,
        )
        assert (type(streamed), streamed.close_code) == (type(called), kind.close_code)
        closed = from_close(kind.close_code, "why")
        assert isinstance(called, type(closed))
    assert isinstance(called, ClientError)
    assert from_close(1001, "going away") is None


def test_cutting() -> None:
    rng = np.random.default_rng(0)
    n = 5000
    t = np.sort(rng.integers(0, 2**34, n))
    events = EventBatch(t, np.zeros(n, np.uint16), np.zeros(n, np.uint16), np.zeros(n, np.uint8))
    parts = list(cut(events, 2**32, 300))
    assert all(0 < len(part) <= 300 and part.t[-1] - part.t[0] < 2**32 for part in parts)
    np.testing.assert_array_equal(EventBatch.concatenate(parts).t, t)
    span = 2**30
    groups = list(regroup(parts, span))
    assert [int(group.t[0]) // span for group in groups] == sorted(set((t // span).tolist()))
    assert all(int(group.t[-1]) // span == int(group.t[0]) // span for group in groups)
    np.testing.assert_array_equal(EventBatch.concatenate(groups).t, t)
    assert list(cut(EventBatch.empty(), 10)) == []
    assert list(regroup([EventBatch.empty()], 10)) == []


def test_importing_the_clients_is_light() -> None:
    code = (
        "import sys, clients.cli.main, clients.outputs, clients.sources, clients.writers; "
        "heavy = {'torch', 'fastapi', 'uvicorn', 'spikingjelly', 'dv_processing', 'cv2', 'av', 'h5py', 'rosbags'}"
        " & set(sys.modules); "
        "sys.exit(' '.join(sorted(heavy)) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
