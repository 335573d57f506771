"""Whether company or threads change a bit of an answer: what is claimed is what comes out."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
import torch

from models import zoo
from models.events import SensorSize
from models.runtime import exactness
from models.runtime.activity import SpikeActivity
from models.runtime.exactness import Exactness, computing_threads, keeps_bits
from models.runtime.model import SegmentationModel, WindowInput, WindowSegmentation
from models.runtime.state import State
from models.runtime.streaming import StreamingModel
from tests.models.test_batches import SENSOR, carried, events, protocol


class Fake:
    """A model whose answers are computed from numbers alone: exact, but for what a subclass does to a batch."""

    fixed_order = False

    def __init__(self, mode: str = "streaming") -> None:
        self.mode = mode
        self.batches: list[tuple[int, int]] = []

    def grid_key(self, sensor: SensorSize) -> tuple[int, int]:
        return sensor.height // 2, sensor.width // 2

    def initial_state(self, sensor: SensorSize) -> State:
        return State({"v": torch.zeros(1, 1, sensor.height, sensor.width)})

    def segment_many(self, inputs: Sequence[WindowInput]) -> list[WindowSegmentation]:
        self.batches.append((len(inputs), torch.get_num_threads()))
        return [self.answer(inputs, row) for row in range(len(inputs))]

    def answer(self, inputs: Sequence[WindowInput], row: int) -> WindowSegmentation:
        v, seen = inputs[row].state["v"] * 0.5, inputs[row].events
        cells = torch.from_numpy(seen.y.astype(np.int64)), torch.from_numpy(seen.x.astype(np.int64))
        v[0, 0].index_put_(cells, torch.tensor(1.0), accumulate=True)
        mask = (v[0, 0] > 1).numpy().astype(np.uint8)
        return WindowSegmentation(mask, State({"v": v}), SpikeActivity((), float(len(seen)), 0.0))


class MixesStates(Fake):
    """A row's state has a last bit of the row before it."""

    def answer(self, inputs: Sequence[WindowInput], row: int) -> WindowSegmentation:
        answer = super().answer(inputs, row)
        v = answer.state["v"].clone()
        v[0, 0, 0, 0] += 1e-6 * float(inputs[row - 1].state["v"].sum() != inputs[row].state["v"].sum())
        return replace(answer, state=State({"v": v}))


class MixesMasks(Fake):
    """A crowd of three changes a pixel."""

    def answer(self, inputs: Sequence[WindowInput], row: int) -> WindowSegmentation:
        answer = super().answer(inputs, row)
        answer.mask[-1, -1] ^= len(inputs) == 3
        return answer


class CountsThreads(Fake):
    """Activity hangs on the number of threads."""

    def answer(self, inputs: Sequence[WindowInput], row: int) -> WindowSegmentation:
        answer = super().answer(inputs, row)
        more = answer.activity.macs_ann + torch.get_num_threads()
        return replace(answer, activity=replace(answer.activity, macs_ann=more))


class ShowsLogits(Fake):
    """Company changes a bit of the logits that shows in no mask."""

    def segment_with_logits(self, inputs: Sequence[WindowInput]) -> list[tuple[WindowSegmentation, torch.Tensor]]:
        return [(answer, torch.tensor(1 + 1e-6 * len(inputs))) for answer in self.segment_many(inputs)]


@pytest.mark.parametrize(
    ("kind", "exact"),
    [
        (Fake, {(1, 2): True, (2, 1): True, (3, 2): True}),
        (MixesStates, {(1, 2): True, (2, 1): False, (3, 2): False}),
        (MixesMasks, {(1, 2): True, (2, 1): True, (3, 1): False}),
        (CountsThreads, {(1, 2): False, (2, 1): True, (2, 3): False}),
        (ShowsLogits, {(1, 2): True, (2, 1): False}),
    ],
)
def test_rows_that_mix_are_found_out(kind: Callable[[], SegmentationModel], exact: dict[tuple[int, int], bool]) -> None:
    found = Exactness()
    sensor = SensorSize(12, 10)
    model = kind()
    assert {way: found.allows(model, sensor, rows=way[0], threads=way[1]) for way in exact} == exact


def test_a_row_alone_on_one_thread_needs_no_trial() -> None:
    model = Fake()
    assert Exactness().allows(model, SENSOR, rows=1, threads=1)
    assert Exactness().allows(Fake("protocol"), SENSOR, rows=8, threads=1)
    assert model.batches == []
    with pytest.raises(ValueError, match="at least 1, got 0 and 1"):
        Exactness().allows(model, SENSOR, rows=0, threads=1)


