"""What a flight controller is told, and when: no I/O, the time is passed in.

Masks grow old: once the latest one is older than the limit, every distance is unknown, and that is said, again and
again, for as long as it lasts. Silence would leave the flight controller with what it heard last.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum

import numpy as np
from numpy.typing import NDArray

from clients.drone.geometry import ObstacleMap, Sectors
from clients.errors import InputError
from clients.health import StreamState
from clients.results import Result

MOST_OCCUPANCIES = 58
"""Numbers that a ``DEBUG_FLOAT_ARRAY`` holds."""
_TEXT_REPEAT_S = 10.0


class Severity(IntEnum):
    """Of a status text; ``MAV_SEVERITY``."""

    CRITICAL = 2
    WARNING = 4
    INFO = 6


@dataclass(frozen=True, slots=True)
class Heartbeat:
    """The companion is there; ``healthy`` if what it sees is fresh."""

    healthy: bool


@dataclass(frozen=True, slots=True)
class Obstacles:
    """Distances around the drone."""

    sectors: Sectors


@dataclass(frozen=True, slots=True)
class Occupancy:
    """Share of the pixels that each class has in each of some upright strips of the picture.

    ``shares`` holds the classes of the leftmost strip, then those of the next one.
    """

    shares: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class StatusText:
    """A line for the pilot."""

    severity: Severity
    text: str


Report = Heartbeat | Obstacles | Occupancy | StatusText


@dataclass(frozen=True, slots=True)
class Timing:
    """How often things are told, in seconds.

    Attributes
    ----------
    age_limit_s : float
        A mask older than that is no longer believed.
    distances_s, heartbeat_s : float
    """

    age_limit_s: float = 0.5
    distances_s: float = 0.1
    heartbeat_s: float = 1.0

    def __post_init__(self) -> None:
        if min(self.age_limit_s, self.distances_s, self.heartbeat_s) <= 0:
            raise InputError("the age limit and the intervals must be above 0 s")


class Reporter:
    """Decides what is sent.

    Parameters
    ----------
    classes : int
        How many the network tells apart.
    strips : int
        Upright parts of the picture for the occupancy.
    obstacles : ObstacleMap, optional
        Without it no distances are told.
    timing : Timing
    """

    def __init__(
        self, *, classes: int, strips: int = 8, obstacles: ObstacleMap | None = None, timing: Timing = Timing()
    ) -> None:
        if not 1 <= classes * strips <= MOST_OCCUPANCIES:
            raise InputError(f"{classes} classes in {strips} strips are more than {MOST_OCCUPANCIES} numbers")
        self._classes = classes
        self._strips = strips
        self._obstacles = obstacles
        self._timing = timing
        self._seen_at: float | None = None
        self._sectors: Sectors | None = None
        self._occupancy: Occupancy | None = None
        self._fresh = False
        self._was_fresh = False
        self._trouble = "no mask has come yet"
        self._said_at = -np.inf
        self._next_heartbeat = self._next_distances = -np.inf

    def result(self, result: Result, now: float) -> None:
        """A mask has come; ``now`` and all other times are seconds of one clock that never goes back."""
        # What it shows happened before it was computed.
        self._seen_at = now - result.latency.total_ms / 1e3
        self._occupancy = Occupancy(occupancy(result.mask, self._classes, self._strips))
        if self._obstacles is not None:
            self._sectors = self._obstacles.distances(result.mask)

    def state(self, state: StreamState, reason: str) -> None:
        """The stream of masks has come into another state."""
        if state is not StreamState.STREAMING:
            self._trouble = f"segmentation {state.value}: {reason}" if reason else f"segmentation {state.value}"
        else:
            self._trouble = "no mask in time"

    def due(self, now: float) -> list[Report]:
        """What is to be sent now."""
        reports: list[Report] = []
        fresh = self._seen_at is not None and now - self._seen_at <= self._timing.age_limit_s
        if fresh and not self._fresh:
            if self._was_fresh or np.isfinite(self._said_at):
                reports.append(StatusText(Severity.INFO, "segmentation is back"))
            self._said_at = -np.inf
        if not fresh and now - self._said_at >= _TEXT_REPEAT_S:
            severity = Severity.CRITICAL if self._was_fresh else Severity.WARNING
            reports.append(StatusText(severity, self._trouble))
            self._said_at = now
        changed = fresh is not self._fresh
        self._fresh, self._was_fresh = fresh, self._was_fresh or fresh
        if changed or now >= self._next_heartbeat:
            reports.append(Heartbeat(fresh))
            self._next_heartbeat = now + self._timing.heartbeat_s
        if self._obstacles is not None and (changed or now >= self._next_distances):
            known = self._sectors if fresh else None
            reports.append(Obstacles(known if known is not None else self._obstacles.unknown()))
            self._next_distances = now + self._timing.distances_s
        if fresh and self._occupancy is not None:
            reports.append(self._occupancy)
            self._occupancy = None
        return reports


def occupancy(mask: NDArray[np.uint8], classes: int, strips: int) -> tuple[float, ...]:
    """Share of each class in each upright strip of a mask (H, W), strip by strip from the left."""
    shares: list[float] = []
    for strip in np.array_split(mask, strips, axis=1):
        counts = np.bincount(strip.ravel(), minlength=256)[:classes]
        shares += (counts / max(strip.size, 1)).tolist()
    return tuple(shares)


def class_ids(names: Sequence[str], classes: Sequence[tuple[int, str]]) -> frozenset[int]:
    """Ids of classes by name.

    Raises
    ------
    InputError
        If the network has no class of such a name.
    """
    known = {name: id for id, name in classes}
    for name in names:
        if name not in known:
            raise InputError(f"the network has no class {name!r}; there are: {', '.join(known)}")
    return frozenset(known[name] for name in names)
