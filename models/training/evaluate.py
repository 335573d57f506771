"""Evaluate a network on a labelled drive as a stream, membranes carried from window to window.

    python -m models.training.evaluate --model edge-s
    python -m models.training.evaluate --model edge-s --reset
    python -m models.training.evaluate --model edge-s --weights int8
    python -m models.training.evaluate --model edge-s --data ddd17:rec1487417411
    python -m models.training.evaluate --model edge-s --data dsec:zurich_city_13_a

    python -m models.training.evaluate --model paper-deeplab-voc
    python -m models.training.evaluate --model my-paper-deeplab --data ddd17-frames

A frame model is scored on VOC2012 ``val``. ``camvid-events`` is the CamVid ``val`` drive, turned into simulated events
at 346x260 (a DAVIS346); every second window ends at a labelled frame, and the first frame, which makes no events, is
not scored. The others are real recordings. Scores are taken at the sensor's resolution.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from models import emulator, zoo
from models.classes import DDD17_CLASSES, SegmentationClass
from models.datasets import camvid, ddd17, dsec, voc2012
from models.datasets.labels import class_ids
from models.datasets.stills import Still
from models.errors import DatasetNotFoundError, WeightsError
from models.events import EventBatch, SensorSize
from models.machine import describe_machine
from models.runtime.activity import SpikeActivity
from models.runtime.model import SegmentationModel
from models.runtime.precision import PRECISIONS
from models.runtime.protocol import FrameModel, ProtocolModel
from models.runtime.streaming import StreamingModel
from models.training.command import run, this_command, write_json
from models.training.metrics import Confusion, class_accuracy, class_iou, confusion, mean_iou, pixel_accuracy

SENSOR = SensorSize(346, 260)
WINDOW_US = 33_333
WINDOWS_FOR_EACH_FRAME = 2
TEST_DRIVE = "camvid-events"
DDD17_FRAMES = "ddd17-frames"


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
        truth = class_ids(cv2.resize(frame.labels, size, interpolation=cv2.INTER_NEAREST_EXACT))
        # The emulator's interval is open at its start and closed at its end: windows here are too.
        edges = k * period + WINDOW_US * np.arange(1, WINDOWS_FOR_EACH_FRAME)
        cuts = [0, *np.searchsorted(events.t, edges, side="right"), len(events)]
        for j in range(WINDOWS_FOR_EACH_FRAME):
            last = j == WINDOWS_FOR_EACH_FRAME - 1
            yield LabelledWindow(k * period + j * WINDOW_US, events[cuts[j] : cuts[j + 1]], truth if last else None)


@dataclass(frozen=True, slots=True)
class LabelledDrive:
    """A drive to train or to score a network on.

    Attributes
    ----------
    name : str
    window_us : int
    sensor : SensorSize
    read : callable
        Its windows in order, from the start.
    """

    name: str
    window_us: int
    sensor: SensorSize
    read: Callable[[], Iterator[LabelledWindow]]


def find_drive(name: str, root: Path | None = None, *, every_label: bool = False) -> LabelledDrive:
    """A drive by name: ``camvid-events``, ``ddd17:RECORDING`` or ``dsec:SEQUENCE``.

    Of DSEC's labels, those that published figures are scored on are given; with ``every_label`` all.

    Raises
    ------
    DatasetNotFoundError
        If there is none of that name; where its data is not under the data root, once it is read.
    """
    kind, _, sequence = name.partition(":")
    scored = slice(None) if every_label else dsec.PUBLISHED_LABELS
    if name == TEST_DRIVE:
        return LabelledDrive(name, WINDOW_US, SENSOR, lambda: iter(camvid_events(root)))
    if kind == "ddd17" and sequence:
        return LabelledDrive(
            name,
            ddd17.WINDOW_US,
            ddd17.CROP,
            lambda: _number(ddd17.labelled_windows(sequence, root), ddd17.WINDOW_US),
        )
    if kind == "dsec" and sequence:
        return LabelledDrive(
            name,
            dsec.WINDOW_US,
            dsec.CROP,
            lambda: _number(dsec.labelled_windows(sequence, root, scored=scored), dsec.WINDOW_US),
        )
    raise DatasetNotFoundError(f"no drive {name!r}; expected camvid-events, ddd17:RECORDING or dsec:SEQUENCE")


def _number(found: Iterable[tuple[EventBatch, NDArray[np.uint8] | None]], window_us: int) -> Iterator[LabelledWindow]:
    return (LabelledWindow(k * window_us, events, truth) for k, (events, truth) in enumerate(found))


def confusion_report(matrix: Confusion, classes: Sequence[SegmentationClass] = DDD17_CLASSES) -> dict[str, Any]:
    """Scores of a confusion matrix under the names that cards and reports use.

    A class that is neither present nor predicted has no IoU, and one that is not present no accuracy: None.
    """

    def by_class(values: NDArray[np.float64]) -> dict[str, float | None]:
        return {
            c.name: None if np.isnan(value) else round(float(value), 4)
            for c, value in zip(classes, values, strict=True)
        }

    return {
        "miou": round(mean_iou(matrix), 4),
        "class_iou": by_class(class_iou(matrix)),
        "class_accuracy": by_class(class_accuracy(matrix)),
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
    model: SegmentationModel,
    windows: Iterable[LabelledWindow],
    *,
    sensor: SensorSize = SENSOR,
    window_us: int = WINDOW_US,
    carry_state: bool = True,
) -> dict[str, Any]:
    """Score a trained network over a drive, the way it is served: one step for each window.

    With ``carry_state`` false the membranes start from rest in every window.
    """
    state = model.initial_state(sensor)
    total = np.zeros((len(model.classes), len(model.classes)), np.int64)
    activities = []
    for window in windows:
        answer = model.segment(state, window.events, sensor)
        if carry_state:
            state = answer.state
        activities.append(answer.activity)
        if window.truth is not None:
            total += confusion(window.truth, answer.mask, len(model.classes))
    about = {"windows": len(activities), "labelled_pixels": int(total.sum())}
    return about | confusion_report(total, model.classes) | activity_report(activities, window_us)


def evaluate_frames(model: FrameModel, pictures: Sequence[voc2012.Picture]) -> dict[str, Any]:
    """Score a trained network on single pictures, each at its own size."""
    total = np.zeros((len(model.classes), len(model.classes)), np.int64)
    activities = []
    for picture in pictures:
        answer = model.segment_frame(picture.rgb)
        activities.append(answer.activity)
        total += confusion(picture.labels, answer.mask, len(model.classes))
    report = confusion_report(total, model.classes) | activity_report(activities, 1_000_000)
    # A picture has no length in time.
    del report["sops_per_second"]
    return report


def evaluate_ddd17_frames(model: ProtocolModel, frames: ddd17.Frames) -> dict[str, Any]:
    """Score a paper network on Ev-SegNet's tensors of single windows, each run of consecutive ones as a stream."""
    total = np.zeros((len(model.classes), len(model.classes)), np.int64)
    activities = []
    for consecutive in frames.runs():
        state = model.initial_state(ddd17.CROP)
        for frame in consecutive:
            cells = ddd17.paper_cells(frame.events, model.coding.height, model.coding.width)
            answer = model.segment_cells(state, torch.from_numpy(cells), ddd17.CROP)
            state = answer.state
            activities.append(answer.activity)
            total += confusion(frame.labels, answer.mask, len(model.classes))
    about = {"windows": len(activities), "labelled_pixels": int(total.sum())}
    return about | confusion_report(total, model.classes) | activity_report(activities, ddd17.WINDOW_US)


