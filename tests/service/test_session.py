"""A session by itself, with the real network: it moves on as a whole or not at all."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import aclosing

import numpy as np
import pytest

from models import zoo
from models.runtime.streaming import StreamingModel
from service.errors import CapacityError, SequenceError, SessionInUseError, TimeOrderError, UnknownSessionError
from service.metrics import ServiceMetrics
from service.streaming.answers import Answer, AnswerFormat, Arrival
from service.streaming.engine import Engine
from service.streaming.registry import SessionRegistry
from service.streaming.session import Advance, Command, End, Events, Progress, Reset, Session
from service.streaming.windows import WindowLimits, WindowStream
from service.wire.masks import MaskEncoding
from tests.service.harness import SENSOR, WINDOW_US, random_events

EVENTS = random_events(61, windows=4)
FORM = AnswerFormat(MaskEncoding.RAW)
NOW = Arrival(0.0)


@pytest.fixture(scope="module")
def model() -> StreamingModel:
    return zoo.load("edge-s")


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    engine = Engine()
    yield engine
    engine.close()


def make_session(model: StreamingModel, engine: Engine, replay_bytes: int = 1 << 20) -> Session:
    stream = WindowStream(WINDOW_US, WindowLimits(windows=100, events=100_000))
    start = Progress(stream, model.initial_state(SENSOR))
    return Session(
        "id", "secret", model, SENSOR, start, FORM, engine=engine, metrics=ServiceMetrics(), replay_bytes=replay_bytes
    )


async def take(session: Session, command: Command, sequence: int | None = None) -> list[Answer]:
    async with aclosing(session.process(command, FORM, NOW, sequence=sequence)) as answers:
        return [answer async for answer in answers]


def keys(answers: list[Answer]) -> list[tuple[int, bytes, str]]:
    return [(answer.window, answer.mask, str(answer.metadata["activity"])) for answer in answers]


def test_a_message_that_is_given_up_halfway_never_came(model: StreamingModel, engine: Engine) -> None:
    async def scenario() -> None:
        session, untouched = make_session(model, engine), make_session(model, engine)
        first = await take(session, Events(EVENTS[:500], SENSOR))
        assert keys(first) == keys(await take(untouched, Events(EVENTS[:500], SENSOR)))
        expected = keys(await take(untouched, Events(EVENTS[500:], SENSOR)))
        before = (session.next_sequence, session.next_window, session.state_bytes)
        for taken in (1, 2, 3):
            async with aclosing(session.process(Events(EVENTS[500:], SENSOR), FORM, NOW)) as answers:
                given = [await anext(answers) for _ in range(taken)]
            assert keys(given) == expected[:taken]
            assert (session.next_sequence, session.next_window, session.state_bytes) == before
        assert keys(await take(session, Events(EVENTS[500:], SENSOR))) == expected
        assert (session.next_sequence, session.next_window) == (3, 3)

    asyncio.run(scenario())


@pytest.mark.parametrize("steps", range(0, 12))
def test_a_message_that_is_cancelled_anywhere_counts_whole_or_not_at_all(
    model: StreamingModel, engine: Engine, steps: int
) -> None:
    async def scenario() -> None:
        session, untouched = make_session(model, engine), make_session(model, engine)
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


def test_a_refused_message_changes_nothing(model: StreamingModel, engine: Engine) -> None:
    async def scenario() -> None:
        session = make_session(model, engine)
        await take(session, Events(EVENTS[2000:], SENSOR))
        before = (session.next_sequence, session.next_window, session.state_bytes)
        with pytest.raises(TimeOrderError):
            await take(session, Events(EVENTS[:10], SENSOR))
        with pytest.raises(SequenceError):
            await take(session, Reset(), sequence=3)
        assert (session.next_sequence, session.next_window, session.state_bytes) == before

    asyncio.run(scenario())


def test_messages_are_taken_in_the_order_in_which_they_come(model: StreamingModel, engine: Engine) -> None:
    async def scenario() -> None:
        session, untouched = make_session(model, engine), make_session(model, engine)
        parts = [EVENTS[a : a + 600] for a in range(0, len(EVENTS), 600)]
        together = await asyncio.gather(*(take(session, Events(part, SENSOR)) for part in parts))
        for part, answers in zip(parts, together, strict=True):
            assert keys(answers) == keys(await take(untouched, Events(part, SENSOR)))

    asyncio.run(scenario())


def test_kept_answers_are_bounded(model: StreamingModel, engine: Engine) -> None:
    async def scenario() -> None:
        size = SENSOR.width * SENSOR.height + 8192
        session = make_session(model, engine, replay_bytes=3 * size)
        await take(session, Events(EVENTS[:1], SENSOR))
        for number in range(2, 7):
            await take(session, Advance((number - 1) * WINDOW_US))
        kept = [number for number in range(1, 7) if session.earlier(number)]
        assert kept == [4, 5, 6]
        assert session.earlier(7) is None
        await take(session, Advance(20 * WINDOW_US))
        assert session.earlier(7) == ()

    asyncio.run(scenario())


def test_an_end_ends(model: StreamingModel, engine: Engine) -> None:
    async def scenario() -> None:
        session = make_session(model, engine)
        await take(session, Events(EVENTS[:5], SENSOR))
        assert len(await take(session, End())) == 1
        assert session.ended
        with pytest.raises(UnknownSessionError):
            await take(session, Reset())
        assert len(await take(session, End(), sequence=2)) == 1

    asyncio.run(scenario())


def test_only_the_holder_may_use_a_session_that_is_held(model: StreamingModel, engine: Engine) -> None:
    async def scenario() -> None:
        session = make_session(model, engine)
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


def test_a_connection_waits_for_the_request_that_is_under_way(model: StreamingModel, engine: Engine) -> None:
    async def scenario() -> None:
        session = make_session(model, engine)
        async with aclosing(session.process(Events(EVENTS, SENSOR), FORM, NOW)) as answers:
            await anext(answers)
            attaching = asyncio.create_task(session.attach(lambda: None))
            await asyncio.sleep(0.01)
            assert not attaching.done()
            rest = [answer async for answer in answers]
        assert len(rest) == 2
        holder = await attaching
        assert (holder.since, session.next_sequence) == (2, 2)

    asyncio.run(scenario())


def test_the_registry_keeps_to_its_size(model: StreamingModel, engine: Engine) -> None:
    async def scenario() -> None:
        registry = SessionRegistry(max_sessions=2, idle_seconds=0.0, ended_seconds=1000.0)

        def make(id: str, secret: str) -> Session:
            session = make_session(model, engine)
            session.id, session.secret = id, secret
            return session

        first, second = registry.create(make), registry.create(make)
        with pytest.raises(CapacityError) as caught:
            registry.create(make)
        assert int(caught.value.headers["Retry-After"]) >= 1
        assert registry.resume(second.resume_token) is second
        await take(second, End())
        with pytest.raises(UnknownSessionError):
            registry.get(second.id)
        assert registry.active == 1
        held = await first.attach(lambda: None)
        await asyncio.sleep(0.01)
        registry.reap()
        assert registry.get(first.id) is first
        first.detach(held)
        await asyncio.sleep(0.01)
        registry.reap()
        assert registry.active == 0
        with pytest.raises(UnknownSessionError):
            registry.get(first.id)
        with pytest.raises(UnknownSessionError):
            await take(first, Reset())
        assert registry.resume(second.resume_token) is second

    asyncio.run(scenario())


def test_ids_and_secrets_cannot_be_guessed(model: StreamingModel, engine: Engine) -> None:
    registry = SessionRegistry(max_sessions=100, idle_seconds=1.0, ended_seconds=1.0)
    made: list[tuple[str, str]] = []

    def make(id: str, secret: str) -> Session:
        made.append((id, secret))
        return make_session(model, engine)

    for _ in range(20):
        registry.create(make)
    assert len({text for pair in made for text in pair}) == 40
    assert min(len(id) for id, _ in made) >= 16
    assert min(len(secret) for _, secret in made) >= 32
    assert np.all([id.isascii() for id, _ in made])


def test_an_ended_session_holds_no_membranes_but_still_its_answers(model: StreamingModel, engine: Engine) -> None:
    async def scenario() -> None:
        session = make_session(model, engine)
        await take(session, Events(EVENTS, SENSOR), 1)
        assert session.state_bytes
        answers = await take(session, End(), 2)
        assert session.state_bytes == 0
        assert keys(await take(session, End(), 2)) == keys(answers)

    asyncio.run(scenario())
