"""How fresh the masks are: no I/O, the time is passed in.

A mask that shows what was long ago misleads whoever acts on it. So each one has an age, counted from when the last of
its events came; one that is too old is left out, and the network is told that there is none.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from enum import IntEnum

from clients.errors import InputError
from clients.health import StreamState
from clients.results import Result

_REMEMBERED = 65_536


class Level(IntEnum):
    """How bad it is; the numbers of ``diagnostic_msgs/DiagnosticStatus``."""

    OK = 0
    WARN = 1
    ERROR = 2


@dataclass(frozen=True, slots=True)
class Status:
    """How the segmentation is doing.

    Attributes
    ----------
    level : Level
    message : str
        In words, without numbers: it is the same for as long as nothing changes.
    values : dict
        Numbers that go with it, by name.
    """

    level: Level
    message: str
    values: dict[str, str]


class Watch:
    """Decides which masks are fresh; all times ``now`` and ``at`` are seconds of one clock that never goes back.

    Parameters
    ----------
    age_limit_s : float
        A mask older than that is left out.
    """

    def __init__(self, *, age_limit_s: float = 1.0) -> None:
        if not 0 < age_limit_s < float("inf"):
            raise InputError(f"the age limit of {age_limit_s} s is not above 0")
        self._limit = age_limit_s
        self._arrivals: deque[tuple[int, float]] = deque(maxlen=_REMEMBERED)
        self._asked_at: float | None = None
        self._events_at: float | None = None
        self._mask_of: float | None = None
        self._state = StreamState.CONNECTING
        self._reason = ""
        self._published = self._too_old = self._missed = 0

    def asked(self, now: float) -> None:
        """The source has been asked for events."""
        self._asked_at = now

    def events(self, until_us: int, at: float) -> None:
        """Events up to a time of the sensor's clock have come."""
        if self._arrivals and until_us < self._arrivals[-1][0]:
            # The sensor has begun anew.
            self._arrivals.clear()
        self._arrivals.append((until_us, at))
        self._events_at = at

    def state(self, state: StreamState, reason: str) -> None:
        """The stream of masks has come into another state."""
        self._state, self._reason = state, reason

    def is_fresh(self, result: Result, now: float) -> bool:
        """Whether a mask that has just come may be given out."""
        while len(self._arrivals) > 1 and self._arrivals[0][0] < result.t_end:
            self._arrivals.popleft()
        came = self._arrivals[0][1] if self._arrivals else now
        self._missed += result.skipped.dropped
        if now - came > self._limit:
            self._too_old += 1
            return False
        self._published += 1
        self._mask_of = came
        return True

    def status(self, now: float) -> Status:
        """How it is doing now."""
        level, message = self._judgement(now)
        values = {
            "stream": self._state.value,
            "mask_age_s": _age(self._mask_of, now),
            "age_limit_s": f"{self._limit:g}",
            "events_age_s": _age(self._events_at, now),
            "masks_published": str(self._published),
            "masks_too_old": str(self._too_old),
            "windows_dropped": str(self._missed),
        }
        return Status(level, message, values)

    def _judgement(self, now: float) -> tuple[Level, str]:
        fresh = self._mask_of is not None and now - self._mask_of <= self._limit
        begins = self._state in (StreamState.CONNECTING, StreamState.STREAMING) and not self._too_old
        if self._mask_of is None and begins:
            return Level.WARN, "no mask has come yet"
        if self._state is not StreamState.STREAMING:
            reason = f": {self._reason}" if self._reason else ""
            return Level.WARN if fresh else Level.ERROR, f"segmentation {self._state.value}{reason}"
        if fresh:
            return Level.OK, "masks are fresh"
        asking = self._asked_at is not None and now - self._asked_at <= self._limit
        silent = self._events_at is None or now - self._events_at > self._limit
        if asking and silent:
            return Level.WARN, "the camera is silent: no events come"
        return Level.ERROR, "no mask in time"


def _age(since: float | None, now: float) -> str:
    return "none yet" if since is None else f"{now - since:.3f}"
