"""The sessions of a server: made, found, resumed, taken up from other servers, and freed."""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from weakref import WeakValueDictionary

from service import audit
from service.errors import (
    CapacityError,
    RequestTimeoutError,
    SessionExistsError,
    SessionMovedError,
    StateMemoryError,
    StoreAwayError,
    UnknownSessionError,
)
from service.observability.context import session_id
from service.streaming import state_store
from service.streaming.keeper import Keeping
from service.streaming.session import Session

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Limits:
    """How many sessions there may be, how large, and how long.

    Attributes
    ----------
    sessions : int
        Most sessions that have not ended.
    state_bytes : int
        Most memory for membranes and held events.
    idle_s : float
        A session that no connection holds is freed after this silence, in seconds.
    attached_idle_s : float
        One that a connection holds is let go after this silence.
    lifetime_s : float
        A session is freed so long after it was opened.
    ended_s : float
        For so long an ended session can be resumed, by a client that lost its last answers.
    """

    sessions: int
    state_bytes: int
    idle_s: float
    attached_idle_s: float
    lifetime_s: float
    ended_s: float


class SessionRegistry:
    """Sessions by id; those of other servers too, by way of the state store.

    Parameters
    ----------
    limits : Limits
    keeping : Keeping
    """

    def __init__(self, limits: Limits, keeping: Keeping) -> None:
        self._sessions: dict[str, Session] = {}
        self._limits = limits
        self._keeping = keeping
        # A lock is there as long as somebody waits for it.
        self._finding: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self._revive: Callable[[state_store.Claim], Awaitable[Session]] | None = None

    def revive_with(self, revive: Callable[[state_store.Claim], Awaitable[Session]]) -> None:
        """Say how a session is made from a checkpoint."""
        self._revive = revive

    @property
    def active(self) -> int:
        """Sessions that have not ended."""
        return sum(not session.ended for session in self._sessions.values())

    @property
    def state_bytes(self) -> int:
        """Bytes that the membranes and held events of all sessions take."""
        return sum(session.state_bytes for session in self._sessions.values())

    @property
    def checkpoint_age_s(self) -> float:
        """Age in seconds of the oldest progress of any session that the state store does not have."""
        return max((session.keeper.behind_s for session in self._sessions.values()), default=0.0)

    @property
    def all(self) -> list[Session]:
        """The sessions that are here."""
        return list(self._sessions.values())

    def here(self, id: str) -> Session | None:
        """The session of that id if it is on this server, also one that has ended a while ago."""
        return self._sessions.get(id)

    @property
    def _full(self) -> bool:
        return self.active >= self._limits.sessions

    def require_room(self) -> None:
        """Raise CapacityError if there is no room for another session."""
        if self._full:
            raise CapacityError(
                f"all {self._limits.sessions} sessions of this server are in use; try again later",
                headers={"Retry-After": str(self._seconds_to_free())},
            )

    def require_memory(self, more: int) -> None:
        """Raise StateMemoryError if there is no room for so many more bytes of state."""
        if self.state_bytes + more > self._limits.state_bytes:
            raise StateMemoryError(
                f"the sessions of this server hold {self.state_bytes} bytes of state, {more} more would be above the "
                f"{self._limits.state_bytes} that they may; try again later, or with a smaller sensor",
                headers={"Retry-After": str(self._seconds_to_free())},
            )

    async def require_room_for(self, id: str) -> None:
        """Raise CapacityError if there is no room for another session, unless one of that id is there already."""
        # A store is asked only where its answer matters.
        if self._full and not await self._knows(id):
            self.require_room()

    async def open(self, session: Session) -> None:
        """Take in a new session, here and in the store.

        Raises
        ------
        CapacityError
            If there is no room for another.
        SessionExistsError
            If there is a session of that id.
        """
        self.require_room()
        id = session.id
        exists = SessionExistsError(
            f"there is a session {id!r} already; take it up with its token, or choose another id"
        )
        if id in self._sessions:
            raise exists
        self.require_memory(session.state_bytes)
        self._sessions[id] = session
        session_id.set(id)
        try:
            await session.keeper.begin()
        except state_store.SessionExistsError:
            self._sessions.pop(id, None)
            raise exists from None
        except BaseException:
            self._sessions.pop(id, None)
            raise
        self._keeping.metrics.count_opened()
        audit.record(audit.Event.OPENED, key=session.spec.owner, session=id)

    async def get(self, id: str, owner: str = "") -> Session:
        """The session of that id and owner, which has not ended.

        Raises
        ------
        UnknownSessionError
            If there is none, it has ended, or is another's.
        CapacityError
            If it is not here, and there is no room to take it up.
        """
        session = _running(await self._find(id, owner))
        session_id.set(id)
        session.touch()
        return session

    async def look(self, id: str, owner: str = "") -> Session:
        """The session of that id and owner, to look at only: if another server has it, a copy of what the store knows.

        Raises
        ------
        UnknownSessionError
            If there is none, it has ended, or is another's.
        """
        session = self._sessions.get(id)
        store = self._keeping.store
        try:
            if session is None and id in self._keeping.leftovers:
                pass
            elif session is None or (store.durable and not await store.owns(id, session.keeper.epoch)):
                checkpoint = await store.peek(id) if store.durable else None
                session = None
                if checkpoint is not None and self._revive is not None:
                    session = await self._revive(state_store.Claim(0, checkpoint))
        except state_store.StateStoreError as error:
            session = self._without_store(session, error)
        session = _running(_owned(session, owner))
        session_id.set(id)
        return session

    async def resume(self, token: str, owner: str = "") -> Session:
        """The session that a resume token belongs to; for a while also one that has ended.

        Raises
        ------
        UnknownSessionError
            If there is none, or it is another's.
        CapacityError
            If it is not here, and there is no room to take it up.
        """
        id, _, secret = token.partition(".")
        session = await self._find(id, owner)
        if session is None or not session.is_secret(secret):
            raise UnknownSessionError("no session has this token; it may have ended, or been idle for too long")
        session_id.set(id)
        audit.record(audit.Event.RESUMED, key=owner, session=id)
        return session

    async def remove(self, session: Session, *, forget: bool = True, why: str = "deleted") -> None:
        """Forget a session; with ``forget``, in the store too, and the audit log says why."""
        if forget and not session.ended and not session.closed:
            audit.record(audit.Event.ENDED, key=session.spec.owner, session=session.id, reason=why)
        session.close(moved=not forget)
        if self._sessions.get(session.id) is session:
            del self._sessions[session.id]
        await session.keeper.close(forget=forget)

    async def reap(self) -> None:
        """Forget the sessions that nobody has used for too long, and those that have lived for too long."""
        now = time.monotonic()
        for session in self.all:
            silent_s = now - session.last_used
            if session.closed and not session.busy:
                await self.remove(session, forget=False)
            elif not session.ended and session.age_s > self._limits.lifetime_s:
                session.expel(
                    RequestTimeoutError(f"the session has lived for {self._limits.lifetime_s:g} s, longer than it may")
                )
                await self.remove(session, why="lifetime")
            elif session.attached:
                if silent_s > self._limits.attached_idle_s:
                    session.expel(RequestTimeoutError(f"nothing has come for {self._limits.attached_idle_s:g} s"))
            elif not session.busy:
                limit = self._limits.ended_s if session.ended else self._limits.idle_s
                if silent_s > limit:
                    if not session.ended:
                        logger.info(
                            "session %s was idle for %.0f s and has been freed",
                            session.id,
                            limit,
                            extra={"session": session.id},
                        )
                    await self.remove(session, why="idle")
            session.keeper.refresh()

    async def reap_forever(self, every_seconds: float) -> None:
        """Call ``reap`` now and then, until cancelled."""
        while True:
            await asyncio.sleep(every_seconds)
            await self.reap()

    async def _knows(self, id: str) -> bool:
        """Whether there is a session of that id, here or in the store."""
        if id in self._sessions:
            return True
        try:
            return self._keeping.store.durable and await self._keeping.store.peek(id) is not None
        except state_store.StateStoreError as error:
            self._keeping.health.failed(error)
            return False

    async def _find(self, id: str, owner: str) -> Session | None:
        """The session of that id and owner, taken up from the store if it is not here or another server has it."""
        store = self._keeping.store
        if not store.durable:
            return _owned(self._sessions.get(id), owner)
        if len(id) > 64:
            return None
        async with self._finding.setdefault(id, asyncio.Lock()):
            return _owned(await self._find_durable(id, owner), owner)

    async def _find_durable(self, id: str, owner: str) -> Session | None:
        session = self._sessions.get(id)
        if session is None and id in self._keeping.leftovers:
            return None
        store = self._keeping.store
        try:
            if session is not None:
                epoch = session.keeper.epoch
                if not epoch or await store.owns(id, epoch):
                    return session
                session.expel(SessionMovedError("another replica has taken up this session"))
                await self.remove(session, forget=False)
                session = None
            # All that could keep it from going on here is found out before it is claimed: a claim takes it from the
            # server that has it.
            checkpoint = await store.peek(id)
            if checkpoint is None or self._revive is None or checkpoint.header.get("owner", "") != owner:
                return None
            self.require_room()
            await self._revive(state_store.Claim(0, checkpoint))
            claim = await store.claim(id)
        except state_store.StateStoreError as error:
            return self._without_store(session, error)
        if claim is None:
            return None
        session = await self._revive(claim)
        self._sessions[id] = session
        self._keeping.metrics.count_takeover()
        audit.record(audit.Event.TAKEN_OVER, key=session.spec.owner, session=id)
        logger.info("session %s has been taken up at message %d", id, session.next_sequence, extra={"session": id})
        return session

    def _without_store(self, session: Session | None, error: state_store.StateStoreError) -> Session | None:
        """What is here is the best that there is; whether there is more is not known while the store is away."""
        if isinstance(error, state_store.StoreUnavailableError):
            self._keeping.health.failed(error)
            if session is None:
                raise StoreAwayError(
                    "this server does not have the session, and cannot ask the state store for it; ask again",
                    headers={"Retry-After": "1"},
                )
        else:
            logger.error("%s", error)
        return session

    def _seconds_to_free(self) -> int:
        """When the session that has been silent longest would be freed, in whole seconds."""
        now = time.monotonic()
        silent = [now - s.last_used for s in self._sessions.values() if not s.busy and not s.ended]
        return max(1, round(self._limits.idle_s - max(silent, default=0.0)))


def _owned(session: Session | None, owner: str) -> Session | None:
    """The session, if there is one and it is this owner's; that it is another's is nobody's business."""
    return session if session is not None and session.spec.owner == owner else None


def _running(session: Session | None) -> Session:
    """The session, if there is one that has not ended."""
    if session is None or session.ended:
        raise UnknownSessionError("no such session; it may have ended, or been idle for too long")
    return session


def new_id() -> str:
    """An id that nobody else has."""
    return secrets.token_urlsafe(12)


def new_secret() -> str:
    """What a session is taken up again with."""
    return secrets.token_urlsafe(24)
