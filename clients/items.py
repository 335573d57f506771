"""What a stream is fed with: events, and words about time."""

from __future__ import annotations

from dataclasses import dataclass

from models.events import EventBatch


@dataclass(frozen=True, slots=True)
class Advance:
    """Every event before a time has been sent: windows that end there are answered, though no event has come since.

    Attributes
    ----------
    until_us : int
        Microseconds of the sensor's clock.
    """

    until_us: int


@dataclass(frozen=True, slots=True)
class Flush:
    """Answer the open window now, if it holds events; later events of its time are then too early."""


Item = EventBatch | Advance | Flush
