"""Events and masks as coloured pictures."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from models.classes import SegmentationClass
from models.events import EventBatch, SensorSize

Mask = NDArray[np.uint8]
RgbPicture = NDArray[np.uint8]
Color = tuple[int, int, int]

ON_COLOR: Color = (213, 94, 0)
OFF_COLOR: Color = (0, 114, 178)
SILENT_COLOR: Color = (255, 255, 255)
WITHOUT_LABEL: Color = (255, 255, 255)


def event_picture(events: EventBatch, sensor: SensorSize) -> RgbPicture:
    """Events on white, RGB (H, W, 3): ON in vermilion, OFF in blue, as their sum decides; a draw counts as ON."""
    balance = np.zeros((sensor.height, sensor.width), np.int64)
    seen = np.zeros((sensor.height, sensor.width), bool)
    np.add.at(balance, (events.y, events.x), np.where(events.p != 0, 1, -1))
    seen[events.y, events.x] = True
    picture = np.empty((sensor.height, sensor.width, 3), np.uint8)
    picture[:] = SILENT_COLOR
    picture[seen & (balance >= 0)] = ON_COLOR
    picture[seen & (balance < 0)] = OFF_COLOR
    return picture


def color_mask(mask: Mask, classes: Sequence[SegmentationClass]) -> RgbPicture:
    """A mask in its classes' colours, RGB (H, W, 3); white where there is no class."""
    palette = np.empty((256, 3), np.uint8)
    palette[:] = WITHOUT_LABEL
    for c in classes:
        palette[c.id] = c.color
    colored: RgbPicture = palette[mask]
    return colored
