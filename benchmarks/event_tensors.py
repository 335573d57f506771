"""How fast events become what a network takes: packets decoded, noise filtered, windows cut and counted, on one core.

    python -m benchmarks.event_tensors --json docs/results/event_tensors.json

For 346x260 and 1280x720, packets of ``--events`` events in 10 ms, one to a window: bright edges that move over the
sensor, noise at random pixels (``--noise``, the worst case for the processor's caches), and a few hot pixels.

Each stage by itself, and all of them one after the other, from the bytes of a packet to the polarity counts, through
the same windowing as in the service; in C, in NumPy as where there is no compiler, and, for the filters, in
dv-processing. All ways alternate within one run, five windows at a time, on the same packets, so that the ratios hold
on a machine that is not quiet; figures are medians and the best, in millions of events that go in a second.
"""

from __future__ import annotations

import argparse
import datetime
import importlib.metadata
import json
import os
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import patch

import dv_processing as dv
import numpy as np

from benchmarks.timing import alternate
from models import zoo
from models.encoding import InputGrid, polarity_counts, polarity_counts_in_numpy
from models.events import EventBatch, SensorSize
from models.filters import Backend, FilterConfig, FilterState, HotPixelConfig, filter_events
from models.machine import describe_machine, keep_freed_memory
from models.runtime.event_driven import EventDrivenRuntime, kernel
from models.runtime.streaming import StreamingModel
from service.streaming.windowing import EventStream, StreamConfig, TimeWindows, WindowLimits
from service.wire.events import decode_packet, encode_packet

SENSORS = (SensorSize(346, 260), SensorSize(1280, 720))
WINDOW_US = 10_000
BACKGROUND_US = 2_000
HOT_PIXELS = 20
WARM_UP_US = 50_000
BACKGROUND = FilterConfig(background_activity_us=BACKGROUND_US)
EVERYTHING = FilterConfig(HotPixelConfig(learn_us=WARM_UP_US), refractory_us=100, background_activity_us=BACKGROUND_US)
CLIP = 15
BLOCK = 5
Way = Callable[[int], object]


