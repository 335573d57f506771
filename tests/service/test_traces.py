"""Traces, as a collector gets them: OTLP over a real socket from a real server."""

from __future__ import annotations

import gzip
import json
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span
from opentelemetry.sdk.trace import TracerProvider

from clients import Client
from tests.service.harness import (
    REPOSITORY,
    SENSOR,
    WINDOW_US,
    one_connection,
    random_events,
    running_server,
    same,
)
from tests.service.real_servers import free_port, running_redis
from tests.service.replicas import Replica, wait_until

EVENTS = random_events(61, windows=3)


class Collector:
    """Takes traces over OTLP/HTTP.

    Attributes
    ----------
    url : str
    services : set of str
        Who has sent any.
    """

    def __init__(self) -> None:
        self._spans: list[Span] = []
        self.services: set[str] = set()
        collector = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                assert self.path == "/v1/traces"
                if self.headers.get("Content-Encoding") == "gzip":
                    body = gzip.decompress(body)
                collector._take(ExportTraceServiceRequest.FromString(body))
                self.send_response(200)
                self.send_header("Content-Type", "application/x-protobuf")
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def spans(self, trace: bytes | None = None) -> list[Span]:
        """What has come, of a trace or of all."""
        return [span for span in list(self._spans) if trace is None or span.trace_id == trace]

    def named(self, name: str, **attributes: Any) -> list[Span]:
        """Spans of that name with these attributes."""
        wanted = attributes.items()
        return [span for span in self.spans() if span.name == name and wanted <= attributes_of(span).items()]

    def close(self) -> None:
        """Take no more."""
        self._server.shutdown()
        self._server.server_close()

    def _take(self, request: ExportTraceServiceRequest) -> None:
        for resource in request.resource_spans:
            self.services |= {a.value.string_value for a in resource.resource.attributes if a.key == "service.name"}
            for scope in resource.scope_spans:
                self._spans += scope.spans


def attributes_of(span: Span) -> dict[str, Any]:
    found = {}
    for attribute in span.attributes:
        kind = attribute.value.WhichOneof("value")
        found[attribute.key.removeprefix("spikeseg.")] = getattr(attribute.value, kind)
    return found


@pytest.fixture(scope="module")
def collector() -> Iterator[Collector]:
    collector = Collector()
    yield collector
    collector.close()


@pytest.fixture(scope="module")
def traced(collector: Collector, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Replica]:
    """A server with a state store that sends its traces to the collector."""
    folder = tmp_path_factory.mktemp("traced")
    with pytest.MonkeyPatch.context() as environment, running_redis(folder) as redis:
        environment.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collector.url)
        environment.setenv("OTEL_BSP_SCHEDULE_DELAY", "100")
        replica = Replica("traced", folder, {"store_url": redis.url, "log_format": "json", "checkpoint_seconds": 0})
        replica.start()
        replica.wait_until_ready()
        yield replica
        replica.terminate()


def inside(inner: Span, outer: Span) -> bool:
    return (
        inner.trace_id == outer.trace_id
        and inner.parent_span_id == outer.span_id
        and outer.start_time_unix_nano <= inner.start_time_unix_nano <= inner.end_time_unix_nano
        and inner.end_time_unix_nano <= outer.end_time_unix_nano
    )


def test_the_spans_of_a_window_hang_together_and_with_the_clients(traced: Replica, collector: Collector) -> None:
    tracer = TracerProvider().get_tracer("test")
    with tracer.start_as_current_span("drive") as drive, Client(traced.url) as client:
        stream = client.stream([EVENTS], SENSOR, window_us=WINDOW_US)
        windows = [result.window for result in stream]
    session = stream.session.id
    wait_until(lambda: len(collector.named("window", session=session)) == len(windows), "the windows' spans come")
    wait_until(lambda: collector.named("checkpoint", session=session), "the checkpoint's span comes")
    wait_until(lambda: collector.named("message END", session=session), "the last message's span comes")

    (handshake,) = collector.named("handshake", session=session)
    context = drive.get_span_context()
    assert handshake.trace_id == context.trace_id.to_bytes(16, "big")
    assert handshake.parent_span_id == context.span_id.to_bytes(8, "big")
    messages = [span for name in ("message EVENTS", "message END") for span in collector.named(name, session=session)]
    for message in messages:
        # A trace for each message, since a stream may last for days; it names the handshake it belongs to.
        assert message.trace_id != handshake.trace_id
        assert [link.span_id for link in message.links] == [handshake.span_id]
    for window in collector.named("window", session=session):
        (message,) = (span for span in messages if span.trace_id == window.trace_id)
        assert inside(window, message)
        family = collector.spans(window.trace_id)
        parts = [span for span in family if span.parent_span_id == window.span_id]
        assert [span.name for span in parts] == ["wait", "compute", "encode"]
        assert all(inside(part, window) for part in parts)
        (decode,) = (span for span in family if span.name == "decode")
        assert inside(decode, message)
        assert decode.end_time_unix_nano <= window.start_time_unix_nano
    assert {attributes_of(span)["window"] for span in collector.named("window", session=session)} == set(windows)
    assert all(attributes_of(span)["sops"] > 0 for span in collector.named("window", session=session)[:1])
    assert {span.trace_id for span in collector.named("checkpoint", session=session)} <= {
        message.trace_id for message in messages
    } | {handshake.trace_id}
    assert collector.services == {"spikeseg"}


