"""Many streams at once over one server: no cross-talk, nothing lost, memory flat; and what sharing the cores gives.

    python -m benchmarks.many_streams --json docs/results/many-streams.json

A real server process with its default settings. First 64 streams of four geometries and every streaming network of the
zoo, as fast as they are answered, for a minute: each answer is held against the same stream computed alone, in this
process, on one thread, bit for bit. Then how many windows of 346x260 a second ``edge-s`` answers, by how many may share
a batch. Last, in one run and alternating, what a window costs at the service and as a bare step. How many streams of a
given rate a server keeps up with is measured by :mod:`benchmarks.load`.
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import threading
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from clients import Client
from models import zoo
from models.events import EventBatch, SensorSize
from models.machine import describe_machine
from models.runtime.model import SegmentationModel
from tests.service.harness import PATIENCE_S, Stream, hello, metric, random_events, running_server

SENSORS = (SensorSize(346, 260), SensorSize(240, 180), SensorSize(128, 128), SensorSize(64, 48))
CAMERA = SENSORS[0]
WINDOW_US = 50_000
EVENTS_PER_PIXEL = 0.15


@dataclass(frozen=True)
class Plan:
    """One stream: what it sends is drawn anew from its seed, window by window."""

    seed: int
    model: str
    sensor: SensorSize

    def window(self, index: int) -> EventBatch:
        """The events of one window."""
        return random_events(
            (self.seed, index),
            windows=1,
            per_window=int(self.sensor.width * self.sensor.height * EVENTS_PER_PIXEL),
            start_us=index * WINDOW_US,
            sensor=self.sensor,
            window_us=WINDOW_US,
        )


@dataclass
class Outcome:
    """What a stream was answered: for each window its number, its mask's bytes, and its spikes."""

    windows: list[int] = field(default_factory=list)
    digests: list[int] = field(default_factory=list)


def make_plans(count: int, models: Sequence[str], sensors: Sequence[SensorSize] = SENSORS) -> list[Plan]:
    """So many streams, of all geometries and models in turn."""
    kinds = itertools.cycle(itertools.product(sensors, models))
    return [Plan(seed, model, sensor) for seed, (sensor, model) in zip(range(count), kinds, strict=False)]


def digest(mask: Any, spikes: Sequence[int]) -> int:
    """What two answers have in common if they have the same bits."""
    return hash((mask.tobytes(), tuple(spikes)))


def run_streams(url: str, plans: Sequence[Plan], seconds: float, most_windows: int | None = None) -> list[Outcome]:
    """Send all streams at once for a while, each as fast as it is answered."""
    end = time.monotonic() + seconds

    def batches(plan: Plan) -> Iterator[EventBatch]:
        for index in itertools.count():
            if index == most_windows or time.monotonic() > end:
                return
            yield plan.window(index)

    def run(plan: Plan) -> Outcome:
        outcome = Outcome()
        with Client(url, timeout=PATIENCE_S) as client:
            stream = client.stream(batches(plan), plan.sensor, model=plan.model, window_us=WINDOW_US)
            for result in stream:
                assert result.activity is not None
                outcome.windows.append(result.window)
                outcome.digests.append(digest(result.mask, [layer.spikes for layer in result.activity.layers]))
        return outcome

    with ThreadPoolExecutor(len(plans)) as pool:
        return list(pool.map(run, plans))


def differences(plans: Sequence[Plan], outcomes: Sequence[Outcome]) -> dict[str, int]:
    """Windows that were lost, given twice, or answered otherwise than for a stream alone on one thread."""
    found = {"streams": len(plans), "windows": 0, "lost_or_repeated": 0, "different": 0}
    torch.set_num_threads(1)
    models: dict[str, SegmentationModel] = {name: zoo.load_events(name) for name in {plan.model for plan in plans}}
    for plan, outcome in zip(plans, outcomes, strict=True):
        model = models[plan.model]
        state = model.initial_state(plan.sensor)
        found["windows"] += len(outcome.windows)
        found["lost_or_repeated"] += sum(a != b for a, b in zip(outcome.windows, itertools.count(), strict=False))
        for index, given in enumerate(outcome.digests):
            answer = model.segment(state, plan.window(index), plan.sensor)
            state = answer.state
            found["different"] += given != digest(answer.mask, [layer.spikes for layer in answer.activity.layers])
    return found


def resident(url: str) -> float:
    """The server's resident memory in MB."""
    return round(metric(url, "process_resident_memory_bytes") / 1e6, 1)


