"""What a window costs, served: latency by stage, throughput and memory, beside the paper's protocol.

    python -m benchmarks.first_light --json docs/first_light.json

A real server process is sent the demo recording over a WebSocket, as fast as it acknowledges, with windows of 10, 20,
33 and 50 ms. Beside it, in this process and with the same number of threads, alternating: one carried step of
``edge-s``, the same network by the paper's protocol (T = 20 steps from rest for each answer), and the paper's own
network by its protocol (untrained weights: its cost on dense kernels does not depend on them); each from events to
one mask.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import torch

from clients import Client
from clients.cutting import cut
from models import zoo
from models.architectures.paper import PaperConfig, PaperNetwork, fold_bntt
from models.encoding import polarity_counts
from models.events import EventBatch, SensorSize
from models.machine import describe_machine
from models.runtime.paper import PaperRuntime
from service.settings import Settings
from service.wire.aedat4 import read_aedat4_file
from tests.service.harness import metric, running_server

WINDOWS_MS = (10, 20, 33, 50)
STEPS = PaperConfig().steps
CHUNK_US = 10_000
SESSIONS = 20


def percentiles(values: list[float]) -> dict[str, float]:
    """p50, p95 and p99, to the hundredth."""
    return {f"p{p}": round(float(np.percentile(values, p)), 2) for p in (50, 95, 99)}


def serve_windows(url: str, events: EventBatch, sensor: SensorSize, window_ms: int, windows: int) -> dict[str, Any]:
    """Stream a recording through the service; latency by stage and throughput."""
    part = events[: int(np.searchsorted(events.t, events.t[0] + windows * window_ms * 1000))]
    with Client(url) as client:
        begun = time.perf_counter()
        results = list(client.stream(cut(part, CHUNK_US), sensor, model="edge-s", window_us=window_ms * 1000))
        seconds = time.perf_counter() - begun
    stages = ("decode", "wait", "compute", "encode", "total")
    return {
        "windows": len(results),
        "events_per_window": round(len(part) / len(results)),
        "latency_ms": {stage: percentiles([getattr(r.latency, f"{stage}_ms") for r in results]) for stage in stages},
        "windows_per_second": round(len(results) / seconds, 1),
        "events_per_second": round(len(part) / seconds),
        "firing_rate": round(statistics.fmean(r.activity.firing_rate for r in results if r.activity), 4),
    }


def session_memory(url: str, events: EventBatch, sensor: SensorSize) -> dict[str, float]:
    """Resident memory at start, and what each further session adds."""
    packet = events[: int(np.searchsorted(events.t, events.t[0] + 100_000))]
    at_start = metric(url, "process_resident_memory_bytes")
    body = {"model": "edge-s", "sensor": {"width": sensor.width, "height": sensor.height}, "window": {"us": 50_000}}
    data = {name: getattr(packet, name).tolist() for name in ("t", "x", "y", "p")}
    sizes = []
    with httpx.Client(base_url=url, timeout=60) as http:
        for _ in range(SESSIONS):
            session = http.post("/v1/sessions", json=body).raise_for_status().json()["session"]
            http.post(f"/v1/sessions/{session}/events", json=data).raise_for_status()
            sizes.append(metric(url, "process_resident_memory_bytes"))
        state = metric(url, "spikeseg_state_bytes")
    # The first sessions also fill the allocator's pools; what a session costs shows once they are full.
    half = SESSIONS // 2
    return {
        "resident_mb_at_start": round(at_start / 1e6, 1),
        "resident_mb_with_sessions": round(sizes[-1] / 1e6, 1),
        "sessions": SESSIONS,
        "resident_mb_per_session": round((sizes[-1] - sizes[half - 1]) / (SESSIONS - half) / 1e6, 2),
        "state_mb_per_session": round(state / SESSIONS / 1e6, 2),
    }


def protocol_costs(events: EventBatch, sensor: SensorSize, rounds: int) -> dict[str, Any]:
    """Seconds for one answer: one carried step, T steps from rest, and the paper's network, alternating."""
    model = zoo.load("edge-s")
    grid = model.grid(sensor)
    window = events[: int(np.searchsorted(events.t, events.t[0] + 20_000))]
    pieces = [window[len(window) * k // STEPS : len(window) * (k + 1) // STEPS] for k in range(STEPS)]
    paper = PaperRuntime(PaperConfig(), fold_bntt(PaperNetwork(PaperConfig())))
    state = model.initial_state(sensor)

    def encode(piece: EventBatch) -> torch.Tensor:
        return torch.from_numpy(polarity_counts(piece, grid, model.runtime.config.count_clip))[None]

    def carried() -> None:
        nonlocal state
        state = model.segment(state, window, sensor).state

    def from_rest() -> None:
        membranes = model.initial_state(sensor)
        for piece in pieces[:-1]:
            membranes = model.runtime.step(membranes, encode(piece)).state
        # The mask is read once, from the last step.
        model.segment(membranes, pieces[-1], sensor)

    def paper_network() -> None:
        membranes = paper.initial_state(1, grid.height, grid.width)
        for k, piece in enumerate(pieces):
            membranes = paper.step(membranes, encode(piece), k).state
        paper.logits(membranes, sensor.height, sensor.width).argmax(1)

    seconds: dict[str, list[float]] = {"carried step": [], "T steps from rest": [], "paper network": []}
    for _ in range(3):
        carried()
    for k in range(rounds):
        seconds["carried step"] += [timed(carried) for _ in range(5)]
        seconds["T steps from rest"].append(timed(from_rest))
        if k % 5 == 0:
            seconds["paper network"].append(timed(paper_network))
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    return {
        "window_ms": 20,
        "steps": STEPS,
        "threads": torch.get_num_threads(),
        "milliseconds_per_answer": {name: round(1e3 * s, 1) for name, s in medians.items()},
        "ratio_to_carried_step": {name: round(s / medians["carried step"], 1) for name, s in medians.items()},
    }


def timed(function: Callable[[], object]) -> float:
    """Seconds that a call takes."""
    begun = time.perf_counter()
    function()
    return time.perf_counter() - begun


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--windows", type=int, default=200, help="most windows for each window length")
    parser.add_argument("--rounds", type=int, default=10, help="rounds of the protocol comparison")
    parser.add_argument("--json", type=Path, help="also write the report to this file")
    args = parser.parse_args()
    settings = Settings()
    torch.set_num_threads(settings.cores)
    events, sensor = read_aedat4_file(settings.demo_recording)
    report: dict[str, Any] = {"machine": describe_machine(), "sensor": str(sensor), "model": "edge-s"}
    with running_server() as url:
        report["memory"] = session_memory(url, events, sensor)
        serve_windows(url, events, sensor, 20, 20)
        report["served"] = {
            f"{window_ms} ms": serve_windows(url, events, sensor, window_ms, args.windows) for window_ms in WINDOWS_MS
        }
    report["protocol"] = protocol_costs(events, sensor, args.rounds)
    text = json.dumps(report, indent=2)
    print(text)
    if args.json:
        args.json.write_text(text + "\n")


if __name__ == "__main__":
    main()
