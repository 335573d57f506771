"""A sensor's clock of few bits, which overflows, made into one that does not."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from service.streaming.windowing.checks import check_times
from service.streaming.windowing.documents import integer, members, refusal
from service.wire.events import MAX_TIME_US


@dataclass(frozen=True, slots=True)
class Clock:
    """The state between two messages.

    A time that lies more than half the range before the last one means that the clock has overflowed. Where events may
    come late, one that lies three quarters of the range or more after the last one is from before an overflow.

    Attributes
    ----------
    bits : int
    late : bool
        Whether events may come late.
    turns : int
        How often the clock had overflowed at the last time; -1 if that was before the zero from which we count.
    last : int or None
        The last time as the sensor gave it, in microseconds; None before the first.
    """

    bits: int
    late: bool
    turns: int = 0
    last: int | None = None

    @property
    def largest(self) -> int:
        """The latest time that the sensor can give, in microseconds."""
        return (1 << self.bits) - 1

    def unwrap(self, raw: NDArray[np.int64]) -> tuple[NDArray[np.int64], Clock]:
        """Times without overflows.

        Parameters
        ----------
        raw : int64 array, (N,)
            Microseconds, in the order in which they came.

        Returns
        -------
        t : int64 array, (N,)
            Microseconds; negative for events from before an overflow that we did not see.
        Clock

        Raises
        ------
        TimeOrderError
            If a time does not fit the clock's bits, or is later than ``MAX_TIME_US`` without the overflows.
        """
        if not len(raw):
            return raw, self
        check_times(raw, self.largest)
        span = 1 << self.bits
        steps = np.diff(raw, prepend=raw[0] if self.last is None else self.last)
        carries = (steps < -(span // 2)).astype(np.int64)
        if self.late:
            carries -= steps >= span - span // 4
        turns = self.turns + np.cumsum(carries)
        # However far back the times go, they do not go below -1: all of these are equally late.
        turns -= np.minimum(np.minimum.accumulate(turns) + 1, 0)
        t = raw + turns * span
        check_times(np.maximum(t, 0), MAX_TIME_US)
        return t, replace(self, turns=int(turns[-1]), last=int(raw[-1]))

    def document(self) -> dict[str, Any]:
        """As plain values that ``restore`` reads."""
        return {"turns": self.turns, "last": self.last}

    def restore(self, document: object, latest: int) -> Clock:
        """The state of a document, with the settings of this one; no time was later than ``latest``.

        Raises
        ------
        SnapshotError
            If it is not what a clock with these settings can have left.
        """
        fields = members(document, "clock", ("turns", "last"))
        turns = integer(fields, "turns", -1 if self.late else 0, MAX_TIME_US >> self.bits)
        last = None if fields["last"] is None else integer(fields, "last", 0, self.largest)
        reached = (last or 0) + (turns << self.bits)
        if reached > latest or (last is None and turns):
            raise refusal("turns", "does not fit the times that were seen")
        return replace(self, turns=turns, last=last)
