"""A window of 10 ms at 346x260 and a million events a second: our network, its twin and the field, in turns."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.contestants import STEPS, Contestant, FromRest, Mask, Ours, PaperFromRest, SpikingJelly
from benchmarks.sltnet import SHIM, PeerError, SLTNet
from benchmarks.turns import Effort, summary, take_turns, timed
from benchmarks.twin_runtimes import RUNTIMES, TwinOn
from models import zoo
from models.architectures.edge import layer_macs
from models.events import EventBatch, SensorSize
from models.runtime.activity import E_AC_J, E_MAC_J
from models.runtime.exactness import computing_threads
from models.runtime.model import BackendChoice
from models.runtime.streaming import StreamingModel

MODEL = "edge-s"
TWIN = "edge-s-ann"
TOLERANCE = 1e-3
"""Largest difference between the logits of the twin on PyTorch and on another runtime; theirs are about 10 wide."""

CHECKED_WINDOWS = 20
NOT_INSTALLED = "not run: pip install -e '.[bench]'"
NO_PEER = "not run: give --peer-repo"

Record = dict[str, Any]


class MismatchError(Exception):
    """Two ways of computing the same network differ by more than rounding."""


def loaded(name: str, backend: BackendChoice) -> StreamingModel:
    """A streaming network of the zoo."""
    return zoo.load(name, backend=backend)


class Field:
    """Everybody who takes part, on so many threads.

    Parameters
    ----------
    sensor : SensorSize
    threads : int
    peer : Path, optional
        A clone of SLTNet's repository.
    paper : bool
        Whether the paper's own network takes part, which takes seconds for a window.
    seed : int
        Of the paper network's random weights.

    Attributes
    ----------
    contestants : dict
        By key.
    absent : dict
        Why others do not take part, by key.
    about : dict
        What is to be told of some, by key.
    """

    def __init__(self, sensor: SensorSize, threads: int, peer: Path | None, *, paper: bool, seed: int) -> None:
        kernel, dense = loaded(MODEL, "event-driven"), loaded(MODEL, "torch")
        twin, mask = loaded(TWIN, "torch"), kernel.runtime.class_mask
        self.sensor = sensor
        self.contestants: dict[str, Contestant] = {
            "kernel": Ours(kernel, sensor),
            "torch": Ours(dense, sensor),
            "spikingjelly": SpikingJelly(dense, sensor, mask),
            "twin-torch": Ours(twin, sensor),
        }
        self.absent: dict[str, str] = {}
        self.about: dict[str, Record] = {}
        for name, package in RUNTIMES.items():
            try:
                self.contestants[f"twin-{package}"] = TwinOn(name, twin, sensor, threads, mask)
            except ImportError:
                self.absent[f"twin-{package}"] = NOT_INSTALLED
        self.contestants |= {"rest-kernel": FromRest(kernel, sensor), "rest-torch": FromRest(dense, sensor)}
        if paper:
            self.contestants["paper"] = PaperFromRest(sensor, mask, seed)
        if peer is None:
            self.absent["sltnet"] = NO_PEER
        else:
            try:
                found = SLTNet(peer, sensor, mask)
            except PeerError as error:
                self.absent["sltnet"] = f"not run: {error}"
            else:
                self.contestants["sltnet"] = found
                self.about["sltnet"] = {"commit": found.commit, "shim": SHIM}

    def check(self, windows: Sequence[EventBatch]) -> Record:
        """Hold those who compute the same network to one another, before any is timed.

        Raises
        ------
        MismatchError
            If the twin's logits on another runtime are further off than ``TOLERANCE``.
        """
        masks: dict[str, list[Mask]] = {}
        differences: dict[str, float] = {}
        for key in ("kernel", "torch", "spikingjelly"):
            masks[key] = [self.contestants[key].segment(window) for window in windows]
        pairs = (("spikingjelly", "torch"), ("kernel", "torch"))
        agreement = {f"{a} and {b}": _same_pixels(masks[a], masks[b]) for a, b in pairs}
        # As many windows before as the twin sees at once, and each of those with a state of its own.
        reference = Ours(loaded(TWIN, "torch"), self.sensor)
        wanted = [reference.network(reference.prepare(window)).clone() for window in windows]
        for package in RUNTIMES.values():
            if (other := self.contestants.get(f"twin-{package}")) is None:
                continue
            given = [other.network(other.prepare(window)).clone() for window in windows]
            worst = max(float((a - b).abs().max()) for a, b in zip(given, wanted, strict=True))
            if not worst <= TOLERANCE:
                raise MismatchError(f"the twin's logits on {package} differ from PyTorch's by {worst:g}")
            differences[package] = float(f"{worst:.2g}")
        return {
            "windows": len(windows),
            "share_of_equal_pixels": agreement,
            "largest_difference_of_twin_logits": differences,
            "tolerance": TOLERANCE,
        }

    def costs(self, windows: Sequence[EventBatch]) -> dict[str, Record]:
        """Operations and estimated energy of a window, means over some of them, by key."""
        kernel, rest, sltnet = (self.contestants.get(key) for key in ("kernel", "rest-kernel", "sltnet"))
        assert isinstance(kernel, Ours)
        assert isinstance(rest, FromRest)
        spiking, rests, rates, analog = [], [], [], 0.0
        accumulates = []
        for window in windows:
            kernel.segment(window)
            rest.segment(window)
            assert kernel.activity is not None
            analog = kernel.activity.macs_analog
            spiking.append(kernel.activity.energy_snn_j)
            accumulates.append((kernel.activity.energy_snn_j - E_MAC_J * analog) / E_AC_J)
            rates.append(kernel.activity.firing_rate)
            rests.append(rest.joules)
        mean = statistics.fmean
        ours = {"macs": analog, "acs": mean(accumulates), "joules": mean(spiking), "firing_rate": mean(rates)}
        joules = mean(rests)
        from_rest = {"macs": STEPS * analog, "acs": (joules - STEPS * E_MAC_J * analog) / E_AC_J, "joules": joules}
        config, grid = loaded(TWIN, "torch").runtime.config, loaded(TWIN, "torch").grid(self.sensor)
        macs = float(sum(layer_macs(config, grid.height, grid.width).values()))
        found: dict[str, Record] = dict.fromkeys(("kernel", "torch", "spikingjelly"), ours)
        found |= {"rest-kernel": from_rest, "rest-torch": from_rest}
        for key in ("twin-torch", *(f"twin-{package}" for package in RUNTIMES.values())):
            found[key] = {"macs": macs, "acs": 0.0, "joules": E_MAC_J * macs}
        if isinstance(paper := self.contestants.get("paper"), PaperFromRest):
            found["paper"] = {"dense_macs": float(paper.macs)}
        if isinstance(sltnet, SLTNet):
            counted = np.array([sltnet.operations(window) for window in windows[:3]]).mean(0)
            macs_acs = {"macs": float(counted[0]), "acs": float(counted[1])}
            found["sltnet"] = macs_acs | {"joules": E_MAC_J * macs_acs["macs"] + E_AC_J * macs_acs["acs"]}
        return {key: {name: float(f"{value:.4g}") for name, value in cost.items()} for key, cost in found.items()}


def run(field: Field, windows: Sequence[EventBatch], threads: int, effort: Effort) -> list[Record]:
    """Time everybody in turns: events in and mask out, and the network alone on input that is ready."""
    ways: dict[str, Callable[[int], object]] = {}
    for key, contestant in field.contestants.items():
        ways[f"{key} window"] = _segmenting(contestant, windows)
        ready = [_kept(contestant.prepare(window)) for window in windows[:: max(1, len(windows) // 10)]]
        ways[f"{key} network"] = _stepping(contestant, ready)
    if "paper" in field.contestants:
        # Its preparation and its mask are nothing beside it.
        del ways["paper network"]
    with computing_threads(threads):
        seconds = take_turns({name: timed(way) for name, way in ways.items()}, effort)
    rows = []
    for key in field.contestants:
        row: Record = {"contestant": key, "threads": threads, "window": summary(seconds[f"{key} window"])}
        if alone := seconds.get(f"{key} network"):
            row["network"] = summary(alone)
        rows.append(row)
    return rows


def _segmenting(contestant: Contestant, windows: Sequence[EventBatch]) -> Callable[[int], object]:
    return lambda k: contestant.segment(windows[k % len(windows)])


def _stepping(contestant: Contestant, ready: Sequence[Any]) -> Callable[[int], object]:
    return lambda k: contestant.network(ready[k % len(ready)])


def _kept(x: Any) -> Any:
    """An input with memory of its own: a twin's is a view of what the next window changes."""
    return x.copy() if isinstance(x, np.ndarray) else x


def _same_pixels(a: Sequence[Mask], b: Sequence[Mask]) -> float:
    return round(float(np.mean([np.mean(x == y) for x, y in zip(a, b, strict=True)])), 5)


def ratio_to_kernel(rows: Sequence[Mapping[str, Any]], key: str, threads: int) -> float | None:
    """How many times as long as ours a contestant takes for a window, by medians; None if it did not run."""
    medians = {row["contestant"]: row["window"]["p50_ms"] for row in rows if row["threads"] == threads}
    return medians[key] / medians["kernel"] if key in medians else None
