"""How the time of a window grows: with the rate of events, the size of the sensor and the number of streams."""

from __future__ import annotations

import statistics
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from benchmarks.contestants import Contestant, Ours, unbinned
from benchmarks.head_to_head import MODEL, TWIN, loaded
from benchmarks.turns import Effort, summary, take_turns, timed
from benchmarks.twin_runtimes import RUNTIMES, TwinOn
from benchmarks.workload import WINDOW_US, tiled, windows_at
from models.events import EventBatch, SensorSize
from models.runtime.exactness import computing_threads
from service.wire import messages
from service.wire.events import encode_packet
from tests.service.harness import Stream, hello, running_server

SIZES = (SensorSize(320, 240), SensorSize(346, 260), SensorSize(640, 480), SensorSize(1280, 720))
STREAMS = (1, 2, 4, 8, 16)
SETTLED_WINDOWS = 10

Record = dict[str, Any]
Key = tuple[Any, str]


def with_rate(
    events: EventBatch, sensor: SensorSize, rates: Sequence[float], threads: int, effort: Effort
) -> list[Record]:
    """The same drive, slower and faster: on the kernel and dense, beside the twin on runtimes for inference."""
    contestants: dict[Key, Contestant] = {}
    windows = {rate: windows_at(events, rate, 100) for rate in rates}
    kernel, dense, twin = loaded(MODEL, "event-driven"), loaded(MODEL, "torch"), loaded(TWIN, "torch")
    for rate in rates:
        contestants[rate, "kernel"] = Ours(kernel, sensor)
        contestants[rate, "torch"] = Ours(dense, sensor)
        for name, package in RUNTIMES.items():
            try:
                runtime = TwinOn(name, twin, sensor, threads, kernel.runtime.class_mask)
            except ImportError:
                continue
            contestants[rate, f"twin-{package}"] = runtime
    times = _take_turns(contestants, windows, threads, effort)
    rows: list[Record] = []
    for rate in rates:
        row: Record = {"rate": rate, "events_per_window": len(windows[rate][0])}
        row |= _activity(contestants[rate, "kernel"], windows[rate])
        rows.append(row | {way: found for (at, way), found in times.items() if at == rate})
    return rows


def with_size(
    events: EventBatch,
    sensor: SensorSize,
    rate: float,
    threads: int,
    effort: Effort,
    sizes: Sequence[SensorSize] = SIZES,
) -> list[Record]:
    """Larger sensors with as many events on each pixel: by a cell for each pixel, and by those of the service."""
    contestants: dict[Key, Contestant] = {}
    few = windows_at(events, rate, 10)
    windows = {str(size): [tiled(window, sensor, size) for window in few] for size in sizes}
    kernel, dense = loaded(MODEL, "event-driven"), loaded(MODEL, "torch")
    for size in sizes:
        contestants[str(size), "kernel"] = Ours(unbinned(kernel, size), size)
        contestants[str(size), "torch"] = Ours(unbinned(dense, size), size)
        if kernel.grid(size).factor > 1:
            contestants[str(size), "kernel-binned"] = Ours(kernel, size)
    times = _take_turns(contestants, windows, threads, effort)
    rows: list[Record] = []
    for size in sizes:
        grid = kernel.grid(size)
        membranes = unbinned(kernel, size).initial_state(size)
        row: Record = {
            "sensor": str(size),
            "pixels": size.width * size.height,
            "events_per_window": round(statistics.fmean(len(window) for window in windows[str(size)])),
            "state_mb": round(sum(v.nbytes for v in membranes.values()) / 1e6, 1),
            "binned_grid": f"{grid.width}x{grid.height}",
        }
        row |= _activity(contestants[str(size), "kernel"], windows[str(size)])
        rows.append(row | {way: found for (at, way), found in times.items() if at == str(size)})
    return rows


def _take_turns(
    contestants: dict[Key, Contestant], windows: dict[Any, list[EventBatch]], threads: int, effort: Effort
) -> dict[Key, dict[str, float]]:
    def way(key: Key) -> Any:
        contestant, given = contestants[key], windows[key[0]]
        return timed(lambda k: contestant.segment(given[k % len(given)]))

    names = {f"{at} {way}": (at, way) for at, way in contestants}
    with computing_threads(threads):
        seconds = take_turns({name: way(key) for name, key in names.items()}, effort)
    return {names[name]: summary(found) for name, found in seconds.items()}


def _activity(contestant: Contestant, windows: Sequence[EventBatch]) -> Record:
    """Means over some windows of a stream that is under way."""
    assert isinstance(contestant, Ours)
    rates, operations = [], []
    for window in windows[:20]:
        contestant.segment(window)
        assert contestant.activity is not None
        rates.append(contestant.activity.firing_rate)
        operations.append(contestant.activity.sops)
    return {
        "firing_rate": round(statistics.fmean(rates), 4),
        "sops": round(statistics.fmean(operations)),
    }


def with_streams(
    events: EventBatch,
    sensor: SensorSize,
    rate: float,
    cores: int,
    seconds: float,
    rounds: int,
    numbers: Sequence[int] = STREAMS,
) -> list[Record]:
    """Several streams over one real server, each sending a window as soon as the one before is answered.

    Latency is what the client sees: from the window's events being sent, as a message and a word that time has gone on,
    to its decoded mask. The numbers of streams take turns.
    """
    windows = windows_at(events, rate, 50)
    latencies: dict[int, list[float]] = {number: [] for number in numbers}
    spent = dict.fromkeys(numbers, 0.0)
    with running_server(cores=cores) as url:
        for _ in range(rounds):
            for number in numbers:
                found, took = _run_streams(url, windows, sensor, number, seconds / rounds)
                latencies[number] += found
                spent[number] += took
    return [
        {"streams": number, **summary(latencies[number]), "windows_per_second": round(len(found) / spent[number], 1)}
        for number, found in latencies.items()
    ]


def _run_streams(
    url: str, windows: Sequence[EventBatch], sensor: SensorSize, number: int, seconds: float
) -> tuple[list[float], float]:
    """Latencies in s of all streams between the time when all had settled and the end, and how long that was."""
    settled = threading.Barrier(number)
    clock: list[float] = []

    def stream(index: int) -> list[float]:
        greet = hello(model=MODEL, sensor={"width": sensor.width, "height": sensor.height}, window={"us": WINDOW_US})
        taken: list[float] = []
        with Stream(url, greet) as session:
            for k in range(SETTLED_WINDOWS):
                _round_trip(session, windows, sensor, index, k)
            settled.wait()
            begun = time.perf_counter()
            while time.perf_counter() - begun < seconds:
                taken.append(_round_trip(session, windows, sensor, index, SETTLED_WINDOWS + len(taken)))
            clock.append(time.perf_counter() - begun)
            session.end()
        return taken

    with ThreadPoolExecutor(number) as pool:
        found = [each for taken in pool.map(stream, range(number)) for each in taken]
    return found, max(clock)


def _round_trip(session: Stream, windows: Sequence[EventBatch], sensor: SensorSize, index: int, k: int) -> float:
    window = windows[(7 * index + k) % len(windows)]
    t = window.t % WINDOW_US + k * WINDOW_US
    number = session.sequence
    packet = messages.encode_events(number, encode_packet(EventBatch(t, window.x, window.y, window.p), sensor))
    done = messages.encode_advance(number + 1, (k + 1) * WINDOW_US)
    begun = time.perf_counter()
    session.socket.send(packet)
    session.socket.send(done)
    session.sequence += 2
    (result,) = session.answer(number + 1)
    assert result.window == k
    return time.perf_counter() - begun
