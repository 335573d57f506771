"""Expectations, and whether they were reached."""

from __future__ import annotations

from typing import Any

import pytest

from models.training.report.page import render
from models.training.report.results import Results
from models.training.report.targets import verdict


@pytest.mark.parametrize(
    ("value", "sense", "bound", "expected"),
    [
        (0.512, "≥", 0.5, "reached"),
        (0.5, "≥", 0.5, "reached"),
        (0.469, "≥", 0.5, "not reached (by 0.031)"),
        (0.4998, "≥", 0.5, "not reached (by less than 0.001)"),
        (0.4575 - 0.4775, "≥", -0.02, "reached"),
        (0.08, "≤", 0.08, "reached"),
        (0.11, "≤", 0.08, "not reached (by 0.030)"),
        (0.001, ">", 0.0, "reached"),
        (0.0, ">", 0.0, "not reached (by less than 0.001)"),
        (-0.05, ">", 0.0, "not reached (by 0.050)"),
        (None, "≥", 0.5, "not measured"),
        (float("nan"), "≥", 0.5, "not measured"),
    ],
)
def test_an_expectation_is_reached_or_not(value: float | None, sense: Any, bound: float, expected: str) -> None:
    assert verdict(value, sense, bound) == expected


def test_a_share_lacks_points() -> None:
    assert verdict(0.0802, "≤", 0.08, share=True) == "not reached (by 0.02 points)"


def test_expectations_are_compared_with_cards_and_results(results: Results) -> None:
    def outcome(network: str, what: str) -> list[str]:
        rows = [line for line in render(results).splitlines() if line.startswith(f"| `{network}` | {what} |")]
        assert len(rows) == 1
        return [cell.strip() for cell in rows[0].strip("|").split("|")][2:]

    evaluation = results.cards["edge-s"]["evaluation"]
    stream = evaluation["stream"]
    assert outcome("edge-s", "mIoU")[1:] == ["≥ 0.500", f"{stream['miou']:.3f}"]
    assert outcome("edge-s", "mean firing rate")[2] == f"{100 * stream['firing_rate']:.2f} %"
    over = stream["miou"] - evaluation["ann_twin"]["miou"]
    assert outcome("edge-s", "mIoU, less the twin's") == [
        verdict(over, "≥", -0.02),
        "≥ −0.020",
        f"{over:.3f}".replace("-", "−"),
    ]
    over = stream["miou"] - evaluation["reset_every_window"]["miou"]
    assert outcome("edge-s", "mIoU with carried state, less that with reset")[0] == verdict(over, ">", 0)
    conversion = results.stored["conversion-edge-s"]
    at_equal_steps = next(
        p for p in conversion["converted"] if p["steps"] >= conversion["direct"]["steps_for_an_answer"]
    )
    over = conversion["direct"]["miou"] - at_equal_steps["miou"]
    of_conversion = "mIoU of direct training, less that of conversion at as many steps an answer"
    assert outcome("edge-s", of_conversion)[0] == verdict(over, "≥", 0.05)
    assert outcome("paper-fcn", of_conversion) == ["not measured", "≥ 0.050", "–"]
