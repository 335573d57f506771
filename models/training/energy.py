"""What a network computes for a window, counted as the field does, and how long it takes, beside its ANN twin.

    python -m models.training.energy --model edge-s --twin edge-s-ann --out docs/results/energy-edge-s.json

Three counts of the operations of a layer:

- *dense*: multiply-accumulates, every tap of every kernel, those on padding too;
- *padded* SOPs: the dense ones times the share of inputs that are not zero, as a running service reports them
  (``models/runtime/activity.py``);
- *effective*: only taps on the grid that meet an input and a weight which are not zero, as SpikingJelly's
  ``SynOpCounter`` and NeuroBench's ``SynapticOperations`` count. In the first layer, whose inputs are counts of events,
  they are multiply-accumulates; behind it accumulates.

Energy is operations times the joules of one of them at 45 nm (Horowitz, ISSCC 2014). Memory traffic and neuron updates
are not in it. With ``padded`` a spiking network pays for every multiply-accumulate of its first layer, zero or not;
with ``effective`` nobody pays for a zero, the twin neither.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from spikingjelly.activation_based import op_counter
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from models import zoo
from models.architectures.edge import READOUT, EdgeConfig, forward_graph, layer_macs, layer_shapes, synapses
from models.datasets import camvid
from models.emulator import EmulatorConfig
from models.encoding import InputGrid, polarity_counts
from models.machine import describe_machine
from models.runtime.activity import E_AC_J, E_MAC_J, SpikeActivity
from models.runtime.lif import leaky_readout_step, lif_step
from models.runtime.streaming import StreamingModel
from models.training.command import run, this_command, write_json
from models.training.evaluate import SENSOR, WINDOW_US, LabelledWindow, drive_windows
from models.training.history import HISTORY

ENERGY_J = {"fp32_45nm": (E_MAC_J, E_AC_J), "int8_45nm": (0.23e-12, 0.03e-12)}
"""Joules of a multiply-accumulate and of an accumulate."""

NOTE = (
    "energy is operations times joules for each; memory traffic and neuron updates are not in it. "
    "int8 takes an 8-bit adder for accumulates, which a real accumulator is wider than"
)


class Membranes(nn.Module):
    """Membranes of one layer, one time step for each call."""

    keep: Tensor
    v: Tensor

    def __init__(self, keep: Tensor, shape: tuple[int, int, int]) -> None:
        super().__init__()
        self.register_buffer("keep", keep.reshape(-1, 1, 1))
        self.register_buffer("v", torch.zeros(1, *shape))


class Neurons(Membranes):
    """Leaky integrate-and-fire neurons: the runtime's arithmetic."""

    def forward(self, current: Tensor) -> Tensor:
        """Spikes (1, C, h, w), 0.0 or 1.0, from a synaptic input of that shape, which is used up."""
        spikes, self.v = lif_step(current, self.v, self.keep)
        return spikes


class Readout(Membranes):
    """Neurons that integrate and leak but never fire."""

    def forward(self, current: Tensor) -> Tensor:
        """Membrane potentials (1, C, h, w), from a synaptic input of that shape, which is used up."""
        self.v = leaky_readout_step(current, self.v, self.keep)
        return self.v


