"""A stream in words: what was seen, and what the network spent on it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from clients.results import LayerActivity, Result
from models.classes import SegmentationClass


@dataclass
class Report:
    """Sums over the results of a stream.

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
    _shares: list[tuple[float, ...]] = field(default_factory=list)
    _rates: list[float] = field(default_factory=list)
    _sops: list[float] = field(default_factory=list)
    _energies: list[tuple[float, float]] = field(default_factory=list)
    _latencies_ms: list[float] = field(default_factory=list)
    _layers: dict[str, list[LayerActivity]] = field(default_factory=dict)

    def add(self, result: Result) -> None:
        """Count one window."""
        self.windows += 1
        self.events += result.events
        self.sensor_us += result.t_end - result.t_start
        self.missing += result.skipped.dropped
        self._shares.append(result.class_share)
        self._latencies_ms.append(result.latency.total_ms)
        if result.activity is not None:
            about = result.activity
            self._rates.append(about.firing_rate)
            self._sops.append(about.sops)
            self._energies.append((about.energy_snn_j, about.energy_ann_j))
            for layer in about.layers:
                self._layers.setdefault(layer.name, []).append(layer)

    def lines(self) -> Iterator[str]:
        """The report in words; means are over windows, seconds are the sensor's."""
        seconds = self.sensor_us / 1e6
        yield f"windows        {self.windows} ({seconds:.3f} s of the sensor's time)"
        yield f"events         {self.events}"
        if self.missing:
            yield f"left out       {self.missing} windows that came faster than they were computed"
        if not self.windows:
            return
        for item, share in zip(self.classes, np.mean(self._shares, axis=0), strict=False):
            yield f"class share    {item.name:<18} {share:7.2%}"
        if self._rates:
            yield f"firing rate    {np.mean(self._rates):.4f} spikes per neuron and window"
            for name, layers in self._layers.items():
                rate, sops = (np.mean([getattr(layer, what) for layer in layers]) for what in ("firing_rate", "sops"))
                yield f"layer          {name:<18} {rate:7.4f} spikes per neuron, {sops:.3g} SOPs"
            yield f"SOPs           {np.mean(self._sops):.4g} per window, {np.sum(self._sops) / seconds:.4g} per second"
            snn, ann = np.mean(self._energies, axis=0)
            yield f"energy         {snn * 1e3:.3g} mJ per window by estimate, {ann * 1e3:.3g} mJ without spikes"
        p50, p95 = np.percentile(self._latencies_ms, [50, 95])
        yield f"latency        p50 {p50:.1f} ms, p95 {p95:.1f} ms (in the service)"