class MemoryWatch:
    """Looks at a server's memory now and then."""

    def __init__(self, url: str, every_s: float) -> None:
        self.samples: list[float] = []
        self._url, self._every_s = url, every_s
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> MemoryWatch:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stop.wait(self._every_s):
            self.samples.append(resident(self._url))


def soak(streams: int, seconds: float) -> dict[str, Any]:
    """Many streams at once; what came back, and the server's memory over the time."""
    with running_server(max_sessions=streams + 8) as url:
        models = [name for name in zoo.names(input="events") if zoo.load_events(name).mode == "streaming"]
        plans = make_plans(streams, models)
        at_start = resident(url)
        with MemoryWatch(url, seconds / 20) as watch:
            outcomes = run_streams(url, plans, seconds)
        rows, batches = metric(url, "spikeseg_batch_rows_sum"), metric(url, "spikeseg_batch_rows_count")
        after = resident(url)
    return {
        "seconds": seconds,
        "models": models,
        "sensors": [str(sensor) for sensor in SENSORS],
        **differences(plans, outcomes),
        "rows_per_batch": round(rows / batches, 2),
        "resident_mb": {"start": at_start, "during": watch.samples, "after": after},
    }


def throughput(streams: int, seconds: float, settings: dict[str, Any]) -> dict[str, Any]:
    """Windows of 346x260 that a server computes in a second for so many streams at once."""
    with running_server(**settings) as url:
        plans = make_plans(streams, ["edge-s"], [CAMERA])
        run_streams(url, plans, 3.0)
        begun = time.monotonic()
        outcomes = run_streams(url, plans, seconds)
        spent = time.monotonic() - begun
        rows, batches = metric(url, "spikeseg_batch_rows_sum"), metric(url, "spikeseg_batch_rows_count")
    windows = sum(len(outcome.windows) for outcome in outcomes)
    return {
        "settings": settings,
        "streams": streams,
        "windows_per_second": round(windows / spent, 1),
        "rows_per_batch": round(rows / batches, 2),
    }


def overhead(windows: int) -> dict[str, Any]:
    """A window's total time in the service beside a bare step on such a window, one after the other in turn."""
    model = zoo.load_events("edge-s")
    plan = Plan(0, "edge-s", CAMERA)
    took: dict[str, list[float]] = defaultdict(list)
    torch.set_num_threads(int(describe_machine()["cores"]))
    state = model.initial_state(CAMERA)
    greeting = hello(
        model="edge-s", sensor={"width": CAMERA.width, "height": CAMERA.height}, window={"us": WINDOW_US}, mask="zlib"
    )
    with running_server() as url, Stream(url, greeting) as stream:
        for index in range(windows):
            part = plan.window(index)
            begun = time.perf_counter()
            state = model.segment(state, part, CAMERA).state
            stepped = time.perf_counter()
            # Answers the window before, which has as many events.
            results = stream.events(part, CAMERA)
            answered = time.perf_counter()
            for result in results:
                took["bare"].append((stepped - begun) * 1e3)
                took["round_trip"].append((answered - stepped) * 1e3)
                for stage, milliseconds in result.metadata["latency_ms"].items():
                    took[stage].append(milliseconds)
    half = windows // 2
    found = {name: statistics.median(values[half:]) for name, values in took.items()}
    return {
        **{f"{name}_ms": round(value, 2) for name, value in found.items()},
        "ratio": round(found["total"] / found["bare"], 3),
    }


def main() -> None:
    """Run everything, print it, and keep it as JSON if asked to."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--streams", type=int, default=64)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--throughput-seconds", type=float, default=6.0)
    parser.add_argument("--json", type=Path, help="where to keep the result")
    arguments = parser.parse_args()
    cores = int(describe_machine()["cores"])
    found = {
        "machine": describe_machine(),
        "soak": soak(arguments.streams, arguments.seconds),
        "throughput": [
            throughput(8, arguments.throughput_seconds, settings)
            for settings in (
                {"cores": cores, "max_batch": 1},
                {"cores": cores, "max_batch": 2},
                {"cores": cores, "max_batch": 4},
                {"cores": cores, "max_batch": 8},
                {"cores": 1, "max_batch": 1},
                {"cores": 1, "max_batch": 4},
            )
        ],
        "overhead": overhead(200),
    }
    text = json.dumps(found, indent=1)
    print(text)
    if arguments.json:
        arguments.json.write_text(text + "\n")


if __name__ == "__main__":
    main()
