"""What is left of a window's time when nothing happens: the stages of a step at several event rates, down to none."""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from typing import Any

from benchmarks.head_to_head import MODEL, loaded
from benchmarks.workload import windows_at
from models.architectures.edge import synapses
from models.events import EventBatch, SensorSize
from models.runtime.event_driven import EventDrivenRuntime, LayerProbe
from models.runtime.exactness import computing_threads
from models.runtime.state import State

SETTLED_WINDOWS = 40
Record = dict[str, Any]


class Stages:
    """A stream on the kernel, each window taken apart into its stages."""

    def __init__(self, sensor: SensorSize) -> None:
        self._model = loaded(MODEL, "event-driven")
        runtime = self._model.runtime
        assert isinstance(runtime, EventDrivenRuntime)
        self._runtime, self._sensor, self._grid = runtime, sensor, self._model.grid(sensor)
        self.state: State = self._model.initial_state(sensor)
        self.firing_rate = 0.0

    def step(self, events: EventBatch) -> dict[str, float]:
        """Advance a window; ms of each stage, and under ``total`` of all of them."""
        spent: dict[str, int] = {}
        grid, sensor = self._grid, self._sensor
        stride = self._runtime.config.output_stride * grid.factor
        begun = time.perf_counter_ns()
        (row,) = self._runtime.answer([(self.state, events, grid)], spent)
        answered = time.perf_counter_ns()
        self._runtime.class_mask(row.logits, sensor.height, sensor.width, stride)
        masked = time.perf_counter_ns()
        self.firing_rate = self._runtime.activity(row.spike_counts, grid.height, grid.width).firing_rate
        counted = time.perf_counter_ns()
        self.state = row.state
        spent |= {"mask": masked - answered, "activity": counted - masked, "total": counted - begun}
        return {stage: ns / 1e6 for stage, ns in spent.items()}


def stages(events: EventBatch, sensor: SensorSize, rates: Sequence[float], threads: int, rounds: int) -> list[Record]:
    """Medians of each stage at each rate, 0 for no events at all; the rates take turns, window by window."""
    windows = {rate: windows_at(events, rate, 50) for rate in rates}
    streams = {rate: Stages(sensor) for rate in rates}
    taken: dict[float, list[dict[str, float]]] = {rate: [] for rate in rates}
    firing: dict[float, list[float]] = {rate: [] for rate in rates}
    with computing_threads(threads):
        for k in range(SETTLED_WINDOWS + rounds):
            for rate, stream in streams.items():
                # The first of two windows finds the caches as another stream left them.
                stream.step(windows[rate][2 * k % 50])
                found = stream.step(windows[rate][(2 * k + 1) % 50])
                if k >= SETTLED_WINDOWS:
                    taken[rate].append(found)
                    firing[rate].append(stream.firing_rate)
    return [
        {
            "rate": rate,
            "threads": threads,
            "windows": rounds,
            "firing_rate": round(statistics.fmean(firing[rate]), 4),
            "ms": {stage: round(statistics.median(t[stage] for t in taken[rate]), 4) for stage in taken[rate][0]},
        }
        for rate in rates
    ]


def without_spikes(sensor: SensorSize, threads: int, rounds: int) -> Record:
    """Layers that see no spike at all, which read and write their membranes all the same, beside a bare copy of those.

    The stem sees events and the readout never fires; both are left out here.
    """
    model = loaded(MODEL, "event-driven")
    runtime, grid = model.runtime, model.grid(sensor)
    assert isinstance(runtime, EventDrivenRuntime)
    state = model.initial_state(sensor)
    probes = {
        name: LayerProbe(runtime, name, grid.height, grid.width, density=0.0, seed=0)
        for name in list(synapses(runtime.config))[1:-1]
    }
    megabytes = {name: state[name].nbytes / 1e6 for name in state}
    copies = {name: (state[name].clone(), state[name].clone()) for name in state}
    layer_ms: dict[str, list[float]] = {name: [] for name in probes}
    copy_ms: list[float] = []
    with computing_threads(threads):
        for _ in range(rounds):
            for name, probe in probes.items():
                probe.run()
                layer_ms[name].append(probe.run() / 1e6)
            for source, target in copies.values():
                target.copy_(source)
            begun = time.perf_counter()
            for source, target in copies.values():
                target.copy_(source)
            copy_ms.append(1e3 * (time.perf_counter() - begun))
    return {
        "threads": threads,
        "rounds": rounds,
        "membranes_mb": {name: round(size, 3) for name, size in megabytes.items()},
        "layers_ms": {name: round(statistics.median(values), 4) for name, values in layer_ms.items()},
        "copy_of_membranes_ms": round(statistics.median(copy_ms), 4),
    }
