"""What becomes of windows that come faster than they are computed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from functools import reduce
from typing import Any

from models.events import EventBatch
from service.streaming.windowing import Window
from service.streaming.windowing.noise import add


class Policy(StrEnum):
    """What is done when windows wait.

    ``WAIT`` holds the sender back, and every window is answered. ``DROP_OLDEST`` leaves out the oldest ones: membranes
    leak over them. ``MERGE`` shows several windows as one: all events are seen, at a coarser time.
    """

    WAIT = "wait"
    DROP_OLDEST = "drop-oldest"
    MERGE = "merge"


@dataclass(frozen=True, slots=True)
class Backlog:
    """How a session deals with windows that wait.

    Attributes
    ----------
    policy : Policy
    windows : int
        Most windows that wait; of no meaning to ``WAIT``.
    deadline_s : float, optional
        How long after its message's arrival a window's computation should begin, in seconds.
    """

    policy: Policy = Policy.WAIT
    windows: int = 4
    deadline_s: float | None = None

    def relieve(self, windows: Sequence[Window]) -> list[Window]:
        """The windows that are to be computed out of those that wait, oldest first; at least the last one is."""
        if self.policy is Policy.WAIT or len(windows) <= self.windows:
            return list(windows)
        if self.policy is Policy.DROP_OLDEST:
            late = len(windows) - self.windows
            return [drop(windows[:late], windows[late]), *windows[late + 1 :]]
        return _merge_to(windows, self.windows)

    def to_json(self) -> dict[str, Any]:
        """The same as a JSON object."""
        return {"policy": str(self.policy), "windows": self.windows, "deadline_s": self.deadline_s}


def drop(dropped: Sequence[Window], then: Window) -> Window:
    """The window that follows some that are dropped, with word of them."""
    for window in reversed(dropped):
        then = replace(
            then,
            dropped=then.dropped + window.dropped + window.count,
            gap=then.gap + window.gap,
            late=then.late + window.late,
            restart=then.restart or window.restart,
            filtered=add(then.filtered, window.filtered),
        )
    return then


def merge(windows: Sequence[Window]) -> Window:
    """One window in place of several that follow each other.

    What lies between them (empty windows) is within it. An event that stands in several of them, since they overlap,
    is in it once.
    """
    first, last = windows[0], windows[-1]
    fresh = [window.events[window.repeated :] for window in windows[1:]]
    return replace(
        first,
        t_end=last.t_end,
        events=EventBatch.concatenate([first.events, *fresh]),
        late=sum(window.late for window in windows),
        filtered=reduce(add, (window.filtered for window in windows)),
        count=sum(window.count for window in windows) + sum(w.gap + w.dropped for w in windows[1:]),
    )


def _merge_to(windows: Sequence[Window], most: int) -> list[Window]:
    """Merge evenly to about ``most`` windows; never over a restart of the sensor's clock."""
    runs: list[list[Window]] = [[]]
    for window in windows:
        if window.restart and runs[-1]:
            runs.append([])
        runs[-1].append(window)
    length = -(-len(windows) // most)
    return [merge(run[at : at + length]) for run in runs for at in range(0, len(run), length)]
