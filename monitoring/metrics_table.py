"""Writes the table of metrics in docs/monitoring.md from the service's registry.

python -m monitoring.metrics_table
"""

from __future__ import annotations

from pathlib import Path

from models import zoo
from models.events import EventBatch, SensorSize
from service.metrics import ServiceMetrics

DOCUMENT = Path(__file__).resolve().parents[1] / "docs" / "monitoring.md"
_BEGIN, _END = "<!-- metrics begin -->\n", "<!-- metrics end -->\n"
_SENSOR = SensorSize(64, 48)
# They tell one series from another, and belong to no metric in particular.
_OF_A_HISTOGRAM = {"le"}


def metrics_table() -> str:
    """Every metric with its type, its labels and its help, as Markdown."""
    metrics = ServiceMetrics()
    # A network's layers are known with its first window.
    model = zoo.load_events("edge-s")
    answer = model.segment(model.initial_state(_SENSOR), EventBatch.empty(), _SENSOR)
    metrics.of(model).observe_window(0, answer.activity, 0.0, 0.0)
    rows = ["| metric | type | labels | |", "|---|---|---|---|"]
    for family in metrics.registry.collect():
        if not family.name.startswith("spikeseg_"):
            continue
        suffix = {"counter": "_total", "info": "_info"}.get(family.type, "")
        labels = {label for sample in family.samples for label in sample.labels} - _OF_A_HISTOGRAM
        names = ", ".join(f"`{label}`" for label in sorted(labels))
        rows.append(f"| `{family.name}{suffix}` | {family.type} | {names} | {family.documentation} |")
    return "\n".join(rows) + "\n"


def table_in(text: str) -> str:
    """The table in a text."""
    return text.split(_BEGIN)[1].split(_END)[0]


def main() -> None:
    """Command line."""
    text = DOCUMENT.read_text()
    before, rest = text.split(_BEGIN)
    DOCUMENT.write_text(before + _BEGIN + metrics_table() + _END + rest.split(_END)[1])


if __name__ == "__main__":
    main()