class FoldedNetwork(nn.Module):
    """A network of the zoo as a module, with batch norm folded, so that counters which hook into modules can see it.

    It computes what the runtime does, to the bit, and like it takes the present window alone: membranes, and for a twin
    the windows before, are its buffers.

    Parameters
    ----------
    config : EdgeConfig
    weights : mapping of Tensor
        As ``models.architectures.edge.fold_batch_norm`` gives them.
    height, width : int
        Input grid in cells.
    """

    history: Tensor

    def __init__(self, config: EdgeConfig, weights: Mapping[str, Tensor], height: int, width: int) -> None:
        super().__init__()
        self.config = config
        self.convs = nn.ModuleDict()
        self.neurons = nn.ModuleDict()
        shapes = layer_shapes(config, height, width)
        for name, s in synapses(config).items():
            conv = nn.Conv2d(s.cin, s.cout, s.kernel, s.stride, s.padding, s.dilation)
            conv.load_state_dict({"weight": weights[f"{name}.weight"], "bias": weights[f"{name}.bias"]})
            self.convs[name] = conv
            if config.spiking:
                self.neurons[name] = (Readout if name == READOUT else Neurons)(weights[f"{name}.keep"], shapes[name])
            else:
                self.neurons[name] = nn.Identity() if name == READOUT else nn.ReLU()
        self.register_buffer("history", torch.zeros(1, config.input_channels - 2, height, width))
        self.requires_grad_(False)
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def rest(self) -> None:
        """Forget the stream: membranes to rest, no windows before."""
        self.history = torch.zeros_like(self.history)
        for module in self.neurons.values():
            if isinstance(module, Membranes):
                module.v = torch.zeros_like(module.v)

    def forward(self, x: Tensor) -> Tensor:
        """Polarity counts (1, 2, H, W) of one window to logits."""
        return self.forward_with_traffic(x)[0]

    def forward_with_traffic(self, x: Tensor) -> tuple[Tensor, dict[str, Tensor], dict[str, Tensor]]:
        """Like ``forward``, and what goes into each convolution and comes out of its neurons, by layer."""
        inputs: dict[str, Tensor] = {}
        outputs: dict[str, Tensor] = {}

        def synapse(name: str, spikes: Tensor) -> Tensor:
            inputs[name] = spikes
            current: Tensor = self.convs[name](spikes)
            return current

        def neurons(name: str, current: Tensor) -> Tensor:
            outputs[name] = self.neurons[name](current)
            return outputs[name]

        seen = torch.cat([self.history, x], dim=1).contiguous(memory_format=torch.channels_last)
        self.history = seen[:, 2:]
        return forward_graph(self.config, seen, synapse, neurons), inputs, outputs


def folded_network(model: StreamingModel, folder: Path = zoo.ZOO) -> FoldedNetwork:
    """A network of the zoo as a module, over the grid that it sees of a 346x260 sensor."""
    grid = model.grid(SENSOR)
    return FoldedNetwork(model.runtime.config, load_file(folder / f"{model.name}.safetensors"), grid.height, grid.width)


@dataclass(frozen=True, slots=True)
class LayerCount:
    """What one layer did in one window.

    Attributes
    ----------
    inputs, active_inputs : int
        Values that its convolution reads, and those of them that are not zero.
    effective : int
        Operations: taps on the grid that meet an input and a weight which are not zero.
    neurons, active : int
        Neurons (or ReLU units), and those that fire (or are above zero).
    """

    inputs: int
    active_inputs: int
    effective: int
    neurons: int
    active: int


def effective_operations(x: Tensor, conv: nn.Conv2d) -> int:
    """Exact number of taps of a convolution that meet an input and a weight which are not zero; biases are left out.

    Parameters
    ----------
    x : Tensor, (B, C, H, W)
    conv : nn.Conv2d
        Zero padding, one group.
    """
    # What an active input costs at a tap: the output channels that the tap has a weight for. Double precision, as the
    # sums go beyond the whole numbers that single precision holds.
    fan_out = torch.count_nonzero(conv.weight, dim=0)[None].double()
    taps = F.conv2d((x != 0).double(), fan_out, None, conv.stride, conv.padding, conv.dilation)
    return int(taps.sum())


@torch.no_grad()
def count_window(network: FoldedNetwork, x: Tensor) -> dict[str, LayerCount]:
    """Advance a network one window (1, 2, H, W) and count what each of its layers did, in the order they run."""
    _, inputs, outputs = network.forward_with_traffic(x)
    return {
        name: LayerCount(
            inputs[name].numel(),
            int(torch.count_nonzero(inputs[name])),
            effective_operations(inputs[name], conv),
            0 if name == READOUT else outputs[name].numel(),
            0 if name == READOUT else int(torch.count_nonzero(outputs[name])),
        )
        for name, conv in network.convs.items()
        if isinstance(conv, nn.Conv2d)
    }


def energy(macs: float, acs: float) -> dict[str, float]:
    """Estimated joules of multiply-accumulates and accumulates, by arithmetic."""
    return {name: _short(e_mac * macs + e_ac * acs) for name, (e_mac, e_ac) in ENERGY_J.items()}


