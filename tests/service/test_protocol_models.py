"""Models of the paper's protocol, and of frames, beside the streaming ones in a zoo of the operator's own."""

from __future__ import annotations

import io
import shutil
from collections.abc import Iterator
from pathlib import Path

import httpx
import numpy as np
import pytest
import torch
from PIL import Image

from models import zoo
from models.architectures.paper import PaperConfig, PaperNetwork, fold_bntt
from models.classes import DDD17_CLASSES, SegmentationClass
from models.coding import InputCoding
from models.runtime.protocol import ProtocolModel
from service.wire.events import MEDIA_TYPE, encode_packet
from tests.service.harness import (
    PATIENCE_S,
    SENSOR,
    WINDOW_US,
    HttpSession,
    RefusedError,
    Result,
    Stream,
    hello,
    problem_of,
    random_events,
    running_server,
    same,
)

STEPS = 2
EVENTS = random_events(71, windows=3)
END_US = 3 * WINDOW_US


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A zoo with edge-s, an untrained network of each input, and one whose weights are missing."""
    made = tmp_path_factory.mktemp("zoo")
    for file in zoo.ZOO.glob("edge-s.*"):
        shutil.copy(file, made)
    torch.manual_seed(0)
    config = PaperConfig("deeplab", steps=STEPS)
    coding = InputCoding(height=12, width=16)
    weights = fold_bntt(PaperNetwork(config))
    for name in ("paper", "damaged"):
        zoo.save_paper(name, config, coding, weights, DDD17_CLASSES, {"window_us": WINDOW_US}, made)
    (made / "damaged-00001-of-00001.safetensors").unlink()
    config = PaperConfig("deeplab", classes=21, input_channels=3, steps=STEPS)
    classes = [SegmentationClass(k, f"class {k}", (k, k, k)) for k in range(21)]
    zoo.save_paper("voc", config, InputCoding("frames"), fold_bntt(PaperNetwork(config)), classes, {}, made)
    return made


@pytest.fixture(scope="module")
def server(folder: Path) -> Iterator[str]:
    with running_server(zoo=folder) as url:
        yield url


@pytest.fixture(scope="module")
def expected(folder: Path) -> list[tuple[np.ndarray, float]]:
    """Masks and firing rates of the three windows, computed without the service."""
    model = zoo.load("paper", folder, expect=ProtocolModel)
    state = model.initial_state(SENSOR)
    answers = []
    for k in range(3):
        window = EVENTS[slice(*np.searchsorted(EVENTS.t, [k * WINDOW_US, (k + 1) * WINDOW_US]).tolist())]
        answer = model.segment(state, window, SENSOR)
        state = answer.state
        answers.append((answer.mask, answer.activity.firing_rate))
    return answers


def agree(results: list[Result], expected: list[tuple[np.ndarray, float]]) -> bool:
    return len(results) == len(expected) and all(
        np.array_equal(result.mask, mask) and (result.activity or {})["firing_rate"] == pytest.approx(rate)
        for result, (mask, rate) in zip(results, expected, strict=True)
    )


def test_models_of_events_are_listed_with_their_mode(http: httpx.Client) -> None:
    listed = {model["name"]: model for model in http.get("/v1/models").json()["models"]}
    assert set(listed) == {"edge-s", "paper"}
    assert (listed["edge-s"]["mode"], listed["edge-s"]["steps"]) == ("streaming", 1)
    paper = listed["paper"]
    assert (paper["mode"], paper["steps"], paper["grid"]) == ("protocol", STEPS, {"longest_side": 16})
    assert (paper["default"], paper["window"], len(paper["classes"])) == (False, {"us": WINDOW_US}, 6)


def test_one_shot(http: httpx.Client, expected: list[tuple[np.ndarray, float]]) -> None:
    response = http.post(
        "/v1/segment",
        params={"model": "paper", "window_us": WINDOW_US},
        content=encode_packet(EVENTS, SENSOR),
        headers={"Content-Type": MEDIA_TYPE},
    )
    assert response.status_code == 200, response.text
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(response.content))), expected[-1][0])


def test_sessions_over_http_and_websocket(
    http: httpx.Client, server: str, expected: list[tuple[np.ndarray, float]]
) -> None:
    session = HttpSession(http, model="paper")
    # The state is a count of windows, beside no event that is pending.
    assert session.state()["state_bytes"] == 8
    over_http = session.events(EVENTS[:2000]) + session.events(EVENTS[2000:]) + session.advance(END_US)
    assert agree(over_http, expected)
    with Stream(server, hello(model="paper")) as stream:
        over_socket = stream.events(EVENTS) + stream.advance(END_US)
        stream.reset()
        again = stream.events(EVENTS) + stream.advance(END_US)
    assert same(over_http, over_socket)
    assert same(over_socket, again)
    layers = {layer["name"]: layer for layer in (over_socket[-1].activity or {})["layers"]}
    assert layers["conv1"]["firing_rate"] == pytest.approx(
        layers["conv1"]["spikes"] / layers["conv1"]["neurons"] / STEPS
    )
    assert layers["score"]["neurons"] == 0


def test_metrics_count_every_step(server: str) -> None:
    with httpx.Client(base_url=server, timeout=PATIENCE_S) as http:
        HttpSession(http, model="paper").events(EVENTS, until_us=END_US)
        text = http.get("/metrics").text
    rows = {line.split(" ")[0]: float(line.split(" ")[1]) for line in text.splitlines() if not line.startswith("#")}
    windows = rows['spikeseg_windows_total{model="paper"}']
    assert rows['spikeseg_neuron_steps_total{layer="conv1",model="paper"}'] == windows * STEPS * 64 * 12 * 16


def test_a_model_of_frames_or_without_weights_is_refused_with_the_reason(http: httpx.Client, server: str) -> None:
    body = {"sensor": {"width": SENSOR.width, "height": SENSOR.height}}
    problem = problem_of(http.post("/v1/sessions", json={**body, "model": "voc"}), 404)
    assert problem["detail"] == "model 'voc' segments frames, not events; for events there are: damaged, edge-s, paper"
    with (
        pytest.raises(RefusedError, match="segments frames, not events") as refused,
        Stream(server, hello(model="voc")),
    ):
        pass
    assert refused.value.code == 4404
    problem = problem_of(http.post("/v1/sessions", json={**body, "model": "damaged"}), 503)
    assert problem["detail"] == "model 'damaged' cannot be loaded on this server"
