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
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from models import zoo
from models.architectures.edge import EdgeConfig, layer_macs
from models.datasets import camvid
from models.emulator import EmulatorConfig
from models.encoding import InputGrid, polarity_counts
from models.machine import describe_machine
from models.runtime.activity import E_AC_J, E_MAC_J, SpikeActivity
from models.runtime.streaming import StreamingModel
from models.training.command import run, this_command, write_json
from models.training.counters import compare_counters
from models.training.evaluate import SENSOR, WINDOW_US, LabelledWindow, drive_windows
from models.training.folded import LayerCount, count_window, folded_network
from models.training.history import HISTORY

ENERGY_J = {"fp32_45nm": (E_MAC_J, E_AC_J), "int8_45nm": (0.23e-12, 0.03e-12)}


"""Joules of a multiply-accumulate and of an accumulate."""


NOTE = (
    "energy is operations times joules for each; memory traffic and neuron updates are not in it. "
    "int8 takes an 8-bit adder for accumulates, which a real accumulator is wider than"
)


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