def spiking_report(
    config: EdgeConfig, counts: Sequence[Mapping[str, LayerCount]], activities: Sequence[SpikeActivity]
) -> dict[str, Any]:
    """Means over windows for a spiking network: what the service reports of them, and the effective operations.

    Parameters
    ----------
    config : EdgeConfig
    counts : sequence of mapping
        Of :func:`count_window`, one for each window.
    activities : sequence of SpikeActivity
        Of the same windows.
    """
    n = len(counts)
    grid = InputGrid.for_sensor(SENSOR, config.grid)
    dense = layer_macs(config, grid.height, grid.width)
    layers: list[dict[str, Any]] = []
    for k, (name, macs) in enumerate(dense.items()):
        padded = sum(a.layers[k].sops for a in activities) / n
        effective = sum(c[name].effective for c in counts) / n
        analog = k == 0
        layers.append(
            {
                "name": name,
                "operation": "mac" if analog else "ac",
                "neurons": activities[0].layers[k].neurons,
                "firing_rate": _short(sum(a.layers[k].firing_rate for a in activities) / n),
                "input_density": _short(sum(c[name].active_inputs for c in counts) / (n * counts[0][name].inputs)),
                "dense_macs": macs,
                "sops_padded": round(padded),
                "sops_effective": round(effective),
                "energy_j": {
                    "padded": energy(macs, 0) if analog else energy(0, padded),
                    "effective": energy(effective, 0) if analog else energy(0, effective),
                },
            }
        )
    first, rest = layers[0], layers[1:]
    acs_padded = sum(layer["sops_padded"] for layer in rest)
    acs_effective = sum(layer["sops_effective"] for layer in rest)
    window = {
        "firing_rate": _short(sum(a.firing_rate for a in activities) / n),
        "dense_macs": sum(dense.values()),
        "sops_padded": first["sops_padded"] + acs_padded,
        "effective_macs": first["sops_effective"],
        "effective_acs": acs_effective,
        "energy_j": {
            "padded": energy(first["dense_macs"], acs_padded),
            "effective": energy(first["sops_effective"], acs_effective),
        },
    }
    return {"per_window": window, "per_second": per_second(window), "layers": layers}


def twin_report(config: EdgeConfig, counts: Sequence[Mapping[str, LayerCount]]) -> dict[str, Any]:
    """Means over windows for the ANN twin; without counts, the dense operations alone, which its shape settles."""
    n = len(counts)
    grid = InputGrid.for_sensor(SENSOR, config.grid)
    layers: list[dict[str, Any]] = []
    for name, macs in layer_macs(config, grid.height, grid.width).items():
        joules = {"padded": energy(macs, 0)}
        layer: dict[str, Any] = {"name": name, "operation": "mac", "dense_macs": macs, "energy_j": joules}
        if counts:
            effective = sum(c[name].effective for c in counts) / n
            layer["input_density"] = _short(sum(c[name].active_inputs for c in counts) / (n * counts[0][name].inputs))
            layer["effective_macs"] = round(effective)
            joules["effective"] = energy(effective, 0)
        layers.append(layer)
    dense = sum(layer["dense_macs"] for layer in layers)
    window: dict[str, Any] = {"dense_macs": dense, "energy_j": {"padded": energy(dense, 0)}}
    if counts:
        window["effective_macs"] = sum(layer["effective_macs"] for layer in layers)
        window["energy_j"]["effective"] = energy(window["effective_macs"], 0)
    return {"per_window": window, "per_second": per_second(window), "layers": layers}


def per_second(window: Mapping[str, Any]) -> dict[str, Any]:
    """Operations and energy of a window (its rates left out) as those of a second; joules become watts."""
    each_second = 1e6 / WINDOW_US
    watts = {
        how: {arithmetic: _short(joules * each_second) for arithmetic, joules in values.items()}
        for how, values in window["energy_j"].items()
    }
    operations = {
        name: round(value * each_second) for name, value in window.items() if name not in ("firing_rate", "energy_j")
    }
    return operations | {"power_w": watts}


@dataclass(frozen=True, slots=True)
class Replay:
    """A stretch of a drive as the service would answer it: what each window did, and how long it took in ms."""

    activities: list[SpikeActivity]
    milliseconds: list[float]


def replay(models: Sequence[StreamingModel], windows: Sequence[LabelledWindow], warm_up: int = 3) -> list[Replay]:
    """Stream a drive through several networks side by side, window by window, so that all share the machine's moods.

    The first windows are run once before, unmeasured.
    """
    for model in models:
        state = model.initial_state(SENSOR)
        for window in windows[:warm_up]:
            state = model.segment(state, window.events, SENSOR).state
    states = [model.initial_state(SENSOR) for model in models]
    replays = [Replay([], []) for _ in models]
    for window in windows:
        for k, model in enumerate(models):
            started = time.perf_counter()
            answer = model.segment(states[k], window.events, SENSOR)
            replays[k].milliseconds.append(1e3 * (time.perf_counter() - started))
            replays[k].activities.append(answer.activity)
            states[k] = answer.state
    return replays


