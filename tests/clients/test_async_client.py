"""The asynchronous client against the real server: what the synchronous one gives, without waiting in line."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import TypeVar

import httpx
import pytest

from clients import Advance, AsyncClient, Client, Flush, Result, Retries, StateChange, StreamState
from clients.errors import (
    ConnectError,
    ConnectionLostError,
    HelloError,
    InputError,
    SessionInUseError,
    TimeOrderError,
    UnknownModelError,
)
from models.events import EventBatch
from tests.clients.cutting_proxy import Cut, CuttingProxy
from tests.clients.test_client import assert_same, batches_of
from tests.service.harness import PATIENCE_S, SENSOR, WINDOW_US, Stream, make_events, random_events

T = TypeVar("T")
WINDOWS = 4


@pytest.fixture(scope="module")
def events() -> EventBatch:
    return random_events(11, windows=WINDOWS, start_us=1_000_000)


@pytest.fixture(scope="module")
def undisturbed(server: str, events: EventBatch) -> list[Result]:
    """What the synchronous client is given when nothing goes wrong."""
    with Client(server, timeout=PATIENCE_S) as client:
        return list(client.stream(batches_of(events), SENSOR, window_us=WINDOW_US))


def with_client(url: str, use: Callable[[AsyncClient], Awaitable[T]], **settings: object) -> T:
    """Run something with a client of its own in an event loop of its own."""

    async def run() -> T:
        async with AsyncClient(url, timeout=PATIENCE_S, **settings) as client:  # type: ignore[arg-type]
            return await use(client)

    return asyncio.run(run())


def session_status(server: str, session: str) -> int:
    return httpx.get(f"{server}/v1/sessions/{session}").status_code


def test_models_and_single_masks_are_those_of_the_synchronous_client(
    server: str, events: EventBatch, undisturbed: list[Result]
) -> None:
    async def use(client: AsyncClient) -> None:
        await client.wait_until_ready(PATIENCE_S)
        with Client(server, timeout=PATIENCE_S) as other:
            assert await client.models() == other.models()
        assert_same([await client.segment(events, SENSOR, window_us=WINDOW_US)], undisturbed[-1:])
        with pytest.raises(UnknownModelError, match="huge"):
            await client.segment(events, SENSOR, model="huge")

    with_client(server, use)


@pytest.mark.parametrize("kind", ["iterable", "asynchronous"])
def test_a_stream_is_that_of_the_synchronous_client(
    server: str, events: EventBatch, undisturbed: list[Result], kind: str
) -> None:
    async def later() -> AsyncIterator[EventBatch]:
        for batch in batches_of(events):
            await asyncio.sleep(0)
            yield batch

    async def use(client: AsyncClient) -> None:
        source = batches_of(events) if kind == "iterable" else later()
        results = [result async for result in client.stream(source, SENSOR, window_us=WINDOW_US)]
        assert_same(results, undisturbed)

    with_client(server, use)


@pytest.mark.parametrize("part", ["up 3000", "up 20000", "down 300", "down 4000", "down 6000"])
def test_a_cut_connection_is_taken_up_again(
    server: str, events: EventBatch, undisturbed: list[Result], part: str
) -> None:
    direction, after = part.split()
    cuts: list[Cut | None] = [Cut(direction, int(after))]  # type: ignore[arg-type]
    with CuttingProxy(server, cuts) as proxy:

        async def use(client: AsyncClient) -> None:
            async with client.stream(batches_of(events), SENSOR, window_us=WINDOW_US) as stream:
                assert_same([result async for result in stream], undisturbed)
                assert proxy.connections == 2

        with_client(proxy.url, use)


def test_a_connection_that_falls_silent_is_taken_up_again(
    server: str, events: EventBatch, undisturbed: list[Result]
) -> None:
    with CuttingProxy(server, [Cut("down", 2_500, stall=True)]) as proxy:

        async def run() -> None:
            changes: list[StateChange] = []
            async with AsyncClient(proxy.url, timeout=4.0) as client:
                stream = client.stream(batches_of(events), SENSOR, window_us=WINDOW_US, on_state=changes.append)
                assert_same([result async for result in stream], undisturbed)
            states = [change.after for change in changes]
            assert states[0] is StreamState.STREAMING
            assert states[1:3] == [StreamState.DEGRADED, StreamState.STREAMING]
            assert states[-1] is StreamState.CLOSED
            # Silence alone degraded it, before the connection was given up.
            assert "owes an answer" in changes[1].reason

        asyncio.run(run())


def test_attempts_that_lead_nowhere_end(server: str, events: EventBatch) -> None:
    cuts: list[Cut | None] = [None, *[Cut("down", 200)] * 50]
    with CuttingProxy(server, cuts) as proxy:

        async def source() -> AsyncIterator[EventBatch]:
            yield events[:4000]
            proxy.break_all()
            yield events[4000:]

        async def use(client: AsyncClient) -> None:
            with pytest.raises(ConnectionLostError, match="given up after 3 attempts"):
                async for _ in client.stream(source(), SENSOR, window_us=WINDOW_US):
                    pass

        with_client(proxy.url, use, resume=Retries(attempts=3, first_s=0.01))


def test_results_come_while_the_source_has_nothing_yet(server: str, events: EventBatch) -> None:
    answered = asyncio.Event()

    async def source() -> AsyncIterator[EventBatch]:
        yield events
        # Nothing more is sent until the windows that are complete have been given.
        await asyncio.wait_for(answered.wait(), PATIENCE_S)

    async def use(client: AsyncClient) -> list[int]:
        windows = []
        async for result in client.stream(source(), SENSOR, window_us=WINDOW_US):
            windows.append(result.window)
            if result.window == WINDOWS - 2:
                answered.set()
        return windows

    assert with_client(server, use) == list(range(WINDOWS))


def test_a_source_that_makes_its_thread_wait_does_not_hold_up_the_loop(server: str, events: EventBatch) -> None:
    def source() -> Iterator[EventBatch]:
        yield events[:100]
        time.sleep(0.5)
        yield events[100:]

    async def use(client: AsyncClient) -> None:
        rounds = 0

        async def other_work() -> None:
            nonlocal rounds
            while True:
                await asyncio.sleep(0.005)
                rounds += 1

        other = asyncio.create_task(other_work())
        assert len([result async for result in client.stream(source(), SENSOR, window_us=WINDOW_US)]) == WINDOWS
        other.cancel()
        assert rounds > 10

    with_client(server, use)


def test_asking_for_a_result_may_be_cancelled(server: str, events: EventBatch, undisturbed: list[Result]) -> None:
    async def use(client: AsyncClient) -> None:
        found: list[Result] = []
        async with client.stream(batches_of(events), SENSOR, window_us=WINDOW_US) as stream:
            cancelled = 0
            while not stream.closed:
                try:
                    async with asyncio.timeout(0.002):
                        found.append(await anext(stream))
                except TimeoutError:
                    cancelled += 1
                except StopAsyncIteration:
                    break
        assert cancelled > 0
        assert_same(found, undisturbed)

    with_client(server, use)


def test_time_may_be_told_without_events(server: str) -> None:
    first, second = make_events((5, 1, 1, 1)), make_events((2 * WINDOW_US + 5, 1, 1, 1))
    waits: list[int] = []

    async def source() -> AsyncIterator[EventBatch | Advance | Flush]:
        yield first
        yield Advance(2 * WINDOW_US)
        while len(waits) < 2:
            await asyncio.sleep(0.01)
        yield second
        yield Flush()
        while len(waits) < 3:
            await asyncio.sleep(0.01)

    async def use(client: AsyncClient) -> None:
        async for result in client.stream(source(), SENSOR, window_us=WINDOW_US):
            waits.append(result.window)  # noqa: PERF401 the source looks at them meanwhile

    with_client(server, use)
    assert waits == [0, 1, 2]
    with Client(server, timeout=PATIENCE_S) as client:
        results = list(client.stream([first, Advance(3 * WINDOW_US)], SENSOR, window_us=WINDOW_US))
        assert [result.window for result in results] == [0, 1, 2]
        with pytest.raises(InputError, match="no time that a stream can reach"):
            list(client.stream([first, Advance(-1)], SENSOR, window_us=WINDOW_US))


def test_what_the_service_refuses_is_raised_after_what_came_before(
    server: str, events: EventBatch, undisturbed: list[Result]
) -> None:
    async def use(client: AsyncClient) -> None:
        stream = client.stream([events, events[:10]], SENSOR, window_us=WINDOW_US)
        found: list[Result] = []

        async def read() -> None:
            async for result in stream:
                found.append(result)  # noqa: PERF401 those before the error are wanted

        with pytest.raises(TimeOrderError, match="earlier"):
            await read()
        assert_same(found, undisturbed[:-1])
        assert session_status(server, stream.session.id) == 404
        with pytest.raises(StopAsyncIteration):
            await anext(stream)
        with pytest.raises(HelloError):
            await anext(client.stream([events], SENSOR, window_us=1))

    with_client(server, use)


def test_a_source_that_fails(server: str, events: EventBatch) -> None:
    async def source() -> AsyncIterator[EventBatch]:
        yield events
        raise RuntimeError("the camera is unplugged")

    async def use(client: AsyncClient) -> None:
        stream = client.stream(source(), SENSOR, window_us=WINDOW_US)
        with pytest.raises(RuntimeError, match="unplugged"):
            async for _ in stream:
                pass
        assert stream.state is StreamState.CLOSED
        assert session_status(server, stream.session.id) == 404

    with_client(server, use)


def test_a_session_that_another_connection_takes(server: str, events: EventBatch) -> None:
    async def use(client: AsyncClient) -> None:
        async def source() -> AsyncIterator[EventBatch]:
            yield events[:4000]
            await asyncio.to_thread(lambda: Stream.resume(server, stream.session.resume).__exit__())
            yield events[4000:]

        stream = client.stream(source(), SENSOR, window_us=WINDOW_US)
        with pytest.raises(SessionInUseError):
            async for _ in stream:
                pass
        assert session_status(server, stream.session.id) == 200

    with_client(server, use)


def test_streams_that_are_left_are_ended(server: str, events: EventBatch) -> None:
    async def run() -> None:
        async with AsyncClient(server, timeout=PATIENCE_S) as client:
            left = client.stream([events], SENSOR, window_us=WINDOW_US)
            assert (await anext(left)).window == 0
            async with client.stream([events], SENSOR, window_us=WINDOW_US) as entered:
                pass
            assert session_status(server, entered.session.id) == 404
            never_opened = client.stream([events], SENSOR)
            assert not left.closed
        assert left.closed
        assert never_opened.closed
        assert session_status(server, left.session.id) == 404

    asyncio.run(run())


def test_many_streams_share_a_client(server: str, events: EventBatch, undisturbed: list[Result]) -> None:
    async def use(client: AsyncClient) -> None:
        async def one() -> list[Result]:
            return [result async for result in client.stream(batches_of(events), SENSOR, window_us=WINDOW_US)]

        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(one()) for _ in range(6)]
        for task in tasks:
            assert_same(task.result(), undisturbed)

    with_client(server, use)


def test_nobody_answers(events: EventBatch) -> None:
    async def use(client: AsyncClient) -> None:
        with pytest.raises(ConnectError, match="nobody answers"):
            await client.models()
        with pytest.raises(ConnectError, match="nobody answers"):
            await anext(client.stream([events], SENSOR))

    with_client("http://127.0.0.1:1", use)


def test_health_tells_how_a_stream_is_doing(server: str, events: EventBatch) -> None:
    with Client(server, timeout=PATIENCE_S) as client:
        changes: list[StateChange] = []
        with client.stream(batches_of(events), SENSOR, window_us=WINDOW_US, on_state=changes.append) as stream:
            before = stream.health
            assert (before.state, before.result_age_s, before.lag_us) == (StreamState.STREAMING, None, None)
            result = next(stream)
            after = stream.health
            assert after.result_age_s is not None
            assert 0 <= after.result_age_s < PATIENCE_S
            assert after.lag_us is not None
            assert 0 <= after.lag_us < int(events.t[-1]) - result.t_end + 1
            assert after.unacked_bytes > 0 or after.in_flight == 0
        assert stream.health.state is StreamState.CLOSED
        assert stream.health.reason == "left before its end"
        assert [(change.before, change.after) for change in changes] == [
            (StreamState.CONNECTING, StreamState.STREAMING),
            (StreamState.STREAMING, StreamState.CLOSED),
        ]
