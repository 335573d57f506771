"""Models of the paper's protocol: pure, T steps from rest for each window, and what they carry between windows."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from spikingjelly.activation_based import functional

from models.architectures.paper import Kind, PaperConfig, PaperNetwork, firing_rates, fold_bntt, layer_macs
from models.classes import DDD17_CLASSES, SegmentationClass
from models.coding import InputCoding, cells_64, frame_input, poisson_code, window_generator
from models.errors import EncodingError, StateError
from models.events import EventBatch, SensorSize
from models.runtime.model import SegmentationModel
from models.runtime.paper import PaperRuntime
from models.runtime.protocol import HISTORY, WINDOW, FrameModel, ProtocolModel
from models.runtime.state import State

SENSOR = SensorSize(50, 38)
SMALL = InputCoding(height=16, width=20)
STEPS = 3


@lru_cache
def network(kind: Kind = "deeplab", *, spiking: bool = True, channels: int = 2) -> PaperNetwork:
    """An untrained network whose layers fire."""
    torch.manual_seed(0)
    made = PaperNetwork(PaperConfig(kind, input_channels=channels, steps=STEPS, spiking=spiking)).eval()
    for name, parameter in made.named_parameters():
        if name.startswith("norms"):
            torch.nn.init.uniform_(parameter, 1, 3)
    return made


@lru_cache
def model(coding: InputCoding = SMALL, kind: Kind = "deeplab", *, spiking: bool = True) -> ProtocolModel:
    made = network(kind, spiking=spiking)
    runtime = PaperRuntime(made.config, fold_bntt(made))
    return ProtocolModel("paper", runtime, coding, DDD17_CLASSES, 50_000, {})


def events(seed: int, n: int = 400) -> EventBatch:
    rng = np.random.default_rng(seed)
    return EventBatch(
        np.zeros(n, np.int64),
        rng.integers(0, SENSOR.width, n).astype(np.uint16),
        rng.integers(0, SENSOR.height, n).astype(np.uint16),
        rng.integers(0, 2, n).astype(np.uint8),
    )


def cells(batch: EventBatch) -> torch.Tensor:
    return torch.from_numpy(cells_64(batch, SENSOR, 16, 20))


def expected_mask(made: PaperNetwork, x_seq: torch.Tensor) -> tuple[np.ndarray, dict[str, Any]]:
    """What the training graph says of input steps (T, C, h, w): mask at the sensor's size, and its spikes."""
    functional.reset_net(made)
    with torch.no_grad():
        logits, spikes = made.forward_with_spikes(x_seq[:, None])
        full = F.interpolate(logits, (SENSOR.height, SENSOR.width), mode="bilinear", align_corners=False)
    return full[0].argmax(0).numpy(), spikes


@pytest.mark.parametrize("kind", ["deeplab", "fcn"])
@pytest.mark.parametrize("normalisation", ["column", "count"])
@pytest.mark.parametrize("code", ["poisson", "direct", "history"])
def test_a_window_is_answered_as_the_training_graph_would(kind: Kind, normalisation: str, code: str) -> None:
    coding = replace(SMALL, code=code, normalisation=normalisation, seed=5)
    served = model(coding, kind)
    state = served.initial_state(SENSOR)
    windows = [events(k) for k in range(2)]
    for batch in windows:
        answer = served.segment(state, batch, SENSOR)
        state = answer.state
    x = coding.normalise(cells(windows[1]))
    silent, first = coding.normalise(torch.zeros_like(x)), coding.normalise(cells(windows[0]))
    x_seq = {
        "poisson": poisson_code(x, STEPS, window_generator(5, 1)),
        "direct": torch.stack([x] * STEPS),
        "history": torch.stack([silent, first, x]),
    }[code]
    mask, spikes = expected_mask(network(kind), x_seq)
    assert (answer.mask == mask).mean() > 0.99
    assert answer.mask.dtype == np.uint8
    activity = answer.activity
    for layer in activity.layers:
        if layer.name in spikes:
            rate = float(firing_rates({layer.name: spikes[layer.name]})[layer.name])
            assert layer.firing_rate == pytest.approx(rate, abs=2e-3)
            assert layer.steps == STEPS
    assert activity.macs_ann == sum(layer_macs(network(kind).config, 16, 20).values())
    assert 0 < activity.sops < STEPS * activity.macs_ann
    # Only spikes of −1, 0 and 1 spare the first layer its multiplications.
    assert (0 in activity.analog) == (code != "poisson")


@pytest.mark.parametrize("code", ["poisson", "direct", "history"])
def test_the_same_state_and_events_give_the_same_answer_and_the_state_is_left_as_it_is(code: str) -> None:
    served = model(replace(SMALL, code=code))
    state = served.segment(served.initial_state(SENSOR), events(0), SENSOR).state
    kept = {name: value.clone() for name, value in state.items()}
    first, second = (served.segment(state, events(1), SENSOR) for _ in range(2))
    assert np.array_equal(first.mask, second.mask)
    assert first.activity == second.activity
    assert first.state.equals(second.state)
    assert state.equals(State(kept))