def latency_report(snn: Sequence[float], ann: Sequence[float] | None) -> dict[str, Any]:
    """Percentiles of the time of a window in ms, and of the twin's over the spiking network's, window by window."""

    def percentiles(values: Sequence[float]) -> dict[str, float]:
        return {f"p{q}": round(float(np.percentile(values, q)), 2) for q in (50, 95)}

    report: dict[str, Any] = {
        "note": "soft: one run, on a machine that may do other things; encoding and mask included, no codec or network",
        "snn_ms": percentiles(snn),
    }
    if ann is not None:
        ratios = np.divide(ann, snn)
        report |= {"ann_ms": percentiles(ann), "ann_over_snn_p50": round(float(np.median(ratios)), 3)}
    return report


def count_with_spikingjelly(network: FoldedNetwork, xs: Sequence[Tensor]) -> dict[str, Any]:
    """SpikingJelly's own counters over a stream of windows from rest: totals, and synaptic operations by layer."""
    network.rest()
    synops, macs = op_counter.SynOpCounter(), op_counter.MACCounter()
    with torch.no_grad(), op_counter.DispatchCounterMode([synops, macs]):
        for x in xs:
            network(x)
    by_scope = synops.get_counts()
    by_layer = {name: sum(by_scope.get(f"FoldedNetwork.convs.{name}", {}).values()) for name in network.convs}
    return {"synops": synops.get_total(), "synops_by_layer": by_layer, "macs": macs.get_total()}


def has_neurobench() -> bool:
    """Whether NeuroBench, and snnTorch and tqdm, which are all that its harness imports, are installed."""
    return all(importlib.util.find_spec(name) for name in ("neurobench", "snntorch", "tqdm"))


def run_neurobench(network: FoldedNetwork, xs: Sequence[Tensor]) -> dict[str, Any]:
    """Run a stream of windows through the NeuroBench harness (Yik et al., Nature Communications 2025).

    Returns
    -------
    dict
        ``Footprint`` in bytes (weights and state), ``ActivationSparsity``, and ``SynapticOperations`` for each window.
        The harness adds up in single precision: a layer's sums beyond 2^24 may be rounded.

    Raises
    ------
    ModuleNotFoundError
        If NeuroBench is not installed.
    """
    benchmarks = importlib.import_module("neurobench.benchmarks")
    static = importlib.import_module("neurobench.metrics.static")
    workload = importlib.import_module("neurobench.metrics.workload")
    network.rest()
    model = importlib.import_module("neurobench.models").TorchModel(network)
    model.add_activation_module(Neurons)
    data = TensorDataset(torch.cat(list(xs)), torch.zeros(len(xs)))
    metrics = [[static.Footprint], [workload.ActivationSparsity, workload.SynapticOperations]]
    benchmark = benchmarks.Benchmark(model, DataLoader(data, batch_size=1), [], [], metrics)
    with torch.no_grad():
        results: dict[str, Any] = benchmark.run(quiet=True)
    model.cleanup_hooks()
    return results


def compare_counters(network: FoldedNetwork, xs: Sequence[Tensor]) -> dict[str, Any]:
    """One stream from rest through our count, SpikingJelly's counters and, where installed, NeuroBench's harness.

    All operations are sums over the windows.
    """
    network.rest()
    counts = [count_window(network, x) for x in xs]
    names = list(network.convs)
    analog = names[:1] if network.config.spiking else names
    dense = layer_macs(network.config, *xs[0].shape[-2:])
    ours = {
        "effective_macs": sum(c[name].effective for c in counts for name in analog),
        "effective_acs": sum(c[name].effective for c in counts for name in names if name not in analog),
        "dense_analog_macs": len(xs) * sum(dense[name] for name in analog),
        "activation_sparsity": 1 - _share([layer for c in counts for layer in c.values()]),
    }
    spikingjelly = count_with_spikingjelly(network, xs)
    report: dict[str, Any] = {
        "windows": len(xs),
        "ours": ours,
        "spikingjelly": {name: spikingjelly[name] for name in ("synops", "macs")},
        "spikingjelly_synops_are_our_effective_acs": spikingjelly["synops"] == ours["effective_acs"],
        "spikingjelly_macs_are_our_dense_analog_macs": spikingjelly["macs"] == ours["dense_analog_macs"],
        "neurobench": None,
    }
    if has_neurobench():
        results = run_neurobench(network, xs)
        operations = {name.lower(): round(mean * len(xs)) for name, mean in results["SynapticOperations"].items()}
        report["neurobench"] = {
            "footprint_bytes": results["Footprint"],
            "activation_sparsity": results["ActivationSparsity"],
            **operations,
        }
        report["neurobench_minus_ours"] = {
            name: operations[name] - ours[name] for name in ("effective_macs", "effective_acs")
        }
    return report