def latency_report(
    model: SegmentationModel, windows: Iterable[LabelledWindow], sensor: SensorSize, most: int = 60
) -> dict[str, float]:
    """Milliseconds that a window takes in this process, from events to mask: soft figures, of this machine."""
    state = model.initial_state(sensor)
    taken = []
    for window in islice(windows, most):
        begun = time.perf_counter()
        state = model.segment(state, window.events, sensor).state
        taken.append(1e3 * (time.perf_counter() - begun))
    return {f"p{q}": round(float(np.percentile(taken, q)), 2) for q in (50, 95)}


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="edge-s", help="a network of the zoo")
    parser.add_argument(
        "--data", default=TEST_DRIVE, help="camvid-events, ddd17:RECORDING, dsec:SEQUENCE or ddd17-frames"
    )
    parser.add_argument("--reset", action="store_true", help="start from rest in every window")
    parser.add_argument(
        "--weights", choices=PRECISIONS, default="float32", help="what a streaming network's weights are rounded to"
    )
    parser.add_argument("--out", type=Path, help="write the report here as JSON")
    args = parser.parse_args()
    report: dict[str, Any] = {
        "command": this_command("evaluate"),
        "model": args.model,
        "machine": describe_machine(),
    }
    model = zoo.load_any(args.model, precision=args.weights)
    if isinstance(model, StreamingModel):
        report["weights"] = model.precision
    if isinstance(model, FrameModel):
        pictures = voc2012.load("val")
        report |= {"data": "voc2012 val", "pictures": len(pictures), **evaluate_frames(model, pictures)}
    elif args.data == DDD17_FRAMES:
        if not isinstance(model, ProtocolModel) or model.coding.normalisation != "column":
            raise WeightsError(f"{DDD17_FRAMES} are for the paper's networks with normalisation column")
        report |= {"data": "DDD17 test frames (Ev-SegNet)", **evaluate_ddd17_frames(model, ddd17.load("test"))}
    else:
        drive, carry = find_drive(args.data), not args.reset
        windows = list(drive.read())
        report |= {"data": drive.name, "windows": len(windows), "carry_state": carry}
        report |= evaluate_model(model, windows, sensor=drive.sensor, window_us=drive.window_us, carry_state=carry)
        report["latency_ms"] = latency_report(model, drive.read(), drive.sensor)
    print(json.dumps(report, indent=1))
    if args.out:
        write_json(report, args.out)


if __name__ == "__main__":
    run(main)
