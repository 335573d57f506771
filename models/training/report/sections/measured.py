"""Stored measurements told one after the other, and hints in place of those that are not there."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from models.training.report.jobs import Job, command_line
from models.training.report.markdown import code
from models.training.report.results import DOCS, RESULTS, Record, Results

FOLDER = DOCS / RESULTS


def each_measured(results: Results, jobs: Iterable[Job], tell: Callable[[str, Record], list[str]]) -> list[str]:
    """Lines on each measurement: ``tell(network, stored)``, or how it is made if it is not there."""
    lines = []
    for job in jobs:
        stored = results.stored.get(job.stem)
        lines += _missing(results, job) if stored is None else tell(job.network, stored)
    return lines


def _missing(results: Results, job: Job) -> list[str]:
    remedy = f"`{job_line(job)}` makes {job.path(FOLDER)}."
    return not_measured(code(job.network), results.absent(job.needs), remedy)


def not_measured(what: str, absent: Sequence[str], remedy: str) -> list[str]:
    """The hint that something was not measured: networks are absent, or else the remedy helps."""
    if absent:
        return [f"{what}: nothing to measure, not in the zoo: {code(*absent)}.", ""]
    return [f"{what}: not measured yet. {remedy}", ""]


def job_line(job: Job) -> str:
    """The command of a measurement as it is typed into a shell."""
    return command_line(job.arguments(FOLDER))
