"""The trained network that ships: its card, its faults, and an endless stream."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest

from models import zoo
from models.errors import EncodingError, StateError, UnknownModelError, WeightsError
from models.events import EventBatch, SensorSize
from models.runtime.protocol import ProtocolModel
from models.runtime.streaming import StreamingModel
from models.training.evaluate import LabelledWindow, camvid_events, evaluate_model
from models.training.train import parse

SENSOR = SensorSize(64, 48)
STREAMING = [name for name in ("edge-s", "edge-l") if name in zoo.names()]
PROTOCOL = [name for name in zoo.names(input="events") if name.startswith("paper") and not name.endswith("-ann")]


@pytest.fixture(scope="module")
def model() -> StreamingModel:
    return zoo.load("edge-s")


@pytest.fixture(scope="module")
def drive() -> list[LabelledWindow]:
    """The CamVid test drive as simulated events."""
    if not os.environ.get("SPIKESEG_DATA"):
        pytest.skip("SPIKESEG_DATA is not set: CamVid is kept outside of the project")
    return camvid_events()


def moving_bars(window: int, rng: np.random.Generator) -> EventBatch:
    """Upright edges that cross the sensor, with noise; every tenth window is a burst, every seventh silent."""
    if window % 7 == 6:
        return EventBatch.empty()
    height, width = SENSOR.height, SENSOR.width
    columns = (np.arange(0, width, 8) + window) % width
    x = np.concatenate([np.repeat(columns, height), rng.integers(0, width, 100)])
    y = np.concatenate([np.tile(np.arange(height), len(columns)), rng.integers(0, height, 100)])
    if window % 10 == 0:
        x, y = np.tile(x, 20), np.tile(y, 20)
    p = rng.integers(0, 2, len(x))
    return EventBatch(np.zeros(len(x), np.int64), x.astype(np.uint16), y.astype(np.uint16), p.astype(np.uint8))


def test_ten_thousand_windows_leave_the_membranes_bounded_and_the_masks_sane(model: StreamingModel) -> None:
    rng = np.random.default_rng(0)
    state = model.initial_state(SENSOR)
    largest = {"early": 0.0, "late": 0.0}
    rates: dict[str, list[float]] = {"early": [], "late": []}
    shares: dict[str, list[np.ndarray]] = {"early": [], "late": []}
    for k in range(10_000):
        answer = model.segment(state, moving_bars(k, rng), SENSOR)
        state = answer.state
        part = "early" if 500 <= k < 1500 else "late" if k >= 9000 else None
        if part:
            largest[part] = max(largest[part], *(float(v.abs().max()) for v in state.values()))
            rates[part].append(answer.activity.firing_rate)
            shares[part].append(np.bincount(answer.mask.ravel(), minlength=len(model.classes)) / answer.mask.size)
    assert np.isfinite(largest["late"])
    assert largest["late"] < 1.2 * largest["early"]
    assert np.mean(rates["late"]) == pytest.approx(np.mean(rates["early"]), rel=0.05)
    # The same stimulus is seen as the same classes after 10,000 windows as after 1,000.
    np.testing.assert_allclose(np.mean(shares["late"], 0), np.mean(shares["early"], 0), atol=0.03)
    # Memory fades: under the same events, the old state and one at rest come to the same masks.
    fresh = model.initial_state(SENSOR)
    agreement = []
    for k in range(100):
        events = moving_bars(k, rng)
        old, new = model.segment(state, events, SENSOR), model.segment(fresh, events, SENSOR)
        state, fresh = old.state, new.state
        agreement.append((old.mask == new.mask).mean())
    assert np.mean(agreement[-20:]) > 0.95


@pytest.mark.parametrize("name", zoo.names())
def test_the_card_tells_what_the_network_is(name: str) -> None:
    card = json.loads((zoo.ZOO / f"{name}.json").read_text(), parse_constant=pytest.fail)
    evaluation, training = card["evaluation"], card["training"]
    scores = evaluation["frames"] if card.get("input") == "frames" else evaluation["stream"]
    assert set(scores["class_iou"]) == {c["name"] for c in card["classes"]}
    assert np.sum(scores["confusion_matrix"]) > 0
    assert {"data", "command", "settings", "material", "held_out", "curve", "machine"} <= set(training)
    assert card["licence"]
    assert card["notes"]
    # The twins of the largest networks are scored in the card alone: their weights would take too much room.
    if not name.endswith("-ann"):
        assert 0 < evaluation["ann_twin"]["miou"] < 1
    if f"{name}-ann" in zoo.names():
        twin = json.loads((zoo.ZOO / f"{name}-ann.json").read_text())["evaluation"]
        assert evaluation["ann_twin"]["miou"] == (twin.get("frames") or twin.get("stream"))["miou"]


@pytest.mark.parametrize("name", STREAMING)
def test_a_streaming_network_is_as_good_as_promised(name: str) -> None:
    evaluation = zoo.load(name).card["evaluation"]
    stream = evaluation["stream"]
    assert stream["miou"] >= 0.5
    assert stream["firing_rate"] <= 0.08
    assert stream["miou"] > evaluation["reset_every_window"]["miou"]
    assert stream["sops_per_window"] < stream["macs_ann_per_window"]


@pytest.mark.parametrize("name", zoo.names())
def test_the_cards_command_and_settings_are_those_of_the_trainer(name: str) -> None:
    training = json.loads((zoo.ZOO / f"{name}.json").read_text())["training"]
    config, args = parse(training["command"].split()[3:])
    assert json.loads(json.dumps(asdict(config))) == training["settings"]
    assert args.out == Path(f"runs/{name}")


@pytest.mark.parametrize("name", [*STREAMING, *(f"{name}-ann" for name in STREAMING)])
def test_the_cards_scores_come_out_again(name: str, drive: list[LabelledWindow]) -> None:
    model = zoo.load(name)
    expected = model.card["evaluation"]["stream"]
    report = evaluate_model(model, drive)
    # Other processors sum in another order, which may turn a few spikes.
    for score in ("miou", "pixel_accuracy", "firing_rate"):
        assert report[score] == pytest.approx(expected[score], abs=0.005)
    assert report["sops_per_window"] == pytest.approx(expected["sops_per_window"], rel=0.01)
    assert report["macs_ann_per_window"] == expected["macs_ann_per_window"]


@pytest.mark.parametrize("name", PROTOCOL)
def test_a_paper_networks_first_windows_are_scored_as_they_were(name: str, drive: list[LabelledWindow]) -> None:
    model = zoo.load(name, expect=ProtocolModel)
    report = evaluate_model(model, drive[:20])
    assert report["pixel_accuracy"] > 0.4
    assert report["firing_rate"] == pytest.approx(model.card["evaluation"]["stream"]["firing_rate"], abs=0.05)


def test_weights_are_small() -> None:
    sizes = [path.stat().st_size for path in zoo.ZOO.glob("*.safetensors")]
    assert max(sizes) < 8 * 2**20
    assert sum(sizes) < 36 * 2**20


def test_a_mask_has_the_sensors_size_also_where_the_grid_is_coarser(model: StreamingModel) -> None:
    for sensor in (SensorSize(346, 260), SensorSize(641, 479), SensorSize(20, 17)):
        answer = model.segment(model.initial_state(sensor), EventBatch.empty(), sensor)
        assert answer.mask.shape == (sensor.height, sensor.width)
        assert answer.mask.max() < len(model.classes)


def test_a_state_or_an_event_that_does_not_fit_the_sensor_is_refused(model: StreamingModel) -> None:
    with pytest.raises(StateError, match="layer stem has shape"):
        model.segment(model.initial_state(SensorSize(32, 32)), EventBatch.empty(), SENSOR)
    outside = EventBatch(
        np.zeros(1, np.int64), np.array([64], np.uint16), np.array([0], np.uint16), np.array([1], np.uint8)
    )
    with pytest.raises(EncodingError, match="outside the 64x48 sensor"):
        model.segment(model.initial_state(SENSOR), outside, SENSOR)


def test_an_unknown_name_is_answered_with_the_known_ones() -> None:
    with pytest.raises(UnknownModelError, match=r"no model 'edge-x'; there are: .*edge-s"):
        zoo.load("edge-x")
    with pytest.raises(UnknownModelError):
        zoo.load("../zoo/edge-s")


def test_missing_or_damaged_weights_are_named(tmp_path: Path) -> None:
    shutil.copy(zoo.ZOO / "edge-s.json", tmp_path)
    with pytest.raises(WeightsError, match=r"edge-s\.safetensors is missing"):
        zoo.load("edge-s", tmp_path)
    whole = (zoo.ZOO / "edge-s.safetensors").read_bytes()
    (tmp_path / "edge-s.safetensors").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(WeightsError, match=r"edge-s\.safetensors is damaged"):
        zoo.load("edge-s", tmp_path)
    card = json.loads((zoo.ZOO / "edge-s.json").read_text())
    (tmp_path / "edge-s.json").write_text(json.dumps(card | {"format": "other"}))
    with pytest.raises(WeightsError, match="has format 'other'"):
        zoo.load("edge-s", tmp_path)
