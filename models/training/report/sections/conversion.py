"""Direct training against conversion."""

from __future__ import annotations

from models.training.report.jobs import conversion_job
from models.training.report.markdown import NOTHING, code, number, percent, picture, table
from models.training.report.networks import CONVERTED
from models.training.report.results import Record, Results
from models.training.report.sections.measured import each_measured

HEADER = ("network", "steps", "mIoU", "firing rate")


def conversion_section(results: Results) -> list[str]:
    """The section's lines."""
    lines = [
        "## Direct training against conversion",
        "",
        "The ANN twin, its ReLUs turned into integrate-and-fire neurons with balanced thresholds, after so many time "
        "steps; beside it the twin itself and the directly trained network, on the same labelled windows.",
        "",
    ]
    if results.measured("conversion", CONVERTED):
        lines += picture("mIoU against time steps of converted networks", "conversion.png")
    return lines + each_measured(results, (conversion_job(name) for name in CONVERTED), _conversion)


def _conversion(name: str, stored: Record) -> list[str]:
    thresholds = stored["thresholds"]
    return [
        f"{code(name)} on {stored['data']}; thresholds: percentile {thresholds['percentile']:g} by "
        f"{thresholds['scope']}, times {thresholds['scale']:g}:",
        "",
        *table(
            HEADER,
            [
                _row("directly trained", stored["direct"]),
                ["ANN twin", NOTHING, number(stored["twin"]["miou"]), NOTHING],
                *(_row("converted twin", point) for point in stored["converted"]),
            ],
        ),
    ]


def _row(what: str, scores: Record) -> list[str]:
    return [what, f"{scores['steps']}", number(scores["miou"]), percent(scores["firing_rate"])]
