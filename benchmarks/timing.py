"""Timing several ways of computing the same, side by side."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterable, Mapping, Sequence

from models.events import EventBatch, SensorSize
from models.runtime.model import SegmentationModel

Times = dict[str, list[float]]


def alternate(ways: Mapping[str, Callable[[int], object]], rounds: int) -> Times:
    """Seconds of each way for the rounds 0, 1, …, one after the other within each; they take turns at going first."""
    seconds: Times = {name: [] for name in ways}
    names = list(ways)
    for k in range(rounds):
        for name in names[k % len(names) :] + names[: k % len(names)]:
            begun = time.perf_counter()
            ways[name](k)
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
