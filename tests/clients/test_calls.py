"""Calls over HTTP that need more than one attempt, against small servers that misbehave in one way each."""

from __future__ import annotations

import asyncio
import contextlib
import http.server
import json
import shutil
import ssl
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from clients import AsyncClient, Client, Retries, Timeouts
from clients.errors import (
    CapacityError,
    ClientError,
    ConnectError,
    DrainingError,
    NoAnswerError,
    ProtocolError,
    TransportError,
)

Respond = Callable[[http.server.BaseHTTPRequestHandler, int], None]
FAST = Retries(attempts=3, first_s=0.01, longest_s=0.2)


@contextlib.contextmanager
def serving(respond: Respond, *, tls: ssl.SSLContext | None = None) -> Iterator[tuple[str, list[dict[str, str]]]]:
    """A server whose n-th answer is up to ``respond``; its address, and the headers of the requests so far."""
    seen: list[dict[str, str]] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            seen.append({name.lower(): value for name, value in self.headers.items()})
            with contextlib.suppress(ConnectionError):
                respond(self, len(seen))

        def log_message(self, *_: object) -> None:
            """Nothing."""

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        if tls is not None:
            server.socket = tls.wrap_socket(server.socket, server_side=True)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        scheme = "http" if tls is None else "https"
        yield f"{scheme}://127.0.0.1:{server.server_port}", seen
        server.shutdown()


def reply(
    handler: http.server.BaseHTTPRequestHandler, status: int, document: object, *, kind: str = "json", **headers: str
) -> None:
    body = json.dumps(document).encode()
    handler.send_response(status)
    handler.send_header("Content-Type", f"application/{kind}")
    handler.send_header("Content-Length", str(len(body)))
    for name, value in headers.items():
        handler.send_header(name.replace("_", "-"), value)
    handler.end_headers()
    handler.wfile.write(body)


def problem(handler: http.server.BaseHTTPRequestHandler, status: int, code: str, **headers: str) -> None:
    document = {"type": f"urn:spikeseg:problem:{code}", "title": code, "status": status, "detail": "later"}
    reply(handler, status, document, kind="problem+json", **headers)


def models_of(kind: str, url: str, **settings: object) -> object:
    """What a client of either kind is told."""
    if kind == "sync":
        with Client(url, **settings) as client:  # type: ignore[arg-type]
            return client.models()

    async def ask() -> object:
        async with AsyncClient(url, **settings) as client:  # type: ignore[arg-type]
            return await client.models()

    return asyncio.run(ask())


@pytest.fixture(params=["sync", "async"])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def test_a_service_that_is_away_for_a_moment_is_asked_again(kind: str) -> None:
    def respond(handler: http.server.BaseHTTPRequestHandler, number: int) -> None:
        match number:
            case 1:
                problem(handler, 503, "draining", Retry_After="0")
            case 2:
                handler.connection.close()
            case 3:
                handler.send_error(502)
            case _:
                reply(handler, 200, {"models": []})

    with serving(respond) as (url, seen):
        assert models_of(kind, url, retries=FAST) == ()
        assert len(seen) == 4


def test_retry_after_is_waited_for_unless_it_is_too_long(kind: str) -> None:
    times: list[float] = []

    def respond(handler: http.server.BaseHTTPRequestHandler, number: int) -> None:
        times.append(time.monotonic())
        if number == 1:
            problem(handler, 429, "capacity", Retry_After="1")
        else:
            reply(handler, 200, {"models": []})

    with serving(respond) as (url, _):
        assert models_of(kind, url, retries=Retries(attempts=1, first_s=0.0, longest_s=2.0)) == ()
        assert times[1] - times[0] >= 1.0

    with serving(lambda handler, _: problem(handler, 429, "capacity", Retry_After="60")) as (url, seen):
        with pytest.raises(CapacityError) as caught:
            models_of(kind, url, retries=FAST)
        assert caught.value.retry_after_s == 60.0
        assert len(seen) == 1


