"""Learning curves: the best of the scores by which checkpoints were chosen."""

from __future__ import annotations

from collections.abc import Sequence

from models.training.report.markdown import code, number, picture, table
from models.training.report.results import Record, Results

HEADER = ("network", "scores", "best mIoU", "at update", "at minute", "last mIoU")


def curves_section(results: Results) -> list[str]:
    """The section's lines."""
    lines = ["## Learning curves", ""]
    curves = results.curves()
    if not curves:
        return [*lines, "The cards hold none.", ""]
    return [
        *lines,
        "mIoU on the pictures that were held out from training, by which the checkpoint was chosen.",
        "",
        *picture("Held-out mIoU over the minutes of training", "learning-curves.png"),
        *table(HEADER, [_row(name, curve) for name, curve in curves.items()]),
    ]


def _row(name: str, curve: Sequence[Record]) -> list[str]:
    best = max(curve, key=lambda score: float(score["miou"]))
    return [
        code(name),
        f"{len(curve)}",
        number(best["miou"]),
        f"{best['update']}",
        number(best["minutes"], 1),
        number(curve[-1]["miou"]),
    ]
