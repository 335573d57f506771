"""Several ways of doing the same, timed in turns, so that all of them share the machine's moods.

A turn is a few calls in a row, as a stream makes them. The first call of a turn finds the caches, and perhaps a core,
in the state in which another way left them; it is made and not counted.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

Way = Callable[[int], float]
"""Does call number k, from 0 on, and tells the seconds that it took."""

COLD_S = 0.2
"""Calls longer than this do not notice what ran before them: none is left uncounted."""

SETTLING_CALLS, SETTLING_S = 10, 0.3


@dataclass(frozen=True, slots=True)
class Effort:
    """How long to measure.

    Attributes
    ----------
    seconds : float
        Of counted calls of each way, about.
    rounds : int
        In each of which every way has its turn, or the slow ones in some of them.
    most : int
        Counted calls of each way, about; no more are made if they take less time than ``seconds``.
    least : int
        Counted calls of each way, also if they take longer.
    """

    seconds: float
    rounds: int
    most: int
    least: int


@dataclass(frozen=True, slots=True)
class Turn:
    """A way's part in the rounds: ``calls`` counted calls in every ``every``-th, after ``cold`` others."""

    every: int
    calls: int
    cold: int


def plan(call_s: float, effort: Effort) -> Turn:
    """The part of a way whose calls take so many seconds."""
    share = effort.seconds / effort.rounds
    cold = int(call_s < COLD_S)
    if call_s <= share:
        return Turn(1, max(1, min(math.ceil(effort.most / effort.rounds), int(share / call_s))), cold)
    return Turn(max(1, min(math.ceil(call_s / share), effort.rounds // effort.least)), 1, cold)


def timed(call: Callable[[int], object]) -> Way:
    """A call as a way."""

    def way(k: int) -> float:
        begun = time.perf_counter()
        call(k)
        return time.perf_counter() - begun

    return way


def take_turns(ways: Mapping[str, Way], effort: Effort) -> dict[str, list[float]]:
    """Seconds of the counted calls of each way; before the first round each has run for a while."""
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    made = dict.fromkeys(ways, 0)

    def call(name: str) -> float:
        made[name] += 1
        return ways[name](made[name] - 1)

    turns = {name: plan(_settle(call, name), effort) for name in ways}
    names = list(ways)
    for number in range(effort.rounds):
        first = number % len(names)
        for name in names[first:] + names[:first]:
            turn = turns[name]
            if number % turn.every:
                continue
            for _ in range(turn.cold):
                call(name)
            seconds[name] += [call(name) for _ in range(turn.calls)]
    return seconds


def _settle(call: Callable[[str], float], name: str) -> float:
    """Run for a while: membranes come to where the stream keeps them, pools are filled. Seconds of a call."""
    taken = [call(name)]
    while len(taken) < SETTLING_CALLS and sum(taken) < SETTLING_S:
        taken.append(call(name))
    return statistics.median(taken[len(taken) // 2 :])


def summary(seconds: Sequence[float], windows: int = 1) -> dict[str, float]:
    """Percentiles in ms, and windows a second, of calls that answer so many windows each."""
    p50, p99 = np.percentile(seconds, (50, 99))
    return {
        "calls": len(seconds),
        "p50_ms": round(1e3 * float(p50), 3),
        "p99_ms": round(1e3 * float(p99), 3),
        "windows_per_second": round(windows * len(seconds) / sum(seconds), 1),
    }
