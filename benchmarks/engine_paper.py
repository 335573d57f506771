"""The paper's networks on the event-driven kernel beside torch: whole answers of T steps, and layer by layer."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from benchmarks.timing import alternate, carried, ignoring_round, summary
from models import zoo
from models.architectures.paper import Kind, PaperConfig, input_shapes, layer_macs, normed_layers, synapses
from models.events import EventBatch, SensorSize
from models.runtime.event_driven import SpikingLayerKernel, kernel
from models.runtime.exactness import computing_threads
from models.runtime.paper import PaperRuntime, weight_shapes
from models.runtime.precision import rounded
from models.runtime.protocol import ProtocolModel

DENSITIES = (0.1, 0.25, 0.5)


def answer_times(
    name: str, windows: Sequence[EventBatch], sensor: SensorSize, threads: int
) -> tuple[dict[str, dict[str, float]], dict[str, float]]:
    """Milliseconds for an answer by what computes it, and the share of each layer's inputs that are not zero."""
    models = {b: zoo.load(name, expect=ProtocolModel, backend=b) for b in ("event-driven", "torch")}
    ways = {backend: carried(model, windows, sensor) for backend, model in models.items()}
    with computing_threads(threads):
        alternate(ways, 1)
        times = {way: summary(seconds) for way, seconds in alternate(ways, len(windows)).items()}
    model = models["torch"]
    activity = model.segment(model.initial_state(sensor), windows[0], sensor).activity
    macs = layer_macs(model.runtime.config, model.coding.height, model.coding.width)
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


def paper_layer_times(kind: Kind, threads: int, rounds: int, side: int = 64) -> list[dict[str, Any]]:
    """Milliseconds of each 3x3 layer behind the first, with random weights, by what computes it."""
    config = PaperConfig(kind, steps=1)
    generator = torch.Generator().manual_seed(0)
    table, shapes = synapses(config), input_shapes(config, side, side)
    macs = layer_macs(config, side, side)
    weights = {n: torch.randn(shape, generator=generator) / 50 for n, shape in weight_shapes(config).items()}
    layers = normed_layers(config)[1:]
    weights |= rounded({f"{name}.weight": weights[f"{name}.weight"] for name in layers}, "int8")
    dense = _PaperLayer(config, weights)
    rows = []
    for layer, density in itertools.product(layers, DENSITIES):
        cin, height, width = shapes[layer]
        sparse = SpikingLayerKernel(kernel(), config, layer, weights)
        x = (torch.rand((1, cin, height, width), generator=generator) < density).float()
        x = x.contiguous(memory_format=torch.channels_last)
        v = torch.zeros(1, table[layer].cout, height, width).contiguous(memory_format=torch.channels_last)
        ways = {
            "event-driven": ignoring_round(partial(sparse, x, v, 0)),
            "torch": ignoring_round(partial(dense.spikes, layer, x, v)),
        }
        with computing_threads(threads):
            alternate(ways, 2)
            times = {way: summary(seconds) for way, seconds in alternate(ways, rounds).items()}
        about = {"layer": layer, "pooled": table[layer].pooled, "density": density}
        rows.append({**about, "mmacs": round(macs[layer] / 1e6, 1), **times})
    return rows


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
