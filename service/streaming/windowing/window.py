"""What a stream is cut into."""

from __future__ import annotations

from dataclasses import dataclass

from models.events import EventBatch
from service.streaming.windowing.noise import Counts


@dataclass(frozen=True, slots=True)
class Window:
    """A complete window ``[t_start, t_end)`` of the sensor's clock, in microseconds, and its events.

    Attributes
    ----------
    index : int
        Its number; windows that were not given are counted too.
    t_start, t_end : int
    events : EventBatch
        Ordered by time. Overlapping windows share memory; nobody changes it.
    gap : int
        Windows without events since the last one given, which were not given.
    restart : bool
        Whether the sensor's clock began anew before it.
    late : int
        Events thrown away as too late since the last window given.
    count : int
        Windows that it stands for.
    dropped : int
        Windows before it that were dropped.
    repeated : int
        How many of its events, the first ones, the window before it held too, since windows overlap.
    filtered : tuple of int
        Events that the noise filters have dropped since the last window given, by reason as in
        ``models.filters.REASONS``; empty without filters.
    """

    index: int
    t_start: int
    t_end: int
    events: EventBatch
    gap: int = 0
    restart: bool = False
    late: int = 0
    count: int = 1
    dropped: int = 0
    repeated: int = 0
    filtered: Counts = ()
