"""Class by class: scores and confusion matrices."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from models.training.report.markdown import NOTHING, details, not_in_zoo, number, table
from models.training.report.networks import NETWORKS, twin_name
from models.training.report.results import Record, Results

HEADER = ("class", "IoU", "accuracy", "twin's IoU", "twin's accuracy")


def classes_section(results: Results) -> list[str]:
    """The section's lines."""
    lines = ["## Class by class", ""]
    for name in results.present(NETWORKS):
        parts = {name: results.scores(name), twin_name(name): results.twin_scores(name)}
        classes = [c["name"] for c in results.cards[name]["classes"]]
        lines += [f"### `{name}`", "", *_class_table(list(parts.values()), classes)]
        for named, scores in parts.items():
            if "confusion_matrix" in scores:
                lines += _confusion(named, scores["confusion_matrix"], classes)
    return lines + not_in_zoo(results.absent(NETWORKS))


def _class_table(parts: Sequence[Record], classes: Sequence[str]) -> list[str]:
    columns: list[Record] = [scores.get(key, {}) for scores in parts for key in ("class_iou", "class_accuracy")]
    rows = [[name, *(number(column.get(name)) for column in columns)] for name in classes]
    # Classes that are neither present nor predicted have no score.
    rows = [row for row in rows if set(row[1:]) != {NOTHING}]
    means = [f"**{number(scores.get(key))}**" for scores in parts for key in ("miou", "pixel_accuracy")]
    return table(HEADER, [*rows, ["**mean IoU, pixel accuracy**", *means]])


def _confusion(name: str, matrix: Sequence[Sequence[int]], classes: Sequence[str]) -> list[str]:
    counts = np.asarray(matrix, np.int64)
    kept = [int(k) for k in np.flatnonzero(counts.sum(0) + counts.sum(1))]
    rows = []
    for k in kept:
        total = int(counts[k].sum())
        shares = [number(100 * int(counts[k, j]) / total, 1) if total else NOTHING for j in kept]
        rows.append([classes[k], *shares])
    summary = f"Confusion matrix of <code>{name}</code>, % of the pixels of each true class"
    lines = table(["truth \\ predicted", *(classes[k] for k in kept)], rows)
    return details(summary, [*lines, "Pixel counts are in the card.", ""])
