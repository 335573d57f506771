"""A server that goes away in mid-stream and comes back: no window is lost, none comes twice, no bit is another."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from clients import AsyncClient, Client, Result, StateChange, StreamOptions, StreamState
from models.events import EventBatch
from tests.clients.test_client import assert_same
from tests.service.harness import PATIENCE_S, SENSOR, WINDOW_US, random_events, split
from tests.service.real_servers import MissingProgramError, running_redis
from tests.service.replicas import Replica

WINDOWS = 60
EVENTS = random_events(23, windows=WINDOWS, per_window=600, start_us=1_000_000)
BATCHES = split(EVENTS, range(300, len(EVENTS), 300))


@pytest.fixture(scope="module")
def replica(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Replica]:
    """A server that keeps its sessions in a Redis, and its address when it starts anew."""
    folder = tmp_path_factory.mktemp("restart")
    try:
        with running_redis(folder) as redis:
            replica = Replica("restarted", folder, {"store_url": redis.url, "checkpoint_seconds": 0.2})
            replica.start()
            replica.wait_until_ready()
            yield replica
            if replica.running:
                replica.kill()
    except MissingProgramError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="module")
def undisturbed(replica: Replica) -> list[Result]:
    with Client(replica.url, timeout=PATIENCE_S) as client:
        return list(client.stream(BATCHES, SENSOR, window_us=WINDOW_US))


def paced(restarted: threading.Event) -> Iterator[EventBatch]:
    """The events at a camera's pace; the last ones come when the server is back."""
    for k, batch in enumerate(BATCHES):
        if k == len(BATCHES) - 10:
            assert restarted.wait(PATIENCE_S)
        time.sleep(0.02)
        yield batch


@pytest.fixture
def forgetful(tmp_path: Path) -> Iterator[Replica]:
    """A server without a state store: when it goes, its sessions are gone."""
    replica = Replica("forgetful", tmp_path, {})
    replica.start()
    replica.wait_until_ready()
    yield replica
    if replica.running:
        replica.kill()


def streamed(
    kind: str,
    url: str,
    restarted: threading.Event,
    found: list[Result],
    changes: list[StateChange],
    options: StreamOptions,
) -> int:
    """Stream the events; how often the session was taken up again."""
    if kind == "sync":
        with Client(url, timeout=PATIENCE_S) as client:
            stream = client.stream(
                paced(restarted), SENSOR, window_us=WINDOW_US, options=options, on_state=changes.append
            )
            found.extend(stream)
            return stream.reconnects + stream.restarts

    async def run() -> int:
        async with AsyncClient(url, timeout=PATIENCE_S) as client:
            stream = client.stream(
                paced(restarted), SENSOR, window_us=WINDOW_US, options=options, on_state=changes.append
            )
            async for result in stream:
                found.append(result)  # noqa: PERF401 the other thread looks at them
            return stream.reconnects + stream.restarts

    return asyncio.run(run())


def over_a_restart(
    replica: Replica, kind: str, how: str, options: StreamOptions
) -> tuple[list[Result], list[StreamState], int]:
    """Results of a stream whose server goes away and comes back, its states, and how often it was taken up again."""
    found: list[Result] = []
    changes: list[StateChange] = []
    taken_up: list[int] = []
    restarted = threading.Event()
    thread = threading.Thread(
        target=lambda: taken_up.append(streamed(kind, replica.url, restarted, found, changes, options))
    )
    thread.start()
    end = time.monotonic() + PATIENCE_S
    while len(found) < WINDOWS // 3 and thread.is_alive() and time.monotonic() < end:
        time.sleep(0.01)
    assert len(found) < WINDOWS
    if how == "kill":
        replica.kill()
    else:
        replica.terminate()
    replica.start()
    replica.wait_until_ready()
    restarted.set()
    thread.join(PATIENCE_S)
    assert len(taken_up) == 1
    return found, [change.after for change in changes], taken_up[0]


@pytest.mark.parametrize(("kind", "how"), [("sync", "kill"), ("async", "kill"), ("sync", "stop"), ("async", "stop")])
def test_a_stream_survives_a_restart(replica: Replica, undisturbed: list[Result], kind: str, how: str) -> None:
    found, states, taken_up = over_a_restart(replica, kind, how, StreamOptions())
    assert taken_up >= 1
    assert_same(found, undisturbed)
    assert not any(result.skipped.restart for result in found)
    assert states[0] is StreamState.STREAMING
    assert StreamState.DEGRADED in states
    assert states[-1] is StreamState.CLOSED


@pytest.mark.parametrize(("kind", "how"), [("sync", "kill"), ("async", "stop")])
def test_a_stream_goes_on_though_its_session_is_lost(
    forgetful: Replica, undisturbed: list[Result], kind: str, how: str
) -> None:
    found, states, taken_up = over_a_restart(forgetful, kind, how, StreamOptions(lost_session="restart"))
    assert taken_up == 1
    assert [result.window for result in found] == list(range(WINDOWS))
    for left, right in zip(found, undisturbed, strict=True):
        assert (left.t_start, left.t_end, left.events) == (right.t_start, right.t_end, right.events)
    # One window says that the network began anew; up to there nothing is different.
    [first] = [result.window for result in found if result.skipped.restart]
    assert_same(found[:first], undisturbed[:first])
    # The membranes have been warmed up, so that masks after it are nearly the same.
    same = [np.mean(left.mask == right.mask) for left, right in zip(found, undisturbed, strict=True)]
    assert np.mean(same[first:]) > 0.95
    assert StreamState.DEGRADED in states
