"""Where sessions are kept beyond the process that runs them, and who may write.

Each session has a fencing epoch. Whoever creates it holds the first, and whoever claims it raises the epoch by one:
from then on all earlier holders are refused, however late their writes come. A store that has lost its memory refuses
nobody: what is saved next stands, until a later epoch is.

StateStoreError
 ├── StoreUnavailableError    the store cannot be reached; whether the call took effect is not known
 ├── SessionExistsError       a session of that id is there already
 ├── FencedError              there is a later epoch, or the session was deleted
 └── CorruptCheckpointError   what the store holds is no checkpoint
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Protocol

from service.streaming.checkpoints import Checkpoint


class StateStoreError(Exception):
    """Base of what can go wrong with a store."""


class StoreUnavailableError(StateStoreError):
    """The store cannot be reached, or does not answer in time; whether the call took effect is not known."""


class SessionExistsError(StateStoreError):
    """A session of that id is there already."""


class FencedError(StateStoreError):
    """There is a later epoch, since the session has been claimed by somebody else, or it was deleted."""


class CorruptCheckpointError(StateStoreError):
    """What the store holds is no checkpoint."""


@dataclass(frozen=True, slots=True)
class Claim:
    """A session that has been taken over.

    Attributes
    ----------
    epoch : int
        With which it can be saved, until the next claim.
    checkpoint : Checkpoint
        The latest one; no holder of an earlier epoch can add to it.
    """

    epoch: int
    checkpoint: Checkpoint


class StateStore(Protocol):
    """Keeps the latest checkpoint of each session; every call is atomic and raises StoreUnavailableError.

    A checkpoint that is given away must not change any more.
    """

    @property
    def durable(self) -> bool:
        """Whether what is saved outlives this process."""
        ...

    async def create(self, id: str, checkpoint: Checkpoint, ttl_s: float) -> int:
        """Keep a new session; its epoch.

        Parameters
        ----------
        id : str
        checkpoint : Checkpoint
        ttl_s : float
            In how many seconds the session is forgotten unless it is saved again.

        Raises
        ------
        SessionExistsError
            If the id is taken by somebody else. (An earlier attempt of the caller's own, of which it is not known
            whether it took effect, is no obstacle.)
        """
        ...

    async def peek(self, id: str) -> Checkpoint | None:
        """Read the latest checkpoint without taking over; None if there is none.

        Raises
        ------
        CorruptCheckpointError
            If it cannot be read.
        """
        ...

    async def claim(self, id: str) -> Claim | None:
        """Take over: raise the epoch by one and read the latest checkpoint; None if there is none.

        How long the session is kept does not change.

        Raises
        ------
        CorruptCheckpointError
            If it cannot be read; the epoch is raised all the same.
        """
        ...

    async def owns(self, id: str, epoch: int) -> bool:
        """Whether the epoch is the latest as far as the store knows, and the session not deleted."""
        ...

    async def save(self, id: str, epoch: int, checkpoint: Checkpoint, ttl_s: float) -> None:
        """Replace the latest checkpoint, and keep the session for another ``ttl_s`` seconds.

        One holder's saves take effect in the order of the calls: one that is given up and arrives late changes nothing.

        Raises
        ------
        FencedError
            If there is a later epoch, or the session was deleted.
        """
        ...

    async def delete(self, id: str, epoch: int) -> None:
        """Forget the session; nothing happens unless the epoch is the latest."""
        ...

    async def ping(self) -> None:
        """Return if the store can be reached."""
        ...

    async def close(self) -> None:
        """Let go of the store once the calls under way are done."""
        ...


@dataclass(frozen=True, slots=True)
class _Record:
    """Of a deleted session the epoch is left."""

    epoch: int
    checkpoint: Checkpoint | None
    expires: float


class MemoryStateStore:
    """Keeps references to the checkpoints, for as long as the process runs.

    Parameters
    ----------
    clock : callable
        Seconds that only go forward.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._records: dict[str, _Record] = {}

    @property
    def durable(self) -> bool:
        """Nothing outlives this process."""
        return False

    async def create(self, id: str, checkpoint: Checkpoint, ttl_s: float) -> int:
        """As in ``StateStore``; what has expired is dropped here."""
        now = self._clock()
        self._records = {key: record for key, record in self._records.items() if record.expires > now}
        before = self._records.get(id)
        if before is not None and before.checkpoint is not None:
            raise exists(id)
        epoch = 1 if before is None else before.epoch + 1
        self._records[id] = _Record(epoch, checkpoint, now + ttl_s)
        return epoch

    async def peek(self, id: str) -> Checkpoint | None:
        """As in ``StateStore``."""
        record = self._find(id)
        return None if record is None else record.checkpoint

    async def claim(self, id: str) -> Claim | None:
        """As in ``StateStore``."""
        record = self._find(id)
        if record is None or record.checkpoint is None:
            return None
        self._records[id] = replace(record, epoch=record.epoch + 1)
        return Claim(record.epoch + 1, record.checkpoint)

    async def owns(self, id: str, epoch: int) -> bool:
        """As in ``StateStore``."""
        record = self._find(id)
        return record is None or (record.epoch <= epoch and record.checkpoint is not None)

    async def save(self, id: str, epoch: int, checkpoint: Checkpoint, ttl_s: float) -> None:
        """As in ``StateStore``."""
        if not await self.owns(id, epoch):
            raise fenced(id, epoch)
        self._records[id] = _Record(epoch, checkpoint, self._clock() + ttl_s)

    async def delete(self, id: str, epoch: int) -> None:
        """As in ``StateStore``."""
        record = self._find(id)
        if record is not None and record.epoch == epoch:
            self._records[id] = replace(record, checkpoint=None)

    async def ping(self) -> None:
        """Memory is always there."""

    async def close(self) -> None:
        """Forget everything."""
        self._records.clear()

    def _find(self, id: str) -> _Record | None:
        record = self._records.get(id)
        if record is not None and record.expires <= self._clock():
            del self._records[id]
            return None
        return record


def exists(id: str) -> SessionExistsError:
    """The complaint that an id is taken."""
    return SessionExistsError(f"session {id} is there already")


def fenced(id: str, epoch: int) -> FencedError:
    """The complaint that an epoch is no longer the latest."""
    return FencedError(f"there is a later epoch of session {id} than {epoch}, or the session was deleted")
