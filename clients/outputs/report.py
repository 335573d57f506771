"""A stream in words: what was seen, and what the network spent on it."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from clients.results import Result
from models.classes import SegmentationClass

EXACT_WINDOWS = 4096
"""So many latencies are kept as they are; of more, only how many lie in each of some ranges."""
RELATIVE_ERROR = 0.01
"""How far a percentile of more latencies may be off."""
_SHORTEST_MS, _LONGEST_MS = 1e-3, 1e9


class Percentiles:
    """Percentiles of times in milliseconds: exact ones of a few, near ones of any number, in memory that has a bound.

    Of many, each is counted in a range whose ends are apart by a constant factor
    (C. Masson et al., DDSketch, VLDB 2019).
    """

    def __init__(self) -> None:
        self._kept: list[float] = []
        self._ranges: Counter[int] = Counter()
        self._width = math.log((1 + RELATIVE_ERROR) / (1 - RELATIVE_ERROR))

    def add(self, ms: float) -> None:
        """Count one."""
        self._kept.append(ms)
        if len(self._kept) > EXACT_WINDOWS or self._ranges:
            self._ranges.update(map(self._range, self._kept))
            self._kept.clear()

    def at(self, percent: float) -> float:
        """The time that so many of a hundred are not above.

        Raises
        ------
        IndexError
            If there are none.
        """
        if not self._ranges:
            return float(np.percentile(self._kept, percent))
        ranges = sorted(self._ranges)
        counts = np.cumsum([self._ranges[k] for k in ranges])
        found = ranges[int(np.searchsorted(counts, percent / 100 * (counts[-1] - 1), side="right"))]
        # The value whose distance to both ends is the same part of each.
        return math.exp(found * self._width) * (1 - RELATIVE_ERROR)

    def _range(self, ms: float) -> int:
        return math.ceil(math.log(min(max(ms, _SHORTEST_MS), _LONGEST_MS)) / self._width)


@dataclass
class _LayerSums:
    rate: float = 0.0
    sops: float = 0.0
    windows: int = 0


@dataclass
class Report:
    """Sums over the results of a stream; however long it is, they take no more memory.

    Attributes
    ----------
    classes : sequence of SegmentationClass
    windows, events, sensor_us, missing : int
        Windows answered, their events, the sensor's time that they span, and windows that were left out.
    """

    classes: Sequence[SegmentationClass]
    windows: int = 0
    events: int = 0
    sensor_us: int = 0
    missing: int = 0
    _shares: NDArray[np.float64] | None = None
    _active: int = 0
    _rate: float = 0.0
    _sops: float = 0.0
    _energy_snn_j: float = 0.0
    _energy_ann_j: float = 0.0
    _latencies: Percentiles = field(default_factory=Percentiles)
    _layers: dict[str, _LayerSums] = field(default_factory=dict)

    def add(self, result: Result) -> None:
        """Count one window."""
        self.windows += 1
        self.events += result.events
        self.sensor_us += result.t_end - result.t_start
        self.missing += result.skipped.dropped
        shares = np.array(result.class_share, np.float64)
        self._shares = shares if self._shares is None else self._shares + shares
        self._latencies.add(result.latency.total_ms)
        if result.activity is not None:
            about = result.activity
            self._active += 1
            self._rate += about.firing_rate
            self._sops += about.sops
            self._energy_snn_j += about.energy_snn_j
            self._energy_ann_j += about.energy_ann_j
            for layer in about.layers:
                sums = self._layers.setdefault(layer.name, _LayerSums())
                sums.rate += layer.firing_rate
                sums.sops += layer.sops
                sums.windows += 1

    def lines(self) -> Iterator[str]:
        """The report in words; means are over windows, seconds are the sensor's."""
        seconds = self.sensor_us / 1e6
        yield f"windows        {self.windows} ({seconds:.3f} s of the sensor's time)"
        yield f"events         {self.events}"
        if self.missing:
            yield f"left out       {self.missing} windows that came faster than they were computed"
        if self._shares is None:
            return
        for item, share in zip(self.classes, self._shares / self.windows, strict=False):
            yield f"class share    {item.name:<18} {share:7.2%}"
        if self._active:
            yield f"firing rate    {self._rate / self._active:.4f} spikes per neuron and window"
            for name, layer in self._layers.items():
                rate, sops = layer.rate / layer.windows, layer.sops / layer.windows
                yield f"layer          {name:<18} {rate:7.4f} spikes per neuron, {sops:.3g} SOPs"
            yield f"SOPs           {self._sops / self._active:.4g} per window, {self._sops / seconds:.4g} per second"
            snn, ann = self._energy_snn_j / self._active, self._energy_ann_j / self._active
            yield f"energy         {snn * 1e3:.3g} mJ per window by estimate, {ann * 1e3:.3g} mJ without spikes"
        p50, p95 = (self._latencies.at(percent) for percent in (50, 95))
        yield f"latency        p50 {p50:.1f} ms, p95 {p95:.1f} ms (in the service)"
