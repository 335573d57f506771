"""Snapshots of a session: out, in, into another session, and into another server, with the same bits."""

from __future__ import annotations

import httpx
import pytest

from models.events import SensorSize
from service.streaming.checkpoints import MEDIA_TYPE, Checkpoint, decode_checkpoint, encode_checkpoint
from tests.service.harness import (
    PATIENCE_S,
    SENSOR,
    WINDOW_US,
    HttpSession,
    Result,
    Stream,
    one_connection,
    problem_of,
    random_events,
    running_server,
    same,
)

EVENTS = random_events(91, windows=6)
HALF = 4100  # In the middle of a window.
END_US = 6 * WINDOW_US
STATE = {"Content-Type": MEDIA_TYPE}


@pytest.fixture(scope="module")
def reference(server: str) -> list[Result]:
    return one_connection(server, EVENTS, END_US)


def snapshot_of(http: httpx.Client, path: str) -> bytes:
    response = http.get(f"{path}/state")
    assert response.status_code == 200, response.text
    assert response.headers["content-type"] == MEDIA_TYPE
    return response.content


def test_a_session_goes_back_to_a_snapshot(http: httpx.Client, reference: list[Result]) -> None:
    session = HttpSession(http)
    before = session.events(EVENTS[:HALF])
    snapshot = snapshot_of(http, session.path)
    first = session.events(EVENTS[HALF:], until_us=END_US)
    response = http.put(f"{session.path}/state", content=snapshot, headers=STATE)
    assert response.status_code == 200, response.text
    assert response.json()["next_window"] == len(before)
    assert response.json()["next_sequence"] == 4
    second = session.events(EVENTS[HALF:], until_us=END_US)
    assert same(before + first, reference)
    assert same(second, first)


def test_a_session_opened_from_a_snapshot_goes_on(http: httpx.Client, reference: list[Result]) -> None:
    session = HttpSession(http)
    before = session.events(EVENTS[:HALF])
    forks = [HttpSession(http, snapshot=snapshot_of(http, session.path)) for _ in range(2)]
    for fork in forks:
        assert fork.fields["next_sequence"] == 1
        assert fork.fields["session"] != session.fields["session"]
        assert same(before + fork.events(EVENTS[HALF:], until_us=END_US), reference)
    assert same(before + session.events(EVENTS[HALF:], until_us=END_US), reference)


def test_another_server_goes_on(server: str, http: httpx.Client, reference: list[Result]) -> None:
    with Stream(server) as stream:
        before = stream.events(EVENTS[:HALF])
        snapshot = snapshot_of(http, f"/v1/sessions/{stream.welcome['session']}")
    with running_server() as other, httpx.Client(base_url=other, timeout=PATIENCE_S) as there:
        moved = HttpSession(there, snapshot=snapshot)
        assert same(before + moved.events(EVENTS[HALF:], until_us=END_US), reference)


def test_a_server_with_other_weights_refuses_to_go_on_and_says_why(http: httpx.Client) -> None:
    session = HttpSession(http)
    session.events(EVENTS[:HALF])
    snapshot = snapshot_of(http, session.path)
    with running_server(weights="int8") as other, httpx.Client(base_url=other, timeout=PATIENCE_S) as there:
        refused = there.post("/v1/sessions", content=snapshot, headers=STATE)
        assert "SPIKESEG_WEIGHTS" in problem_of(refused, 422)["detail"]


def test_a_snapshot_of_rest_is_small(http: httpx.Client, reference: list[Result]) -> None:
    session = HttpSession(http)
    snapshot = snapshot_of(http, session.path)
    assert len(snapshot) < 10_000
    session.events(EVENTS[:HALF])
    http.put(f"{session.path}/state", content=snapshot, headers=STATE)
    assert same(session.events(EVENTS, until_us=END_US), reference)