def test_a_trial_is_made_once_for_each_way_and_grid_and_leaves_the_threads_as_they_were() -> None:
    model, found = Fake(), Exactness(most=2)
    before = torch.get_num_threads()

    def ask(size: tuple[int, int], rows: int) -> None:
        assert found.allows(model, SensorSize(*size), rows=rows, threads=2)

    ask((12, 10), 3)
    assert torch.get_num_threads() == before
    assert set(model.batches) == {(1, 1), (3, 2)}
    assert len([batch for batch in model.batches if batch == (3, 2)]) >= 3
    made = len(model.batches)
    ask((13, 11), 3)
    assert len(model.batches) == made
    ask((12, 10), 2)
    ask((14, 10), 3)
    made = len(model.batches)
    ask((14, 10), 3)
    assert len(model.batches) == made
    # Only two findings are kept.
    ask((12, 10), 3)
    assert len(model.batches) > made


def test_an_error_in_a_trial_is_passed_on_and_leaves_the_threads_as_they_were() -> None:
    class Broken(Fake):
        def answer(self, *_: object) -> WindowSegmentation:
            raise RuntimeError("broken")

    before = torch.get_num_threads()
    with pytest.raises(RuntimeError, match="broken"):
        Exactness().allows(Broken(), SENSOR, rows=2, threads=3)
    assert torch.get_num_threads() == before


def test_who_asks_at_the_same_time_waits_for_one_trial(monkeypatch: pytest.MonkeyPatch) -> None:
    trials, together = [], threading.Barrier(4)

    def trial(*_: object, rows: int, threads: int) -> bool:
        trials.append((rows, threads))
        return True

    monkeypatch.setattr(exactness, "keeps_bits", trial)
    found, model = Exactness(), Fake()

    def ask(_: int) -> bool:
        together.wait()
        return found.allows(model, SENSOR, rows=2, threads=1)

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(ask, range(4)))
    assert trials == [(2, 1)]


def test_computing_threads_gives_the_number_back() -> None:
    before = torch.get_num_threads()
    with computing_threads(before + 2):
        assert torch.get_num_threads() == before + 2
    assert torch.get_num_threads() == before


def assert_same_bits(model: StreamingModel, sensor: SensorSize, rows: int, threads: int) -> None:
    """Other events than those of the trial, gaps, and rows that have come differently far."""
    states = [carried(model, row, row % 3, sensor) for row in range(rows)]
    for window in range(2):
        inputs = [
            WindowInput(state, events(10 * row + window, sensor, 0.1 + row / 10), sensor, idle=row % 2)
            for row, state in enumerate(states)
        ]
        with computing_threads(threads):
            answers = model.segment_many(inputs)
        for answer, item in zip(answers, inputs, strict=True):
            with computing_threads(1):
                single = model.segment_many([item])[0]
            assert np.array_equal(answer.mask, single.mask)
            assert answer.activity == single.activity
            assert answer.state.equals(single.state)
            assert all(v.stride() == single.state[name].stride() for name, v in answer.state.items())
        states = [answer.state for answer in answers]


@pytest.mark.parametrize(
    ("sensor", "ways"),
    [
        (SensorSize(64, 48), [(1, 2), (1, 3), (2, 1), (4, 2)]),
        (SensorSize(128, 96), [(1, 2), (1, 3), (2, 1), (4, 2)]),
        (SensorSize(346, 260), [(2, 2)]),
    ],
)
def test_what_is_allowed_has_the_same_bits_for_other_windows_too(
    sensor: SensorSize, ways: list[tuple[int, int]]
) -> None:
    model, found = zoo.load("edge-s"), Exactness()
    for rows, threads in ways:
        if found.allows(model, sensor, rows=rows, threads=threads):
            assert_same_bits(model, sensor, rows, threads)


def test_networks_of_the_protocol_are_tried_on_their_threads_alone() -> None:
    model, found = protocol(), Exactness()
    assert found.allows(model, SENSOR, rows=3, threads=2) == found.allows(model, SENSOR, rows=1, threads=2)
    assert found.allows(model, SENSOR, rows=1, threads=2) == keeps_bits(model, SENSOR, rows=1, threads=2)