def scene(sensor: SensorSize, windows: int, per_window: int, noise: float, seed: int = 1) -> list[EventBatch]:
    """Events of windows: edges, noise and hot pixels.

    Parameters
    ----------
    sensor : SensorSize
    windows, per_window : int
    noise : float
        Share of the events at random pixels; a twentieth of all events is of the hot pixels.
    seed : int
    """
    rng = np.random.default_rng(seed)
    hot = rng.integers(0, (sensor.width, sensor.height), (HOT_PIXELS, 2))
    made = []
    for window in range(windows):
        t = np.sort(rng.integers(window * WINDOW_US, (window + 1) * WINDOW_US, per_window))
        # Eight upright edges that cross the sensor in half a second, each three pixels wide.
        place = (t * sensor.width // 500_000 + rng.integers(0, 8, per_window) * sensor.width // 8) % sensor.width
        x = (place + rng.integers(0, 3, per_window)) % sensor.width
        y = rng.integers(0, sensor.height, per_window)
        kind = rng.random(per_window)
        scattered = kind < noise
        x[scattered] = rng.integers(0, sensor.width, int(scattered.sum()))
        burning = kind > 0.95
        which = rng.integers(0, HOT_PIXELS, int(burning.sum()))
        x[burning], y[burning] = hot[which, 0], hot[which, 1]
        p = rng.integers(0, 2, per_window)
        made.append(EventBatch(t, x.astype(np.uint16), y.astype(np.uint16), p.astype(np.uint8)))
    return made


def filtering(config: FilterConfig, sensor: SensorSize, windows: list[EventBatch], backend: Backend) -> Way:
    """Our filters over one window after the other."""
    state = FilterState(config, sensor)

    def go(k: int) -> None:
        nonlocal state
        state = filter_events(state, windows[k], backend=backend).state

    return go


def filtering_in_dv(filter: Any, stores: list[Any]) -> Way:
    """A filter of dv-processing over one window after the other."""

    def go(k: int) -> None:
        filter.accept(stores[k])
        filter.generateEvents()

    return go


def from_end_to_end(
    config: FilterConfig | None, sensor: SensorSize, grid: InputGrid, packets: list[bytes], *, native: bool
) -> Way:
    """Bytes of packets to the counts of the windows that they complete."""
    stream = EventStream.start(
        StreamConfig(TimeWindows(WINDOW_US, WINDOW_US), filter=config), WindowLimits(256, 2**31), sensor=sensor
    )

    def go(k: int) -> None:
        nonlocal stream
        windows, stream = stream.push(decode_packet(packets[k]).events)
        for window in windows:
            polarity_counts(window.events, grid, CLIP)

    def without_library(k: int) -> None:
        with patch("models.filters.event_library", lambda: None), patch("models.encoding.event_library", lambda: None):
            go(k)

    return go if native else without_library


def counting_for_the_kernel(runtime: EventDrivenRuntime, grid: InputGrid, windows: list[EventBatch]) -> Way:
    """Events to the packed input of the event-driven kernel."""
    count, plan, sensor = kernel().count_events, runtime.network.plan(grid.height, grid.width), grid.sensor
    lines = grid.height + 2 * plan.padding

    def go(k: int) -> None:
        values = np.zeros((grid.height, grid.width, 2), np.float32)
        active = np.zeros((lines, plan.active_pitch), np.uint8)
        events = windows[k]
        count(
            *(column.ctypes.data for column in (events.x, events.y, events.p)),
            len(events),
            *(grid.factor, sensor.height, sensor.width, grid.width, plan.padding),
            float(CLIP),
            *(values.ctypes.data, active.ctypes.data, plan.active_pitch),
        )

    return go


def to_store(events: EventBatch) -> Any:
    """Events as dv-processing has them."""
    store = dv.EventStore()
    for t, x, y, p in zip(events.t.tolist(), events.x.tolist(), events.y.tolist(), events.p.tolist(), strict=True):
        store.push_back(t, x, y, bool(p))
    return store


def measure(model: StreamingModel, sensor: SensorSize, windows: int, per_window: int, noise: float) -> dict[str, Any]:
    """Millions of events a second of every stage and way, and what the filters drop."""
    batches = scene(sensor, windows, per_window, noise)
    packets = [encode_packet(events, sensor) for events in batches]
    stores = [to_store(events) for events in batches]
    grid = model.grid(sensor)
    size = (sensor.width, sensor.height)
    duration = datetime.timedelta(microseconds=BACKGROUND_US)
    assert isinstance(model.runtime, EventDrivenRuntime)
    ways: dict[str, Way] = {
        "decode": lambda k: decode_packet(packets[k]),
        "background activity, C": filtering(BACKGROUND, sensor, batches, "c"),
        "background activity, NumPy": filtering(BACKGROUND, sensor, batches, "numpy"),
        "background activity, dv-processing": filtering_in_dv(
            dv.noise.BackgroundActivityNoiseFilter(size, backgroundActivityDuration=duration), stores
        ),
        "fast decay, dv-processing": filtering_in_dv(dv.noise.FastDecayNoiseFilter(size), stores),
        "all three filters, C": filtering(EVERYTHING, sensor, batches, "c"),
        "all three filters, NumPy": filtering(EVERYTHING, sensor, batches, "numpy"),
        "counts, C": lambda k: polarity_counts(batches[k], grid, CLIP),
        "counts, NumPy": lambda k: polarity_counts_in_numpy(batches[k], grid, CLIP),
        "packed counts of the event-driven kernel, C": counting_for_the_kernel(model.runtime, grid, batches),
    }
    ends = {"no filter": None, "background activity": BACKGROUND, "all three filters": EVERYTHING}
    for name, config in ends.items():
        for backend, native in (("C", True), ("NumPy", False)):
            ways[f"end to end, {name}, {backend}"] = from_end_to_end(config, sensor, grid, packets, native=native)
    seconds = alternate({name: _blocks(way) for name, way in ways.items()}, windows // BLOCK)
    # The first windows fill pools and the maps of the filters, and are the warm-up of hot pixels.
    after = WARM_UP_US // WINDOW_US // BLOCK + 1
    events = per_window * BLOCK
    dropped = np.concatenate([f.verdicts for f in _verdicts(EVERYTHING, sensor, batches)[after * BLOCK :]])
    return {
        "sensor": str(sensor),
        "grid": f"{grid.width}x{grid.height}",
        "events_per_window": per_window,
        "noise": noise,
        "dropped_share": dict(
            zip(
                ("hot_pixel", "refractory", "background_activity"),
                (np.bincount(dropped, minlength=4)[1:] / len(dropped)).round(4).tolist(),
                strict=True,
            )
        ),
        "million_events_per_s": {
            name: {
                "median": round(events / statistics.median(times[after:]) / 1e6, 2),
                "best": round(events / min(times[after:]) / 1e6, 2),
            }
            for name, times in seconds.items()
        },
    }


def _blocks(way: Way) -> Way:
    """The windows of one block after the other: on a core of its own, a stream finds its maps in the caches."""

    def go(block: int) -> None:
        for k in range(block * BLOCK, (block + 1) * BLOCK):
            way(k)

    return go


def _verdicts(config: FilterConfig, sensor: SensorSize, batches: list[EventBatch]) -> list[Any]:
    state, found = FilterState(config, sensor), []
    for events in batches:
        found.append(filter_events(state, events))
        state = found[-1].state
    return found


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.event_tensors", description=__doc__)
    parser.add_argument("--model", default="edge-s", help="whose grid and packed input are taken")
    parser.add_argument("--windows", type=int, default=60)
    parser.add_argument("--events", type=int, default=200_000, help="in each window")
    parser.add_argument("--noise", type=float, default=0.3, help="share of events at random pixels")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    if args.windows < 4 * BLOCK:
        parser.error(f"--windows must be at least {4 * BLOCK}")
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    keep_freed_memory()
    model = zoo.load(args.model, backend="event-driven")
    assert isinstance(model, StreamingModel)
    report: dict[str, Any] = {
        "machine": describe_machine() | {"dv_processing": importlib.metadata.version("dv-processing")},
        "cores_used": 1,
        "window_us": WINDOW_US,
        "sensors": [],
    }
    for sensor in SENSORS:
        found = measure(model, sensor, args.windows, args.events, args.noise)
        report["sensors"].append(found)
        print(f"\n{found['sensor']}, {args.events} events a window, dropped: {found['dropped_share']}")
        for name, rate in found["million_events_per_s"].items():
            print(f"{rate['median']:10.2f} M events/s (at best {rate['best']:7.2f})  {name}")
    if args.json:
        args.json.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
