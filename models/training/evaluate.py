"""Evaluate a network on CamVid-events ``val``: one drive as a stream, membranes carried from window to window.

The drive is turned into simulated events at 346x260 (a DAVIS346); every second window ends at a labelled frame. The
first frame makes no events and is not scored. Scores are taken at the sensor's resolution.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from models import emulator
from models.architectures.edge import EdgeConfig, resize_logits
from models.datasets import camvid
from models.datasets.labels import class_ids
from models.datasets.stills import Still
from models.encoding import InputGrid, polarity_counts
from models.events import EventBatch, SensorSize
from models.training.metrics import Confusion, confusion

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


def score(
    windows: list[LabelledWindow], logits_of: Callable[[int], Tensor], classes: int
) -> tuple[Confusion, list[NDArray[np.uint8]]]:
    """Confusion matrix over all labelled windows, and the mask (H, W) of each.

    ``logits_of(k)`` gives the logits (classes, h, w) at the end of window ``k``; it is called in order for every window.
    """
    total = np.zeros((classes, classes), np.int64)
    masks = []
    for k, window in enumerate(windows):
        logits = logits_of(k)
        if window.truth is None:
            continue
        full = resize_logits(logits[None], SENSOR.height, SENSOR.width)
        mask = full[0].argmax(0).numpy().astype(np.uint8)
        total += confusion(window.truth, mask, classes)
        masks.append(mask)
    return total, masks
