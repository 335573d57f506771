"""Evaluate a network on CamVid-events ``val``: one drive as a stream, membranes carried from window to window.

    python -m models.training.evaluate --model edge-s

The drive is turned into simulated events at 346x260 (a DAVIS346); every second window ends at a labelled frame. The
first frame makes no events and is not scored. Scores are taken at the sensor's resolution.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from models import emulator, zoo
from models.architectures.edge import EdgeConfig, class_mask
from models.classes import DDD17_CLASSES
from models.datasets import camvid
from models.datasets.labels import class_ids
from models.datasets.stills import Still
from models.encoding import InputGrid, polarity_counts
from models.events import EventBatch, SensorSize
from models.runtime.activity import SpikeActivity
from models.runtime.streaming import StreamingModel
from models.training.metrics import Confusion, class_iou, confusion, mean_iou, pixel_accuracy

SENSOR = SensorSize(346, 260)
WINDOW_US = 33_333
WINDOWS_FOR_EACH_FRAME = 2


@dataclass(frozen=True, slots=True)
class LabelledWindow:
    """One window of a drive; ``truth`` (H, W) uint8 class ids where a labelled frame stands at its end."""

    t_start: int
    events: EventBatch
    truth: NDArray[np.uint8] | None


def camvid_events(root: Path | None = None, config: emulator.EmulatorConfig | None = None) -> list[LabelledWindow]:
    """The CamVid ``val`` drive as simulated events, cut into windows of 33.3 ms."""
    return list(drive_windows(camvid.load("val", root), config or emulator.EmulatorConfig()))


def drive_windows(frames: list[Still], config: emulator.EmulatorConfig) -> Iterator[LabelledWindow]:
    """Consecutive labelled frames as windows of simulated events, in order."""
    size = (SENSOR.width, SENSOR.height)
    views = [cv2.resize(frame.grey, size, interpolation=cv2.INTER_AREA) for frame in frames]
    period = WINDOW_US * WINDOWS_FOR_EACH_FRAME
    state = emulator.initial(views[0], config)
    for k, (frame, view) in enumerate(zip(frames[1:], views[1:], strict=True)):
        events, state = emulator.emulate(state, view, (k + 1) * period, config)
        truth = class_ids(cv2.resize(frame.labels, size, interpolation=cv2.INTER_NEAREST))
        # The emulator's interval is open at its start and closed at its end: windows here are too.
        edges = k * period + WINDOW_US * np.arange(1, WINDOWS_FOR_EACH_FRAME)
        cuts = [0, *np.searchsorted(events.t, edges, side="right"), len(events)]
        for j in range(WINDOWS_FOR_EACH_FRAME):
            last = j == WINDOWS_FOR_EACH_FRAME - 1
            yield LabelledWindow(k * period + j * WINDOW_US, events[cuts[j] : cuts[j + 1]], truth if last else None)


def window_tensor(windows: list[LabelledWindow], config: EdgeConfig) -> Tensor:
    """Polarity counts of all windows, (T, 2, H, W)."""
    grid = InputGrid.for_sensor(SENSOR, config.grid)
    return torch.from_numpy(np.stack([polarity_counts(w.events, grid, config.count_clip) for w in windows]))


def score_logits(windows: Sequence[LabelledWindow], logits: Sequence[Tensor], classes: int) -> Confusion:
    """Confusion matrix over all labelled windows, from the logits (classes, h, w) at the end of each window."""
    total = np.zeros((classes, classes), np.int64)
    for window, values in zip(windows, logits, strict=True):
        if window.truth is not None:
            total += confusion(window.truth, class_mask(values[None], SENSOR.height, SENSOR.width), classes)
    return total


def confusion_report(matrix: Confusion) -> dict[str, Any]:
    """Scores of a confusion matrix under the names that cards and reports use."""
    iou = class_iou(matrix)
    return {
        "miou": round(mean_iou(matrix), 4),
        "class_iou": {c.name: round(float(v), 4) for c, v in zip(DDD17_CLASSES, iou, strict=True)},
        "pixel_accuracy": round(pixel_accuracy(matrix), 4),
        "confusion_matrix": matrix.tolist(),
    }


def activity_report(activities: Sequence[SpikeActivity], window_us: int) -> dict[str, Any]:
    """Mean firing rates, synaptic operations and estimated energy over the windows of a stream."""
    windows = len(activities)
    names = [layer.name for layer in activities[0].layers if layer.neurons]
    layers = {
        name: round(sum(x.firing_rate for a in activities for x in a.layers if x.name == name) / windows, 4)
        for name in names
    }
    sops = sum(a.sops for a in activities) / windows
    each_second = 1e6 / window_us
    return {
        "firing_rate": round(sum(a.firing_rate for a in activities) / windows, 4),
        "layer_firing_rate": layers,
        "sops_per_window": round(sops),
        "sops_per_second": round(sops * each_second),
        "macs_ann_per_window": round(activities[0].macs_ann),
        "energy_estimate_j_per_window": {
            "snn": float(f"{sum(a.energy_snn_j for a in activities) / windows:.4g}"),
            "ann": float(f"{activities[0].energy_ann_j:.4g}"),
        },
    }


def evaluate_model(
    model: StreamingModel, windows: Sequence[LabelledWindow], *, carry_state: bool = True
) -> dict[str, Any]:
    """Score a trained network over a drive, the way it is served: one step for each window.

    With ``carry_state`` false the membranes start from rest in every window.
    """
    state = model.initial_state(SENSOR)
    total = np.zeros((len(model.classes), len(model.classes)), np.int64)
    activities = []
    for window in windows:
        answer = model.segment(state, window.events, SENSOR)
        if carry_state:
            state = answer.state
        activities.append(answer.activity)
        if window.truth is not None:
            total += confusion(window.truth, answer.mask, len(model.classes))
    return confusion_report(total) | activity_report(activities, WINDOW_US)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="edge-s", help="a network of the zoo")
    parser.add_argument("--reset", action="store_true", help="start from rest in every window")
    args = parser.parse_args()
    report = evaluate_model(zoo.load(args.model), camvid_events(), carry_state=not args.reset)
    print(json.dumps({"model": args.model, "carry_state": not args.reset, **report}, indent=2))


if __name__ == "__main__":
    main()
