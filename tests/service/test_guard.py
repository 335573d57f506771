"""Who is let in, over HTTP and WebSocket, by a real server; and whose a session is."""

from __future__ import annotations

import asyncio
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
from fastapi import APIRouter
from starlette.routing import Mount, Route, WebSocketRoute
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

from service.api.callers import route_of, scope_of
from service.api.guard import Guard
from service.app import create_app
from service.auth import KeyRing, Scope, new_key
from service.key_file import add_key, load_keys, remove_keys
from service.metrics import ServiceMetrics
from service.settings import Settings
from service.streaming.checkpoints import MEDIA_TYPE as STATE_MEDIA_TYPE
from service.wire.events import MEDIA_TYPE, encode_packet
from tests.service.harness import (
    PATIENCE_S,
    REPOSITORY,
    SENSOR,
    HttpSession,
    RefusedError,
    Stream,
    problem_of,
    random_events,
    running_server,
)
from tests.service.real_servers import running_redis

PUBLIC = {
    "/", "/docs", "/docs/start.js", "/docs/assets/file", "/viewer/file", "/v2/health/live", "/v2/health/ready",
}  # fmt: skip
EVENTS = random_events(5, windows=2)


@dataclass(frozen=True)
class Keyed:
    """A server with keys: its address, its file of keys, and the tokens by name."""

    url: str
    file: Path
    tokens: dict[str, str]

    def headers(self, name: str) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.tokens[name]}"}

    def http(self, name: str) -> httpx.Client:
        return httpx.Client(base_url=self.url, headers=self.headers(name), timeout=PATIENCE_S)

    def stream(self, name: str, greet: dict[str, Any] | None = None, **options: Any) -> Stream:
        return Stream(self.url, greet, additional_headers=self.headers(name), **options)


def write_keys(file: Path) -> dict[str, str]:
    """Keys of two users who may do everything, and one for each scope."""
    tokens = {}
    for name, scopes in {"alice": list(Scope), "bob": list(Scope), **{scope: [scope] for scope in Scope}}.items():
        key, tokens[name] = new_key(name, scopes)
        add_key(file, key)
    return tokens


@pytest.fixture(scope="module")
def keyed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Keyed]:
    file = tmp_path_factory.mktemp("keys") / "keys"
    tokens = write_keys(file)
    with running_server(keys_file=file, refusal_rate=0, allowed_origins="https://app.example") as url:
        yield Keyed(url, file, tokens)


APP = create_app(Settings())


def routes() -> list[tuple[str, str]]:
    """Method and path of everything that the app answers, placeholders filled in; each method of a path."""
    found = []
    for route in APP.routes:
        path = re.sub(r"{(\w+)(:\w+)?}", r"\1", route.path)
        if isinstance(route, WebSocketRoute):
            found.append(("WEBSOCKET", path))
        elif isinstance(route, Mount):
            found.append(("GET", f"{path}/file"))
        elif isinstance(route, Route):
            found += [(method, path) for method in sorted(route.methods or ())]
    return found


def connection(method: str, path: str) -> dict[str, Any]:
    """As a server tells the app of a request or a handshake."""
    scope = {"type": "websocket" if method == "WEBSOCKET" else "http", "path": path, "root_path": "", "headers": []}
    return (
        scope
        | {
            "query_string": b"",
            "subprotocols": [],
            "extensions": {"websocket.http.response": {}},
            "client": ("127.0.0.1", 1),
            "app": APP,
        }
        | ({} if method == "WEBSOCKET" else {"method": method})
    )


def declared(method: str, path: str) -> Scope | None:
    route = route_of(APP.routes, connection(method, path))
    assert route is not None
    return scope_of(route)


def test_the_walk_over_the_app_sees_every_call() -> None:
    paths = {path for _, path in routes()}
    described = {re.sub(r"{(\w+)}", r"\1", path) for path in APP.openapi()["paths"]}
    assert described <= paths
    assert ("WEBSOCKET", "/v1/stream") in routes()


JOINTS = "\0\t\n\v\f\r\x1c\x1f !#$%&*:=?@\\^|~\x7f\x85\xa0\xff"
"""Characters that one reader of a path may pass over, or take for its end, and another not."""


