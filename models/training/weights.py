"""What a streaming network loses with weights of fewer bits, over the labelled drive as one stream.

    python -m models.training.weights --model edge-s --out docs/results/weights-edge-s.json

The same network is scored with each rounding of its weights (``models.runtime.precision``), as it is served with
``SPIKESEG_WEIGHTS``. ``labelled_pixels_changed`` is the share of labelled pixels that get another class than with
float32.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models import zoo
from models.machine import describe_machine
from models.runtime.activity import SpikeActivity
from models.runtime.precision import PRECISIONS, Precision
from models.runtime.streaming import StreamingModel
from models.training.command import run, this_command, write_json
from models.training.evaluate import (
    SENSOR,
    WINDOW_US,
    LabelledWindow,
    activity_report,
    camvid_events,
    confusion_report,
)
from models.training.metrics import confusion

BITS: dict[Precision, int] = {"float32": 32, "bfloat16": 16, "int8": 8}


def report(name: str, windows: Sequence[LabelledWindow], folder: Path = zoo.ZOO) -> dict[str, Any]:
    """Scores and activity of a streaming network by what its weights are rounded to.

    Raises
    ------
    UnknownModelError
        If there is none of that name.
    WeightsError
        If it is not a streaming one.
    """
    rows: dict[str, Any] = {}
    reference: list[NDArray[np.uint8]] = []
    for precision in PRECISIONS:
        model = zoo.load(name, folder, precision=precision)
        masks, activities = _answers(model, windows)
        truths = [window.truth for window in windows if window.truth is not None]
        total = sum(
            (confusion(truth, mask, len(model.classes)) for truth, mask in zip(truths, masks, strict=True)),
            np.zeros((len(model.classes), len(model.classes)), np.int64),
        )
        reference = reference or masks
        labelled = [truth < len(model.classes) for truth in truths]
        changed = sum(
            int(((mask != other) & seen).sum()) for mask, other, seen in zip(masks, reference, labelled, strict=True)
        )
        rows[precision] = {
            "bits": BITS[precision],
            "labelled_pixels_changed": round(changed / max(1, sum(int(seen.sum()) for seen in labelled)), 5),
            **confusion_report(total, model.classes),
            **activity_report(activities, WINDOW_US),
        }
    return {
        "model": name,
        "backend": model.backend,
        "data": f"CamVid-events val: {len(windows)} windows of {WINDOW_US} µs as one stream, simulated sensor {SENSOR}",
        "machine": describe_machine(),
        "weights": rows,
    }


def _answers(
    model: StreamingModel, windows: Sequence[LabelledWindow]
) -> tuple[list[NDArray[np.uint8]], list[SpikeActivity]]:
    """Masks of the windows that have labels, and the activity of all."""
    state = model.initial_state(SENSOR)
    masks, activities = [], []
    for window in windows:
        answer = model.segment(state, window.events, SENSOR)
        state = answer.state
        activities.append(answer.activity)
        if window.truth is not None:
            masks.append(answer.mask)
    return masks, activities


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="edge-s", help="a streaming network of the zoo")
    parser.add_argument("--out", type=Path, required=True, help="the report, JSON")
    args = parser.parse_args()
    result = {"command": this_command("weights"), **report(args.model, camvid_events())}
    write_json(result, args.out)
    for precision, row in result["weights"].items():
        print(f"{precision:9} mIoU {row['miou']:.4f}  other class: {100 * row['labelled_pixels_changed']:.2f} %")


if __name__ == "__main__":
    run(main)
