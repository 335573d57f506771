"""Streams through two replicas, of which one is killed or told to stop again and again.

    python -m benchmarks.failover --json docs/results/failover.json

Redis, HAProxy with the shipped configuration, two replicas and the Python client, all of them real processes on this
machine. Several callers stream the demo recording in a loop. In the first part the replica that holds most streams gets
SIGKILL, at a random moment, and is started again; in the second part SIGTERM. Every result is compared with that of a
stream of the same events that nothing happens to.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import count, pairwise
from pathlib import Path
from typing import Any

import numpy as np

from clients.results import Result
from models.events import EventBatch, SensorSize
from models.machine import describe_machine
from service.settings import Settings
from service.wire.aedat4 import read_aedat4_file
from tests.service.replicas import LongStream, Replicas, result_key, running_replicas, wait_until

WINDOW_US = 50_000
# Slower than the camera, so that two cores have time for the replicas that start.
PACE_S = 0.15
LONGEST_WAIT_S = 2.0
LIMITS_S = (300.0, 90.0)


@dataclass(frozen=True)
class Recording:
    """Windows of a recording.

    Attributes
    ----------
    windows : list of EventBatch
        Times from the begin of the window.
    sensor : SensorSize
    """

    windows: list[EventBatch]
    sensor: SensorSize

    @classmethod
    def read(cls, path: Path) -> Recording:
        """Cut a recording into windows."""
        events, sensor = read_aedat4_file(path)
        begin = int(events.t[0])
        edges = np.searchsorted(events.t, np.arange(begin, int(events.t[-1]), WINDOW_US))
        parts = [events[a:b] for a, b in pairwise(edges)]
        return cls(
            [EventBatch(part.t - begin - k * WINDOW_US, part.x, part.y, part.p) for k, part in enumerate(parts)], sensor
        )

    def from_window(self, first: int) -> Iterator[EventBatch]:
        """Its windows in a loop, beginning with one of them."""
        for k in count():
            part = self.windows[(first + k) % len(self.windows)]
            yield EventBatch(part.t + k * WINDOW_US, part.x, part.y, part.p)

    def stream(self, first: int) -> LongStream:
        """A stream of it."""
        return LongStream(lambda: self.from_window(first), self.sensor, window_us=WINDOW_US, pace_s=PACE_S)


@dataclass(frozen=True)
class Part:
    """What is done to the replicas, and how often.

    Attributes
    ----------
    name : str
    strike : callable
        Takes the replicas and the number of one of them, which has stopped afterwards.
    times : int
    """

    name: str
    strike: Callable[[Replicas, int], None]
    times: int


def run_part(
    part: Part, replicas: Replicas, recording: Recording, *, streams: int, rng: random.Random, end: float
) -> dict[str, Any]:
    """Strike at random moments, while streams run; what became of them."""
    running = [recording.stream(rng.randrange(len(recording.windows))) for _ in range(streams)]
    strikes: list[float] = []
    begun = time.monotonic()
    with ThreadPoolExecutor(streams) as pool:
        futures = [pool.submit(stream.run, replicas.url) for stream in running]
        try:
            wait_for_results(running, futures)
            while len(strikes) < part.times and time.monotonic() < end:
                time.sleep(rng.uniform(0.0, LONGEST_WAIT_S))
                victim = replicas.which()
                if victim < 0:
                    continue
                strikes.append(time.monotonic())
                part.strike(replicas, victim)
                replicas.start(victim)
                wait_for_results(running, futures)
                replicas.wait_ready(victim)
                print(f"{part.name}: {len(strikes)} of {part.times}", file=sys.stderr, flush=True)
        finally:
            for stream in running:
                stream.end()
        errors = [str(error) for future in futures if (error := future.exception()) is not None]
    seconds = time.monotonic() - begun
    with ThreadPoolExecutor(len(replicas)) as pool:
        expected = list(pool.map(lambda item: item[1].expected(replicas[item[0] % 2].url), enumerate(running)))
    return {
        "times": len(strikes),
        "streams": streams,
        "seconds": round(seconds),
        "reconnects": sum(stream.reconnects for stream in running),
        "errors": errors,
        **compare(running, expected),
        "gap_ms": gaps(running, strikes),
    }


def wait_for_results(streams: Sequence[LongStream], futures: Sequence[Future[None]]) -> None:
    """Return once every stream has a result more, or one has failed."""
    before = [len(stream.results) for stream in streams]

    def moved() -> bool:
        failed = any(future.done() for future in futures)
        return failed or all(len(s.results) > n for s, n in zip(streams, before, strict=True))

    wait_until(moved, "results come")


def compare(streams: Sequence[LongStream], expected: Sequence[Sequence[Result]]) -> dict[str, int]:
    """Windows, and how many of them came twice, not at all, or otherwise than they should have."""
    found = {"windows": 0, "duplicates": 0, "lost": 0, "masks_that_differ": 0, "spikes_that_differ": 0}
    found["results_that_differ"] = 0
    for stream, results in zip(streams, expected, strict=True):
        wanted = {result.window: result for result in results}
        got = {result.window: result for result in stream.results}
        found["windows"] += len(wanted)
        found["duplicates"] += len(stream.results) - len(got)
        found["lost"] += len(wanted.keys() - got.keys())
        for window in wanted.keys() & got.keys():
            left, right = got[window], wanted[window]
            found["masks_that_differ"] += left.mask.tobytes() != right.mask.tobytes()
            found["spikes_that_differ"] += left.activity != right.activity
            found["results_that_differ"] += result_key(left) != result_key(right)
    return found


def gaps(streams: Sequence[LongStream], strikes: Sequence[float]) -> dict[str, float]:
    """Time between two results at a caller: in general, and the longest one that each strike led to."""
    spans = [(a, b) for s in streams for a, b in pairwise(s.times)]
    longest = [max((b - a for a, b in spans if a <= strike < b), default=0.0) for strike in strikes]
    return {
        "usual": round(1e3 * statistics.median(b - a for a, b in spans)),
        "median_at_a_strike": round(1e3 * statistics.median(longest)) if longest else 0,
        "longest": round(1e3 * max(b - a for a, b in spans)),
    }


def main() -> int:
    """Command line; the exit status is 1 if anything was lost, repeated or changed, or if a caller saw an error."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20, help="how often a replica gets SIGKILL")
    parser.add_argument("--terminations", type=int, default=5, help="how often one gets SIGTERM")
    parser.add_argument("--streams", type=int, default=4)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, help="also write the report to this file")
    args = parser.parse_args()
    rng = random.Random(args.seed)
    settings = Settings()
    recording = Recording.read(settings.demo_recording)
    report: dict[str, Any] = {
        "machine": describe_machine(),
        "replicas": 2,
        "sensor": str(recording.sensor),
        "window_ms": WINDOW_US // 1000,
        "pace_ms": round(PACE_S * 1e3),
        "checkpoint_seconds": settings.checkpoint_seconds,
        "seed": args.seed,
    }
    parts = (
        Part("kill -9", Replicas.kill, args.kills),
        Part("SIGTERM", Replicas.terminate, args.terminations),
    )
    with tempfile.TemporaryDirectory() as folder, running_replicas(Path(folder)) as replicas:
        for part, limit_s in zip(parts, LIMITS_S, strict=True):
            end = time.monotonic() + limit_s
            report[part.name] = run_part(part, replicas, recording, streams=args.streams, rng=rng, end=end)
    text = json.dumps(report, indent=2)
    print(text)
    if args.json:
        args.json.write_text(text + "\n")
    wrong = ("duplicates", "lost", "masks_that_differ", "spikes_that_differ", "results_that_differ")
    return int(any(report[part.name]["errors"] or any(report[part.name][name] for name in wrong) for part in parts))


if __name__ == "__main__":
    sys.exit(main())
