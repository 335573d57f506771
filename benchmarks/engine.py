"""What spikes save in time: the event-driven kernel beside dense convolutions, by window and by layer.

    python -m benchmarks.engine --json docs/results/engine.json

First whole windows of the demo recording, events in and mask out: each streaming network on the event-driven kernel,
with weights of float32 and of int8 (bfloat16 is computed as float32 is), on torch, and, as most code in the field runs
it, in SpikingJelly's own modules with the same weights; on one thread and on all. At ``--rates`` events a second: a
faster drive is the same one with its windows cut longer.
Then each layer by itself at several input densities, conv and neurons, beside torch's convolution and neurons.

Last the paper's networks, T steps for each answer: whole answers on the kernel and on torch with the share of each
layer's inputs that are not zero, and their layers by themselves. The kernel leaves those behind a pooling to torch: what
is told of them is the least that it would take, as if their inputs were spikes and not averages. All ways alternate within one run, so that the ratios hold on a machine that is not quiet; times are medians and minima.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import statistics
import time
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

from clients.cutting import cut
from models import zoo
from models.architectures import paper
from models.architectures.edge import BN_EPS, READOUT, EdgeConfig, EdgeDeepLab, class_mask, layer_macs, synapses
from models.encoding import polarity_counts
from models.events import EventBatch, SensorSize
from models.machine import describe_machine, keep_freed_memory
from models.runtime.event_driven import EventDrivenRuntime, LayerProbe, SpikingLayerKernel, kernel
from models.runtime.exactness import computing_threads
from models.runtime.lif import lif_step
from models.runtime.model import SegmentationModel
from models.runtime.paper import PaperRuntime, weight_shapes
from models.runtime.precision import rounded
from models.runtime.protocol import ProtocolModel
from models.runtime.streaming import StreamingModel
from service.settings import Settings
from service.wire.aedat4 import read_aedat4_file

WINDOW_US = 10_000
INT8 = "event-driven, int8"
DENSITIES = (0.0, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)
PAPER_DENSITIES = (0.1, 0.25, 0.5)
Times = dict[str, list[float]]


def alternate(ways: Mapping[str, Callable[[int], object]], rounds: int) -> Times:
    """Seconds of each way for the rounds 0, 1, …, one after the other within each; they take turns at going first."""
    seconds: Times = {name: [] for name in ways}
    names = list(ways)
    for k in range(rounds):
        for name in names[k % len(names) :] + names[: k % len(names)]:
            begun = time.perf_counter()
            ways[name](k)
            seconds[name].append(time.perf_counter() - begun)
    return seconds


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
        "event-driven": _carried(zoo.load(name, backend="event-driven"), windows, sensor),
        INT8: _carried(zoo.load(name, backend="event-driven", precision="int8"), windows, sensor),
        "torch": _carried(zoo.load(name, backend="torch"), windows, sensor),
    }
    jelly = _SpikingJelly(zoo.load(name, backend="torch"), sensor)
    ways["spikingjelly"] = lambda k: jelly.segment(windows[k])
    with computing_threads(threads):
        # The first windows fill caches and pools.
        alternate(ways, min(3, len(windows)))
        return {way: _summary(seconds) for way, seconds in alternate(ways, len(windows)).items()}


def _carried(model: SegmentationModel, windows: Sequence[EventBatch], sensor: SensorSize) -> Callable[[int], object]:
    state = model.initial_state(sensor)

    def segment(k: int) -> None:
        nonlocal state
        state = model.segment(state, windows[k], sensor).state

    return segment


def _summary(seconds: Iterable[float]) -> dict[str, float]:
    ms = [1e3 * s for s in seconds]
    return {"median_ms": round(statistics.median(ms), 3), "min_ms": round(min(ms), 3)}


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


def _ignoring_round(way: Callable[[], object]) -> Callable[[int], object]:
    return lambda _: way()


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
                "event-driven": _ignoring_round(probe.run),
                INT8: _ignoring_round(rounded.run),
                "torch": _ignoring_round(partial(dense, spikes, v)),
            }
            with computing_threads(threads):
                alternate(ways, 2)
                times = {way: _summary(seconds) for way, seconds in alternate(ways, rounds).items()}
            rows.append({"layer": layer, "density": density, "mmacs": round(macs[layer] / 1e6, 1), **times})
    return rows


def answer_times(
    name: str, windows: Sequence[EventBatch], sensor: SensorSize, threads: int
) -> tuple[dict[str, dict[str, float]], dict[str, float]]:
    """Milliseconds for an answer of T steps by what computes it, and the share of each layer's inputs that are not 0."""
    models = {b: zoo.load(name, expect=ProtocolModel, backend=b) for b in ("event-driven", "torch")}
    ways = {backend: _carried(model, windows, sensor) for backend, model in models.items()}
    with computing_threads(threads):
        alternate(ways, 1)
        times = {way: _summary(seconds) for way, seconds in alternate(ways, len(windows)).items()}
    model = models["torch"]
    activity = model.segment(model.initial_state(sensor), windows[0], sensor).activity
    macs = paper.layer_macs(model.runtime.config, model.coding.height, model.coding.width)
    return times, {x.name: round(x.sops / (macs[x.name] * model.steps), 3) for x in activity.layers}


