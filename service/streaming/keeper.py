"""Brings the progress of a session into the state store, without holding it up."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field

from service.metrics import ServiceMetrics
from service.observability.context import bound
from service.observability.tracing import span
from service.streaming.checkpoints import Checkpoint
from service.streaming.state_store import FencedError, SessionExistsError, StateStore, StateStoreError

logger = logging.getLogger(__name__)

_RETRY_DELAYS_S = (0.1, 0.2, 0.5, 1.0, 2.0)


class StoreHealth:
    """Whether the state store answers, as far as is known.

    Attributes
    ----------
    problem : str or None
        What was wrong at the last attempt.
    returns : int
        How often it was away and came back; it may have forgotten what it held.
    """

    def __init__(self, metrics: ServiceMetrics) -> None:
        self.problem: str | None = None
        self.returns = 0
        self._metrics = metrics
        metrics.set_store_up(True)

    def failed(self, error: StateStoreError) -> None:
        """The store could not be used."""
        if self.problem is None:
            logger.error("the state store cannot be used, sessions go on without it: %s", error)
        self.problem = str(error)
        self._metrics.set_store_up(False)

    def worked(self) -> None:
        """The store could be used."""
        if self.problem is not None:
            logger.warning("the state store can be used again")
            self.returns += 1
        self.problem = None
        self._metrics.set_store_up(True)


class Leftovers:
    """Sessions that ended while the store was away, so that it does not know it yet."""

    def __init__(self) -> None:
        self._epochs: dict[str, int] = {}

    def __contains__(self, id: str) -> bool:
        return id in self._epochs

    def add(self, id: str, epoch: int) -> None:
        """The store has still to forget the session."""
        self._epochs[id] = epoch

    async def clear(self, store: StateStore) -> None:
        """Have the store forget them all.

        Raises
        ------
        StateStoreError
            If it cannot be used; what is left is tried next time.
        """
        for id in list(self._epochs):
            await self.settle(id, store)

    async def settle(self, id: str, store: StateStore) -> None:
        """Have the store forget the session of this id that has ended, if there is one; raises as ``clear``."""
        epoch = self._epochs.get(id)
        if epoch is not None:
            await store.delete(id, epoch)
            self._epochs.pop(id, None)


@dataclass(frozen=True, slots=True)
class Keeping:
    """How sessions are kept.

    Attributes
    ----------
    store : StateStore
    health : StoreHealth
    metrics : ServiceMetrics
    interval_s : float
        Least time between two checkpoints of a session, in seconds.
    ttl_s : float
        How long the store keeps a session that nobody saves any more, in seconds.
    leftovers : Leftovers
    """

    store: StateStore
    health: StoreHealth
    metrics: ServiceMetrics
    interval_s: float
    ttl_s: float
    leftovers: Leftovers = field(default_factory=Leftovers)


class Keeper:
    """Keeps one session in the store.

    A store in memory holds nothing that the session itself does not: what is in the session is then as safe as it can
    be. A durable store gets checkpoints, at most one in ``interval_s``, and what a message did is acknowledged when a
    checkpoint after it has arrived there. While the store is away the session goes on, nothing is acknowledged, and
    the first checkpoint after its return brings everything.

    Parameters
    ----------
    id : str
    epoch : int
        With which the session was created or claimed; 0 if the store could not be asked.
    acked : int
        Number of the last message that is in the store.
    keeping : Keeping
    last : callable
        Number of the session's last message.
    build : callable
        Makes a checkpoint of the moment in which it is called.
    """

    def __init__(
        self,
        id: str,
        epoch: int,
        acked: int,
        keeping: Keeping,
        last: Callable[[], int],
        build: Callable[[], Awaitable[Checkpoint]],
    ) -> None:
        self.acked = acked
        self.on_acked: Callable[[], object] = lambda: None
        self.on_fenced: Callable[[], object] = lambda: None
        self._id = id
        self._epoch = epoch
        self._keeping = keeping
        self._last = last
        self._build = build
        self._task: asyncio.Task[None] | None = None
        self._hurry = asyncio.Event()
        self._attempt = asyncio.Event()
        self._saved_at = time.monotonic()
        self._behind_since: float | None = None
        self._saved_in = keeping.health.returns
        self._over = False
        self._failed = False

    @property
    def epoch(self) -> int:
        """The session's epoch in the store."""
        return self._epoch

    @property
    def behind_s(self) -> float:
        """Age in seconds of the oldest progress that the store does not have; 0 if it has everything."""
        return 0.0 if self._behind_since is None or self._over else time.monotonic() - self._behind_since

    async def begin(self) -> None:
        """Make the session known to the store; if the store cannot be used, a later checkpoint does that.

        Raises
        ------
        SessionExistsError
            If the store has a session of that id.
        """
        try:
            await self._create(await self._build())
        except SessionExistsError:
            raise
        except StateStoreError as error:
            self._keeping.health.failed(error)

    def moved(self) -> None:
        """The session has moved on."""
        if not self._keeping.store.durable:
            self.acked = self._last()
            return
        if self._behind_since is None:
            self._behind_since = time.monotonic()
        if self._task is None and not self._over:
            self._task = asyncio.create_task(self._catch_up())

    def hurry(self) -> None:
        """Do not wait for the interval."""
        self._hurry.set()

    async def keep(self) -> bool:
        """Have everything up to now in the store; False if the store cannot be used, or the last save failed.

        Raises
        ------
        FencedError
            If another replica has taken up the session.
        """
        wanted = self._last()
        while self._keeping.store.durable and self.acked < wanted:
            if self._over:
                raise FencedError(f"session {self._id} has been taken up elsewhere")
            if self._keeping.health.problem is not None or self._failed:
                return False
            self._hurry.set()
            self.moved()
            await self._attempt.wait()
        return True

    def refresh(self) -> None:
        """Save a session that is merely silent again, before the store forgets it, and if it may have done so."""
        long_ago = time.monotonic() - self._saved_at > self._keeping.ttl_s / 2
        if self._keeping.store.durable and (long_ago or self._saved_in != self._keeping.health.returns):
            self.moved()

    async def close(self, *, forget: bool) -> None:
        """Stop; with ``forget`` the store forgets the session too, as soon as it can, if it is still this replica's."""
        self._over = True
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])
        # Nobody must wait for an attempt that will not come.
        self._end_attempt()
        if forget and self._epoch:
            try:
                await self._keeping.store.delete(self._id, self._epoch)
            except StateStoreError as error:
                self._keeping.health.failed(error)
                self._keeping.leftovers.add(self._id, self._epoch)

    async def _catch_up(self) -> None:
        """Save until the store is where the session is."""
        failures = 0
        try:
            while not self._over:
                await self._wait_for_turn()
                sequence = self._last()
                try:
                    with bound(session=self._id), span("checkpoint", {"spikeseg.session": self._id}):
                        await self._save(sequence)
                except Exception as error:
                    if isinstance(error, StateStoreError):
                        self._keeping.health.failed(error)
                    else:
                        # A fault of this program: nobody must wait for a checkpoint that will not come.
                        self._failed = True
                        logger.exception("session %s could not be saved", self._id, extra={"session": self._id})
                    self._keeping.metrics.count_checkpoint_failure()
                    self._end_attempt()
                    await asyncio.sleep(_RETRY_DELAYS_S[min(failures, len(_RETRY_DELAYS_S) - 1)])
                    failures += 1
                    self._hurry.set()
                    continue
                failures = 0
                self._failed = False
                self._end_attempt()
                if self._over or self._last() == sequence:
                    return
        finally:
            self._task = None

    async def _save(self, sequence: int) -> None:
        """Save the session as it is now, after the message of this number."""
        begun, moment = time.perf_counter(), time.monotonic()
        checkpoint = await self._build()
        try:
            if self._epoch:
                await self._keeping.store.save(self._id, self._epoch, checkpoint, self._keeping.ttl_s)
            else:
                await self._create(checkpoint)
        except (FencedError, SessionExistsError):
            self._over = True
            self.on_fenced()
            return
        self._keeping.health.worked()
        self._saved_in = self._keeping.health.returns
        self._keeping.metrics.observe_checkpoint(time.perf_counter() - begun)
        self._saved_at = time.monotonic()
        self._hurry.clear()
        self.acked = sequence
        self._behind_since = None if self._last() == sequence else moment
        self.on_acked()

    async def _create(self, checkpoint: Checkpoint) -> None:
        # One of the same name that ended while the store was away goes first.
        await self._keeping.leftovers.settle(self._id, self._keeping.store)
        self._epoch = await self._keeping.store.create(self._id, checkpoint, self._keeping.ttl_s)

    async def _wait_for_turn(self) -> None:
        """Until the last checkpoint is old enough, or somebody is in a hurry."""
        delay = self._saved_at + self._keeping.interval_s - time.monotonic()
        if delay > 0:
            with suppress(TimeoutError):
                async with asyncio.timeout(delay):
                    await self._hurry.wait()

    def _end_attempt(self) -> None:
        self._attempt.set()
        self._attempt = asyncio.Event()


async def watch_store(keeping: Keeping, every_s: float) -> None:
    """Ask the store now and then whether it is there, and tell it which sessions ended meanwhile, until cancelled."""
    while keeping.store.durable:
        try:
            await keeping.store.ping()
            await keeping.leftovers.clear(keeping.store)
        except StateStoreError as error:
            keeping.health.failed(error)
        else:
            keeping.health.worked()
        await asyncio.sleep(every_s)
