"""How a stream is doing, for those who must act on it: a flight controller, a dashboard."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum


class StreamState(Enum):
    """Where a stream stands.

    =========== ======================================================================================
    CONNECTING  the session is being opened for the first time
    STREAMING   connected, and the service answers
    DEGRADED    the connection broke and is being taken up again, or the service owes answers for long
    CLOSED      at its end, failed, or left
    =========== ======================================================================================
    """

    CONNECTING = "connecting"
    STREAMING = "streaming"
    DEGRADED = "degraded"
    CLOSED = "closed"


@dataclass(frozen=True, slots=True)
class StateChange:
    """A stream went from one state to another.

    Attributes
    ----------
    before, after : StreamState
    reason : str
        In words; empty where the state says it all.
    """

    before: StreamState
    after: StreamState
    reason: str


StateListener = Callable[[StateChange], None]
"""Called in the thread, or the event loop, that asks for results; it should return soon, and raise nothing."""


@dataclass(frozen=True, slots=True)
class Health:
    """A stream at one moment.

    Attributes
    ----------
    state : StreamState
    reason : str
        Why it is in that state, where that needs saying.
    result_age_s : float or None
        Time since the last new result came, in seconds; None before the first.
    lag_us : int or None
        By how much of the sensor's time the last result lags behind the newest event that was sent, in microseconds.
    in_flight : int
        Messages that the service owes an answer to.
    unacked_bytes : int
        What is kept to be sent again.
    reconnects : int
        How often the session was taken up again.
    """

    state: StreamState
    reason: str
    result_age_s: float | None
    lag_us: int | None
    in_flight: int
    unacked_bytes: int
    reconnects: int
