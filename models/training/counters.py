"""The same operations as counted by SpikingJelly and by NeuroBench."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Sequence
from typing import Any

import torch
from spikingjelly.activation_based import op_counter
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

from models.architectures.edge import layer_macs
from models.training.folded import FoldedNetwork, LayerCount, Neurons, count_window


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