def spellings(path: str) -> set[str]:
    """A path as somebody might write it to be taken for another one; %-escapes are decoded by the server already."""
    found = {path, path + "/", path + ".", path.upper(), "/" + path, path + "//", f"http://host{path}"}
    for at in [match.start() for match in re.finditer("/", path)] + [len(path)]:
        found |= {path[:at] + extra + path[at:] for extra in ("/", "/.", "/..", ";a=b", ".", *JOINTS)}
    return found


def test_no_spelling_of_a_path_gives_a_key_more_than_the_calls_own_scope(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the router then serves must be public, or take the one scope that the key has."""
    served: list[Any] = []
    for route in APP.routes:

        async def handle(_scope: Any, _receive: Any, _send: Any, route: Any = route) -> None:
            served.append(route)

        monkeypatch.setattr(route, "handle", handle)
    keys = {scope: new_key(scope.value, [scope]) for scope in Scope}
    ring = SimpleNamespace(ring=KeyRing(key for key, _ in keys.values()))
    monkeypatch.setattr(APP.state, "services", SimpleNamespace(keys=ring, metrics=ServiceMetrics()), raising=False)
    guard = Guard(APP.router, Settings(request_rate=0, refusal_rate=0), APP.routes)

    async def sink(_message: Any) -> None:
        return None

    async def knock() -> int:
        count = 0
        for path in {path for _, path in routes()}:
            for spelling in spellings(path):
                for method in ("GET", "POST", "HEAD", "OPTIONS", "WEBSOCKET"):
                    # Where no route answers, one key is as good as all.
                    for scope in Scope if route_of(APP.routes, connection(method, spelling)) else [Scope.READ]:
                        token = keys[scope][1]
                        served.clear()
                        asked = connection(method, spelling)
                        asked["headers"] = [(b"authorization", f"Bearer {token}".encode())]
                        await guard(asked, sink, sink)  # type: ignore[arg-type]
                        count += len(served)
                        assert all(scope_of(route) in (None, scope) for route in served), (method, spelling, scope)
        return count

    assert asyncio.run(knock()) > len(routes())


@pytest.mark.parametrize("path", ["/metrics%0A", "/v1/segment%0A", "/v1/sessions/X/state%0A", "/v1/stream%0A"])
@pytest.mark.parametrize("method", ["GET", "POST", "WEBSOCKET"])
def test_a_line_feed_behind_a_path_opens_nothing(keyed: Keyed, method: str, path: str) -> None:
    assert ask(keyed.url, method, path, keyed.headers("read")).status_code in (403, 404)


def test_what_no_route_answers_is_not_found_with_or_without_a_token(keyed: Keyed) -> None:
    for path in ("/nothing", "/metrics/", "/v1/streams", "/v1/sessions/a/b/c"):
        for headers in ({}, keyed.headers("alice")):
            assert ask(keyed.url, "GET", path, headers).status_code == 404


@pytest.mark.parametrize(("method", "path"), routes())
def test_every_call_is_public_by_name_or_takes_a_token_and_a_scope(keyed: Keyed, method: str, path: str) -> None:
    wanted = declared(method, path)
    if path in PUBLIC:
        assert wanted is None
        return
    assert wanted is not None
    wrong = next(scope for scope in Scope if scope is not wanted)
    bad = {**keyed.headers("alice")}
    bad["Authorization"] += "x"
    for headers, status, challenge in (
        ({}, 401, 'Bearer realm="spikeseg"'),
        ({"Authorization": "Basic YTpi"}, 401, 'Bearer realm="spikeseg"'),
        (bad, 401, 'error="invalid_token"'),
        (keyed.headers(wrong), 403, f'error="insufficient_scope", scope="{wanted}"'),
    ):
        response = ask(keyed.url, method, path, headers)
        assert response.status_code == status
        assert challenge in response.headers["www-authenticate"]
        assert response.headers["content-type"] == "application/problem+json"
        if path.startswith("/v2/") and method != "HEAD":
            assert json.loads(response.content)["error"]
    assert ask(keyed.url, method, path, keyed.headers(wanted)).status_code not in (401, 403)


def ask(url: str, method: str, path: str, headers: dict[str, str]) -> httpx.Response:
    if method != "WEBSOCKET":
        return httpx.request(method, url + path, headers=headers, timeout=PATIENCE_S)
    try:
        with connect(url.replace("http", "ws", 1) + path, additional_headers=headers):
            pass
    except InvalidStatus as error:
        return httpx.Response(
            error.response.status_code, headers=list(error.response.headers.raw_items()), content=error.response.body
        )
    return httpx.Response(101)


def test_what_is_public_is_answered_without_a_token(keyed: Keyed) -> None:
    for path in ("/", "/docs", "/docs/start.js", "/docs/assets/swagger-ui.css", "/viewer/main.js", "/v2/health/ready"):
        assert httpx.get(keyed.url + path).status_code == 200
    for path in ("/v1", "/nothing", "/viewer/../metrics", "//metrics", "/v2/health/live/", "/docs/../openapi.json"):
        response = httpx.Client().send(httpx.Request("GET", keyed.url + path))
        assert response.status_code in (401, 404), path
        assert b"spikeseg_" not in response.content


def test_scopes_are_those_of_the_calls() -> None:
    assert declared("GET", "/v1/sessions/abc/state") is declared("PUT", "/v1/sessions/abc/state") is Scope.STATE
    assert declared("WEBSOCKET", "/v1/stream") is Scope.STREAM
    for path in ("/v1/segment", "/v1/sessions", "/v1/sessions/x/events", "/v1/sessions/x/frames"):
        assert declared("POST", path) is Scope.STREAM
    for path in ("/v2/models/edge-s/infer", "/v2/models/edge-s/versions/1/infer"):
        assert declared("POST", path) is Scope.STREAM
    assert declared("GET", "/metrics") is Scope.METRICS
    for path in ("/v1/models", "/openapi.json", "/v1/recordings/demo", "/v2", "/v2/models/edge-s"):
        assert declared("GET", path) is Scope.READ


def test_a_call_without_a_declared_scope_keeps_the_app_from_being_made(monkeypatch: pytest.MonkeyPatch) -> None:
    router = APIRouter()

    @router.get("/v1/forgotten")
    async def forgotten() -> None:
        """A call that was added in a hurry."""

    monkeypatch.setattr("service.api.models.router", router)
    with pytest.raises(LookupError, match=r"forgotten.*declares no scope"):
        create_app(Settings())


def test_a_browser_shows_its_token_as_a_subprotocol(keyed: Keyed) -> None:
    offered = ["spikeseg.v1", f"bearer.{keyed.tokens['alice']}"]
    with Stream(keyed.url, subprotocols=offered) as stream:
        assert stream.socket.subprotocol == "spikeseg.v1"
        assert len(stream.events(EVENTS)) == 1
        stream.end()
    for wrong in (["spikeseg.v1", "bearer.nothing"], ["spikeseg.v1"], [*offered, f"bearer.{keyed.tokens['bob']}"]):
        with pytest.raises(InvalidStatus) as refused:
            Stream(keyed.url, subprotocols=wrong)
        assert refused.value.response.status_code == 401
    with pytest.raises(InvalidStatus):
        Stream(keyed.url + f"/?token={keyed.tokens['alice']}")


def test_another_keys_session_is_as_good_as_none(keyed: Keyed) -> None:
    with keyed.http("alice") as alice, keyed.http("bob") as bob:
        session = HttpSession(alice)
        session.events(EVENTS)
        snapshot = alice.get(f"{session.path}/state").content
        body = {"content": encode_packet(EVENTS, SENSOR), "headers": {"Content-Type": MEDIA_TYPE}}
        for method, path, options in (
            ("GET", "", {}),
            ("DELETE", "", {}),
            ("POST", "/events", body),
            ("POST", "/frames?t_us=1", {"content": b"", "headers": {"Content-Type": "image/png"}}),
            ("POST", "/reset", {}),
            ("GET", "/state", {}),
            ("PUT", "/state", {"content": snapshot, "headers": {"Content-Type": STATE_MEDIA_TYPE}}),
        ):
            theirs = problem_of(bob.request(method, session.path + path, **options), 404)
            nobodys = problem_of(bob.request(method, "/v1/sessions/there-is-none" + path, **options), 404)
            assert theirs["detail"] == nobodys["detail"]
        with pytest.raises(RefusedError) as refused:
            keyed.stream("bob", {"type": "hello", "version": 1, "resume": session.fields["resume"]})
        assert refused.value.code == 4404
        assert session.state()["next_sequence"] == 2
        with keyed.stream("alice", {"type": "hello", "version": 1, "resume": session.fields["resume"]}) as stream:
            assert stream.sequence == 2
            stream.end()
        # What is in a snapshot is anybody's who has it, and the session that it becomes is whose token opens it.
        assert b"alice" not in snapshot
        copy = HttpSession(bob, snapshot=snapshot)
        problem_of(alice.get(copy.path), 404)
        assert bob.delete(copy.path).status_code == 204


def test_a_snapshot_takes_its_scope_both_ways(keyed: Keyed) -> None:
    with keyed.http("alice") as alice, keyed.http("stream") as streamer:
        session = HttpSession(alice)
        snapshot = alice.get(f"{session.path}/state").content
        response = streamer.post("/v1/sessions", content=snapshot, headers={"Content-Type": STATE_MEDIA_TYPE})
        assert 'scope="state"' in response.headers["www-authenticate"]
        problem_of(response, 403)
        alice.delete(session.path)


def test_two_keys_sequences_of_one_name_never_meet(keyed: Keyed) -> None:
    def infer(http: httpx.Client, *, start: bool) -> httpx.Response:
        inputs = [
            {"name": "events", "datatype": "INT64", "shape": [1, 4], "data": [0, 1, 1, 1]},
            {"name": "sensor", "datatype": "INT32", "shape": [2], "data": [64, 48]},
        ]
        parameters = {"sequence_id": 77, "sequence_start": start}
        outputs = [{"name": "window"}]
        document = {"inputs": inputs, "parameters": parameters, "outputs": outputs}
        return http.post("/v2/models/edge-s/infer", json=document)

    with keyed.http("alice") as alice, keyed.http("bob") as bob:
        assert infer(alice, start=True).status_code == 200
        problem_of(infer(bob, start=False), 400)
        assert infer(bob, start=True).status_code == 200
        going_on = infer(alice, start=False)
        assert going_on.status_code == 200
        assert going_on.json()["parameters"]["next_sequence"] == 3


def test_a_session_stays_its_keys_on_the_server_that_takes_it_up(tmp_path: Path) -> None:
    tokens = write_keys(tmp_path / "keys")
    with running_redis(tmp_path) as redis:
        settings = {"store_url": redis.url, "keys_file": tmp_path / "keys", "drain_notice_seconds": 0}
        with running_server(**settings) as first, running_server(**settings) as second:
            here, there = (Keyed(url, tmp_path / "keys", tokens) for url in (first, second))
            with here.stream("alice") as stream:
                stream.events(EVENTS)
                path = f"/v1/sessions/{stream.welcome['session']}"
                resume = {"type": "hello", "version": 1, "resume": stream.token}
                # Who may not have it cannot even move it.
                with there.http("bob") as bob:
                    for response in (
                        bob.get(path),
                        bob.delete(path),
                        bob.post(f"{path}/reset"),
                        bob.get(f"{path}/state"),
                    ):
                        problem_of(response, 404)
                with pytest.raises(RefusedError) as refused:
                    there.stream("bob", resume)
                assert refused.value.code == 4404
                stream.reset()
            with here.http("alice") as alice:
                # Answered once it is in the store.
                until(lambda: alice.post(f"{path}/reset").status_code == 200)
            with there.stream("alice", resume) as again:
                assert again.sequence == 4
                again.end()


@pytest.mark.parametrize("origin", ["https://evil.example", "null", "http://127.0.0.1:1", "http://app.example"])
def test_pages_of_other_origins_are_refused(keyed: Keyed, origin: str) -> None:
    headers = {**keyed.headers("alice"), "Origin": origin}
    with pytest.raises(InvalidStatus) as refused:
        Stream(keyed.url, additional_headers=headers)
    assert refused.value.response.status_code == 403
    problem = problem_of(httpx.post(f"{keyed.url}/v1/sessions", headers=headers, json={}), 403)
    assert problem["type"] == "urn:spikeseg:problem:origin"
    # Its browser does not show the page what it reads.
    response = httpx.get(f"{keyed.url}/v1/models", headers=headers)
    assert "access-control-allow-origin" not in response.headers


def test_the_servers_own_pages_and_those_it_names_are_served(keyed: Keyed) -> None:
    for origin in (keyed.url, "https://app.example"):
        with Stream(keyed.url, additional_headers={**keyed.headers("alice"), "Origin": origin}) as stream:
            stream.end()
    asked = {
        "Origin": "https://app.example",
        "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": "authorization,content-type",
    }
    preflight = httpx.options(f"{keyed.url}/v1/sessions", headers=asked)
    assert preflight.status_code == 200
    assert preflight.headers["access-control-allow-origin"] == "https://app.example"
    refused = httpx.options(f"{keyed.url}/v1/sessions", headers={**asked, "Origin": "https://evil.example"})
    assert "access-control-allow-origin" not in refused.headers


def test_keys_change_without_a_restart_and_a_revoked_one_loses_its_stream(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    tokens = write_keys(file)
    with running_server(keys_file=file) as url:
        keyed = Keyed(url, file, tokens)
        stream = keyed.stream("alice")
        stream.events(EVENTS)
        old = next(key for key in load_keys(file).keys if key.id == "alice")
        key, tokens["new"] = new_key("alice", list(Scope))
        add_key(file, key)
        until(lambda: httpx.get(f"{url}/v1/models", headers=keyed.headers("new")).status_code == 200)
        remove_keys(file, KeyRing([old]))
        until(lambda: httpx.get(f"{url}/v1/models", headers=keyed.headers("alice")).status_code == 401)
        with pytest.raises(RefusedError) as refused:
            stream.reset()
        assert refused.value.code == 4401
        # It is the holder's, not the token's.
        with keyed.stream("new", {"type": "hello", "version": 1, "resume": stream.token}) as again:
            assert again.sequence == 2
        file.write_text("{broken")
        health = f"{url}/v2/health/ready"
        until(lambda: httpx.get(health).json()["components"]["keys"]["status"] == "degraded")
        assert httpx.get(health).status_code == 200
        assert httpx.get(f"{url}/v1/models", headers=keyed.headers("new")).status_code == 200


def until(holds: Any) -> None:
    end = time.monotonic() + PATIENCE_S
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.1)


def test_who_is_refused_again_and_again_waits_and_a_good_key_does_not(tmp_path: Path) -> None:
    tokens = write_keys(tmp_path / "keys")
    with running_server(keys_file=tmp_path / "keys", refusal_rate=0.01, refusal_burst=3) as url:
        statuses = [httpx.get(f"{url}/v1/models").status_code for _ in range(5)]
        assert statuses == [401, 401, 401, 429, 429]
        assert int(httpx.get(f"{url}/v1/models").headers["retry-after"]) > 1
        keyed = Keyed(url, tmp_path / "keys", tokens)
        assert httpx.get(f"{url}/v1/models", headers=keyed.headers("alice")).status_code == 200
        assert httpx.get(f"{url}/v2/health/live").status_code == 200


def test_a_caller_makes_so_many_requests_and_handshakes_at_a_time(tmp_path: Path) -> None:
    tokens = write_keys(tmp_path / "keys")
    with running_server(keys_file=tmp_path / "keys", request_rate=0.01, request_burst=3) as url:
        keyed = Keyed(url, tmp_path / "keys", tokens)
        with keyed.http("alice") as alice, keyed.http("bob") as bob:
            assert [alice.get("/v1/models").status_code for _ in range(4)] == [200, 200, 200, 429]
            limited = alice.get("/v1/models")
            assert int(limited.headers["retry-after"]) > 1
            assert problem_of(limited, 429)["type"] == "urn:spikeseg:problem:rate-limit"
            with pytest.raises(InvalidStatus) as refused:
                keyed.stream("alice")
            assert refused.value.response.status_code == 429
            assert bob.get("/v1/models").status_code == 200
        with keyed.stream("stream") as stream:
            # Messages are slowed by acknowledgements, not counted.
            for _ in range(10):
                stream.reset()
            stream.end()


def test_the_host_is_checked_where_it_is_named() -> None:
    with running_server(allowed_hosts="seg.example, 127.0.0.1") as url:
        assert httpx.get(f"{url}/v1/models", headers={"Host": "SEG.example:8443"}).status_code == 200
        assert problem_of(httpx.get(f"{url}/v1/models", headers={"Host": "evil.example"}), 421)
        with pytest.raises(InvalidStatus) as refused:
            Stream(url, additional_headers={"Host": "evil.example"})  # beside the real one
        assert refused.value.response.status_code == 421
        assert httpx.get(f"{url}/v2/health/live", headers={"Host": "10.0.0.7"}).status_code == 200


def test_without_keys_a_server_listens_to_this_machine_alone() -> None:
    environment = {**os.environ, "SPIKESEG_HOST": "0.0.0.0", "SPIKESEG_PORT": "0", "SPIKESEG_LOG_FORMAT": "text"}
    for name in ("SPIKESEG_KEYS_FILE", "SPIKESEG_INSECURE"):
        environment.pop(name, None)
    run = subprocess.run(
        [sys.executable, "-m", "service"], cwd=REPOSITORY, env=environment, capture_output=True, text=True, check=False
    )
    assert run.returncode == 2
    (line,) = run.stderr.splitlines()
    assert "SPIKESEG_KEYS_FILE" in line
    assert "SPIKESEG_INSECURE" in line
    with running_server(host="0.0.0.0", insecure=True) as url:
        assert httpx.get(url.replace("0.0.0.0", "127.0.0.1") + "/v1/models").status_code == 200


def test_a_server_does_not_start_without_the_keys_that_it_is_to_have(tmp_path: Path) -> None:
    environment = {**os.environ, "SPIKESEG_PORT": "0", "SPIKESEG_KEYS_FILE": str(tmp_path / "none")}
    run = subprocess.run(
        [sys.executable, "-m", "service"], cwd=REPOSITORY, env=environment, capture_output=True, text=True, check=False
    )
    assert run.returncode == 3
    assert "No such file" in run.stderr
    assert "Traceback" not in run.stderr


def test_every_answer_has_the_headers_that_browsers_heed(keyed: Keyed) -> None:
    for path in ("/", "/viewer/main.js", "/docs", "/v1/models", "/nothing", "/v2/health/live"):
        headers = httpx.get(keyed.url + path).headers
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["x-frame-options"] == "DENY"
        assert headers["referrer-policy"] == "no-referrer"
        assert "default-src 'none'" in headers["content-security-policy"]
        assert "unsafe" not in headers["content-security-policy"]
        assert "strict-transport-security" not in headers
    assert httpx.get(f"{keyed.url}/v1/models", headers=keyed.headers("alice")).headers["cache-control"] == "no-store"


def audit_lines(log: str) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in log.splitlines() if line.startswith("{")]
    return [line for line in lines if line["logger"] == "service.audit"]


def test_the_audit_log_tells_the_life_of_a_session_and_who_was_refused_but_no_secret(tmp_path: Path) -> None:
    tokens = write_keys(tmp_path / "keys")
    log = tmp_path / "log"
    settings = {"keys_file": tmp_path / "keys", "log_format": "json", "log_level": "error", "access_log": False}
    shell = ("sh", "-c", f'exec "$@" 2> {log}', "sh")
    with running_server(shell, **settings) as url:
        keyed = Keyed(url, tmp_path / "keys", tokens)
        with keyed.stream("alice") as stream:
            stream.events(EVENTS)
            id = stream.welcome["session"]
        with keyed.stream("alice", {"type": "hello", "version": 1, "resume": stream.token}) as again:
            again.reset()
        with keyed.http("alice") as alice:

            def snapshot() -> httpx.Response:
                return alice.get(f"/v1/sessions/{id}/state")

            content = snapshot().content
            put = {"content": content, "headers": {"Content-Type": STATE_MEDIA_TYPE}}
            until(lambda: alice.put(f"/v1/sessions/{id}/state", **put).status_code == 200)
            assert alice.delete(f"/v1/sessions/{id}").status_code == 204
        with keyed.stream("bob") as other:
            other.end()
        assert httpx.get(f"{url}/metrics").status_code == 401
        assert httpx.get(f"{url}/metrics", headers=keyed.headers("read")).status_code == 403
    text = log.read_text()
    for token in (*tokens.values(), stream.token):
        assert token.partition(".")[2] not in text
    told = [(line["event"], line["key"]) for line in audit_lines(text)]
    assert told == [
        ("session.opened", "alice"),
        ("session.resumed", "alice"),
        ("snapshot.read", "alice"),
        ("snapshot.written", "alice"),
        ("session.ended", "alice"),
        ("session.opened", "bob"),
        ("session.ended", "bob"),
        ("access.refused", ""),
        ("access.refused", "read"),
    ]
    assert {line.get("session") for line in audit_lines(text)[:5]} == {id}
    assert [line["reason"] for line in audit_lines(text)[-2:]] == ["unauthenticated", "forbidden"]
    assert all(line["client"] == "127.0.0.1" and line["path"] == "/metrics" for line in audit_lines(text)[-2:])
