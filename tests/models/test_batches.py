"""Windows of several streams in one batch, and what a network carries over windows that it is not shown."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from models import zoo
from models.architectures.edge import READOUT, EdgeConfig, fold_batch_norm
from models.architectures.paper import PaperConfig, PaperNetwork, fold_bntt
from models.classes import DDD17_CLASSES
from models.coding import Code, InputCoding
from models.errors import EncodingError, StateError
from models.events import EventBatch, SensorSize
from models.runtime.edge import HISTORY, EdgeRuntime
from models.runtime.model import SegmentationModel, WindowInput, WindowSegmentation
from models.runtime.paper import PaperRuntime
from models.runtime.protocol import WINDOW, ProtocolModel
from models.runtime.state import State
from models.runtime.streaming import StreamingModel
from tests.models.test_edge_runtime import SMALL, network

SENSOR = SensorSize(64, 48)
TWIN = replace(SMALL, spiking=False, input_channels=8)


@lru_cache
def streaming(config: EdgeConfig = SMALL) -> StreamingModel:
    return StreamingModel("small", EdgeRuntime(config, fold_batch_norm(network(config))), DDD17_CLASSES, 50_000, {})


@lru_cache
def protocol(code: Code = "poisson") -> ProtocolModel:
    torch.manual_seed(0)
    made = PaperNetwork(PaperConfig("deeplab", steps=3)).eval()
    coding = InputCoding(code=code, height=12, width=16)
    return ProtocolModel("paper", PaperRuntime(made.config, fold_bntt(made)), coding, DDD17_CLASSES, 50_000, {})


def events(seed: int, sensor: SensorSize = SENSOR, density: float = 0.2) -> EventBatch:
    rng = np.random.default_rng(seed)
    n = round(density * sensor.width * sensor.height)
    return EventBatch(
        np.zeros(n, np.int64),
        rng.integers(0, sensor.width, n, np.uint16),
        rng.integers(0, sensor.height, n, np.uint16),
        rng.integers(0, 2, n, np.uint8),
    )


def carried(model: SegmentationModel, seed: int, windows: int, sensor: SensorSize = SENSOR) -> State:
    """The state of a stream after some windows."""
    state = model.initial_state(sensor)
    for k in range(windows):
        state = model.segment(state, events(100 * seed + k, sensor), sensor).state
    return state


def alone(model: SegmentationModel, item: WindowInput) -> WindowSegmentation:
    return model.segment(model.leak(item.state, item.idle), item.events, item.sensor)


def assert_near(together: WindowSegmentation, single: WindowSegmentation) -> None:
    """A last bit may turn a spike, which few cells see."""
    assert together.mask.shape == single.mask.shape
    assert (together.mask == single.mask).mean() > 0.99
    assert set(together.state) == set(single.state)
    for name, v in single.state.items():
        other = together.state[name]
        assert torch.isclose(other, v, atol=1e-4, rtol=1e-4).float().mean() > 0.99, name
        assert other.stride()[1:] == v.stride()[1:], name
    assert together.activity.sops == pytest.approx(single.activity.sops, rel=1e-2)


@settings(max_examples=15, deadline=None)
@given(
    st.sampled_from([SMALL, TWIN]),
    st.tuples(st.integers(9, 40), st.integers(9, 40)),
    st.lists(st.tuples(st.integers(0, 2), st.integers(0, 3), st.floats(0, 0.5)), min_size=1, max_size=5),
)
def test_a_batch_answers_as_its_rows_do_alone(
    config: EdgeConfig, size: tuple[int, int], rows: list[tuple[int, int, float]]
) -> None:
    model, sensor = streaming(config), SensorSize(*size)
    inputs = [
        WindowInput(carried(model, seed, windows, sensor), events(seed, sensor, density), sensor, idle)
        for seed, (windows, idle, density) in enumerate(rows)
    ]
    before = [{name: v.clone() for name, v in item.state.items()} for item in inputs]
    answers = model.segment_many(inputs)
    assert len(answers) == len(inputs)
    for answer, item in zip(answers, inputs, strict=True):
        assert_near(answer, alone(model, item))
    assert all(item.state.equals(State(kept)) for item, kept in zip(inputs, before, strict=True))


def test_sensors_of_one_grid_share_a_batch_and_get_masks_of_their_own_size() -> None:
    model = streaming(replace(SMALL, grid=32))
    sensors = [SensorSize(32, 24), SensorSize(64, 48), SensorSize(63, 47), SensorSize(96, 72)]
    assert {model.grid_key(sensor) for sensor in sensors} == {(24, 32)}
    inputs = [WindowInput(carried(model, k, 2, s), events(k, s), s) for k, s in enumerate(sensors)]
    for answer, item in zip(model.segment_many(inputs), inputs, strict=True):
        assert answer.mask.shape == (item.sensor.height, item.sensor.width)
        assert_near(answer, alone(model, item))


def test_different_grids_do_not_share_a_batch() -> None:
    model = streaming()
    inputs = [WindowInput(model.initial_state(s), events(0, s), s) for s in (SENSOR, SensorSize(48, 64))]
    with pytest.raises(ValueError, match="must have the same grid, not those of the sensors 48x64, 64x48"):
        model.segment_many(inputs)


@pytest.mark.parametrize("config", [SMALL, TWIN])
def test_a_row_keeps_no_other_row_in_memory(config: EdgeConfig) -> None:
    model = streaming(config)
    inputs = [WindowInput(carried(model, k, 1), events(k), SENSOR) for k in range(3)]
    for answer in model.segment_many(inputs):
        for v in answer.state.values():
            assert v.untyped_storage().nbytes() == v.numel() * v.element_size()


def test_a_single_row_is_not_copied(monkeypatch: pytest.MonkeyPatch) -> None:
    model = streaming()
    state = carried(model, 0, 1)
    seen: list[tuple[State, State]] = []
    step = EdgeRuntime.step

    def spy(self: EdgeRuntime, before: State, x: torch.Tensor) -> object:
        result = step(self, before, x)
        seen.append((before, result.state))
        return result

    monkeypatch.setattr(EdgeRuntime, "step", spy)
    answer = model.segment_many([WindowInput(state, events(0), SENSOR)])[0]
    assert seen[0][0] is state
    assert seen[0][1] is answer.state


def test_no_windows_no_answers() -> None:
    assert streaming().segment_many([]) == []
    assert protocol().segment_many([]) == []


def test_a_batch_with_a_row_that_does_not_fit_is_refused() -> None:
    model = streaming()
    good = WindowInput(model.initial_state(SENSOR), events(0), SENSOR)
    two = model.runtime.initial_state(2, 48, 64)
    with pytest.raises(StateError, match="layer stem has shape"):
        model.segment_many([good, WindowInput(two, events(0), SENSOR)])
    whole = State({name: v.to(torch.int64) for name, v in good.state.items()})
    with pytest.raises(StateError, match=r"layer stem is of torch\.int64, expected torch\.float32"):
        model.segment_many([good, WindowInput(whole, events(0), SENSOR)])
    outside = EventBatch(np.zeros(1, np.int64), np.array([64], np.uint16), np.zeros(1, np.uint16), np.ones(1, np.uint8))
    with pytest.raises(EncodingError, match="outside the 64x48 sensor"):
        model.segment_many([good, WindowInput(good.state, outside, SENSOR)])
    with pytest.raises(ValueError, match="cannot leak over -1 windows"):
        model.segment_many([good, WindowInput(good.state, events(0), SENSOR, -1)])


@pytest.mark.parametrize("code", ["poisson", "direct", "history"])
def test_networks_of_the_protocol_answer_row_by_row(code: Code) -> None:
    model = protocol(code)
    sensors = [SensorSize(40, 30), SENSOR]
    assert {model.grid_key(sensor) for sensor in sensors} == {(12, 16)}
    inputs = [WindowInput(carried(model, k, k, s), events(k, s), s, idle=k) for k, s in enumerate(sensors)]
    for answer, item in zip(model.segment_many(inputs), inputs, strict=True):
        single = alone(model, item)
        assert np.array_equal(answer.mask, single.mask)
        assert answer.activity == single.activity
        assert answer.state.equals(single.state)


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 60), st.integers(1, 60))
def test_a_leak_over_many_windows_is_the_leak_over_each_of_them(first: int, second: int) -> None:
    model = streaming()
    state = carried(model, 0, 3)
    keep = {name: torch.as_tensor(v) for name, v in fold_batch_norm(network(SMALL)).items() if name.endswith(".keep")}
    at_once = model.leak(state, first + second)
    in_two = model.leak(model.leak(state, first), second)
    for name, v in state.items():
        by_step = v.double()
        for _ in range(first + second):
            by_step = by_step * keep[f"{name}.keep"].double().reshape(-1, 1, 1)
        # One rounding of the power and one of the product; twice as many in two parts.
        torch.testing.assert_close(at_once[name].double(), by_step, rtol=2.5e-7, atol=1e-37)
        torch.testing.assert_close(in_two[name], at_once[name], rtol=5e-7, atol=1e-37)
        assert at_once[name].stride() == v.stride(), name


def test_a_leak_fires_nothing_and_knows_no_bias() -> None:
    model = streaming()
    high = State({name: torch.full_like(v, 7.0) for name, v in model.initial_state(SENSOR).items()})
    assert all((v > 0).all() and (v < 7).all() for v in model.leak(high, 1).values())
    rest = model.initial_state(SENSOR)
    assert model.leak(rest, 3).equals(rest)
    # A step with an empty window is something else: biases act in it.
    assert not model.segment(rest, EventBatch.empty(), SENSOR).state.equals(rest)
    assert not model.leak(high, 10**9)[READOUT].any()


@pytest.mark.parametrize("model", [streaming(TWIN), protocol("poisson"), protocol("direct"), protocol("history")])
@pytest.mark.parametrize("windows", [1, 2, 7])
def test_what_has_no_membranes_moves_on_as_over_empty_windows(model: SegmentationModel, windows: int) -> None:
    state = shown = carried(model, 0, 4)
    for _ in range(windows):
        shown = model.segment(shown, EventBatch.empty(), SENSOR).state
    assert model.leak(state, windows).equals(shown)


@pytest.mark.parametrize("model", [streaming(), streaming(TWIN), protocol("poisson"), protocol("history")])
def test_no_gap_leaves_the_state_itself_and_nonsense_is_refused(model: SegmentationModel) -> None:
    state = carried(model, 0, 1)
    kept = State({name: v.clone() for name, v in state.items()})
    assert model.leak(state, 0) is state
    model.leak(state, 2)
    assert state.equals(kept)
    with pytest.raises(ValueError, match="cannot leak over -1 windows"):
        model.leak(state, -1)
    with pytest.raises(StateError):
        model.leak(State({"other": torch.zeros(1, 2, 3, 4)}), 1)


def test_a_twin_that_sees_one_window_carries_nothing_over_a_gap() -> None:
    model = streaming(replace(SMALL, spiking=False))
    state = carried(model, 0, 2)
    assert state[HISTORY].numel() == 0
    assert model.leak(state, 3).equals(state)


def test_a_window_before_the_first_is_refused() -> None:
    with pytest.raises(StateError, match="before window -1"):
        protocol().segment(State({WINDOW: torch.tensor([-1])}), events(0), SENSOR)


def test_a_gap_before_a_window_leaks_first() -> None:
    model = zoo.load("edge-s")
    state = carried(model, 0, 3)
    item = WindowInput(state, events(9), SENSOR, idle=5)
    expected = model.segment(model.leak(state, 5), events(9), SENSOR)
    assert model.segment_many([item])[0].state.equals(expected.state)
