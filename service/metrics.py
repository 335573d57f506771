"""What the service tells Prometheus. No label ever names a session."""

from __future__ import annotations

import platform
from collections.abc import Callable
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Info, ProcessCollector

from service import __version__

if TYPE_CHECKING:
    from models.runtime.activity import SpikeActivity

_LATENCY_BUCKETS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)


class ServiceMetrics:
    """Metrics of one app, in a registry of its own.

    Attributes
    ----------
    registry : CollectorRegistry
    """

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        Info("spikeseg_build", "Versions of the service and of Python.", registry=registry).info(
            {"version": __version__, "python": platform.python_version()}
        )
        self._windows = Counter("spikeseg_windows", "Windows segmented.", ["model"], registry=registry)
        self._events = Counter("spikeseg_events", "Events in windows segmented.", ["model"], registry=registry)
        self._errors = Counter("spikeseg_errors", "Requests and messages refused.", ["code"], registry=registry)
        self._latency = Histogram(
            "spikeseg_latency_seconds",
            "Time by stage: decode a message; wait for the engine, compute and encode a window.",
            ["stage"],
            buckets=_LATENCY_BUCKETS,
            registry=registry,
        )
        for stage in ("decode", "wait", "compute", "encode"):
            self._latency.labels(stage)
        self._firing_rate = Gauge(
            "spikeseg_firing_rate_ratio",
            "Spikes for each neuron and step in the latest window.",
            ["model", "layer"],
            registry=registry,
        )
        self._spikes = Counter("spikeseg_spikes", "Spikes fired.", ["model", "layer"], registry=registry)
        self._neuron_steps = Counter(
            "spikeseg_neuron_steps",
            "Neurons stepped; spikes over this is the mean firing rate.",
            ["model", "layer"],
            registry=registry,
        )
        self._sops = Counter(
            "spikeseg_synaptic_operations", "Accumulates that spikes caused.", ["model"], registry=registry
        )
        self._sessions = Gauge("spikeseg_sessions_active", "Sessions that have not ended.", registry=registry)
        self._state_bytes = Gauge(
            "spikeseg_state_bytes", "Membranes and pending events of all sessions.", registry=registry
        )

        self._batch_rows = Histogram(
            "spikeseg_batch_rows",
            "Windows computed together.",
            buckets=(1, 2, 4, 8, 16, 32, 64),
            registry=registry,
        )
        self._skipped = Counter(
            "spikeseg_windows_skipped",
            "Windows that were not computed: empty ones of a gap, dropped ones, merged ones.",
            ["model", "reason"],
            registry=registry,
        )
        self._late_events = Counter("spikeseg_late_events", "Events that came too late.", ["model"], registry=registry)
        self._deadlines_missed = Counter(
            "spikeseg_deadlines_missed", "Windows whose computation began after their deadline.", registry=registry
        )
        self._connections = Gauge("spikeseg_connections", "WebSocket connections.", registry=registry)
        self._store_up = Gauge("spikeseg_state_store_up", "Whether the state store answers.", registry=registry)
        self._checkpoint = Histogram(
            "spikeseg_checkpoint_seconds",
            "Time to make a checkpoint and bring it into the state store.",
            buckets=_LATENCY_BUCKETS,
            registry=registry,
        )
        self._takeovers = Counter(
            "spikeseg_sessions_taken_over", "Sessions that were taken up from the state store.", registry=registry
        )

    def watch_sessions(self, active: Callable[[], float], state_bytes: Callable[[], float]) -> None:
        """Have the session gauges ask these functions when they are read."""
        self._sessions.set_function(active)
        self._state_bytes.set_function(state_bytes)

    def watch_connections(self, count: Callable[[], float]) -> None:
        """Have the gauge of connections ask this function when it is read."""
        self._connections.set_function(count)

    def observe_decode(self, seconds: float) -> None:
        """A body or message has been decoded."""
        self._latency.labels("decode").observe(seconds)

    def observe_window(self, model: str, events: int, activity: SpikeActivity, wait_s: float, compute_s: float) -> None:
        """A window has been segmented."""
        self._windows.labels(model).inc()
        self._events.labels(model).inc(events)
        self._latency.labels("wait").observe(wait_s)
        self._latency.labels("compute").observe(compute_s)
        self._sops.labels(model).inc(activity.sops)
        for layer in activity.layers:
            if layer.neurons:
                self._firing_rate.labels(model, layer.name).set(layer.firing_rate)
                self._spikes.labels(model, layer.name).inc(layer.spikes)
                self._neuron_steps.labels(model, layer.name).inc(layer.neuron_steps)

    def observe_batch(self, rows: int) -> None:
        """A batch has been put together."""
        self._batch_rows.observe(rows)

    def observe_skipped(self, model: str, *, gap: int, dropped: int, merged: int, late_events: int) -> None:
        """What was not computed before or within a window."""
        for reason, count in (("gap", gap), ("dropped", dropped), ("merged", merged)):
            if count:
                self._skipped.labels(model, reason).inc(count)
        if late_events:
            self._late_events.labels(model).inc(late_events)

    def count_missed_deadline(self) -> None:
        """A window's computation began after its deadline."""
        self._deadlines_missed.inc()

    def set_store_up(self, up: bool) -> None:
        """The state store answers, or not."""
        self._store_up.set(up)

    def observe_checkpoint(self, seconds: float) -> None:
        """A checkpoint has arrived in the state store."""
        self._checkpoint.observe(seconds)

    def count_takeover(self) -> None:
        """A session has been taken up from the state store."""
        self._takeovers.inc()

    def observe_encode(self, seconds: float) -> None:
        """A mask has been encoded."""
        self._latency.labels("encode").observe(seconds)

    def count_error(self, code: str) -> None:
        """A request or message has been refused with this problem code."""
        self._errors.labels(code).inc()
