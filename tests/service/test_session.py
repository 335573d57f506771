"""A session by itself, with the real network: it moves on as a whole or not at all."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from contextlib import aclosing
from dataclasses import replace

import numpy as np
import pytest

from models import zoo
from models.events import EventBatch
from models.runtime.streaming import StreamingModel
from service.errors import (
    BacklogError,
    CapacityError,
    SequenceError,
    SessionInUseError,
    StateMemoryError,
    TimeOrderError,
    UnknownSessionError,
)
from service.metrics import ServiceMetrics
from service.streaming.answers import Answer, AnswerFormat, Arrival
from service.streaming.backlog import Backlog, Policy
from service.streaming.engine import Engine
from service.streaming.keeper import Keeping, StoreHealth
from service.streaming.registry import Limits, SessionRegistry, new_id, new_secret
from service.streaming.scheduler import Scheduler
from service.streaming.session import Advance, Command, End, Events, Flush, Reset, Session, Workplace, digest
from service.streaming.snapshots import Progress, SessionSpec
from service.streaming.state_store import MemoryStateStore
from service.streaming.windowing import EventStream, StreamConfig, TimeWindows, WindowLimits
from service.wire.masks import MaskEncoding
from tests.service.harness import SENSOR, WINDOW_US, random_events

EVENTS = random_events(61, windows=4)
FORM = AnswerFormat(MaskEncoding.RAW)
NOW = Arrival(0.0)
CONFIG = StreamConfig(TimeWindows(WINDOW_US, WINDOW_US))


@pytest.fixture(scope="module")
def model() -> StreamingModel:
    return zoo.load("edge-s")


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    engine = Engine()
    yield engine
    engine.close()


@pytest.fixture(scope="module")
def scheduler() -> Iterator[Scheduler]:
    scheduler = Scheduler()
    yield scheduler
    scheduler.close()


@pytest.fixture
def place(engine: Engine, scheduler: Scheduler) -> Workplace:
    metrics = ServiceMetrics()
    keeping = Keeping(MemoryStateStore(), StoreHealth(metrics), metrics, interval_s=0.0, ttl_s=60.0)
    return Workplace(
        engine, scheduler, metrics, keeping, replay_bytes=1 << 20, max_waiting=50, require_memory=lambda _: None
    )


def make_session(
    model: StreamingModel,
    place: Workplace,
    *,
    id: str = "id",
    secret: str = "secret",
    backlog: Backlog | None = None,
    config: StreamConfig = CONFIG,
) -> Session:
    stream = EventStream.start(config, WindowLimits(windows=100, events=100_000))
    spec = SessionSpec(
        id, digest(secret), model.name, model.fingerprint, SENSOR, config, FORM, backlog or Backlog(), time.time()
    )
    return Session(spec, model, Progress(stream, model.initial_state(SENSOR)), place)


async def take(session: Session, command: Command, sequence: int | None = None) -> list[Answer]:
    async with aclosing(session.process([command], FORM, NOW, sequence=sequence)) as answers:
        return [answer async for answer in answers]


def keys(answers: list[Answer]) -> list[tuple[int, bytes, str]]:
    return [(answer.window, answer.mask, str(answer.metadata["activity"])) for answer in answers]


def test_a_message_that_is_given_up_halfway_never_came(model: StreamingModel, place: Workplace) -> None:
    async def scenario() -> None:
        session, untouched = make_session(model, place), make_session(model, place)
        first = await take(session, Events(EVENTS[:500], SENSOR))
        assert keys(first) == keys(await take(untouched, Events(EVENTS[:500], SENSOR)))
        expected = keys(await take(untouched, Events(EVENTS[500:], SENSOR)))
        before = (session.next_sequence, session.next_window, session.state_bytes)
        for taken in (1, 2, 3):
            async with aclosing(session.process([Events(EVENTS[500:], SENSOR)], FORM, NOW)) as answers:
                given = [await anext(answers) for _ in range(taken)]
            assert keys(given) == expected[:taken]
            assert (session.next_sequence, session.next_window, session.state_bytes) == before
        assert keys(await take(session, Events(EVENTS[500:], SENSOR))) == expected
        assert (session.next_sequence, session.next_window) == (3, 3)

    asyncio.run(scenario())


@pytest.mark.parametrize("steps", range(0, 12))
def test_a_message_that_is_cancelled_anywhere_counts_whole_or_not_at_all(
    model: StreamingModel, place: Workplace, steps: int
) -> None:
    async def scenario() -> None:
        session, untouched = make_session(model, place), make_session(model, place)
        command = Events(EVENTS, SENSOR, until_us=4 * WINDOW_US)
        expected = keys(await take(untouched, command))
        task = asyncio.create_task(take(session, command, sequence=1))
        for _ in range(steps):
            await asyncio.sleep(0.002)
        task.cancel()
        await asyncio.wait([task])
        stand = (session.next_sequence, session.next_window)
        assert stand in ((1, 0), (2, 4))
        assert keys(await take(session, command, sequence=1)) == expected
        assert (session.next_sequence, session.next_window) == (2, 4)
        assert keys(await take(session, Advance(5 * WINDOW_US))) == keys(await take(untouched, Advance(5 * WINDOW_US)))

    asyncio.run(scenario())


def test_a_refused_message_changes_nothing(model: StreamingModel, place: Workplace) -> None:
    async def scenario() -> None:
        session = make_session(model, place)
        await take(session, Events(EVENTS[2000:], SENSOR))
        before = (session.next_sequence, session.next_window, session.state_bytes)
        with pytest.raises(TimeOrderError):
            await take(session, Events(EVENTS[:10], SENSOR))
        with pytest.raises(SequenceError):
            await take(session, Reset(), sequence=3)
        assert (session.next_sequence, session.next_window, session.state_bytes) == before

    asyncio.run(scenario())


def test_messages_are_taken_in_the_order_in_which_they_come(model: StreamingModel, place: Workplace) -> None:
    async def scenario() -> None:
        session, untouched = make_session(model, place), make_session(model, place)
        parts = [EVENTS[a : a + 600] for a in range(0, len(EVENTS), 600)]
        together = await asyncio.gather(*(take(session, Events(part, SENSOR)) for part in parts))
        for part, answers in zip(parts, together, strict=True):
            assert keys(answers) == keys(await take(untouched, Events(part, SENSOR)))

    asyncio.run(scenario())


def test_kept_answers_are_bounded(model: StreamingModel, place: Workplace) -> None:
    async def scenario() -> None:
        size = SENSOR.width * SENSOR.height + 8192
        session = make_session(model, replace(place, replay_bytes=3 * size))
        await take(session, Events(EVENTS[:1], SENSOR))
        for number in range(2, 7):
            await take(session, Advance((number - 1) * WINDOW_US))
        kept = [number for number in range(1, 7) if session.earlier(number)]
        assert kept == [4, 5, 6]
        assert session.earlier(7) is None
        await take(session, Advance(20 * WINDOW_US))
        assert session.earlier(7) == ()

    asyncio.run(scenario())


def test_an_end_ends(model: StreamingModel, place: Workplace) -> None:
    async def scenario() -> None:
        session = make_session(model, place)
        await take(session, Events(EVENTS[:5], SENSOR))
        assert len(await take(session, End())) == 1
        assert session.ended
        with pytest.raises(UnknownSessionError):
            await take(session, Reset())
        assert len(await take(session, End(), sequence=2)) == 1

    asyncio.run(scenario())


def test_only_the_holder_may_use_a_session_that_is_held(model: StreamingModel, place: Workplace) -> None:
    async def scenario() -> None:
        session = make_session(model, place)
        released: list[int] = []
        first = await session.attach(lambda: released.append(1))
        with pytest.raises(SessionInUseError):
            await take(session, Reset())
        waiting = asyncio.create_task(session.attach(lambda: None))
        await asyncio.sleep(0)
        assert released == [1]
        assert first.evicted
        assert not waiting.done()
        session.detach(first)
        second = await waiting
        session.detach(first)
        assert session.attached
        session.detach(second)
        assert not session.busy
        await take(session, Reset())

    asyncio.run(scenario())


def test_a_connection_waits_for_the_request_that_is_under_way(model: StreamingModel, place: Workplace) -> None:
    async def scenario() -> None:
        session = make_session(model, place)
        async with aclosing(session.process([Events(EVENTS, SENSOR)], FORM, NOW)) as answers:
            await anext(answers)
            attaching = asyncio.create_task(session.attach(lambda: None))
            await asyncio.sleep(0.01)
            assert not attaching.done()
            rest = [answer async for answer in answers]
        assert len(rest) == 2
        holder = await attaching
        assert (holder.since, session.next_sequence) == (2, 2)

    asyncio.run(scenario())


def make_registry(place: Workplace, **changes: float) -> SessionRegistry:
    limits = Limits(sessions=2, state_bytes=2**30, idle_s=0.0, attached_idle_s=60.0, lifetime_s=60.0, ended_s=60.0)
    return SessionRegistry(replace(limits, **changes), place.keeping)


async def open_in(registry: SessionRegistry, session: Session) -> Session:
    await registry.open(session)
    return session


def test_the_registry_keeps_to_its_size(model: StreamingModel, place: Workplace) -> None:
    async def scenario() -> None:
        registry = make_registry(place)
        first = await open_in(registry, make_session(model, place, id="first"))
        second = await open_in(registry, make_session(model, place, id="second"))
        with pytest.raises(CapacityError) as caught:
            await open_in(registry, make_session(model, place, id="third"))
        assert int(caught.value.headers["Retry-After"]) >= 1
        assert await registry.resume("second.secret") is second
        for token in ("second.wrong", "third.secret", "second", ""):
            with pytest.raises(UnknownSessionError):
                await registry.resume(token)
        await take(second, End())
        with pytest.raises(UnknownSessionError):
            await registry.get(second.id)
        assert registry.active == 1
        held = await first.attach(lambda: None)
        await asyncio.sleep(0.01)
        await registry.reap()
        assert await registry.get(first.id) is first
        first.detach(held)
        await asyncio.sleep(0.01)
        await registry.reap()
        assert registry.active == 0
        with pytest.raises(UnknownSessionError):
            await registry.get(first.id)
        with pytest.raises(UnknownSessionError):
            await take(first, Reset())
        assert await registry.resume("second.secret") is second

    asyncio.run(scenario())


def test_a_session_ends_after_its_lifetime_and_a_connection_that_says_nothing_is_let_go(
    model: StreamingModel, place: Workplace
) -> None:
    async def scenario() -> None:
        registry = make_registry(place, idle_s=60.0, attached_idle_s=0.0, lifetime_s=0.2)
        session = await open_in(registry, make_session(model, place, id="long"))
        let_go: list[int] = []
        held = await session.attach(lambda: let_go.append(1))
        await asyncio.sleep(0.01)
        await registry.reap()
        assert let_go == [1]
        assert held.evicted is not None
        assert held.evicted.close_code == 4408
        session.detach(held)
        assert await registry.get("long") is session
        await asyncio.sleep(0.3)
        await registry.reap()
        with pytest.raises(UnknownSessionError):
            await registry.get("long")

    asyncio.run(scenario())


def test_state_is_bounded_in_bytes(model: StreamingModel, place: Workplace) -> None:
    async def scenario() -> None:
        size = model.initial_state(SENSOR).nbytes
        registry = make_registry(place, sessions=100, state_bytes=2 * size + 1000)
        bounded = replace(place, require_memory=registry.require_memory)
        first = await open_in(registry, make_session(model, bounded, id="first"))
        await open_in(registry, make_session(model, bounded, id="second"))
        with pytest.raises(StateMemoryError, match="bytes of state"):
            await open_in(registry, make_session(model, bounded, id="third"))
        with pytest.raises(StateMemoryError):
            await take(first, Events(EVENTS[:500], SENSOR))
        assert first.next_sequence == 1
        assert await take(first, Events(EVENTS[:10], SENSOR)) == []

    asyncio.run(scenario())


def test_ids_and_secrets_cannot_be_guessed() -> None:
    made = [new() for _ in range(20) for new in (new_id, new_secret)]
    assert len(set(made)) == 40
    assert min(map(len, made[::2])) >= 16
    assert min(map(len, made[1::2])) >= 32
    assert all(text.isascii() for text in made)


def test_only_so_many_requests_wait(model: StreamingModel, place: Workplace) -> None:
    async def scenario() -> None:
        session = make_session(model, replace(place, max_waiting=3))
        windows = [
            Events(random_events(k, windows=1, start_us=k * WINDOW_US), SENSOR, until_us=(k + 1) * WINDOW_US)
            for k in range(5)
        ]
        answers = await asyncio.gather(*(take(session, window) for window in windows), return_exceptions=True)
        refused = [answer for answer in answers if isinstance(answer, BaseException)]
        # One is under way and three wait.
        assert [type(error) for error in refused] == [BacklogError]
        assert refused[0] is answers[-1]

    asyncio.run(scenario())


def test_a_flush_answers_the_open_window(model: StreamingModel, place: Workplace) -> None:
    async def scenario() -> None:
        session = make_session(model, place)
        assert await take(session, Events(EVENTS[:100], SENSOR)) == []
        [answer] = await take(session, Flush())
        assert (answer.window, answer.metadata["events"]) == (0, 100)
        assert await take(session, Flush()) == []
        with pytest.raises(TimeOrderError):
            await take(session, Events(EVENTS[100:200], SENSOR))

    asyncio.run(scenario())


@pytest.mark.parametrize("policy", [Policy.DROP_OLDEST, Policy.MERGE])
def test_windows_that_come_too_fast_are_dropped_or_merged(
    model: StreamingModel, place: Workplace, policy: Policy
) -> None:
    async def scenario() -> None:
        session = make_session(model, place, backlog=Backlog(policy, windows=2))
        parts = [Events(EVENTS[a:b], SENSOR) for a, b in ((0, 1000), (1000, 3200), (3200, 6000))]
        last = Advance(4 * WINDOW_US)
        async with aclosing(session.process([*parts, last], FORM, NOW)) as found:
            answers = [answer async for answer in found]
        skipped = [answer.metadata["skipped"]["dropped"] for answer in answers]
        covered = [(answer.window, answer.metadata["windows"]) for answer in answers]
        events = [answer.metadata["events"] for answer in answers]
        assert (session.next_sequence, session.next_window) == (5, 4)
        if policy is Policy.DROP_OLDEST:
            assert (skipped, covered) == ([2, 0], [(2, 1), (3, 1)])
            assert sum(events) < len(EVENTS)
        else:
            assert (skipped, covered) == ([0, 0], [(0, 2), (2, 2)])
            assert sum(events) == len(EVENTS)
            assert [a.metadata["t_end"] - a.metadata["t_start"] for a in answers] == [2 * WINDOW_US] * 2

    asyncio.run(scenario())


def test_dropped_windows_and_gaps_leak(model: StreamingModel, place: Workplace) -> None:
    async def scenario() -> None:
        dropping = make_session(model, place, backlog=Backlog(Policy.DROP_OLDEST, windows=1))
        leaking = make_session(model, place, config=replace(CONFIG, gaps="leak"))
        first = EVENTS[: int(np.searchsorted(EVENTS.t, WINDOW_US))]
        later = EventBatch(first.t + 5 * WINDOW_US, first.x, first.y, first.p)
        for session in (dropping, leaking):
            await take(session, Events(first, SENSOR, until_us=WINDOW_US))
        [dropped] = await take(dropping, Events(later, SENSOR, until_us=6 * WINDOW_US))
        [after_gap] = await take(leaking, Events(later, SENSOR, until_us=6 * WINDOW_US))
        assert dropped.metadata["skipped"]["dropped"] == 4
        assert after_gap.metadata["skipped"]["gap"] == 4
        assert dropped.window == after_gap.window == 5
        assert keys([dropped]) == keys([after_gap])

    asyncio.run(scenario())


def test_windows_past_their_deadline_are_dropped_but_for_the_last(model: StreamingModel, place: Workplace) -> None:
    async def scenario() -> None:
        late = Arrival(time.perf_counter() - 1.0)
        for policy, windows in ((Policy.DROP_OLDEST, [3]), (Policy.WAIT, [0, 1, 2, 3])):
            session = make_session(model, place, backlog=Backlog(policy, windows=100, deadline_s=0.5))
            command = Events(EVENTS, SENSOR, until_us=4 * WINDOW_US)
            async with aclosing(session.process([command], FORM, late)) as found:
                answers = [answer async for answer in found]
            assert [answer.window for answer in answers] == windows
            assert all(answer.metadata["deadline_missed"] for answer in answers)

    asyncio.run(scenario())


def test_a_sensor_that_begins_anew_puts_the_membranes_to_rest(model: StreamingModel, place: Workplace) -> None:
    async def scenario() -> None:
        session = make_session(model, place, config=replace(CONFIG, on_restart="reset"))
        fresh = make_session(model, place)
        expected = await take(fresh, Events(EVENTS, SENSOR, until_us=4 * WINDOW_US))
        before = await take(session, Events(EVENTS, SENSOR, until_us=4 * WINDOW_US))
        again = await take(session, Events(EVENTS, SENSOR, until_us=4 * WINDOW_US))
        assert keys(before) == keys(expected)
        assert [answer.window for answer in again] == [4, 5, 6, 7]
        assert [answer.mask for answer in again] == [answer.mask for answer in expected]
        assert [answer.metadata["skipped"]["restart"] for answer in again] == [True, False, False, False]

    asyncio.run(scenario())


def test_an_ended_session_holds_no_membranes_but_still_its_answers(model: StreamingModel, place: Workplace) -> None:
    async def scenario() -> None:
        session = make_session(model, place)
        await take(session, Events(EVENTS, SENSOR), 1)
        assert session.state_bytes
        answers = await take(session, End(), 2)
        assert session.state_bytes == 0
        assert keys(await take(session, End(), 2)) == keys(answers)

    asyncio.run(scenario())
