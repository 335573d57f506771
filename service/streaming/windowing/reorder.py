"""Events that come out of order, put in order as long as they are not too late."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from models.events import EventBatch
from service.errors import WindowOverflowError
from service.streaming.windowing.parts import Parts, count_bytes, own, settle


@dataclass(frozen=True, slots=True, eq=False)
class Release:
    """What a batch of N events set free.

    Attributes
    ----------
    events : EventBatch
        Ordered by time; those of equal time as they came.
    seen : int64 array, (N,)
        Latest time of the batch up to and including each event, in microseconds.
    late : int64 array, (N,)
        How many have been thrown away up to and including each event.
    """

    events: EventBatch
    seen: NDArray[np.int64]
    late: NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Reorder:
    """The state between two messages.

    An event is late if it is more than ``tolerance_us`` earlier than the latest one that came before it, or earlier
    than what has been said to be complete. So it does not matter how the events are cut into batches.

    Attributes
    ----------
    tolerance_us : int
        How late an event may come, in microseconds; at least 1.
    most : int
        Most events that are held.
    final : int
        Every event before this time, in microseconds, has been released; later ones can still come.
    held : tuple of EventBatch
        Each ordered by time; those of equal time in the order of the parts.
    """

    tolerance_us: int
    most: int
    final: int = 0
    held: Parts = ()

    @property
    def nbytes(self) -> int:
        """Bytes that the held events take."""
        return count_bytes(self.held)

    def push(self, events: EventBatch) -> tuple[Release, Reorder]:
        """Take events in; release those that no event can come before any more.

        Parameters
        ----------
        events : EventBatch
            At least one, in the order in which they came; negative times are late.

        Raises
        ------
        WindowOverflowError
            If more than ``most`` events would be held.
        """
        seen = np.maximum.accumulate(events.t)
        complete = np.full(len(events), self.final, np.int64)
        complete[1:] = np.maximum(seen[:-1] - self.tolerance_us, self.final)
        late = events.t < complete
        taken = ordered([_select(events, ~late) if late.any() else events])
        released, after = self._release(max(self.final, int(seen[-1]) - self.tolerance_us), taken)
        count = sum(map(len, after.held))
        if count > self.most:
            raise WindowOverflowError(
                f"{count} events would wait for others that may be up to {self.tolerance_us} µs late, at most "
                f"{self.most} are held; use a shorter time"
            )
        return Release(released, seen, np.cumsum(late)), after

    def advance(self, until_us: int) -> tuple[EventBatch, Reorder]:
        """Release the events before ``until_us`` (microseconds), ordered: none of them will come any more."""
        return self._release(max(self.final, until_us), EventBatch.empty())

    def drain(self) -> tuple[EventBatch, Reorder]:
        """Release everything, ordered; what is late remains as it is."""
        return self.joined(), replace(self, held=())

    def joined(self) -> EventBatch:
        """All held events, ordered."""
        return ordered(self.held)

    def _release(self, final: int, more: EventBatch) -> tuple[EventBatch, Reorder]:
        released, held = [], []
        for part in self.held:
            cut = int(np.searchsorted(part.t, final))
            released.append(part[:cut])
            held.append(_without_waste(part[cut:]))
        cut = int(np.searchsorted(more.t, final))
        released.append(more[:cut])
        held.append(own(more[cut:]))
        return ordered(released), replace(self, final=final, held=settle(held, ordered))


def ordered(parts: Sequence[EventBatch]) -> EventBatch:
    """Join parts and order them by time; events of equal time stay as they are."""
    events = EventBatch.concatenate([part for part in parts if len(part)])
    if (events.t[1:] >= events.t[:-1]).all():
        return events
    order = np.argsort(events.t, kind="stable")
    return _select(events, order)


def _select(events: EventBatch, which: NDArray[np.bool_] | NDArray[np.int64]) -> EventBatch:
    return EventBatch(events.t[which], events.x[which], events.y[which], events.p[which])


def _without_waste(part: EventBatch) -> EventBatch:
    """A copy of a kept part if most of the memory behind it is no longer needed."""
    behind = part.t.base
    return own(part) if behind is not None and 2 * part.t.nbytes < behind.nbytes else part
