"""docs/performance.md is what its report says, and says so where something is missing or missed."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks.performance_page import NAMES, PAGE, REPORT_NAME, WHAT, render
from benchmarks.performance_plot import COLORS

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def report() -> dict[str, Any]:
    found: dict[str, Any] = json.loads((ROOT / REPORT_NAME).read_text())
    return found


def without(report: dict[str, Any], key: str, reason: str) -> dict[str, Any]:
    """The report of a run in which somebody did not take part."""
    changed = copy.deepcopy(report)
    changed["head_to_head"] = [row for row in changed["head_to_head"] if row["contestant"] != key]
    changed["costs"].pop(key, None)
    changed["about"].pop(key, None)
    changed["absent"][key] = reason
    return changed


def line_of(page: str, beginning: str) -> str:
    [found] = [line for line in page.splitlines() if line.startswith(beginning)]
    return found


def test_the_page_is_the_one_of_the_report(report: dict[str, Any]) -> None:
    assert (ROOT / PAGE).read_text() == render(report), "make it anew: python -m benchmarks.performance --render"


def test_the_page_shows_its_picture() -> None:
    picture = REPORT_NAME.with_suffix(".png").relative_to(PAGE.parent)
    assert f"]({picture})" in (ROOT / PAGE).read_text()
    assert (ROOT / PAGE.parent / picture).is_file()


def test_every_contestant_has_a_name_a_word_of_explanation_and_a_color() -> None:
    assert set(NAMES) == set(WHAT)
    assert set(NAMES) <= set(COLORS)


def test_who_did_not_take_part_is_on_the_page_with_the_reason(report: dict[str, Any]) -> None:
    page = render(without(report, "sltnet", "not run: give --peer-repo"))
    assert "| not run: give --peer-repo |" in page
    assert "commit" not in page
    without_runtimes = without(without(report, "twin-openvino", "not run: x"), "twin-onnxruntime", "not run: y")
    for row in without_runtimes["rates"]:
        row.pop("twin-openvino", None)
        row.pop("twin-onnxruntime", None)
    assert "The hardest contestant" not in render(without_runtimes)


def test_an_aim_that_is_missed_is_called_missed(report: dict[str, Any]) -> None:
    aim = "| `edge-s` on the kernel, p50 of a window, at most 10 ms |"
    for row in report["head_to_head"]:
        if row["contestant"] == "kernel":
            row["window"]["p50_ms"] = 10.04
    assert line_of(render(report), aim).endswith(" 10.04 ms | **missed** |")
    for row in report["head_to_head"]:
        if row["contestant"] == "kernel":
            row["window"]["p50_ms"] = 9.96
    assert line_of(render(report), aim).endswith(" 9.96 ms | reached |")


def test_a_run_beside_other_programs_is_called_one(report: dict[str, Any]) -> None:
    report["quick"] = False
    report["share_of_cores_taken_by_others"] = 0.3
    assert "**Other programs took 30% of the cores during this run" in render(report)
    report["share_of_cores_taken_by_others"] = 0.01
    assert "**Other programs" not in render(report)
    report["quick"] = True
    assert "the figures are worth nothing" in render(report)


def test_no_tail_is_given_of_few_windows(report: dict[str, Any]) -> None:
    for row in report["streams"]:
        row |= {"p99_ms": 777.77, "calls": 99}
    assert "777.8" not in render(report)
    for row in report["streams"]:
        row["calls"] = 100
    assert "777.8" in render(report)
