"""Events that are kept between messages, in few pieces that own their memory."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from models.events import EventBatch

Parts = tuple[EventBatch, ...]


def own(events: EventBatch) -> EventBatch:
    """A copy, which does not hold on to the array that the events are a part of."""
    return EventBatch(events.t.copy(), events.x.copy(), events.y.copy(), events.p.copy())


def settle(
    parts: Iterable[EventBatch], join: Callable[[Sequence[EventBatch]], EventBatch] = EventBatch.concatenate
) -> Parts:
    """Join neighbours until every part is at least twice as long as the one after it.

    So there are never more parts than the logarithm of their events, and many small messages cost little: each time
    that a kept event is copied, its part becomes at least half as long again.
    """
    kept: list[EventBatch] = []
    for part in parts:
        if len(part):
            kept.append(part)
        while len(kept) > 1 and len(kept[-2]) < 2 * len(kept[-1]):
            last = kept.pop()
            kept[-1] = join([kept[-1], last])
    return tuple(kept)


def count_events(parts: Parts) -> int:
    """Events in all parts."""
    return sum(map(len, parts))


def count_bytes(parts: Parts) -> int:
    """Bytes that the events of all parts take."""
    return sum(part.t.nbytes + part.x.nbytes + part.y.nbytes + part.p.nbytes for part in parts)
