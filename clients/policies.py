"""How long a client waits, and how often it tries again."""

from __future__ import annotations

import random
from dataclasses import dataclass

from clients.errors import CapacityError, ClientError, ConnectError, NoAnswerError, ServiceError, TransportError

_RETRIED_STATUSES = (502, 503, 504)


@dataclass(frozen=True, slots=True)
class Timeouts:
    """Longest waits, in seconds.

    Attributes
    ----------
    connect : float
        For a connection.
    read : float
        For the next part of an answer; in a stream, for a word of the service while it owes one.
    total : float, optional
        For a whole call with all of its attempts; endless if not given. Streams may last for ever.
    """

    connect: float = 10.0
    read: float = 60.0
    total: float | None = None

    def __post_init__(self) -> None:
        if not (self.connect > 0 and self.read > 0 and (self.total is None or self.total > 0)):
            raise ValueError(f"timeouts must be above 0 s, got {self}")

    @classmethod
    def of(cls, timeout: float | Timeouts) -> Timeouts:
        """Timeouts as they are, or one number for both connecting and reading."""
        return timeout if isinstance(timeout, Timeouts) else cls(connect=timeout, read=timeout)


@dataclass(frozen=True, slots=True)
class Retries:
    """Exponential backoff: the n-th wait is ``first_s * 2**n``, at most ``longest_s``, less up to a quarter by chance.

    The service's own word, ``Retry-After``, is waited for instead where it is longer; if it is longer than
    ``longest_s``, its error is raised at once.

    Attributes
    ----------
    attempts : int
        Further attempts after the first one; in a stream, in a row that leads to nothing new.
    first_s, longest_s : float
        Waits, in seconds.
    """

    attempts: int = 3
    first_s: float = 0.1
    longest_s: float = 5.0

    def __post_init__(self) -> None:
        if self.attempts < 0 or not 0 <= self.first_s <= self.longest_s:
            raise ValueError(f"attempts and waits must not be negative, and first_s not above longest_s, got {self}")

    def wait_s(self, attempt: int, error: ClientError | None = None) -> float | None:
        """How long to wait before another attempt; None if there should be none.

        Parameters
        ----------
        attempt : int
            How many further attempts there have been.
        error : ClientError, optional
            What the last one came to; its ``retry_after_s`` counts.
        """
        if attempt >= self.attempts:
            return None
        asked = error.retry_after_s if isinstance(error, ServiceError) else None
        if asked is not None and asked > self.longest_s:
            return None
        backoff = min(self.first_s * 2.0**attempt, self.longest_s) * random.uniform(0.75, 1.0)  # nosec B311
        return max(backoff, asked or 0.0)


ONCE = Retries(attempts=0)
RESUMING = Retries(attempts=14, first_s=0.05)
"""For streams: about 40 s, in which a server can start anew."""


def is_passing(error: ClientError) -> bool:
    """Whether a call that came to this may well succeed when it is made again.

    That nobody listens at the address, or that an answer took too long, is not for the client to wait out.
    """
    if isinstance(error, ServiceError):
        return isinstance(error, CapacityError) or error.status in _RETRIED_STATUSES
    return isinstance(error, TransportError) and not isinstance(error, ConnectError | NoAnswerError)
