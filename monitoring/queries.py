"""Reads the dashboards' files, and asks a Prometheus what their panels ask."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

MONITORING = Path(__file__).resolve().parent
DASHBOARDS = MONITORING / "grafana" / "dashboards"


class PrometheusError(Exception):
    """Prometheus cannot be reached, or refuses a query."""


@dataclass(frozen=True, slots=True)
class Target:
    """One query of a panel."""

    dashboard: str
    panel: Mapping[str, Any]
    expression: str
    legend: str

    def __str__(self) -> str:
        return f"{self.dashboard} / {self.panel['title']}: {self.expression}"


def read_dashboard(name: str) -> dict[str, Any]:
    """A dashboard's JSON."""
    document: dict[str, Any] = json.loads((DASHBOARDS / f"{name}.json").read_text())
    return document


def dashboard_names() -> list[str]:
    """Names of the dashboards' files."""
    return sorted(path.stem for path in DASHBOARDS.glob("*.json"))


def panels(dashboard: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The panels that show something: rows are none."""
    return [panel for panel in dashboard["panels"] if panel["type"] != "row"]


def targets(dashboard: Mapping[str, Any]) -> Iterator[Target]:
    """All queries of a dashboard."""
    for panel in panels(dashboard):
        for target in panel["targets"]:
            yield Target(dashboard["title"], panel, target["expr"], target["legendFormat"])


def filled(expression: str, *, rate_interval: str, range: str, **chosen: str) -> str:
    """An expression with Grafana's variables filled in; what is not chosen is everything.

    Parameters
    ----------
    expression : str
    rate_interval : str
        For ``$__rate_interval``; at least four times the scrape interval.
    range : str
        For ``$__range``: the span that is shown.
    **chosen
        Values of the dashboard's variables, regular expressions.
    """
    expression = expression.replace("$__rate_interval", rate_interval).replace("$__range", range)
    for name in ("job", "instance", "model"):
        expression = expression.replace(f"${name}", chosen.get(name, ".+"))
    return expression


class Prometheus:
    """The HTTP API of a Prometheus.

    Parameters
    ----------
    url : str
    """

    def __init__(self, url: str) -> None:
        self._url = url.rstrip("/")

    def query(self, expression: str) -> list[dict[str, Any]]:
        """The series that an expression gives now; a scalar is one without labels."""
        data = self.get("query", query=expression)
        if data["resultType"] == "scalar":
            return [{"metric": {}, "value": data["result"]}]
        return list(data["result"])

    def query_range(self, expression: str, start: float, end: float, step: float) -> list[dict[str, Any]]:
        """The series that an expression gives between two times, seconds since 1970."""
        return list(self.get("query_range", query=expression, start=start, end=end, step=step)["result"])

    def get(self, what: str, **parameters: str | float) -> Any:
        """The data of an answer.

        Raises
        ------
        PrometheusError
            If there is none.
        """
        try:
            response = httpx.get(f"{self._url}/api/v1/{what}", params=parameters, timeout=30)
        except httpx.TransportError as error:
            raise PrometheusError(f"no Prometheus answers at {self._url}: {error}") from error
        if response.status_code != 200:
            raise PrometheusError(f"Prometheus refuses {parameters}: {response.text}")
        return response.json()["data"]
