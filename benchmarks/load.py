"""How many paced streams a server keeps up with, and what it does with more than it can take.

    python -m benchmarks.load --json docs/results/load.json

A real server on one core (``--server-cpus``; its event loop and codecs too), real WebSocket clients in processes of
their own on the others. Each stream sends 20 windows a second, at a phase of its own and whatever has been answered,
and latency counts from when a window was due (:mod:`benchmarks.load_clients`). Streams are added until the answers
fall behind, then the last step is halved: so many streams one core sustains.

That the clients are not what is measured is checked in each trial: ``client.cpu_share`` is what their busiest process
used of a core, ``client.late_ms`` by how much later than due it came to send. A trial in which either is large says
``client_limited`` and counts as none.

Last, more clients than the server has room for come at once: how they are refused, and that those who are served do
not notice.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.load_clients import Order, Report
from models.events import SensorSize
from models.machine import describe_machine
from tests.service.harness import REPOSITORY, metric, running_server

SENSORS = (SensorSize(346, 260), SensorSize(240, 180), SensorSize(128, 128), SensorSize(64, 48))
STEPS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128)
EVENTS_PER_PIXEL = 0.15
LONGEST_WINDOWS = 3
"""Answers that come within so many windows' time keep up."""
LEAD_S = 0.5
CLIENT_CPU_SHARE = 0.8
CLIENT_LATE_MS = 10.0
PERCENTILES = (50, 95, 99)


@dataclass(frozen=True)
class Conditions:
    """What all trials have in common.

    Attributes
    ----------
    model : str
    rate_hz : float
        Windows of each stream in a second.
    seconds : float
        Of each trial.
    server_cpus, client_cpus : str
        As ``taskset --cpu-list`` takes them.
    client_processes : int
    """

    model: str
    rate_hz: float
    seconds: float
    server_cpus: str
    client_cpus: str
    client_processes: int

    @property
    def window_us(self) -> int:
        """Length of a window."""
        return round(1e6 / self.rate_hz)

    @property
    def longest_ms(self) -> float:
        """The latest that an answer may come."""
        return LONGEST_WINDOWS * 1e3 / self.rate_hz

    @property
    def server(self) -> list[str]:
        """What stands before the server's command."""
        return ["taskset", "--cpu-list", self.server_cpus]


class ClientProcess:
    """A process of clients; see :mod:`benchmarks.load_clients`."""

    def __init__(self, order: Order, cpus: str) -> None:
        self._process = subprocess.Popen(
            ["taskset", "--cpu-list", cpus, sys.executable, "-m", "benchmarks.load_clients"],
            cwd=REPOSITORY,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._say(json.dumps(asdict(order)))

    def wait_until_connected(self) -> None:
        """Return once all clients are welcomed, or refused."""
        self._hear()

    def start(self, at: float) -> None:
        """Have them begin, at a time of ``time.monotonic``."""
        self._say(repr(at))

    def report(self) -> Report:
        """What they saw, once they are done."""
        found = Report(**json.loads(self._hear()))
        assert self._process.wait() == 0
        return found

    def end(self) -> None:
        """End it, wherever it is."""
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()

    def _say(self, line: str) -> None:
        assert self._process.stdin is not None
        print(line, file=self._process.stdin, flush=True)

    def _hear(self) -> str:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"a process of clients ended with code {self._process.wait()}")
        return line


def run_trial(url: str, streams: int, sensor: SensorSize, conditions: Conditions) -> dict[str, Any]:
    """So many streams at a time; what their clients saw, and what the server used meanwhile."""
    shares = [len(part) for part in np.array_split(range(streams), min(conditions.client_processes, streams))]
    with contextlib.ExitStack() as stack:
        processes = []
        for index, share in enumerate(shares):
            order = Order(
                url,
                share,
                seed=1000 * index,
                sensor=[sensor.width, sensor.height],
                model=conditions.model,
                window_us=conditions.window_us,
                windows=round(conditions.seconds * conditions.rate_hz),
                events_per_pixel=EVENTS_PER_PIXEL,
            )
            processes.append(ClientProcess(order, conditions.client_cpus))
            stack.callback(processes[-1].end)
        for process in processes:
            process.wait_until_connected()
        cpu, begun = metric(url, "process_cpu_seconds_total"), time.monotonic()
        for process in processes:
            process.start(begun + LEAD_S)
        reports = [process.report() for process in processes]
        cpu_s, spent_s = metric(url, "process_cpu_seconds_total") - cpu, time.monotonic() - begun
    return {
        "sensor": str(sensor),
        "streams": streams,
        **summarise(reports, conditions),
        "server": {
            "cores_used": round(cpu_s / spent_s, 2),
            "resident_mb": round(metric(url, "process_resident_memory_bytes") / 1e6, 1),
        },
    }


