"""Traces for OpenTelemetry, if they are wanted; its SDK is imported only then.

The exporter sends over OTLP (HTTP, protobuf) from a thread of its own and from a queue of bounded length: where the
collector does not take the spans they are lost, and nothing waits for it. Where to, how much is sampled and all else is
said with the SDK's own variables, ``OTEL_…``.

Like the root of :mod:`logging`, the tracer is the process's; it is set when the app starts and unset when it stops.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from service import __version__

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.trace import Span, Tracer

logger = logging.getLogger(__name__)

_ENDPOINTS = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
_STOP_SECONDS = 2.0
_EXPORT_SECONDS = 5.0

_tracer: Tracer | None = None
_provider: TracerProvider | None = None


class TracingError(Exception):
    """Traces are asked for and cannot be made."""


def traces_wanted(setting: bool | None, environment: Mapping[str, str] = os.environ) -> bool:
    """Whether to trace: as the setting says, or if a collector is named."""
    if setting is not None:
        return setting
    disabled = environment.get("OTEL_SDK_DISABLED", "").lower() == "true"
    return not disabled and any(environment.get(name) for name in _ENDPOINTS)


def start_tracing() -> None:
    """Make spans from now on, until :func:`stop_tracing`.

    Raises
    ------
    TracingError
        If OpenTelemetry is not installed, or one of its variables is wrong.
    """
    global _tracer, _provider
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ImportError as error:
        raise TracingError(f"traces need OpenTelemetry, pip install 'spikeseg[otel]': {error}") from None
    about = {"service.version": __version__}
    if "OTEL_SERVICE_NAME" not in os.environ:
        about["service.name"] = "spikeseg"
    # A collector that hangs must not hold the thread for longer, while spans are lost for want of room.
    seconds = None if "OTEL_EXPORTER_OTLP_TIMEOUT" in os.environ else _EXPORT_SECONDS
    try:
        # Not the process's global provider: libraries that happen to be instrumented would join in.
        provider = TracerProvider(resource=Resource.create(about), shutdown_on_exit=False)
        provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(timeout=seconds)))
    except ValueError as error:
        raise TracingError(f"a variable OTEL_… cannot be used: {error}") from None
    _provider, _tracer = provider, provider.get_tracer("spikeseg", __version__)


def stop_tracing() -> None:
    """Send what is left, for at most a few seconds, and make no more spans."""
    global _tracer, _provider
    provider, _provider, _tracer = _provider, None, None
    if provider is None:
        return
    # For a collector that is gone this takes half a minute; the process may end before.
    stopping = threading.Thread(target=provider.shutdown, name="stop-tracing", daemon=True)
    stopping.start()
    stopping.join(_STOP_SECONDS)


def trace_ids() -> Mapping[str, str]:
    """``trace_id`` and ``span_id`` of what is being done, as hexadecimal digits."""
    if _tracer is None:
        return {}
    from opentelemetry.trace import get_current_span

    context = get_current_span().get_span_context()
    if not context.is_valid:
        return {}
    return {"trace_id": f"{context.trace_id:032x}", "span_id": f"{context.span_id:016x}"}


@contextmanager
def span(
    name: str,
    attributes: Mapping[str, Any] | None = None,
    *,
    server: bool = False,
    carrier: Mapping[str, str] | None = None,
    root_of: Span | None = None,
) -> Iterator[Span | None]:
    """Trace what is done inside; gives the span, or None where nothing is traced.

    Parameters
    ----------
    name : str
    attributes : mapping, optional
    server : bool
        Whether it answers somebody.
    carrier : mapping, optional
        Headers of a request, which may name the caller's span (W3C Trace Context).
    root_of : Span, optional
        Begin a trace, linked to this span: a stream of hours would be too long for one.
    """
    if _tracer is None:
        yield None
        return
    from opentelemetry.context import Context
    from opentelemetry.trace import Link, SpanKind
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

    context, links = None, list[Link]()
    if root_of is not None:
        context, links = Context(), [Link(root_of.get_span_context())]
    elif carrier is not None:
        context = TraceContextTextMapPropagator().extract(carrier)
    kind = SpanKind.SERVER if server else SpanKind.INTERNAL
    with _tracer.start_as_current_span(name, context, kind, attributes, links) as current:
        yield current


def record(parts: Mapping[str, tuple[float, float]], name: str, attributes: Mapping[str, Any]) -> None:
    """A span of what has been done already, and one inside it for each of its parts, one after the other.

    Parameters
    ----------
    parts : mapping of str to (float, float)
        Begin and end of each, on ``time.perf_counter``.
    name : str
    attributes : mapping
    """
    if _tracer is None:
        return
    from opentelemetry.trace import set_span_in_context

    offset = time.time_ns() - time.perf_counter_ns()

    def at(seconds: float) -> int:
        return offset + round(seconds * 1e9)

    whole = _tracer.start_span(name, attributes=attributes, start_time=at(min(begin for begin, _ in parts.values())))
    inside = set_span_in_context(whole)
    for part, (begin, end) in parts.items():
        _tracer.start_span(part, inside, start_time=at(begin)).end(at(end))
    whole.end(at(max(end for _, end in parts.values())))


def is_tracing() -> bool:
    """Whether spans are made."""
    return _tracer is not None
