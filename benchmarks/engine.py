"""What spikes save in time: the event-driven kernel beside dense convolutions, by window and by layer.

    python -m benchmarks.engine --json docs/results/engine.json

First whole windows of the demo recording, events in and mask out: each streaming network on the event-driven kernel,
with weights of float32 and of int8 (bfloat16 is computed as float32 is), on torch, and, as most code in the field runs
it, in SpikingJelly's own modules with the same weights; on one thread and on all. At ``--rates`` events a second: a
faster drive is the same one with its windows cut longer.
Then each layer by itself at several input densities, conv and neurons, beside torch's convolution and neurons; how
often neurons fire in silence and in a flood of events; and how many fire on one backend alone.

Last the paper's networks, T steps for each answer: whole answers on the kernel and on torch, with the share of each
layer's inputs that are not zero, and their layers by themselves. The kernel leaves those behind a pooling to torch:
what is told of them is the least that it would take, as if their inputs were spikes and not averages.

All ways alternate within one run, so that the ratios hold on a machine that is not quiet; times are medians and minima.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from safetensors.torch import load_file
from spikingjelly.activation_based import functional
from torch import Tensor

from benchmarks.engine_paper import answer_times, paper_layer_times, print_answers, print_paper_layers
from benchmarks.engine_rates import apart, extreme_rates, print_apart, print_rates
from benchmarks.timing import alternate, carried, ignoring_round, summary
from clients.cutting import cut
from models import zoo
from models.architectures.edge import BN_EPS, READOUT, EdgeConfig, EdgeDeepLab, class_mask, layer_macs, synapses
from models.encoding import polarity_counts
from models.events import EventBatch, SensorSize
from models.machine import describe_machine, keep_freed_memory
from models.runtime.event_driven import EventDrivenRuntime, LayerProbe
from models.runtime.exactness import computing_threads
from models.runtime.lif import lif_step
from models.runtime.protocol import ProtocolModel
from models.runtime.streaming import StreamingModel
from service.settings import Settings
from service.wire.aedat4 import read_aedat4_file

WINDOW_US = 10_000
INT8 = "event-driven, int8"
DENSITIES = (0.0, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)


def spikingjelly_of(config: EdgeConfig, weights: Mapping[str, Tensor]) -> EdgeDeepLab:
    """The training's network with folded weights: its batch norm has nothing left to do but the bias."""
    network = EdgeDeepLab(config).eval()
    given: dict[str, Tensor] = {}
    for name in synapses(config):
        weight, bias, keep = (weights[f"{name}.{kind}"] for kind in ("weight", "bias", "keep"))
        given[f"neurons.{name}.w"] = torch.logit(1 - keep).reshape(-1, 1, 1)
        if name == READOUT:
            given[f"synapses.{name}.weight"] = weight / (1 - keep)[:, None, None, None]
            given[f"synapses.{name}.bias"] = bias / (1 - keep)
            continue
        norm = f"synapses.{name}.1"
        given[f"synapses.{name}.0.weight"] = weight
        given |= {f"{norm}.weight": torch.ones_like(bias), f"{norm}.bias": bias}
        given |= {f"{norm}.running_mean": torch.zeros_like(bias)}
        given |= {f"{norm}.running_var": torch.full_like(bias, 1 - BN_EPS)}
    network.load_state_dict(given, strict=False)
    return network


class _SpikingJelly:
    """Events in, mask out, with the state in SpikingJelly's modules."""

    def __init__(self, model: StreamingModel, sensor: SensorSize) -> None:
        weights = load_file(zoo.ZOO / f"{model.name}.safetensors")
        self._network = spikingjelly_of(model.runtime.config, weights)
        self._config, self._grid, self._sensor = model.runtime.config, model.grid(sensor), sensor
        functional.reset_net(self._network)

    @torch.no_grad()
    def segment(self, events: EventBatch) -> NDArray[np.uint8]:
        x = torch.from_numpy(polarity_counts(events, self._grid, self._config.count_clip))[None, None]
        logits = self._network(x)[0]
        stride = self._config.output_stride * self._grid.factor
        return class_mask(logits, self._sensor.height, self._sensor.width, stride)


def window_times(
    name: str, windows: Sequence[EventBatch], sensor: SensorSize, threads: int
) -> dict[str, dict[str, float]]:
    """Milliseconds for a window, by what computes it."""
    ways: dict[str, Callable[[int], object]] = {
        "event-driven": carried(zoo.load(name, backend="event-driven"), windows, sensor),
        INT8: carried(zoo.load(name, backend="event-driven", precision="int8"), windows, sensor),
        "torch": carried(zoo.load(name, backend="torch"), windows, sensor),
    }
    jelly = _SpikingJelly(zoo.load(name, backend="torch"), sensor)
    ways["spikingjelly"] = lambda k: jelly.segment(windows[k])
    with computing_threads(threads):
        # The first windows fill caches and pools.
        alternate(ways, min(3, len(windows)))
        return {way: summary(seconds) for way, seconds in alternate(ways, len(windows)).items()}


@dataclass(frozen=True, slots=True)
class _Dense:
    """One layer on torch: convolution and neurons."""

    config: EdgeConfig
    weights: Mapping[str, Tensor]
    name: str

    @torch.inference_mode()
    def __call__(self, spikes: Tensor, v: Tensor) -> Tensor:
        s, name = synapses(self.config)[self.name], self.name
        weight, bias = self.weights[f"{name}.weight"], self.weights[f"{name}.bias"]
        current = F.conv2d(spikes, weight, bias, s.stride, s.padding, s.dilation)
        return lif_step(current, v, self.weights[f"{name}.keep"].reshape(-1, 1, 1))[0]


