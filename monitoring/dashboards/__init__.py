"""Grafana dashboards as code, on Grafana's own builders (grafana-foundation-sdk).

    python -m monitoring.dashboards

writes the JSON files of ``monitoring/grafana/dashboards``; a test holds them to what is here.
"""

from __future__ import annotations

from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models.dashboard import Dashboard

from monitoring.dashboards import fleet, service, spikes


def dashboards() -> dict[str, Dashboard]:
    """All dashboards, by the name of their file."""
    return {"service": service.build(), "spikes": spikes.build(), "fleet": fleet.build()}


def to_json(dashboard: Dashboard) -> str:
    """A dashboard as Grafana imports it."""
    return JSONEncoder(sort_keys=True, indent=1).encode(dashboard) + "\n"