def test_a_snapshot_tells_no_secret(http: httpx.Client) -> None:
    session = HttpSession(http)
    session.events(EVENTS[:HALF])
    header = decode_checkpoint(snapshot_of(http, session.path)).header
    assert header["secret_sha256"] == ""
    assert header["answers"] == []


def test_snapshots_that_cannot_be_used(http: httpx.Client) -> None:
    session = HttpSession(http)
    session.events(EVENTS[:HALF])
    before = session.state()
    good = snapshot_of(http, session.path)
    kept = decode_checkpoint(good)
    layer = next(name for name in kept.arrays if name.startswith("membranes/"))

    def changed(**fields: object) -> bytes:
        return encode_checkpoint(Checkpoint({**kept.header, **fields}, kept.arrays))

    def without(name: str) -> bytes:
        return encode_checkpoint(Checkpoint(kept.header, {k: v for k, v in kept.arrays.items() if k != name}))

    def replaced(name: str, array: object) -> bytes:
        return encode_checkpoint(Checkpoint(kept.header, {**kept.arrays, name: array}))  # type: ignore[dict-item]

    bad: list[tuple[bytes, str]] = [
        (b"", "bytes"),
        (good[:-1], "checksum"),
        (good[:60] + b"\0" + good[61:], "checksum"),
        (changed(model="edge-x"), "model"),
        (changed(fingerprint="0"), "weights"),
        (changed(sensor={"width": -1, "height": 260}), "sensor"),
        (changed(config={}), "config"),
        (changed(stream={}), "stream"),
        (changed(stream={**kept.header["stream"], "latest": -5}), "latest"),
        (changed(next_sequence="1"), "next_sequence"),
        (changed(ended=True), "ended"),
        (changed(surplus=1), "surplus"),
        (without(layer), "layer"),
        (replaced(layer, kept.arrays[layer][:, :-1]), "membranes"),
        (replaced(layer, kept.arrays[layer] * float("nan")), "membranes"),
        (without("stream/pending.t"), "arrays"),
    ]
    for data, says in bad:
        for call in (
            lambda data: http.put(f"{session.path}/state", content=data, headers=STATE),
            lambda data: http.post("/v1/sessions", content=data, headers=STATE),
        ):
            response = call(data)
            assert response.status_code in (404, 422), (says, response.text)
            document = problem_of(response, response.status_code)
            assert says in document["detail"] or says in str(document.get("errors")), document
    assert session.state() == before
    wrong_type = http.put(f"{session.path}/state", content=good)
    problem_of(wrong_type, 415)


def test_a_snapshot_of_another_sensor_or_window(http: httpx.Client) -> None:
    session = HttpSession(http)
    for fields, blamed in (
        ({"sensor": {"width": 32, "height": 24}}, "sensor"),
        ({"window": {"us": 30_000}}, "window"),
    ):
        snapshot = snapshot_of(http, HttpSession(http, **fields).path)
        document = problem_of(http.put(f"{session.path}/state", content=snapshot, headers=STATE), 422)
        assert [error["field"] for error in document["errors"]] == [blamed]


def test_a_held_session_gives_its_state_but_takes_none(server: str, http: httpx.Client) -> None:
    with Stream(server) as stream:
        stream.events(EVENTS[:HALF])
        path = f"/v1/sessions/{stream.welcome['session']}"
        snapshot = snapshot_of(http, path)
        problem_of(http.put(f"{path}/state", content=snapshot, headers=STATE), 409)
        stream.end()


def test_a_large_snapshot_is_refused() -> None:
    with running_server(max_snapshot_bytes=5_000) as url, httpx.Client(base_url=url, timeout=PATIENCE_S) as http:
        session = HttpSession(http, sensor={"width": 64, "height": 48})
        session.events(EVENTS[:HALF], SensorSize(64, 48))
        snapshot = snapshot_of(http, session.path)
        problem_of(http.put(f"{session.path}/state", content=snapshot, headers=STATE), 413)
    assert SensorSize(64, 48) == SENSOR
