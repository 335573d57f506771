"""Sessions and their state store, where something fails at a chosen point; the store is shared by two registries."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

import pytest

from service.errors import ServiceError, UnusableInputError
from service.metrics import ServiceMetrics
from service.streaming.checkpoints import Checkpoint
from service.streaming.keeper import Keeper, Keeping, StoreHealth
from service.streaming.registry import Limits, SessionRegistry
from service.streaming.session import Session
from service.streaming.state_store import Claim, MemoryStateStore, StoreUnavailableError

CHECKPOINT = Checkpoint({"owner": ""}, {})
LIMITS = Limits(sessions=4, state_bytes=1 << 30, idle_s=60, attached_idle_s=60, lifetime_s=600, ended_s=10)


class FailingStore(MemoryStateStore):
    """A store that outlives its sessions, and fails as it is told."""

    def __init__(self) -> None:
        super().__init__()
        self.failure: Exception | None = None

    @property
    def durable(self) -> bool:
        return True

    async def create(self, id: str, checkpoint: Checkpoint, ttl_s: float) -> int:
        self._fail()
        return await super().create(id, checkpoint, ttl_s)

    async def save(self, id: str, epoch: int, checkpoint: Checkpoint, ttl_s: float) -> None:
        self._fail()
        await super().save(id, epoch, checkpoint, ttl_s)

    async def delete(self, id: str, epoch: int) -> None:
        self._fail()
        await super().delete(id, epoch)

    def _fail(self) -> None:
        if self.failure is not None:
            raise self.failure


def make_keeping(store: FailingStore) -> Keeping:
    metrics = ServiceMetrics()
    return Keeping(store, StoreHealth(metrics), metrics, interval_s=0.0, ttl_s=60.0)


class Progress:
    """As much of a session as its keeper knows: the number of its last message."""

    def __init__(self, keeping: Keeping, id: str = "session-1") -> None:
        self.number = 0
        self.fenced = False
        self.saved = asyncio.Event()
        self.keeper = Keeper(id, 0, 0, keeping, lambda: self.number, self._build)
        self.keeper.on_fenced = self._on_fenced
        self.keeper.on_acked = self.saved.set

    async def _build(self) -> Checkpoint:
        return CHECKPOINT

    def _on_fenced(self) -> None:
        self.fenced = True


def run(scenario: Callable[[], Coroutine[Any, Any, None]]) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(30):
            await scenario()

    asyncio.run(bounded())


@pytest.mark.parametrize("failure", [RuntimeError("a fault of this program"), StoreUnavailableError("away")])
def test_nobody_waits_for_a_save_that_fails(failure: Exception) -> None:
    async def scenario() -> None:
        store = FailingStore()
        progress = Progress(make_keeping(store))
        await progress.keeper.begin()
        progress.number, store.failure = 1, failure
        assert not await progress.keeper.keep()
        assert progress.keeper.acked == 0
        store.failure = None
        # It goes on trying by itself.
        await progress.saved.wait()
        assert progress.keeper.acked == 1
        assert await progress.keeper.keep()
        await progress.keeper.close(forget=True)

    run(scenario)


def test_a_session_may_take_the_name_of_one_that_ended_while_the_store_was_away() -> None:
    async def scenario() -> None:
        store = FailingStore()
        keeping = make_keeping(store)
        first = Progress(keeping)
        await first.keeper.begin()
        store.failure = StoreUnavailableError("away")
        await first.keeper.close(forget=True)
        assert "session-1" in keeping.leftovers
        second = Progress(keeping)
        await second.keeper.begin()
        second.number = 1
        second.keeper.moved()
        assert not await second.keeper.keep()
        store.failure = None
        await second.saved.wait()
        assert second.keeper.acked == 1
        assert not second.fenced
        assert "session-1" not in keeping.leftovers
        assert await store.owns("session-1", second.keeper.epoch)
        # What is left to delete by then names another epoch.
        await keeping.leftovers.clear(store)
        assert await store.peek("session-1") is not None
        await second.keeper.close(forget=True)

    run(scenario)


def test_a_server_that_cannot_go_on_with_a_session_leaves_it_where_it_is() -> None:
    async def refuse(_claim: Claim) -> Session:
        raise UnusableInputError("the checkpoint is of other weights")

    async def scenario() -> None:
        store = FailingStore()
        epoch = await store.create("session-1", CHECKPOINT, 60.0)
        registry = SessionRegistry(LIMITS, make_keeping(store))
        registry.revive_with(refuse)
        tries: list[Awaitable[Session]] = [registry.get("session-1"), registry.resume("session-1.secret")]
        for attempt in tries:
            with pytest.raises(ServiceError, match="other weights"):
                await attempt
        assert await store.owns("session-1", epoch)
        await store.save("session-1", epoch, CHECKPOINT, 60.0)

    run(scenario)
