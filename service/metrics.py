"""What the service tells Prometheus. No label ever names a session.

A window is counted by :class:`ModelMetrics`, whose time series have been looked up once: what is left for each window
is additions. What can be asked for at any time (sessions, bytes, what waits) is asked for when Prometheus reads it.
"""

from __future__ import annotations

import platform
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    Info,
    ProcessCollector,
    disable_created_metrics,
)

from models.filters import REASONS
from service import __version__
from service.errors import ServiceError

if TYPE_CHECKING:
    from models.classes import SegmentationClass
    from models.runtime.activity import LayerActivity, SpikeActivity

# Around the lengths of the windows that are usual, 10, 20, 33 and 50 ms, and around the objective of 0.1 s.
_ANSWER_BUCKETS = (
    *(0.005, 0.01, 0.015, 0.02, 0.025, 0.033, 0.04, 0.05, 0.075, 0.1, 0.15, 0.25, 0.5),
    *(1.0, 2.5, 5.0, 10.0),
)
_STAGE_BUCKETS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.02, 0.033, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
_CHECKPOINT_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
_BATCH_BUCKETS = (1, 2, 4, 8, 16, 32, 64)
_STAGES = ("decode", "wait", "compute", "encode")
_SKIPPED = ("gap", "dropped", "merged")
# When each time series began says nothing here, and would be a third of what is scraped.
disable_created_metrics()  # type: ignore[no-untyped-call]


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
        self._ready = Gauge(
            "spikeseg_ready", "Whether the server takes new sessions, as its health check says.", registry=registry
        )
        self._errors = Counter("spikeseg_errors", "Requests and messages refused.", ["code"], registry=registry)
        for code in _codes():
            self._errors.labels(code)
        self._by_model = _ModelFamilies(registry)
        self._models: dict[str, ModelMetrics] = {}

        self._batch_rows = Histogram(
            "spikeseg_batch_rows", "Windows computed together.", buckets=_BATCH_BUCKETS, registry=registry
        )
        self._queued = Gauge("spikeseg_windows_queued", "Windows that wait to be computed.", registry=registry)
        self._deadlines_missed = Counter(
            "spikeseg_deadlines_missed", "Windows whose computation began after their deadline.", registry=registry
        )
        self._threads = Gauge("spikeseg_compute_threads", "Threads that may compute at a time.", registry=registry)

        self._connections = Gauge("spikeseg_connections", "WebSocket connections.", registry=registry)
        self._sessions = Gauge("spikeseg_sessions_active", "Sessions that have not ended.", registry=registry)
        self._sessions_limit = Gauge(
            "spikeseg_sessions_limit", "Most sessions that this server takes at a time.", registry=registry
        )
        self._opened = Counter("spikeseg_sessions_opened", "Sessions that clients have begun.", registry=registry)
        self._resumed = Counter(
            "spikeseg_sessions_resumed", "Times that a client has come back to its session.", registry=registry
        )
        self._takeovers = Counter(
            "spikeseg_sessions_taken_over", "Sessions that were taken up from the state store.", registry=registry
        )
        self._state_bytes = Gauge(
            "spikeseg_state_bytes", "Membranes and pending events of all sessions.", registry=registry
        )
        self._state_limit = Gauge(
            "spikeseg_state_limit_bytes", "Most bytes of state that this server holds.", registry=registry
        )

        self._store_up = Gauge("spikeseg_state_store_up", "Whether the state store answers.", registry=registry)
        self._checkpoint = Histogram(
            "spikeseg_checkpoint_seconds",
            "Time to make a checkpoint and bring it into the state store.",
            buckets=_CHECKPOINT_BUCKETS,
            registry=registry,
        )
        self._checkpoint_failures = Counter(
            "spikeseg_checkpoint_failures",
            "Checkpoints that did not reach the state store; they are tried again.",
            registry=registry,
        )
        self._checkpoint_age = Gauge(
            "spikeseg_checkpoint_age_seconds",
            "Age of the oldest progress of any session that the state store does not have; 0 if it has everything.",
            registry=registry,
        )

    def of(self, model: Counted) -> ModelMetrics:
        """Where the windows of a model are counted; to be kept by whoever counts them."""
        found = self._models.get(model.name)
        if found is None:
            found = self._models[model.name] = ModelMetrics(self._by_model, model)
        return found

    def watch_sessions(
        self, active: Callable[[], float], state_bytes: Callable[[], float], checkpoint_age_s: Callable[[], float]
    ) -> None:
        """Have the session gauges ask these functions when they are read."""
        self._sessions.set_function(active)
        self._state_bytes.set_function(state_bytes)
        self._checkpoint_age.set_function(checkpoint_age_s)

    def watch_ready(self, ready: Callable[[], bool]) -> None:
        """Have the gauge of readiness ask this function when it is read."""
        self._ready.set_function(ready)

    def watch_server(self, connections: Callable[[], float], windows_queued: Callable[[], float]) -> None:
        """Have the gauges of connections and the queue ask these functions when they are read."""
        self._connections.set_function(connections)
        self._queued.set_function(windows_queued)

    def set_limits(self, *, sessions: int, state_bytes: int, threads: int) -> None:
        """What the server takes at most."""
        self._sessions_limit.set(sessions)
        self._state_limit.set(state_bytes)
        self._threads.set(threads)

    def observe_decode(self, seconds: float) -> None:
        """A body or message has been decoded."""
        self._by_model.decode.observe(seconds)

    def observe_batch(self, rows: int) -> None:
        """A batch has been put together."""
        self._batch_rows.observe(rows)

    def count_missed_deadline(self) -> None:
        """A window's computation began after its deadline."""
        self._deadlines_missed.inc()

    def set_store_up(self, up: bool) -> None:
        """The state store answers, or not."""
        self._store_up.set(up)

    def observe_checkpoint(self, seconds: float) -> None:
        """A checkpoint has arrived in the state store."""
        self._checkpoint.observe(seconds)

    def count_checkpoint_failure(self) -> None:
        """A checkpoint has not arrived in the state store."""
        self._checkpoint_failures.inc()

    def count_opened(self) -> None:
        """A client has begun a session."""
        self._opened.inc()

    def count_resumed(self) -> None:
        """A client has come back to its session."""
        self._resumed.inc()

    def count_takeover(self) -> None:
        """A session has been taken up from the state store."""
        self._takeovers.inc()

    def count_error(self, code: str) -> None:
        """A request or message has been refused with this problem code."""
        self._errors.labels(code).inc()