def layer_times(name: str, sensor: SensorSize, threads: int, rounds: int) -> list[dict[str, Any]]:
    """Milliseconds of each spiking layer behind the stem at several densities, by what computes it."""
    model = zoo.load(name, backend="event-driven")
    runtime, grid = model.runtime, model.grid(sensor)
    int8 = zoo.load(name, backend="event-driven", precision="int8").runtime
    assert isinstance(runtime, EventDrivenRuntime)
    assert isinstance(int8, EventDrivenRuntime)
    weights = load_file(zoo.ZOO / f"{name}.safetensors")
    last = torch.channels_last
    weights = {key: w.contiguous(memory_format=last) if w.ndim == 4 else w for key, w in weights.items()}
    macs = layer_macs(runtime.config, grid.height, grid.width)
    rows = []
    for layer in list(synapses(runtime.config))[1:-1]:
        for density in DENSITIES:
            probe = LayerProbe(runtime, layer, grid.height, grid.width, density=density, seed=0)
            dense = _Dense(runtime.config, weights, layer)
            spikes, v = probe.spikes.contiguous(memory_format=last), probe.membranes
            rounded = LayerProbe(int8, layer, grid.height, grid.width, density=density, seed=0)
            ways = {
                "event-driven": ignoring_round(probe.run),
                INT8: ignoring_round(rounded.run),
                "torch": ignoring_round(partial(dense, spikes, v)),
            }
            with computing_threads(threads):
                alternate(ways, 2)
                times = {way: summary(seconds) for way, seconds in alternate(ways, rounds).items()}
            rows.append({"layer": layer, "density": density, "mmacs": round(macs[layer] / 1e6, 1), **times})
    return rows


def demo_windows(rate: float, count: int) -> tuple[list[EventBatch], SensorSize]:
    """Windows of the demo recording with as many events as ``WINDOW_US`` brings at so many events a second."""
    events, sensor = read_aedat4_file(Settings().demo_recording)
    natural = len(events) / (int(events.t[-1]) - int(events.t[0])) * 1e6
    span = max(1, round(WINDOW_US * rate / natural)) if rate else WINDOW_US
    found = list(itertools.islice(cut(events, span), count))
    return found, sensor


def print_windows(name: str, rate: float, threads: int, times: Mapping[str, Mapping[str, float]]) -> None:
    """One line for each way."""
    best = times["event-driven"]
    for way, t in times.items():
        print(
            f"{name:8} {rate / 1e6:4.1f} M events/s, threads={threads}: {way:18} median {t['median_ms']:8.2f} ms"
            f"  min {t['min_ms']:8.2f} ms  event-driven is {t['median_ms'] / best['median_ms']:5.1f}x as fast",
            flush=True,
        )


def print_layers(rows: Iterable[Mapping[str, Any]], threads: int) -> None:
    """One line for each layer and density."""
    for row in rows:
        ours, int8, dense = (row[way]["median_ms"] for way in ("event-driven", INT8, "torch"))
        print(
            f"{row['layer']:10} {row['mmacs']:6.1f} MMAC  density {row['density']:4.2f}, threads={threads}:"
            f"  event-driven {ours:7.3f} ms, int8 {int8:7.3f} ms  torch {dense:7.3f} ms  {dense / ours:5.1f}x,"
            f" int8 {dense / int8:5.1f}x",
            flush=True,
        )


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.engine", description=__doc__)
    parser.add_argument("--models", nargs="+", default=["edge-s", "edge-l"])
    parser.add_argument("--paper-models", nargs="*", default=["paper-deeplab", "paper-fcn"])
    parser.add_argument("--rates", nargs="+", type=float, default=[4e5, 1e6], help="events a second")
    parser.add_argument("--threads", nargs="+", type=int, default=sorted({1, os.cpu_count() or 1}))
    parser.add_argument("--windows", type=int, default=100)
    parser.add_argument("--answers", type=int, default=20, help="windows for each of the paper's networks")
    parser.add_argument("--rounds", type=int, default=20, help="of each layer at each density")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    keep_freed_memory()
    report: dict[str, Any] = {"machine": describe_machine(), "window_us": WINDOW_US, "windows": [], "layers": []}
    report |= {"rates": [], "answers": [], "paper_layers": []}
    for name, rate, threads in itertools.product(args.models, args.rates, args.threads):
        windows, sensor = demo_windows(rate, args.windows)
        times = window_times(name, windows, sensor, threads)
        print_windows(name, rate, threads, times)
        events = round(statistics.mean(len(window) for window in windows))
        report["windows"].append({"model": name, "events": events, "threads": threads, **times})
    for threads in args.threads:
        rows = layer_times(args.models[0], sensor, threads, args.rounds)
        print_layers(rows, threads)
        report["layers"] += [{"model": args.models[0], "threads": threads, **row} for row in rows]
    for name in args.models:
        windows, sensor = demo_windows(args.rates[-1], args.windows)
        rates, between = extreme_rates(name, sensor), apart(name, windows, sensor)
        print_rates(name, rates)
        print_apart(name, between)
        report["rates"].append({"model": name, "firing_rates": rates, "apart": between})
    for name, threads in itertools.product(args.paper_models, args.threads):
        windows, sensor = demo_windows(args.rates[0], args.answers)
        times, inputs = answer_times(name, windows, sensor, threads)
        print_answers(name, threads, times, inputs)
        report["answers"].append({"model": name, "threads": threads, "inputs_not_zero": inputs, **times})
    for name, threads in itertools.product(args.paper_models, args.threads):
        kind = zoo.load(name, expect=ProtocolModel).runtime.config.kind
        rows = paper_layer_times(kind, threads, args.rounds)
        print_paper_layers(kind, rows, threads)
        report["paper_layers"] += [{"model": name, "threads": threads, **row} for row in rows]
    if args.json:
        args.json.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
