"""Joins the service's traces to the caller's, where the caller's program uses OpenTelemetry."""

from __future__ import annotations

import sys


def trace_headers() -> dict[str, str]:
    """Headers that name the caller's span (W3C Trace Context, or what else its program propagates).

    OpenTelemetry is no requirement and is not imported here: a program that has not done so has no span.
    """
    propagate = sys.modules.get("opentelemetry.propagate")
    if propagate is None and "opentelemetry.trace" in sys.modules:
        from opentelemetry import propagate
    headers: dict[str, str] = {}
    if propagate is not None:
        propagate.inject(headers)
    return headers