class _ModelFamilies:
    """The metrics that are counted by model, and the stages of a window."""

    def __init__(self, registry: CollectorRegistry) -> None:
        def counter(name: str, text: str, *labels: str) -> Counter:
            return Counter(name, text, ["model", *labels], registry=registry)

        self.info = Info(
            "spikeseg_model",
            "A network that has been used: how it treats a stream, what computes it, what its weights are rounded to.",
            ["model"],
            registry=registry,
        )
        self.windows = counter("spikeseg_windows", "Windows segmented.")
        self.events = counter("spikeseg_events", "Events in windows segmented.")
        self.skipped = counter(
            "spikeseg_windows_skipped",
            "Windows that were not computed: empty ones of a gap, dropped ones, merged ones.",
            "reason",
        )
        self.late_events = counter("spikeseg_late_events", "Events that came too late.")
        self.filtered = counter(
            "spikeseg_events_filtered", "Events that a session's noise filters have dropped.", "reason"
        )
        self.latency = Histogram(
            "spikeseg_window_latency_seconds",
            "Time from the arrival of the message that closed a session's window, or from the answer before it if one "
            "message closed several, to its answer.",
            ["model"],
            buckets=_ANSWER_BUCKETS,
            registry=registry,
        )
        stages = Histogram(
            "spikeseg_latency_seconds",
            "Time by stage: decode a message; wait for the engine, compute and encode a window.",
            ["stage"],
            buckets=_STAGE_BUCKETS,
            registry=registry,
        )
        self.decode, self.wait, self.compute, self.encode = (stages.labels(stage) for stage in _STAGES)
        self.firing_rate = Gauge(
            "spikeseg_firing_rate_ratio",
            "Spikes for each neuron and step in the latest window.",
            ["model", "layer"],
            registry=registry,
        )
        self.spikes = counter("spikeseg_spikes", "Spikes fired.", "layer")
        self.neuron_steps = counter(
            "spikeseg_neuron_steps", "Neurons stepped; spikes over this is the mean firing rate.", "layer"
        )
        self.sops = counter(
            "spikeseg_synaptic_operations",
            "Synaptic operations (SOPs): dense operations times the share of inputs that are not zero.",
            "layer",
        )
        self.ann_macs = counter(
            "spikeseg_ann_multiply_accumulates",
            "Multiply-accumulates that an ANN with the same convolutions would have needed for the same windows.",
        )
        self.energy = counter(
            "spikeseg_energy_estimate_joules",
            "Estimate, not a measurement: 4.6 pJ for each multiply-accumulate and 0.9 pJ for each accumulate (45 nm, "
            "fp32), without memory traffic and membrane updates.",
        )
        self.ann_energy = counter(
            "spikeseg_ann_energy_estimate_joules",
            "Estimate, not a measurement: the same for an ANN with the same convolutions, 4.6 pJ for each "
            "multiply-accumulate.",
        )
        self.pixels = counter("spikeseg_class_pixels", "Pixels of the masks given, by class.", "class")


