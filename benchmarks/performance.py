"""How fast it is, beside what else there is, and how that grows: one run, everybody in turns, one page.

    python -m benchmarks.performance --peer-repo ../SLTNet-v0.1
    python -m benchmarks.performance --render

Writes docs/results/performance.json, and from it docs/results/performance.png and docs/performance.md; ``--render``
makes the last two anew from the first. ``--quick`` is a smoke test: the same in less than two minutes, each time a
median of a handful. With ``--json`` elsewhere, plot and page are written beside the report.

At 346x260, in windows of 10 ms with a million events a second, events in and mask out: ``edge-s`` on the kernel, on
PyTorch and in SpikingJelly, its ANN twin on PyTorch, ONNX Runtime and OpenVINO, T = 20 steps from rest as the paper
does, and SLTNet from a clone of its repository. Then ``edge-s`` at other rates of events, on other sensors and with
several streams over a real server; and the stages of a window, down to one without events. The contestants take turns
within a run (:mod:`benchmarks.turns`), so that ratios hold on a machine that drifts. Needs
``pip install -e '.[bench]'``; who is not installed or given does not take part, and the page says so.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import shlex
import sys
import time
from importlib import metadata
from pathlib import Path
from typing import Any

from benchmarks import floor, growth, head_to_head
from benchmarks.performance_page import write_page
from benchmarks.turns import Effort
from benchmarks.workload import WINDOW_US, windows_at
from models import zoo
from models.machine import describe_machine, keep_freed_memory
from models.runtime.event_driven import kernel
from service.settings import Settings
from service.wire.aedat4 import read_aedat4_file

SEED = 0
RATE = 1e6
RATES = (1e4, 1e5, 1e6, 1e7)
REPORT = Path("docs/results/performance.json")
PACKAGES = ("torch", "numpy", "spikingjelly", "onnx", "onnxruntime", "openvino")

Record = dict[str, Any]


def versions() -> dict[str, str]:
    """Of what takes part and is installed."""
    found = {"python": platform.python_version(), "kernel": kernel().path.stem.removeprefix("kernel-")}
    for package in PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found


class OtherWork:
    """Watches how much of the processor others took meanwhile; nothing where /proc does not tell."""

    def __init__(self) -> None:
        self._before = self._now()

    def _now(self) -> tuple[float, float, float] | None:
        """Seconds that all cores were busy, that they were there, and that this process and its children computed."""
        try:
            fields = [int(field) for field in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]]
        except (OSError, ValueError):
            return None
        ticks = os.sysconf("SC_CLK_TCK")
        idle = fields[3] + fields[4]
        own = sum(
            usage.ru_utime + usage.ru_stime
            for usage in map(resource.getrusage, (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
        )
        return (sum(fields) - idle) / ticks, sum(fields) / ticks, own

    def share(self) -> float | None:
        """Share of all cores' time that went to others since this was made."""
        now = self._now()
        if now is None or self._before is None:
            return None
        busy, there, own = (after - before for after, before in zip(now, self._before, strict=True))
        return round(max(0.0, busy - own) / there, 3) if there else None


def scores() -> Record:
    """Quality of the masks, from the cards of the zoo."""
    evaluation = zoo.load(head_to_head.MODEL).card["evaluation"]
    return {
        head_to_head.MODEL: evaluation["stream"]["miou"],
        head_to_head.TWIN: evaluation["ann_twin"]["miou"],
        "reset_every_window": evaluation["reset_every_window"]["miou"],
    }


def measure(args: argparse.Namespace) -> Record:
    """Everything that the page tells."""
    quick, cores = args.quick, os.cpu_count() or 1
    keep_freed_memory()
    begun, others = time.monotonic(), OtherWork()
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
    events, sensor = read_aedat4_file(Settings().demo_recording)
    windows = windows_at(events, RATE, 100)
    report: Record = {
        "command": command_line(args),
        "quick": quick,
        "machine": describe_machine(),
        "versions": versions(),
        "seed": SEED,
        "cores": cores,
        "recording": {
            "name": Settings().demo_recording.name,
            "events": len(events),
            "seconds": round(int(events.t[-1] - events.t[0]) / 1e6, 3),
            "sensor": str(sensor),
        },
        "window_us": WINDOW_US,
        "rate": RATE,
        "scores": scores(),
    }
    everybody = Effort(0.3, 3, 10, 1) if quick else Effort(12.0, 20, 400, 5)
    for threads in args.threads:
        most = threads == max(args.threads)
        _say(f"head to head, threads={threads}")
        field = head_to_head.Field(sensor, threads, args.peer_repo, paper=most and not quick, seed=SEED)
        if most:
            report["checks"] = field.check(windows[: 10 if quick else head_to_head.CHECKED_WINDOWS])
            report["costs"] = field.costs(windows[: 5 if quick else 50])
            report["absent"], report["about"] = field.absent, field.about
            if quick:
                report["absent"] = report["absent"] | {"paper": "not run: it takes too long for --quick"}
        report.setdefault("head_to_head", []).extend(head_to_head.run(field, windows, threads, everybody))
    growing = Effort(0.3, 3, 10, 1) if quick else Effort(6.0, 20, 300, 5)
    threads = max(args.threads)
    _say("event rates")
    report["rates"] = growth.with_rate(events, sensor, RATES, threads, growing)
    _say("sensors")
    sizes = growth.SIZES[:3] if quick else growth.SIZES
    report["sizes"] = growth.with_size(events, sensor, RATE, threads, growing, sizes)
    _say("streams")
    numbers = growth.STREAMS[:3] if quick else growth.STREAMS
    seconds, rounds = (1.0, 1) if quick else (12.0, 4)
    report["streams"] = growth.with_streams(events, sensor, RATE, cores, seconds, rounds, numbers)
    _say("stages")
    many = 10 if quick else 100
    report["stages"] = [
        row for threads in args.threads for row in floor.stages(events, sensor, (0.0, *RATES), threads, many)
    ]
    report["without_spikes"] = [floor.without_spikes(sensor, threads, many) for threads in args.threads]
    report["minutes"] = round((time.monotonic() - begun) / 60, 1)
    report["load_average_before"] = load
    report["share_of_cores_taken_by_others"] = others.share()
    return report


def command_line(args: argparse.Namespace) -> str:
    """The command, without where things lie on this machine."""
    words = ["python", "-m", "benchmarks.performance"]
    words += ["--peer-repo", "SLTNet-v0.1"] if args.peer_repo else []
    words += ["--threads", *map(str, args.threads)] if args.threads != default_threads() else []
    words += ["--quick"] if args.quick else []
    return shlex.join(words)


def default_threads() -> list[int]:
    """One, and all."""
    return sorted({1, os.cpu_count() or 1})


def _say(what: str) -> None:
    print(what, file=sys.stderr, flush=True)


def main() -> None:
    """Measure, write the report, and make the page of it."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.performance",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--peer-repo", type=Path, help="a clone of github.com/longxianlei/SLTNet-v0.1")
    parser.add_argument("--threads", nargs="+", type=int, default=default_threads())
    parser.add_argument("--quick", action="store_true", help="a smoke test; its figures are worth nothing")
    parser.add_argument("--render", action="store_true", help="measure nothing, make plot and page from the report")
    parser.add_argument("--json", type=Path, default=REPORT, help="the report")
    args = parser.parse_args()
    if not args.render:
        report = measure(args)
        args.json.parent.mkdir(parents=True, exist_ok=True)
        args.json.write_text(json.dumps(report, indent=1) + "\n")
        print(args.json)
    for path in write_page(args.json):
        print(path)


if __name__ == "__main__":
    main()
