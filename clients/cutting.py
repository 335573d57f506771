"""Cutting events into parts by time and by number; how they are cut never changes a mask."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np

from models.events import EventBatch


def cut(events: EventBatch, span_us: int, max_events: int | None = None) -> Iterator[EventBatch]:
    """Cut a batch at the multiples of a time span.

    Parameters
    ----------
    events : EventBatch
        Ordered by time.
    span_us : int
        Microseconds.
    max_events : int, optional
        Longer parts are cut again.

    Yields
    ------
    EventBatch
        Views of the batch, none of them empty.
    """
    if not len(events):
        return
    slots = events.t // span_us
    starts = [0, *(np.flatnonzero(slots[1:] != slots[:-1]) + 1).tolist()]
    for start, end in zip(starts, [*starts[1:], len(events)], strict=True):
        for first in range(start, end, max_events or end - start):
            yield events[first : min(first + max_events, end) if max_events else end]


def regroup(batches: Iterable[EventBatch], span_us: int) -> Iterator[EventBatch]:
    """Join and cut batches so that each one holds all events between two multiples of a time span.

    Parameters
    ----------
    batches : iterable of EventBatch
        Ordered by time, also from one to the next.
    span_us : int
        Microseconds.

    Yields
    ------
    EventBatch
        One for each span that holds events.
    """
    held: list[EventBatch] = []
    for batch in batches:
        for part in cut(batch, span_us):
            if held and held[0].t[0] // span_us != part.t[0] // span_us:
                yield EventBatch.concatenate(held)
                held = []
            held.append(part)
    if held:
        yield EventBatch.concatenate(held)