@dataclass(frozen=True, slots=True)
class _LayerMetrics:
    sops: Counter
    firing_rate: Gauge | None = None
    spikes: Counter | None = None
    neuron_steps: Counter | None = None

    @classmethod
    def of(cls, families: _ModelFamilies, model: str, layer: LayerActivity) -> _LayerMetrics:
        labels = (model, layer.name)
        sops = families.sops.labels(*labels)
        if not layer.neurons:
            return cls(sops)
        fired = (each.labels(*labels) for each in (families.spikes, families.neuron_steps))
        return cls(sops, families.firing_rate.labels(*labels), *fired)

    def observe(self, layer: LayerActivity) -> None:
        self.sops.inc(layer.sops)
        if self.firing_rate is not None and self.spikes is not None and self.neuron_steps is not None:
            self.firing_rate.set(layer.firing_rate)
            self.spikes.inc(layer.spikes)
            self.neuron_steps.inc(layer.neuron_steps)


class Counted(Protocol):
    """What is asked of a model whose windows or frames are counted."""

    @property
    def name(self) -> str:
        """Its name in the zoo."""

    @property
    def mode(self) -> str:
        """How it runs."""

    @property
    def backend(self) -> str:
        """What computes it."""

    @property
    def precision(self) -> str:
        """What its weights are rounded to."""

    @property
    def classes(self) -> Sequence[SegmentationClass]:
        """The classes of its masks."""


class ModelMetrics:
    """Counts the windows of one model; made by :meth:`ServiceMetrics.of`."""

    def __init__(self, families: _ModelFamilies, model: Counted) -> None:
        name = model.name
        families.info.labels(name).info({"mode": model.mode, "backend": model.backend, "weights": model.precision})
        self._model = name
        self._families = families
        self._windows = families.windows.labels(name)
        self._events = families.events.labels(name)
        self._skipped = [families.skipped.labels(name, reason) for reason in _SKIPPED]
        self._late_events = families.late_events.labels(name)
        self._filtered = [families.filtered.labels(name, reason) for reason in REASONS]
        self._latency = families.latency.labels(name)
        self._ann_macs = families.ann_macs.labels(name)
        self._energy = families.energy.labels(name)
        self._ann_energy = families.ann_energy.labels(name)
        self._pixels = [families.pixels.labels(name, c.name) for c in model.classes]
        # Which layers there are is known with the first window.
        self._layers: list[_LayerMetrics] = []

    def observe_window(self, events: int, activity: SpikeActivity, wait_s: float, compute_s: float) -> None:
        """A window has been segmented."""
        self._windows.inc()
        self._events.inc(events)
        self._families.wait.observe(wait_s)
        self._families.compute.observe(compute_s)
        self._ann_macs.inc(activity.macs_ann)
        self._energy.inc(activity.energy_snn_j)
        self._ann_energy.inc(activity.energy_ann_j)
        if not self._layers:
            self._layers = [_LayerMetrics.of(self._families, self._model, layer) for layer in activity.layers]
        for metrics, layer in zip(self._layers, activity.layers, strict=True):
            metrics.observe(layer)

    def observe_answer(self, metadata: Mapping[str, Any]) -> None:
        """A window has been answered with this metadata, as the wire contract has it."""
        self._families.encode.observe(metadata["latency_ms"]["encode"] / 1e3)
        pixels = metadata["mask"]["width"] * metadata["mask"]["height"]
        for counter, share in zip(self._pixels, metadata["class_share"], strict=True):
            if share:
                counter.inc(round(share * pixels))

    def observe_latency(self, seconds: float) -> None:
        """A session's window has been answered so long after it could have been."""
        self._latency.observe(seconds)

    def observe_skipped(self, *, gap: int, dropped: int, merged: int, late_events: int) -> None:
        """What was not computed before or within a window."""
        for counter, count in zip(self._skipped, (gap, dropped, merged), strict=True):
            if count:
                counter.inc(count)
        if late_events:
            self._late_events.inc(late_events)

    def observe_filtered(self, counts: Sequence[int]) -> None:
        """How many events were filtered out before a window, by reason as in ``models.filters.REASONS``, or nothing."""
        if counts:
            for counter, count in zip(self._filtered, counts, strict=True):
                counter.inc(count)


def _codes(kind: type[ServiceError] = ServiceError) -> Iterator[str]:
    """Every code that a refusal can have, so that the first one of each is seen as a growth."""
    yield kind.code
    for each in kind.__subclasses__():
        yield from _codes(each)