def summarise(reports: Sequence[Report], conditions: Conditions) -> dict[str, Any]:
    """What the clients of one trial saw, all together."""
    refused: Counter[str] = Counter()
    for report in reports:
        refused.update(report.refused)
    latency_ms = np.concatenate([report.latency_s for report in reports]) * 1e3
    late_ms = max(float(np.percentile(report.late_s, 99)) for report in reports if report.late_s) * 1e3
    cpu_share = max(report.cpu_share for report in reports)
    lost = sum(report.lost for report in reports)
    limited = cpu_share > CLIENT_CPU_SHARE or late_ms > CLIENT_LATE_MS
    p95 = float(np.percentile(latency_ms, 95))
    return {
        "answered": sum(report.answered for report in reports),
        "lost": lost,
        "repeated": sum(report.repeated for report in reports),
        "refused": dict(refused),
        "latency_ms": {f"p{p}": round(float(np.percentile(latency_ms, p)), 1) for p in PERCENTILES}
        | {"max": round(float(latency_ms.max()), 1)},
        "keeps_up": p95 <= conditions.longest_ms and not lost and not refused,
        "client": {"cpu_share": round(cpu_share, 2), "late_ms": {"p99": round(late_ms, 2)}},
        "client_limited": limited,
    }


def most_streams(attempt: Callable[[int], bool], steps: Sequence[int]) -> int:
    """The largest number for which ``attempt`` holds: by these steps, then by halves between the last two."""
    good = 0
    bad = None
    for step in steps:
        if not attempt(step):
            bad = step
            break
        good = step
    while bad is not None and bad - good > 1:
        middle = (good + bad) // 2
        good, bad = (middle, bad) if attempt(middle) else (good, middle)
    return good


def sustained(sensor: SensorSize, conditions: Conditions, steps: Sequence[int]) -> dict[str, Any]:
    """How many streams of a sensor the server keeps up with, and each trial on the way."""
    trials: list[dict[str, Any]] = []
    most = max(steps)
    with running_server(conditions.server, cores=count_cpus(conditions.server_cpus), max_sessions=most + 1) as url:

        def attempt(streams: int) -> bool:
            trials.append(run_trial(url, streams, sensor, conditions))
            print(json.dumps(trials[-1]), file=sys.stderr)
            return bool(trials[-1]["keeps_up"] and not trials[-1]["client_limited"])

        found = most_streams(attempt, steps)
    return {
        "sensor": str(sensor),
        "streams": found,
        "all_steps_kept_up": found == most,
        "trials": sorted(trials, key=lambda trial: int(trial["streams"])),
    }


def crowd(conditions: Conditions, room: int, clients: int) -> dict[str, Any]:
    """More clients at once than there is room for."""
    with running_server(
        conditions.server, cores=count_cpus(conditions.server_cpus), max_sessions=room, max_connections=clients
    ) as url:
        found = run_trial(url, clients, SENSORS[-1], conditions)
        left = {name: metric(url, name) for name in ("spikeseg_sessions_active", "spikeseg_state_bytes")}
    return {"room": room, **found, "left": left}


def count_cpus(cpus: str) -> int:
    """How many cores a list such as ``0,2-3`` names."""
    ends = [part.partition("-") for part in cpus.split(",")]
    return sum(int(last or first) - int(first) + 1 for first, _, last in ends)


def spare_cpus() -> Iterator[int]:
    """The cores that this process may use, but for the first."""
    first, *others = sorted(os.sched_getaffinity(0))
    yield from others or [first]


def main() -> None:
    """Run everything, print it, and keep it as JSON if asked to."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=10.0, help="length of a trial")
    parser.add_argument("--rate", type=float, default=20.0, help="windows of a stream in a second")
    parser.add_argument("--model", default="edge-s")
    parser.add_argument("--sensors", type=int, default=len(SENSORS), help="so many of the sensors, the largest first")
    parser.add_argument("--most", type=int, default=max(STEPS), help="try no more streams than these")
    parser.add_argument("--server-cpus", default=str(min(os.sched_getaffinity(0))), help="cores of the server")
    parser.add_argument("--client-cpus", default=",".join(map(str, spare_cpus())), help="cores of the clients")
    parser.add_argument("--client-processes", type=int, default=2)
    parser.add_argument("--json", type=Path, help="where to keep the result")
    arguments = parser.parse_args()
    conditions = Conditions(
        arguments.model,
        arguments.rate,
        arguments.seconds,
        arguments.server_cpus,
        arguments.client_cpus,
        arguments.client_processes,
    )
    steps = [step for step in STEPS if step <= arguments.most]
    found = {
        "machine": describe_machine(),
        "conditions": {**asdict(conditions), "events_per_pixel": EVENTS_PER_PIXEL, "longest_ms": conditions.longest_ms},
        "sustained": [sustained(sensor, conditions, steps) for sensor in SENSORS[: arguments.sensors]],
        "crowd": crowd(conditions, room=4, clients=32),
    }
    text = json.dumps(found, indent=1)
    print(text)
    if arguments.json:
        arguments.json.write_text(text + "\n")


if __name__ == "__main__":
    main()
