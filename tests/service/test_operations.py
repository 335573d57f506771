"""Health, metrics, models, recordings, the viewer, and errors that belong to no call."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import httpx
import numpy as np
import pytest
from prometheus_client import Metric
from prometheus_client.parser import text_string_to_metric_families

from models.events import EventBatch
from models.zoo import ZOO
from service.settings import Settings
from service.wire import messages
from service.wire.aedat4 import write_aedat4
from service.wire.events import MEDIA_TYPE, decode_packets
from service.wire.messages import MessageType
from tests.service.harness import (
    PATIENCE_S,
    REPOSITORY,
    SENSOR,
    WINDOW_US,
    HttpSession,
    Stream,
    hello,
    problem_of,
    random_events,
    running_server,
)

EVENTS = random_events(51, windows=3)


def metrics_of(http: httpx.Client) -> dict[str, Metric]:
    response = http.get("/metrics")
    assert response.headers["content-type"].startswith("text/plain")
    return {family.name: family for family in text_string_to_metric_families(response.text)}


def value(metrics: dict[str, Metric], family: str, sample: str, **labels: str) -> float:
    for found in metrics[family].samples:
        if found.name == sample and labels.items() <= found.labels.items():
            return float(found.value)
    return 0.0


def test_health(http: httpx.Client) -> None:
    alive = http.get("/v2/health/live").json()
    assert (alive["live"], alive["status"]) == (True, "ok")
    document = http.get("/v2/health/ready").json()
    assert (document["ready"], document["model"], document["draining"]) == (True, "loaded", False)
    assert document["store"] == {"kind": "memory", "available": True, "problem": None}


def test_metrics_count_what_happens(http: httpx.Client) -> None:
    before = metrics_of(http)
    session = HttpSession(http)
    session.events(EVENTS, until_us=3 * WINDOW_US)
    problem_of(http.post(f"{session.path}/events", params={"until_us": 10**15}), 422)
    after = metrics_of(http)
    model = {"model": "edge-s"}

    def grown(family: str, sample: str, **labels: str) -> float:
        return value(after, family, sample, **labels) - value(before, family, sample, **labels)

    assert grown("spikeseg_windows", "spikeseg_windows_total", **model) == 3
    assert grown("spikeseg_events", "spikeseg_events_total", **model) == len(EVENTS)
    assert grown("spikeseg_errors", "spikeseg_errors_total", code="time-jump") == 1
    assert grown("spikeseg_sessions_active", "spikeseg_sessions_active") == 1
    assert grown("spikeseg_state_bytes", "spikeseg_state_bytes") == session.state()["state_bytes"]
    assert grown("spikeseg_synaptic_operations", "spikeseg_synaptic_operations_total", **model) > 0
    for stage, count in (("decode", 2), ("wait", 3), ("compute", 3), ("encode", 3)):
        assert grown("spikeseg_latency_seconds", "spikeseg_latency_seconds_count", stage=stage) == count
    layer = {**model, "layer": "stem"}
    spikes = grown("spikeseg_spikes", "spikeseg_spikes_total", **layer)
    assert 0 < spikes < grown("spikeseg_neuron_steps", "spikeseg_neuron_steps_total", **layer)
    assert 0 < value(after, "spikeseg_firing_rate_ratio", "spikeseg_firing_rate_ratio", **layer) < 1
    assert value(after, "spikeseg_build_info", "spikeseg_build_info") == 1


def test_what_computes_the_networks_can_be_chosen() -> None:
    with running_server(backend="torch") as url, httpx.Client(base_url=url, timeout=PATIENCE_S) as server:
        assert {m["backend"] for m in server.get("/v1/models").json()["models"]} == {"torch"}
        session = HttpSession(server)
        session.events(EVENTS[:10])
        info = metrics_of(server)["spikeseg_model_info"]
        assert [sample.labels["backend"] for sample in info.samples] == ["torch"]


def test_what_weights_are_rounded_to_can_be_chosen() -> None:
    with running_server(weights="int8") as url, httpx.Client(base_url=url, timeout=PATIENCE_S) as server:
        assert {m["name"]: m["weights"] for m in server.get("/v1/models").json()["models"]}["edge-s"] == "int8"
        session = HttpSession(server)
        session.events(EVENTS[:10])
        info = metrics_of(server)["spikeseg_model_info"]
        assert [sample.labels["weights"] for sample in info.samples] == ["int8"]


def test_metrics_are_named_as_prometheus_asks_and_never_name_a_session(http: httpx.Client) -> None:
    session = HttpSession(http)
    session.events(EVENTS[:10])
    for family in metrics_of(http).values():
        assert family.name.startswith(("spikeseg_", "process_"))
        assert family.documentation
        for sample in family.samples:
            assert not {"session", "client", "sensor"} & set(sample.labels)
    assert session.fields["session"] not in http.get("/metrics").text


def test_models(http: httpx.Client) -> None:
    (model,) = (m for m in http.get("/v1/models").json()["models"] if m["name"] == "edge-s")
    assert model["default"] is True
    assert [c["id"] for c in model["classes"]] == list(range(6))
    assert model["window"]["us"] > 0
    assert model["grid"]["longest_side"] > 0
    assert model["backend"] in ("torch", "event-driven")
    assert model["weights"] == "float32"
    assert model["card"]["name"] == "edge-s"


def test_a_recording_is_turned_into_packets(http: httpx.Client, tmp_path: Path) -> None:
    path = tmp_path / "some.aedat4"
    write_aedat4(path, EVENTS, SENSOR)
    response = http.post(
        "/v1/recordings", content=path.read_bytes(), headers={"Content-Type": "application/vnd.aedat4"}
    )
    assert response.status_code == 200, response.text
    assert response.headers["content-type"] == MEDIA_TYPE
    packets = decode_packets(response.content)
    assert {packet.sensor for packet in packets} == {SENSOR}
    events = EventBatch.concatenate([packet.events for packet in packets])
    for name in "txyp":
        assert np.array_equal(getattr(events, name), getattr(EVENTS, name))


@pytest.mark.parametrize(
    ("content", "kind", "status"),
    [
        (b"", "application/vnd.aedat4", 422),
        (b"SEV1", "application/vnd.aedat4", 422),
        (b"#!AER-DAT4.0\r\n", "application/vnd.aedat4", 422),
        (b"#!AER-DAT4.0\r\n" + bytes(5000), "application/vnd.aedat4", 422),
        (b"#!AER-DAT4.0\r\n", "text/plain", 415),
    ],
)
def test_what_is_no_recording(http: httpx.Client, content: bytes, kind: str, status: int) -> None:
    problem_of(http.post("/v1/recordings", content=content, headers={"Content-Type": kind}), status)
    assert http.get("/v2/health/ready").status_code == 200


def test_the_demo_recording(http: httpx.Client) -> None:
    response = http.get("/v1/recordings/demo")
    if not Settings().demo_recording.exists():
        problem_of(response, 404)
        pytest.skip("no demo recording in this checkout")
    assert response.headers["content-type"] == MEDIA_TYPE
    assert sum(len(packet.events) for packet in decode_packets(response.content)) > 1000


def test_the_viewer_is_served(http: httpx.Client) -> None:
    page = http.get("/")
    assert page.status_code == 200
    assert page.headers["content-type"].startswith("text/html")
    assert http.get("/viewer/index.html").content == page.content
    problem_of(http.get("/viewer/nope.js"), 404)
    problem_of(http.get("/viewer/..%2fsettings.py"), 404)


def test_the_api_describes_itself(http: httpx.Client) -> None:
    assert http.get("/docs").status_code == 200
    paths = http.get("/openapi.json").json()["paths"]
    assert {"/v1/segment", "/v1/sessions", "/v1/sessions/{id}/events", "/v1/models", "/v1/recordings"} <= set(paths)
    body = paths["/v1/segment"]["post"]["requestBody"]["content"]
    assert MEDIA_TYPE in body
    assert "application/json" in body


def test_what_is_not_there(http: httpx.Client) -> None:
    problem_of(http.get("/nope"), 404)
    problem_of(http.get("/v1/segment/nope"), 404)
    response = http.get("/v1/segment")
    problem_of(response, 405)
    assert response.headers["allow"] == "POST"
    problem_of(http.put("/v1/models", json={}), 405)


def test_a_stop_with_clients_connected_is_a_clean_stop() -> None:
    """``running_server`` asserts that the process ends with exit code 0."""
    with running_server() as url:
        stream = Stream(url, hello(sensor={"width": 346, "height": 260}))
        HttpSession(httpx.Client(base_url=url))
        stream.advance(5)
    farewell = stream.message()
    assert (farewell.type, farewell.sequence) == (MessageType.GOAWAY, 1)
    assert "stop" in messages.decode_goaway(farewell.payload)
    assert stream.refusal().code == 1012


@pytest.mark.parametrize(
    ("name", "text", "says"),
    [
        ("SPIKESEG_PORT", "tcp://10.0.0.1:80", "SPIKESEG_PORT"),
        ("SPIKESEG_MAX_SESSIONS", "0", "SPIKESEG_MAX_SESSIONS"),
        ("SPIKESEG_MIN_WINDOW_US", "99999999", "min_window_us"),
    ],
)
def test_wrong_settings_are_named(name: str, text: str, says: str) -> None:
    ended = start_in_vain({name: text})
    assert ended.returncode == 2
    assert says in ended.stderr
    assert "Traceback" not in ended.stderr


def edge_zoo(folder: Path) -> Path:
    """A zoo of one network, to be damaged."""
    for path in ZOO.glob("edge-s.*"):
        shutil.copy(path, folder)
    return folder


def no_zoo(folder: Path) -> dict[str, str]:
    return {"SPIKESEG_ZOO": str(folder / "nothing")}


def no_weights(folder: Path) -> dict[str, str]:
    (edge_zoo(folder) / "edge-s.safetensors").unlink()
    return {"SPIKESEG_ZOO": str(folder)}


def weights_cut_short(folder: Path) -> dict[str, str]:
    weights = edge_zoo(folder) / "edge-s.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    return {"SPIKESEG_ZOO": str(folder)}


def a_card_that_is_no_json(folder: Path) -> dict[str, str]:
    (edge_zoo(folder) / "edge-s.json").write_text("{")
    return {"SPIKESEG_ZOO": str(folder)}


def an_unknown_format(folder: Path) -> dict[str, str]:
    card = edge_zoo(folder) / "edge-s.json"
    card.write_text(json.dumps({**json.loads(card.read_text()), "format": "of-tomorrow-9"}))
    return {"SPIKESEG_ZOO": str(folder)}


def a_wrong_store(_folder: Path) -> dict[str, str]:
    return {"SPIKESEG_STORE_URL": "redis://:hunter2@host:port/0"}


@pytest.mark.parametrize("log_format", ["json", "text"])
@pytest.mark.parametrize(
    ("prepare", "says"),
    [
        (no_zoo, "no model 'edge-s'"),
        (no_weights, "edge-s.safetensors"),
        (weights_cut_short, "edge-s"),
        (a_card_that_is_no_json, "edge-s"),
        (an_unknown_format, "of-tomorrow-9"),
        (a_wrong_store, "the address of the state store cannot be understood"),
    ],
)
def test_a_service_that_cannot_start_says_why_in_one_line(
    tmp_path: Path, prepare: Callable[[Path], dict[str, str]], says: str, log_format: str
) -> None:
    settings = {"SPIKESEG_PORT": "0", "SPIKESEG_LOG_FORMAT": log_format, **prepare(tmp_path)}
    ended = start_in_vain(settings)
    assert ended.returncode == 3
    assert ended.stdout == ""
    assert "Traceback" not in ended.stderr
    assert "hunter2" not in ended.stderr
    lines = ended.stderr.splitlines()
    if log_format == "json":
        (why,) = (line["message"] for line in map(json.loads, lines) if line["level"] == "critical")
    else:
        (why,) = (line for line in lines if " CRITICAL " in line)
    assert "the service cannot start" in why
    assert says in why


def test_a_port_that_is_taken_is_named() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        ended = start_in_vain({"SPIKESEG_PORT": str(port)})
    assert ended.returncode not in (0, None)
    assert "Traceback" not in ended.stderr
    (why,) = (line["message"] for line in map(json.loads, ended.stderr.splitlines()) if "address" in line["message"])
    assert str(port) in why


def test_a_wrong_setting_is_one_json_line() -> None:
    (line,) = start_in_vain({"SPIKESEG_PORT": "x\ny", "SPIKESEG_LOG_FORMAT": "json"}).stderr.splitlines()
    document = json.loads(line)
    assert document["level"] == "critical"
    assert document["message"].startswith("SPIKESEG_PORT: ")


def start_in_vain(settings: dict[str, str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "service"],
        cwd=REPOSITORY,
        env={**os.environ, **settings},
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
    )


def test_every_setting_is_explained() -> None:
    for name, field in Settings.model_fields.items():
        assert field.description, name
