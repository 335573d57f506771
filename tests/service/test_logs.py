"""Log lines: their form, the ids that they carry, and that nobody can forge or flood them."""

from __future__ import annotations

import asyncio
import io
import json
import logging
import socket
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from clients import Client
from clients.errors import UnknownModelError
from models import zoo
from models.runtime.model import WindowInput, WindowSegmentation
from models.runtime.streaming import StreamingModel
from service.observability.context import bound, sane_request_id, session_id
from service.observability.logs import FLOOD_LINES, FLOOD_SECONDS, JsonFormatter, LogHandler, TextFormatter
from service.streaming.engine import Engine
from service.streaming.scheduler import Scheduler
from tests.service.harness import SENSOR, HttpSession, RefusedError, Stream, hello, problem_of, random_events
from tests.service.replicas import Replica, wait_until

TEXTS = st.text(st.characters(codec=None), max_size=200)


def record(message: str, level: int = logging.INFO, **extra: Any) -> logging.LogRecord:
    logger = logging.getLogger("some.logger")
    return logger.makeRecord(logger.name, level, "some.py", extra.pop("line", 1), message, (), None, extra=extra)


def failed_record(message: str) -> logging.LogRecord:
    made = record("it failed", logging.ERROR)
    try:
        raise ValueError(message)
    except ValueError:
        made.exc_info = sys.exc_info()
    return made


def test_a_json_line_has_the_time_the_level_the_ids_and_every_extra() -> None:
    with bound(request="r-1", session="session-1"):
        line = json.loads(JsonFormatter().format(record("hello", event="opened", key="k", n=3, at=float("nan"))))
    assert line.pop("time").endswith("Z")
    assert line == {
        "level": "info",
        "logger": "some.logger",
        "message": "hello",
        "request_id": "r-1",
        "session": "session-1",
        "event": "opened",
        "key": "k",
        "n": 3,
        "at": "nan",
    }


def test_an_extra_names_another_session_but_cannot_pose_as_the_logger_or_the_request() -> None:
    with bound(request="r-1", session="session-1"):
        text = JsonFormatter().format(record("hello", session="session-2", logger="root", request_id="forged"))
    line = json.loads(text)
    assert (line["session"], line["logger"], line["request_id"]) == ("session-2", "some.logger", "r-1")
    assert (line["logger_"], line["request_id_"]) == ("root", "forged")


def test_an_exception_is_one_field_with_its_traceback() -> None:
    (line,) = JsonFormatter().format(failed_record("bad\nnews")).splitlines()
    exception = json.loads(line)["exception"]
    assert exception.startswith("Traceback (most recent call last):\n")
    assert exception.endswith("ValueError: bad\nnews")


@given(TEXTS, TEXTS, TEXTS)
def test_a_json_line_is_one_line_whatever_is_in_it(message: str, extra: str, name: str) -> None:
    (line,) = JsonFormatter().format(record(message, said=extra, nested={name: [extra]})).splitlines()
    line.encode("ascii")
    document = json.loads(line)
    assert document["message"] == message
    assert document["said"] == extra
    assert document["nested"] == {name: [extra]}


@given(TEXTS, TEXTS)
def test_a_text_line_is_one_line_whatever_is_in_it(message: str, extra: str) -> None:
    line = TextFormatter().format(record(message, said=extra))
    assert len(line.splitlines()) == 1
    line.encode("utf-8")
    assert not any(ord(c) < 32 or 127 <= ord(c) < 160 for c in line)


@given(TEXTS)
def test_no_line_of_a_traceback_begins_like_a_line_of_the_log(message: str) -> None:
    _, *rest = TextFormatter().format(failed_record(message)).splitlines()
    assert rest
    assert all(line.startswith("    ") for line in rest)