def test_attempts_end(kind: str) -> None:
    with serving(lambda handler, _: problem(handler, 503, "draining")) as (url, seen):
        with pytest.raises(DrainingError, match="later"):
            models_of(kind, url, retries=FAST)
        assert len(seen) == 4
    with serving(lambda handler, _: handler.send_error(504)) as (url, seen):
        with pytest.raises(TransportError, match="status 504"):
            models_of(kind, url, retries=FAST)
        assert len(seen) == 4


def test_what_is_no_passing_fault_is_not_asked_again(kind: str) -> None:
    with serving(lambda handler, _: reply(handler, 200, ["models"])) as (url, seen):
        with pytest.raises(ProtocolError, match="not a JSON object"):
            models_of(kind, url, retries=FAST)
        assert len(seen) == 1


def test_an_answer_that_trickles_in_is_bounded_by_the_total(kind: str) -> None:
    gone = threading.Event()

    def respond(handler: http.server.BaseHTTPRequestHandler, _: int) -> None:
        handler.send_response(200)
        handler.end_headers()
        with contextlib.suppress(OSError):
            while not gone.wait(0.05):
                handler.wfile.write(b" ")
                handler.wfile.flush()

    with serving(respond) as (url, seen):
        with pytest.raises(NoAnswerError, match=r"within 0\.5 s"):
            models_of(kind, url, timeout=Timeouts(total=0.5), retries=FAST)
        gone.set()
        assert len(seen) == 1


def test_a_silent_service_is_bounded_by_the_read_timeout(kind: str) -> None:
    gone = threading.Event()
    with serving(lambda _handler, _: bool(gone.wait(30)) or None) as (url, _):
        with pytest.raises(NoAnswerError, match=r"within 0\.2 s"):
            models_of(kind, url, timeout=Timeouts(read=0.2))
        gone.set()


def test_waiting_until_ready_outlasts_errors_but_not_its_patience(kind: str) -> None:
    def ready(url: str, patience_s: float) -> None:
        async def wait() -> None:
            async with AsyncClient(url) as client:
                await client.wait_until_ready(patience_s)

        if kind == "async":
            asyncio.run(wait())
        else:
            with Client(url) as client:
                client.wait_until_ready(patience_s)

    def respond(handler: http.server.BaseHTTPRequestHandler, number: int) -> None:
        reply(handler, 200 if number > 2 else 503, {"ready": number > 2})

    with serving(respond) as (url, seen):
        ready(url, 30)
        assert len(seen) == 3
    with pytest.raises(ConnectError, match="nobody answers"):
        ready("http://127.0.0.1:1", 0.3)


def test_a_token_is_shown_with_every_request(kind: str) -> None:
    with serving(lambda handler, _: reply(handler, 200, {"models": []})) as (url, seen):
        models_of(kind, url, token="s3cret")
        assert seen[0]["authorization"] == "Bearer s3cret"
        models_of(kind, url)
        assert "authorization" not in seen[1]
    for wrong in ("", "two words", "new\nline", "schlüssel"):
        with pytest.raises(ConnectError, match="token"):
            models_of(kind, url, token=wrong)


def test_certificates_are_checked_unless_told_otherwise(kind: str, tmp_path: Path) -> None:
    if shutil.which("openssl") is None:
        pytest.skip("these tests need openssl; on Debian: apt-get install openssl")
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=127.0.0.1"),
            *("-addext", "subjectAltName=IP:127.0.0.1", "-keyout", key, "-out", certificate),
        ],
        check=True,
        capture_output=True,
    )
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(certificate, key)
    with serving(lambda handler, _: reply(handler, 200, {"models": []}), tls=tls) as (url, _):
        assert models_of(kind, url, verify=str(certificate)) == ()
        assert models_of(kind, url, verify=False) == ()
        assert models_of(kind, url, verify=ssl.create_default_context(cafile=certificate)) == ()
        with pytest.raises(ClientError, match="certificate"):
            models_of(kind, url)
        with pytest.raises(ConnectError, match="cannot be read"):
            models_of(kind, url, verify=str(tmp_path / "absent.pem"))
