"""A server that goes away in mid-stream and comes back: no window is lost, none comes twice, no bit is another."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator

import pytest

from clients import AsyncClient, Client, Result, StateChange, StreamState
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


def streamed(kind: str, url: str, restarted: threading.Event, found: list[Result], changes: list[StateChange]) -> int:
    """Stream the events; how often the session was taken up again."""
    if kind == "sync":
        with Client(url, timeout=PATIENCE_S) as client:
            stream = client.stream(paced(restarted), SENSOR, window_us=WINDOW_US, on_state=changes.append)
            found.extend(stream)
            return stream.reconnects

    async def run() -> int:
        async with AsyncClient(url, timeout=PATIENCE_S) as client:
            stream = client.stream(paced(restarted), SENSOR, window_us=WINDOW_US, on_state=changes.append)
            async for result in stream:
                found.append(result)  # noqa: PERF401 the other thread looks at them
            return stream.reconnects

    return asyncio.run(run())


@pytest.mark.parametrize(("kind", "how"), [("sync", "kill"), ("async", "kill"), ("sync", "stop"), ("async", "stop")])
def test_a_stream_survives_a_restart(replica: Replica, undisturbed: list[Result], kind: str, how: str) -> None:
    found: list[Result] = []
    changes: list[StateChange] = []
    reconnects: list[int] = []
    restarted = threading.Event()
    thread = threading.Thread(target=lambda: reconnects.append(streamed(kind, replica.url, restarted, found, changes)))
    thread.start()
    end = time.monotonic() + PATIENCE_S
    while len(found) < WINDOWS // 4 and time.monotonic() < end:
        time.sleep(0.01)
    assert len(found) < WINDOWS
    replica.kill() if how == "kill" else replica.terminate()
    replica.start()
    replica.wait_until_ready()
    restarted.set()
    thread.join(PATIENCE_S)
    assert reconnects
    assert reconnects[0] >= 1
    assert_same(found, undisturbed)
    states = [change.after for change in changes]
    assert states[0] is StreamState.STREAMING
    assert StreamState.DEGRADED in states
    assert states[-1] is StreamState.CLOSED
