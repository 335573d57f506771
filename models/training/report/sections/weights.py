"""Weights of fewer bits: what they cost in mean IoU."""

from __future__ import annotations

from models.training.report.jobs import weights_job
from models.training.report.markdown import code, number, percent, table
from models.training.report.networks import STREAMING
from models.training.report.results import Record, Results, difference
from models.training.report.sections.measured import each_measured

HEADER = ("weights", "bits", "mIoU", "less that of float32", "pixels of another class", "firing rate")


def weights_section(results: Results) -> list[str]:
    """The section's lines."""
    lines = [
        "## Weights of fewer bits",
        "",
        "`SPIKESEG_WEIGHTS`: int8 has one scale for each output channel, bfloat16 is rounded to the nearest; biases, "
        "leaks and membranes stay float32. Nothing is trained for it. *Pixels of another class* than with float32, of "
        "those that are labelled. What it saves in time is in `docs/results/engine.json`, made by "
        "`python -m benchmarks.engine`.",
        "",
    ]
    return lines + each_measured(results, map(weights_job, STREAMING), _weights)


def _weights(name: str, stored: Record) -> list[str]:
    rows = stored["weights"]
    base = rows["float32"]["miou"]
    cells = [
        [
            precision,
            str(row["bits"]),
            number(row["miou"], 4),
            number(difference(row["miou"], base), 4, signed=True) if precision != "float32" else "",
            percent(row["labelled_pixels_changed"]),
            percent(row["firing_rate"]),
        ]
        for precision, row in rows.items()
    ]
    return [f"{code(name)}, {stored['data']}:", "", *table(HEADER, cells)]