def _share(layers: Sequence[LayerCount]) -> float:
    return sum(layer.active for layer in layers) / sum(layer.neurons for layer in layers)


def report(
    name: str,
    twin: str | None = None,
    *,
    frames: int = 0,
    counter_windows: int = 10,
    root: Path | None = None,
    folder: Path = zoo.ZOO,
) -> dict[str, Any]:
    """Operations, energy and latency of a network of the zoo on CamVid-events ``val``, beside its ANN twin.

    Parameters
    ----------
    name, twin : str
        Networks of the zoo; without a twin its dense operations are reported from its shape.
    frames : int
        Labelled frames of the drive to use; 0 for all.
    counter_windows : int
        Windows at the drive's start that the counters of other projects see too.
    root : Path, optional
        Data root.
    folder : Path
        Folder of trained networks.

    Raises
    ------
    UnknownModelError
        If the zoo has no such network.
    WeightsError
        If it is not a streaming one.
    DatasetNotFoundError
        If CamVid is not under the data root.
    """
    models = [zoo.load(each, folder) for each in (name, twin) if each is not None]
    model = models[0]
    stills = camvid.load("val", root)
    # The drive's first frame makes no events.
    windows = list(drive_windows(stills[: frames + 1] if frames else stills, EmulatorConfig()))
    replays = replay(models, windows)
    config = model.runtime.config
    grid = model.grid(SENSOR)
    xs = [torch.from_numpy(polarity_counts(w.events, grid, config.count_clip))[None] for w in windows]
    networks = [folded_network(m, folder) for m in models]
    counts = [[count_window(network, x) for x in xs] for network in networks]
    snn = spiking_report(config, counts[0], replays[0].activities)
    if twin is None:
        shape = replace(config, spiking=False, input_channels=2 * HISTORY)
        ann = {"what": "dense operations of its shape; no trained twin was given", **twin_report(shape, [])}
    else:
        ann = {"what": f"trained network {twin}", **twin_report(models[1].runtime.config, counts[1])}
    return {
        "data": f"CamVid-events val: {len(windows)} windows of {WINDOW_US} µs as one stream, simulated sensor {SENSOR}",
        "windows": len(windows),
        "window_us": WINDOW_US,
        "machine": describe_machine(),
        "joules_per_operation": {key: {"mac": mac, "ac": ac} for key, (mac, ac) in ENERGY_J.items()},
        "note": NOTE,
        "snn": {"model": name, **snn},
        "ann": {"model": twin, **ann},
        "ann_over_snn_energy": energy_ratios(snn["per_window"]["energy_j"], ann["per_window"]["energy_j"]),
        "latency": latency_report(replays[0].milliseconds, replays[1].milliseconds if twin else None),
        "counters": {
            "snn": compare_counters(networks[0], xs[:counter_windows]),
            "ann": compare_counters(networks[1], xs[:counter_windows]) if twin else None,
        },
    }


def energy_ratios(snn: Mapping[str, Any], ann: Mapping[str, Any]) -> dict[str, dict[str, float]]:
    """The twin's energy over the spiking network's, for each way of counting that both have, and each arithmetic."""
    return {
        how: {arithmetic: round(ann[how][arithmetic] / joules, 2) for arithmetic, joules in snn[how].items()}
        for how in snn
        if how in ann
    }


def _short(value: float) -> float:
    return float(f"{value:.4g}")


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="edge-s", help="a spiking network of the zoo")
    parser.add_argument("--twin", help="its ANN twin in the zoo")
    parser.add_argument("--frames", type=int, default=0, help="labelled frames of the drive to use; 0: all")
    parser.add_argument("--threads", type=int, default=0, help="threads of torch; 0: one for each core")
    parser.add_argument("--out", type=Path, required=True, help="the report, JSON")
    args = parser.parse_args()
    if args.threads:
        torch.set_num_threads(args.threads)
    result = {"command": this_command("energy"), **report(args.model, args.twin, frames=args.frames)}
    write_json(result, args.out)
    print(
        json.dumps(
            {key: result[key]["per_window"] for key in ("snn", "ann")} | {"latency": result["latency"]}, indent=1
        )
    )


if __name__ == "__main__":
    run(main)
