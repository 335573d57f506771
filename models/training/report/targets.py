"""What was expected of the networks before they were trained, and whether it was reached."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from models.training.report.markdown import number
from models.training.report.networks import CONVERTED, STREAMING
from models.training.report.results import Results, difference, known

Sense = Literal["≥", "≤", ">"]


@dataclass(frozen=True, slots=True)
class Target:
    """What was expected of a network before it was trained.

    Attributes
    ----------
    network : str
    what : str
    measure : callable
        ``measure(results, network)``: the value to compare, or None if it was not measured.
    sense : "≥", "≤" or ">"
    bound : float
    share : bool
        Whether it is told in per cent.
    """

    network: str
    what: str
    measure: Callable[[Results, str], float | None]
    sense: Sense
    bound: float
    share: bool = False


def _miou(results: Results, name: str) -> float | None:
    return results.scores(name).get("miou")


def _firing_rate(results: Results, name: str) -> float | None:
    return results.scores(name).get("firing_rate")


def _over_reset(results: Results, name: str) -> float | None:
    return difference(_miou(results, name), results.reset_scores(name).get("miou"))


def _over_converted(results: Results, name: str) -> float | None:
    stored = results.stored.get(f"conversion-{name}")
    if stored is None:
        return None
    steps = stored["direct"]["steps_for_an_answer"]
    # Conversion is scored for some numbers of steps: it may take the next larger one.
    equal = [point["miou"] for point in stored["converted"] if point["steps"] >= steps]
    return difference(stored["direct"]["miou"], equal[0] if equal else None)


TARGETS = (
    Target("edge-s", "mIoU", _miou, "≥", 0.50),
    Target("edge-l", "mIoU", _miou, "≥", 0.55),
    *(Target(name, "mIoU, less the twin's", Results.over_twin, "≥", -0.02) for name in STREAMING),
    *(Target(name, "mean firing rate", _firing_rate, "≤", 0.08, share=True) for name in STREAMING),
    *(Target(name, "mIoU with carried state, less that with reset", _over_reset, ">", 0.0) for name in STREAMING),
    *(
        Target(
            name,
            "mIoU of direct training, less that of conversion at as many steps an answer",
            _over_converted,
            "≥",
            0.05,
        )
        for name in CONVERTED
    ),
)


def verdict(value: float | None, sense: Sense, bound: float, *, share: bool = False) -> str:
    """``reached``, ``not reached (by …)`` or ``not measured``."""
    if not known(value):
        return "not measured"
    # Scores are stored with four decimals: what lies below is the subtraction's rounding.
    lacking = round(value - bound if sense == "≤" else bound - value, 6)
    if lacking < 0 or (lacking == 0 and sense != ">"):
        return "reached"
    if share:
        return f"not reached (by {100 * lacking:.2f} points)"
    return f"not reached (by {number(lacking) if lacking >= 0.0005 else 'less than 0.001'})"
