"""Timing several ways of computing the same, side by side."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterable, Mapping, Sequence

from models.events import EventBatch, SensorSize
from models.runtime.model import SegmentationModel

Times = dict[str, list[float]]


TURN = 10


def alternate(ways: Mapping[str, Callable[[int], object]], rounds: int) -> Times:
    """Seconds of each way for the rounds 0, 1, …: a few rounds each, in turns that begin with another one every time.

    The first round of a turn does not count, unless it is the only one: it pays for what the way before has left in
    the caches, and for threads of its that still spin.
    """
    seconds: Times = {name: [] for name in ways}
    names = list(ways)
    for turn, first in enumerate(range(0, rounds, TURN)):
        shift = turn % len(names)
        for name in names[shift:] + names[:shift]:
            for k in range(first, min(first + TURN, rounds)):
                begun = time.perf_counter()
                ways[name](k)
                if k > first or rounds == 1:
                    seconds[name].append(time.perf_counter() - begun)
    return seconds


def summary(seconds: Iterable[float]) -> dict[str, float]:
    """Median and minimum in milliseconds."""
    ms = [1e3 * s for s in seconds]
    return {"median_ms": round(statistics.median(ms), 3), "min_ms": round(min(ms), 3)}


def ignoring_round(way: Callable[[], object]) -> Callable[[int], object]:
    """As a way that is the same in every round."""
    return lambda _: way()


def carried(model: SegmentationModel, windows: Sequence[EventBatch], sensor: SensorSize) -> Callable[[int], object]:
    """Answer window ``k`` from the state that the one before left."""
    state = model.initial_state(sensor)

    def segment(k: int) -> None:
        nonlocal state
        state = model.segment(state, windows[k], sensor).state

    return segment
