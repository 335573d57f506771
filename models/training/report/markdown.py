"""Numbers, tables and other pieces of the page as Markdown."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from models.training.report.results import RESULTS, Record, known

MICRO, MILLI, MEGA = 1e-6, 1e-3, 1e6
NOTHING = "–"


def number(value: float | None, digits: int = 3, *, signed: bool = False) -> str:
    """A value with so many decimals, or a dash if there is none."""
    return f"{value:{'+' if signed else ''}.{digits}f}".replace("-", "−") if known(value) else NOTHING


def percent(value: float | None, digits: int = 2) -> str:
    """A share in per cent, or a dash if there is none."""
    return f"{100 * value:.{digits}f} %" if known(value) else NOTHING


def in_unit(unit: float, value: float | None) -> str:
    """A value in millions, thousandths and the like, or a dash if there is none."""
    return NOTHING if value is None else number(value / unit)


def code(*names: str) -> str:
    """Names in code type, with commas between."""
    return ", ".join(f"`{name}`" for name in names)


def table(header: Sequence[str], rows: Iterable[Sequence[str]], left: int = 1) -> list[str]:
    """Lines of a table whose first ``left`` columns are text and the others numbers."""
    rule = ["---" if k < left else "---:" for k in range(len(header))]
    return [f"| {' | '.join(cells)} |" for cells in (header, rule, *rows)] + [""]


def details(summary: str, lines: Sequence[str]) -> list[str]:
    """Lines that a reader has to unfold."""
    return [f"<details><summary>{summary}</summary>", "", *lines, "</details>", ""]


def picture(alt: str, file: str) -> list[str]:
    """A picture of the results folder."""
    return [f"![{alt}]({RESULTS}/{file})", ""]


def not_in_zoo(names: Sequence[str]) -> list[str]:
    """The hint at networks without a card, if there are any."""
    return [f"Not in the zoo: {code(*names)}.", ""] if names else []


def machine(described: Record) -> str:
    """What something was measured on."""
    threads = "1 thread" if described["threads"] == 1 else f"{described['threads']} threads"
    return f"{described['processor']}, {described['cores']} cores, {described['memory_gib']} GiB, {threads}"