def test_what_is_carried_from_window_to_window() -> None:
    poisson, direct, history = (model(replace(SMALL, code=code)) for code in ("poisson", "direct", "history"))
    state = poisson.initial_state(SENSOR)
    for k in range(3):
        assert int(state[WINDOW]) == k
        state = poisson.segment(state, events(k), SENSOR).state
    assert direct.segment(direct.initial_state(SENSOR), events(0), SENSOR).state.nbytes == 0
    state = history.initial_state(SENSOR)
    for k in range(5):
        state = history.segment(state, events(k), SENSOR).state
    assert torch.equal(state[HISTORY], torch.stack([cells(events(k)) for k in (2, 3, 4)]))
    # Older windows are forgotten: another way to the same last three gives the same answer.
    other = history.initial_state(SENSOR)
    for k in (9, 2, 3, 4):
        other = history.segment(other, events(k), SENSOR).state
    assert other.equals(state)


def test_poisson_chances_differ_from_window_to_window() -> None:
    served = model(SMALL)
    first = served.segment(served.initial_state(SENSOR), events(0), SENSOR)
    second = served.segment(first.state, events(0), SENSOR)
    assert [layer.spikes for layer in first.activity.layers] != [layer.spikes for layer in second.activity.layers]


def test_the_ann_twin_answers_in_one_pass() -> None:
    coding = replace(SMALL, code="direct")
    twin = model(coding, spiking=False)
    assert twin.steps == 1
    answer = twin.segment(twin.initial_state(SENSOR), events(0), SENSOR)
    mask, _ = expected_mask(network(spiking=False), coding.normalise(cells(events(0)))[None])
    assert (answer.mask == mask).mean() > 0.9
    assert all(layer.neurons == layer.spikes == 0 for layer in answer.activity.layers)
    assert answer.activity.energy_snn_j == answer.activity.energy_ann_j > 0


def test_it_offers_what_the_service_asks_of_a_model() -> None:
    served: SegmentationModel = model()
    assert (served.mode, served.steps, served.longest_side, served.window_us) == ("protocol", STEPS, 20, 50_000)
    assert (served.name, served.classes, served.card) == ("paper", DDD17_CLASSES, {})
    for sensor in (SensorSize(346, 260), SensorSize(7, 5)):
        answer = served.segment(served.initial_state(sensor), EventBatch.empty(), sensor)
        assert answer.mask.shape == (sensor.height, sensor.width)


def test_a_state_or_an_event_that_does_not_fit_is_refused() -> None:
    history = model(replace(SMALL, code="history"))
    with pytest.raises(StateError, match="layer history has shape"):
        history.segment(State({HISTORY: torch.zeros(2, 2, 16, 20)}), events(0), SENSOR)
    with pytest.raises(StateError, match="holds layers"):
        history.segment(model().initial_state(SENSOR), events(0), SENSOR)
    outside = EventBatch(np.zeros(1, np.int64), np.array([50], np.uint16), np.zeros(1, np.uint16), np.ones(1, np.uint8))
    with pytest.raises(EncodingError, match="outside the 50x38 sensor"):
        model().segment(model().initial_state(SENSOR), outside, SENSOR)


def frame_model(code: str = "poisson") -> FrameModel:
    made = network(channels=3)
    coding = InputCoding("frames", code, height=16, width=20)  # type: ignore[arg-type]
    classes = tuple(SegmentationClass(k, f"class {k}", (k, k, k)) for k in range(6))
    return FrameModel("frames", PaperRuntime(made.config, fold_bntt(made)), coding, classes, {})


@pytest.mark.parametrize("code", ["poisson", "direct"])
def test_a_frame_is_segmented_at_its_own_size(code: str) -> None:
    rgb = np.random.default_rng(0).integers(0, 256, (SENSOR.height, SENSOR.width, 3), dtype=np.uint8)
    answer = frame_model(code).segment_frame(rgb)
    x = frame_input(rgb, 16, 20)
    x_seq = poisson_code(x, STEPS, window_generator(0, 0)) if code == "poisson" else torch.stack([x] * STEPS)
    mask, _ = expected_mask(network(channels=3), x_seq)
    assert (answer.mask == mask).mean() > 0.9
    assert len(answer.state) == 0
    assert np.array_equal(frame_model(code).segment_frame(rgb).mask, answer.mask)
    with pytest.raises(EncodingError, match="must be uint8"):
        frame_model().segment_frame(rgb[..., 0])


def test_what_does_not_go_together_is_refused() -> None:
    made, twin, colour = network(), network(spiking=False), network(channels=3)
    runtime = PaperRuntime(made.config, fold_bntt(made))
    with pytest.raises(ValueError, match="the coding is of frames, not of events"):
        ProtocolModel("x", runtime, InputCoding("frames"), DDD17_CLASSES, 1, {})
    with pytest.raises(ValueError, match="events have 2 channels, the network reads 3"):
        ProtocolModel("x", PaperRuntime(colour.config, fold_bntt(colour)), SMALL, DDD17_CLASSES, 1, {})
    with pytest.raises(ValueError, match="its code must be direct, not poisson"):
        ProtocolModel("x", PaperRuntime(twin.config, fold_bntt(twin)), SMALL, DDD17_CLASSES, 1, {})
    with pytest.raises(ValueError, match="has 6 classes, 5 are named"):
        ProtocolModel("x", runtime, SMALL, DDD17_CLASSES[:5], 1, {})