def test_a_request_joins_the_callers_trace_and_its_log_lines_name_it(traced: Replica, collector: Collector) -> None:
    trace, parent = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
    headers = {"traceparent": f"00-{trace}-{parent}-01", "X-Request-ID": "traced-1"}
    assert httpx.get(f"{traced.url}/v1/models", headers=headers).status_code == 200
    wait_until(lambda: collector.spans(bytes.fromhex(trace)), "the request's span comes")
    (span,) = collector.spans(bytes.fromhex(trace))
    assert span.name == "GET /v1/models"
    assert span.parent_span_id == bytes.fromhex(parent)
    assert attributes_of(span)["http.response.status_code"] == 200
    (line,) = (line for line in map(json.loads, traced.log().splitlines()) if line.get("request_id") == "traced-1")
    assert (line["trace_id"], line["span_id"]) == (trace, span.span_id.hex())


@pytest.fixture(scope="module")
def reference(server: str) -> list[Any]:
    return one_connection(server, EVENTS, 3 * WINDOW_US)


def test_a_collector_that_is_dead_breaks_nothing(monkeypatch: pytest.MonkeyPatch, reference: list[Any]) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{free_port()}")
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "50")
    # Its end, in order and within the test's patience, is asserted by ``running_server``.
    with running_server() as url:
        for _ in range(3):
            assert same(one_connection(url, EVENTS, 3 * WINDOW_US), reference)


def test_a_collector_that_never_answers_breaks_nothing(monkeypatch: pytest.MonkeyPatch, reference: list[Any]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{silent.getsockname()[1]}")
        monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "50")
        with running_server() as url:
            for _ in range(3):
                assert same(one_connection(url, EVENTS, 3 * WINDOW_US), reference)


def test_without_traces_neither_the_sdk_nor_its_exporter_is_even_imported() -> None:
    program = (
        "import sys, clients\n"
        "from clients.tracing import trace_headers\n"
        "assert trace_headers() == {} and 'opentelemetry' not in sys.modules\n"
        "import service.__main__\n"
        "from service.observability import tracing\n"
        "with tracing.span('x') as span: assert span is None\n"
        "tracing.record({}, 'x', {})\n"
        "assert trace_headers() == {} == tracing.trace_ids()\n"
        "print([name for name in sys.modules if name.startswith(('opentelemetry.sdk', 'opentelemetry.exporter'))])"
    )
    ran = subprocess.run([sys.executable, "-c", program], cwd=REPOSITORY, capture_output=True, text=True)
    assert ran.stdout.strip() == "[]", ran.stderr


def test_a_wrong_variable_of_the_sdk_is_said_and_the_service_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_BSP_MAX_QUEUE_SIZE", "-1")
    replica = Replica("wrong", tmp_path, {"traces": "true", "log_format": "json"})
    replica.start()
    replica.wait_until_ready()
    replica.terminate()
    (line,) = (line for line in map(json.loads, replica.log().splitlines()) if line["level"] == "error")
    assert "there will be no traces: a variable OTEL_" in line["message"]


def test_an_sdk_that_is_missing_is_said_and_the_service_starts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shadow = tmp_path / "opentelemetry" / "exporter"
    shadow.mkdir(parents=True)
    (shadow / "__init__.py").write_text("")
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}:{REPOSITORY}")
    replica = Replica("without", tmp_path, {"traces": "true", "log_format": "json"})
    replica.start()
    replica.wait_until_ready()
    replica.terminate()
    (line,) = (line for line in map(json.loads, replica.log().splitlines()) if line["level"] == "error")
    assert "pip install 'spikeseg[otel]'" in line["message"]
