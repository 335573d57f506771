"""Expected and reached: the targets, and remarks on those that were not reached."""

from __future__ import annotations

from models.training.report.markdown import code, number, percent, table
from models.training.report.results import Results
from models.training.report.targets import TARGETS, Target, verdict

HEADER = ("network", "what", "outcome", "expected", "measured")


def expectations_section(results: Results) -> list[str]:
    """The section's lines."""
    lines = ["## Expected and reached", "", *table(HEADER, [_row(results, target) for target in TARGETS], left=3)]
    return lines + ([results.remarks.strip("\n"), ""] if results.remarks.strip() else [])


def _row(results: Results, target: Target) -> list[str]:
    value = target.measure(results, target.network)
    outcome = verdict(value, target.sense, target.bound, share=target.share)
    bound, measured = (percent(v) if target.share else number(v) for v in (target.bound, value))
    return [code(target.network), target.what, outcome, f"{target.sense} {bound}", measured]