@given(TEXTS)
def test_a_request_id_is_taken_only_if_it_is_harmless(text: str) -> None:
    id = sane_request_id(text)
    assert id == text or text not in id or not text
    assert 1 <= len(id) <= 128
    assert id.isascii()
    assert id.isprintable()
    assert not set(id) & set(" \"'\\<>{}")


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def lines_of(stream: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def stream() -> io.StringIO:
    return io.StringIO()


@pytest.fixture
def handler(stream: io.StringIO, clock: Clock) -> Iterator[LogHandler]:
    handler = LogHandler(stream, clock=clock)
    handler.setFormatter(JsonFormatter())
    yield handler
    handler.close()


def test_a_flood_of_warnings_is_cut_and_counted(stream: io.StringIO, handler: LogHandler, clock: Clock) -> None:
    for _ in range(1000):
        handler.emit(record("refused", logging.WARNING))
    handler.emit(record("from another place", logging.WARNING, line=2))
    assert [line["message"] for line in lines_of(stream)] == ["refused"] * FLOOD_LINES + ["from another place"]
    clock.now += FLOOD_SECONDS
    handler.emit(record("refused", logging.WARNING))
    *_, summary, last = lines_of(stream)
    assert summary["suppressed"] == 1000 - FLOOD_LINES
    assert (summary["level"], summary["logger"]) == ("warning", "some.logger")
    assert last["message"] == "refused"


def test_what_was_left_out_is_told_at_the_end(stream: io.StringIO, handler: LogHandler) -> None:
    for _ in range(FLOOD_LINES + 7):
        handler.emit(record("refused", logging.WARNING))
    handler.close()
    assert lines_of(stream)[-1]["suppressed"] == 7


def test_refused_requests_are_cut_and_served_ones_are_not(stream: io.StringIO, handler: LogHandler) -> None:
    for _ in range(500):
        handler.emit(record("GET /x 200", status=200))
        handler.emit(record("GET /x 429", status=429))
        handler.emit(record("WEBSOCKET /x 101", status=101, close_code=4400))
        handler.emit(record("WEBSOCKET /x 101", status=101, close_code=1000))
    lines = lines_of(stream)
    assert sum(line["status"] == 200 for line in lines) == 500
    assert sum(line.get("close_code") == 1000 for line in lines) == 500
    assert sum(line["status"] == 429 for line in lines) == FLOOD_LINES
    assert sum(line.get("close_code") == 4400 for line in lines) == FLOOD_LINES


@pytest.fixture(scope="module")
def model() -> StreamingModel:
    return zoo.load("edge-s")


@dataclass
class Listener:
    """A real model that takes down for which session it computes."""

    inner: StreamingModel
    heard: list[str | None] = field(default_factory=list)

    def grid_key(self, sensor: Any) -> tuple[int, int]:
        return self.inner.grid_key(sensor)

    def segment_many(self, inputs: Sequence[WindowInput]) -> list[WindowSegmentation]:
        self.heard.append(session_id.get())
        return self.inner.segment_many(inputs)


def test_threads_know_whose_windows_they_compute(model: StreamingModel) -> None:
    listener = Listener(model)
    scheduler, engine = Scheduler(max_batch=2, exact=False), Engine()
    item = WindowInput(model.initial_state(SENSOR), random_events(1, windows=1), SENSOR)

    async def session(name: str) -> str | None:
        with bound(session=name):
            await scheduler.segment(listener, item)  # type: ignore[arg-type]
            return await engine.offload(session_id.get)

    async def scenario() -> None:
        # The first is computed at once, the other two together.
        assert await asyncio.gather(*map(session, "abc")) == ["a", "b", "c"]
        assert await engine.offload_slow(session_id.get) is None

    try:
        asyncio.run(scenario())
    finally:
        scheduler.close()
        engine.close()
    assert listener.heard == ["a", "b,c"]


@pytest.fixture(scope="module")
def replica(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Replica]:
    replica = Replica("logged", tmp_path_factory.mktemp("logs"), {"log_format": "json"})
    replica.start()
    replica.wait_until_ready()
    yield replica
    replica.terminate()


def logged(replica: Replica, **fields: Any) -> dict[str, Any]:
    """The line of a server's log that has these fields; it may still be on its way."""
    found: list[dict[str, Any]] = []

    def look() -> bool:
        lines = [json.loads(line) for line in replica.log().splitlines()]
        found[:] = [line for line in lines if fields.items() <= line.items()]
        return bool(found)

    wait_until(look, f"a line with {fields}")
    (line,) = found
    return line


def test_every_line_of_a_server_is_json(replica: Replica) -> None:
    lines = [json.loads(line) for line in replica.log().splitlines()]
    assert {"uvicorn.error"} <= {line["logger"] for line in lines}
    assert all({"time", "level", "logger", "message"} <= set(line) for line in lines)


def test_a_request_has_an_id_and_a_line_that_tells_no_secrets(replica: Replica) -> None:
    response = httpx.get(f"{replica.url}/nope?token=hunter2", headers={"X-Request-ID": "ask-1"})
    assert response.headers["X-Request-ID"] == "ask-1"
    assert problem_of(response, 404)["request_id"] == "ask-1"
    line = logged(replica, request_id="ask-1")
    assert (line["logger"], line["method"], line["path"], line["status"]) == ("service.access", "GET", "/nope", 404)
    assert line["bytes_out"] == len(response.content)
    assert line["client"] == "127.0.0.1"
    assert line["duration_ms"] > 0
    assert "hunter2" not in replica.log()


@pytest.mark.parametrize("given", ["", "a b", "x" * 129, 'a"b', "a\tb", "{}"])
def test_an_id_that_could_do_harm_is_replaced(replica: Replica, given: str) -> None:
    id = httpx.get(f"{replica.url}/v1/models", headers={"X-Request-ID": given}).headers["X-Request-ID"]
    assert id != given
    assert logged(replica, request_id=id)["path"] == "/v1/models"


def test_lines_of_requests_of_a_session_name_it(replica: Replica) -> None:
    with httpx.Client(base_url=replica.url) as http:
        session = HttpSession(http)
        session.events(random_events(1))
    line = logged(replica, session=session.fields["session"], path=f"{session.path}/events")
    assert line["bytes_in"] > 0


def test_a_connection_has_an_id_that_its_welcome_and_its_line_name(replica: Replica) -> None:
    with Stream(replica.url) as stream:
        id = stream.welcome["request_id"]
        response = stream.socket.response
        assert response is not None
        assert response.headers["X-Request-ID"] == id
        stream.events(random_events(2))
        stream.end()
    line = logged(replica, request_id=id, logger="service.access")
    assert (line["method"], line["path"], line["status"]) == ("WEBSOCKET", "/v1/stream", 101)
    assert (line["session"], line["close_code"]) == (stream.welcome["session"], 1000)
    assert line["bytes_in"] > len(random_events(2)) * 8
    assert line["bytes_out"] > 0


def test_a_refused_hello_names_its_request(replica: Replica) -> None:
    with pytest.raises(RefusedError) as refused:
        Stream(replica.url, hello(model="no-such-model"))
    assert refused.value.problem is not None
    line = logged(replica, request_id=refused.value.problem["request_id"])
    assert line["close_code"] == 4404


def test_the_clients_errors_name_the_request(replica: Replica) -> None:
    with Client(replica.url) as client, pytest.raises(UnknownModelError) as refused:
        client.segment(random_events(1), SENSOR, model="no-such-model")
    id = refused.value.request_id
    assert f"(request {id})" in str(refused.value)
    assert logged(replica, request_id=id)["status"] == 404


def test_uvicorns_own_line_on_a_broken_request_is_json(tmp_path: Path) -> None:
    replica = Replica("broken", tmp_path, {"log_format": "json"})
    replica.start()
    replica.wait_until_ready()
    try:
        host, port = replica.url.removeprefix("http://").split(":")
        for _ in range(FLOOD_LINES + 10):
            with socket.create_connection((host, int(port))) as connection:
                connection.sendall(b"no http\r\n\r\n")
                connection.recv(1000)
    finally:
        replica.terminate()
    lines = [json.loads(line) for line in replica.log().splitlines()]
    warnings = [line for line in lines if line["level"] == "warning"]
    assert {line["logger"] for line in warnings} == {"uvicorn.error"}
    assert [line.get("suppressed") for line in warnings] == [None] * FLOOD_LINES + [10]
