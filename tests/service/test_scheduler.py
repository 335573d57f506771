"""Which windows are computed together, in which order, and that nobody's answer depends on it."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Coroutine, Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest

from models import zoo
from models.errors import EncodingError
from models.events import EventBatch, SensorSize
from models.runtime.model import WindowInput, WindowSegmentation
from models.runtime.state import State
from models.runtime.streaming import StreamingModel
from service.streaming.scheduler import PATIENCE_S, Scheduler, TimedSegmentation
from tests.service.harness import make_events, random_events

SENSOR = SensorSize(128, 96)
SMALL = SensorSize(64, 48)


@pytest.fixture(scope="module")
def model() -> StreamingModel:
    return zoo.load("edge-s")


@dataclass
class Recorder:
    """A real model that takes down what it is asked for, and can be held up."""

    inner: StreamingModel
    batches: list[list[WindowInput]] = field(default_factory=list)
    gate: threading.Event = field(default_factory=threading.Event)

    @property
    def name(self) -> str:
        return self.inner.name

    def grid_key(self, sensor: SensorSize) -> tuple[int, int]:
        return self.inner.grid_key(sensor)

    def segment_many(self, inputs: Sequence[WindowInput]) -> list[WindowSegmentation]:
        assert self.gate.wait(60)
        self.batches.append(list(inputs))
        return self.inner.segment_many(inputs)


def window(model: StreamingModel, seed: int, sensor: SensorSize = SENSOR, state: State | None = None) -> WindowInput:
    events = random_events(seed, windows=1, sensor=sensor)
    return WindowInput(model.initial_state(sensor) if state is None else state, events, sensor)


def run(scheduler: Scheduler, scenario: Coroutine[Any, Any, None]) -> None:
    try:
        asyncio.run(scenario)
    finally:
        scheduler.close()


async def submitted(*calls: Coroutine[Any, Any, TimedSegmentation]) -> list[asyncio.Task[TimedSegmentation]]:
    """The calls as tasks, each of which has reached the scheduler."""
    tasks = []
    for call in calls:
        tasks.append(asyncio.create_task(call))
        await asyncio.sleep(0)
    return tasks


def events_of(batches: list[list[WindowInput]]) -> list[list[int]]:
    return [[int(item.events.t[0]) for item in batch] for batch in batches]


def test_windows_that_wait_share_a_batch(model: StreamingModel) -> None:
    recorder = Recorder(model)
    scheduler = Scheduler(max_batch=4, exact=False)

    async def scenario() -> None:
        items = [window(model, seed) for seed in range(7)]
        tasks = await submitted(*(scheduler.segment(recorder, item) for item in items))  # type: ignore[arg-type]
        assert scheduler.waiting == 6
        recorder.gate.set()
        answers = await asyncio.gather(*tasks)
        # The first is computed at once; while it is, the others gather.
        assert [len(batch) for batch in recorder.batches] == [1, 4, 2]
        assert [answer.rows for answer in answers] == [1, 4, 4, 4, 4, 2, 2]
        for item, answer in zip(items, answers, strict=True):
            alone = model.segment_many([item])[0]
            assert (alone.mask == answer.segmentation.mask).mean() > 0.99

    run(scheduler, scenario())


def test_only_windows_of_one_grid_share_a_batch(model: StreamingModel) -> None:
    recorder = Recorder(model)
    scheduler = Scheduler(max_batch=4, exact=False)

    async def scenario() -> None:
        sensors = [SENSOR, SMALL, SENSOR, SMALL, SENSOR]
        items = [window(model, seed, sensor) for seed, sensor in enumerate(sensors)]
        tasks = await submitted(*(scheduler.segment(recorder, item) for item in items))  # type: ignore[arg-type]
        recorder.gate.set()
        for sensor, answer in zip(sensors, await asyncio.gather(*tasks), strict=True):
            assert answer.segmentation.mask.shape == (sensor.height, sensor.width)
        assert [{item.sensor for item in batch} for batch in recorder.batches] == [{SENSOR}, {SMALL}, {SENSOR}]

    run(scheduler, scenario())


def test_the_window_that_is_due_first_goes_first(model: StreamingModel) -> None:
    recorder = Recorder(model)
    scheduler = Scheduler(max_batch=1)

    async def scenario() -> None:
        now = time.perf_counter()
        items = [window(model, seed) for seed in range(5)]
        # The first begins at once. One without a deadline is due when its patience ends.
        due = [None, now + 3 * PATIENCE_S, None, now + PATIENCE_S / 2, now - 1.0]
        calls = (scheduler.segment(recorder, item, due=at) for item, at in zip(items, due, strict=True))  # type: ignore[arg-type]
        tasks = await submitted(*calls)
        recorder.gate.set()
        await asyncio.gather(*tasks)
        order = [next(k for k, item in enumerate(items) if item is batch[0]) for batch in recorder.batches]
        assert order == [0, 4, 3, 2, 1]

    run(scheduler, scenario())


def test_a_session_with_much_to_do_does_not_hold_up_another(model: StreamingModel) -> None:
    recorder = Recorder(model)
    recorder.gate.set()
    scheduler = Scheduler(max_batch=1)
    done: list[str] = []

    async def stream(name: str, windows: int) -> None:
        state = model.initial_state(SENSOR)
        for seed in range(windows):
            item = window(model, seed, state=state)
            state = (await scheduler.segment(recorder, item)).segmentation.state  # type: ignore[arg-type]
            done.append(name)

    async def scenario() -> None:
        await asyncio.gather(stream("long", 12), stream("short", 3))
        assert done.index("short") <= 2
        assert max(k for k, name in enumerate(done) if name == "short") <= 7

    run(scheduler, scenario())


def test_who_gives_up_is_not_computed(model: StreamingModel) -> None:
    recorder = Recorder(model)
    scheduler = Scheduler(max_batch=1)

    async def scenario() -> None:
        items = [window(model, seed) for seed in range(3)]
        tasks = await submitted(*(scheduler.segment(recorder, item) for item in items))  # type: ignore[arg-type]
        tasks[1].cancel()
        await asyncio.sleep(0)
        recorder.gate.set()
        await asyncio.gather(tasks[0], tasks[2])
        assert [batch[0] is items[k] for batch, k in zip(recorder.batches, (0, 2), strict=True)] == [True, True]
        assert scheduler.waiting == 0

    run(scheduler, scenario())


def test_a_window_may_wait_for_company(model: StreamingModel) -> None:
    recorder = Recorder(model)
    recorder.gate.set()
    scheduler = Scheduler(max_batch=3, max_wait_s=30.0, exact=False)

    async def scenario() -> None:
        tasks = await submitted(*(scheduler.segment(recorder, window(model, k)) for k in range(2)))  # type: ignore[arg-type]
        await asyncio.sleep(0.05)
        assert recorder.batches == []
        tasks += await submitted(scheduler.segment(recorder, window(model, 2)))  # type: ignore[arg-type]
        await asyncio.gather(*tasks)
        assert [len(batch) for batch in recorder.batches] == [3]

    run(scheduler, scenario())


def test_company_that_does_not_come_is_not_waited_for_for_ever(model: StreamingModel) -> None:
    scheduler = Scheduler(max_batch=3, max_wait_s=0.05, exact=False)

    async def scenario() -> None:
        answer = await scheduler.segment(model, window(model, 1))
        assert answer.wait_s >= 0.04

    run(scheduler, scenario())


def test_an_answer_is_finished_where_it_was_computed(model: StreamingModel) -> None:
    scheduler = Scheduler()

    def finish(timed: TimedSegmentation) -> tuple[str, int]:
        return threading.current_thread().name, timed.rows

    async def scenario() -> None:
        assert await scheduler.segment(model, window(model, 1), finish) == ("compute_0", 1)

    run(scheduler, scenario())


def test_what_cannot_be_finished_is_its_own_callers_fault(model: StreamingModel) -> None:
    recorder = Recorder(model)
    scheduler = Scheduler(max_batch=4, exact=False)

    def fail(_: TimedSegmentation) -> int:
        raise ValueError("no")

    async def scenario() -> None:
        first = await submitted(scheduler.segment(recorder, window(model, 0)))  # type: ignore[arg-type]
        calls = [scheduler.segment(recorder, window(model, 1), fail), scheduler.segment(recorder, window(model, 2))]  # type: ignore[arg-type]
        tasks = await submitted(*calls)  # type: ignore[arg-type]
        recorder.gate.set()
        answers = await asyncio.gather(*first, *tasks, return_exceptions=True)
        assert isinstance(answers[0], TimedSegmentation)
        assert isinstance(answers[1], ValueError)
        assert isinstance(answers[2], TimedSegmentation)

    run(scheduler, scenario())


def test_one_bad_window_does_not_spoil_its_batch(model: StreamingModel) -> None:
    recorder = Recorder(model)
    scheduler = Scheduler(max_batch=4, exact=False)

    async def scenario() -> None:
        outside = WindowInput(model.initial_state(SENSOR), make_events((0, SENSOR.width, 0, 1)), SENSOR)
        items = [window(model, 0), window(model, 1), outside, window(model, 2)]
        tasks = await submitted(*(scheduler.segment(recorder, item) for item in items))  # type: ignore[arg-type]
        recorder.gate.set()
        answers = await asyncio.gather(*tasks, return_exceptions=True)
        assert isinstance(answers[2], EncodingError)
        assert [isinstance(answer, TimedSegmentation) for answer in answers] == [True, True, False, True]

    run(scheduler, scenario())


@pytest.mark.parametrize("sensor", [SMALL, SENSOR], ids=str)
def test_an_exact_answer_does_not_depend_on_the_company(model: StreamingModel, sensor: SensorSize) -> None:
    windows = 6

    async def stream(scheduler: Scheduler, seed: int) -> list[tuple[bytes, State]]:
        state, found = model.initial_state(sensor), []
        for k in range(windows):
            timed = await scheduler.segment(model, window(model, 100 * seed + k, sensor, state))
            state = timed.segmentation.state
            found.append((timed.segmentation.mask.tobytes(), state))
        return found

    async def together(scheduler: Scheduler, seeds: range) -> list[list[tuple[bytes, State]]]:
        return await asyncio.gather(*(stream(scheduler, seed) for seed in seeds))

    alone = Scheduler(cores=1)
    try:
        expected = [asyncio.run(together(alone, range(seed, seed + 1)))[0] for seed in range(5)]
    finally:
        alone.close()
    shared = Scheduler(cores=2, max_batch=4)
    try:
        # Twice: by the second time the trials of the first are done.
        for _ in range(2):
            found = asyncio.run(together(shared, range(5)))
            for left, right in zip(found, expected, strict=True):
                for (mask, state), (other_mask, other_state) in zip(left, right, strict=True):
                    assert mask == other_mask
                    assert state.equals(other_state)
    finally:
        shared.close()


def test_an_empty_window_is_a_window(model: StreamingModel) -> None:
    scheduler = Scheduler()

    async def scenario() -> None:
        item = WindowInput(model.initial_state(SENSOR), EventBatch.empty(), SENSOR)
        assert (await scheduler.segment(model, item)).rows == 1

    run(scheduler, scenario())
