"""The sessions of a server: made, found, resumed, and freed when idle."""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections.abc import Callable

from service.errors import CapacityError, UnknownSessionError
from service.streaming.session import Session

logger = logging.getLogger(__name__)


class SessionRegistry:
    """Sessions by id.

    Parameters
    ----------
    max_sessions : int
        Most sessions that have not ended.
    idle_seconds : float
        A session that no connection holds is freed after this silence.
    ended_seconds : float
        For so long an ended session can be resumed, by a client that lost its last answers.
    """

    def __init__(self, *, max_sessions: int, idle_seconds: float, ended_seconds: float) -> None:
        self._sessions: dict[str, Session] = {}
        self._max_sessions = max_sessions
        self._idle_seconds = idle_seconds
        self._ended_seconds = ended_seconds

    @property
    def active(self) -> int:
        """Sessions that have not ended."""
        return sum(not session.ended for session in self._sessions.values())

    @property
    def state_bytes(self) -> int:
        """Bytes that the membranes and pending events of all sessions take."""
        return sum(session.state_bytes for session in self._sessions.values())

    def require_room(self) -> None:
        """Raise CapacityError if there is no room for another session."""
        if self.active >= self._max_sessions:
            raise CapacityError(
                f"all {self._max_sessions} sessions of this server are in use; try again later",
                headers={"Retry-After": str(self._seconds_to_free())},
            )

    def create(self, make: Callable[[str, str], Session]) -> Session:
        """Make a session from an id and a secret, and take it in.

        Raises
        ------
        CapacityError
            If there is no room for another.
        """
        self.require_room()
        session = make(secrets.token_urlsafe(12), secrets.token_urlsafe(24))
        self._sessions[session.id] = session
        return session

    def get(self, id: str) -> Session:
        """The session of that id.

        Raises
        ------
        UnknownSessionError
            If there is none, or it has ended.
        """
        session = self._sessions.get(id)
        if session is None or session.ended:
            raise UnknownSessionError("no such session; it may have ended, or been idle for too long")
        session.touch()
        return session

    def resume(self, token: str) -> Session:
        """The session that a resume token belongs to; for a while also one that has ended.

        Raises
        ------
        UnknownSessionError
            If there is none.
        """
        id, _, secret = token.partition(".")
        session = self._sessions.get(id)
        if session is None or not secrets.compare_digest(session.secret.encode(), secret.encode(errors="replace")):
            raise UnknownSessionError("no session has this token; it may have ended, or been idle for too long")
        return session

    def remove(self, session: Session) -> None:
        """Forget a session."""
        session.close()
        self._sessions.pop(session.id, None)

    def reap(self) -> None:
        """Forget the sessions that nobody has used for too long."""
        now = time.monotonic()
        for session in list(self._sessions.values()):
            limit = self._ended_seconds if session.ended else self._idle_seconds
            if not session.busy and now - session.last_used > limit:
                self.remove(session)
                if not session.ended:
                    logger.info("session %s was idle for %.0f s and has been freed", session.id, limit)

    async def reap_forever(self, every_seconds: float) -> None:
        """Call ``reap`` now and then, until cancelled."""
        while True:
            await asyncio.sleep(every_seconds)
            self.reap()

    def _seconds_to_free(self) -> int:
        """When the session that has been silent longest would be freed, in whole seconds."""
        now = time.monotonic()
        silent = [now - s.last_used for s in self._sessions.values() if not s.busy and not s.ended]
        return max(1, round(self._idle_seconds - max(silent, default=0.0)))