class _PaperLayer(PaperRuntime):
    """One layer of a paper network on torch, as the network computes it: convolution, norm and neurons."""

    def spikes(self, name: str, x: Tensor, v: Tensor) -> Tensor:
        with torch.inference_mode():
            current = self._convolve(name, self._synapses[name], x)
            current.mul_(self._weights[f"{name}.scale"][0]).add_(self._weights[f"{name}.shift"][0])
            h = current.add_(v, alpha=self.config.keep)
            spikes = torch.gt(h, self.config.threshold, out=torch.empty_like(h))
            h.sub_(spikes, alpha=self.config.threshold)
            return spikes


def paper_layer_times(kind: paper.Kind, threads: int, rounds: int, side: int = 64) -> list[dict[str, Any]]:
    """Milliseconds of each 3x3 layer behind the first, with random weights, by what computes it."""
    config = paper.PaperConfig(kind, steps=1)
    generator = torch.Generator().manual_seed(0)
    table, shapes = paper.synapses(config), paper.input_shapes(config, side, side)
    macs = paper.layer_macs(config, side, side)
    weights = {n: torch.randn(shape, generator=generator) / 50 for n, shape in weight_shapes(config).items()}
    layers = paper.normed_layers(config)[1:]
    weights |= rounded({f"{name}.weight": weights[f"{name}.weight"] for name in layers}, "int8")
    dense = _PaperLayer(config, weights)
    rows = []
    for layer, density in itertools.product(layers, PAPER_DENSITIES):
        cin, height, width = shapes[layer]
        sparse = SpikingLayerKernel(kernel(), config, layer, weights)
        x = (torch.rand((1, cin, height, width), generator=generator) < density).float()
        x = x.contiguous(memory_format=torch.channels_last)
        v = torch.zeros(1, table[layer].cout, height, width).contiguous(memory_format=torch.channels_last)
        ways = {
            "event-driven": _ignoring_round(partial(sparse, x, v, 0)),
            "torch": _ignoring_round(partial(dense.spikes, layer, x, v)),
        }
        with computing_threads(threads):
            alternate(ways, 2)
            times = {way: _summary(seconds) for way, seconds in alternate(ways, rounds).items()}
        about = {"layer": layer, "pooled": table[layer].pooled, "density": density}
        rows.append({**about, "mmacs": round(macs[layer] / 1e6, 1), **times})
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


def print_answers(name: str, threads: int, times: Mapping[str, Any], inputs: Mapping[str, float]) -> None:
    """One line for the times, one for the inputs."""
    ours, dense = (times[way]["median_ms"] for way in ("event-driven", "torch"))
    print(
        f"{name}, threads={threads}: an answer takes event-driven {ours:.1f} ms, torch {dense:.1f} ms: "
        f"{dense / ours:.1f}x\n  inputs not zero: {', '.join(f'{k} {v:.0%}' for k, v in inputs.items())}",
        flush=True,
    )


def print_paper_layers(kind: str, rows: Iterable[Mapping[str, Any]], threads: int) -> None:
    """One line for each layer and density."""
    for row in rows:
        ours, dense = row["event-driven"]["median_ms"], row["torch"]["median_ms"]
        print(
            f"{kind:8} {row['layer']:7}{' pooled' if row['pooled'] else '':7} {row['mmacs']:6.1f} MMAC  "
            f"density {row['density']:4.2f}, threads={threads}:  event-driven {ours:7.3f} ms  torch {dense:7.3f} ms"
            f"  {dense / ours:5.1f}x",
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
    report |= {"answers": [], "paper_layers": []}
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
