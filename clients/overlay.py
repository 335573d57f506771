"""Masks in colour, with the events on top."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from models.classes import DDD17_CLASSES, SegmentationClass
from models.events import EventBatch
from service.wire.masks import palette

ON_COLOR = (255, 255, 255)
OFF_COLOR = (80, 170, 255)
_EVENT_COLORS = np.array([OFF_COLOR, ON_COLOR], np.uint8)


def color_mask(mask: NDArray[np.uint8], classes: Sequence[SegmentationClass] = DDD17_CLASSES) -> NDArray[np.uint8]:
    """A mask in its classes' colours.

    Parameters
    ----------
    mask : uint8 array, (H, W)
        Class ids; those without a class come out black.
    classes : sequence of SegmentationClass

    Returns
    -------
    uint8 array, (H, W, 3)
        RGB.
    """
    colors = np.frombuffer(palette(classes), np.uint8).reshape(256, 3)
    picture: NDArray[np.uint8] = colors[mask]
    return picture


def overlay(
    mask: NDArray[np.uint8],
    events: EventBatch,
    classes: Sequence[SegmentationClass] = DDD17_CLASSES,
    *,
    opacity: float = 0.65,
    frame: NDArray[np.uint8] | None = None,
) -> NDArray[np.uint8]:
    """A mask in colour under the events of its window, and over a camera's frame if there is one.

    Parameters
    ----------
    mask : uint8 array, (H, W)
        Class ids.
    events : EventBatch
        Inside the mask. A pixel shows its last event: white for ON, light blue for OFF.
    classes : sequence of SegmentationClass
    opacity : float
        Of the mask before the frame, or before black, between 0 and 1.
    frame : uint8 array, (H, W) or (H, W, 3), optional
        Grey or RGB, of the mask's size.

    Returns
    -------
    uint8 array, (H, W, 3)
        RGB.

    Raises
    ------
    ValueError
        If ``opacity`` is out of range, an event lies outside the mask, or the frame is of another size.
    """
    if not 0 <= opacity <= 1:
        raise ValueError(f"the opacity {opacity} is not between 0 and 1")
    height, width = mask.shape
    if len(events) and (int(events.x.max()) >= width or int(events.y.max()) >= height):
        raise ValueError(f"an event lies outside the {width}x{height} mask")
    behind: NDArray[np.uint8] | float = 0.0
    if frame is not None:
        if frame.shape[:2] != mask.shape:
            raise ValueError(f"a frame of {frame.shape[1]}x{frame.shape[0]} lies behind a {width}x{height} mask")
        behind = frame[..., None] if frame.ndim == 2 else frame
    blended = color_mask(mask, classes) * opacity + behind * (1 - opacity)
    picture: NDArray[np.uint8] = np.rint(blended).astype(np.uint8)
    pixels, on = last_events(events, width)
    picture.reshape(-1, 3)[pixels] = _EVENT_COLORS[on.astype(np.intp)]
    return picture


def last_events(events: EventBatch, width: int) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """The last event of each pixel that has any.

    Parameters
    ----------
    events : EventBatch
        Ordered by time.
    width : int
        Pixels of a row.

    Returns
    -------
    pixels : int64 array, (N,)
        Row by row, in order, each once.
    on : bool array, (N,)
        Whether its last event is ON.
    """
    # Found as the first one from the end: of repeated indices NumPy does not promise an order.
    pixels, at = np.unique((events.y.astype(np.int64) * width + events.x)[::-1], return_index=True)
    return pixels, events.p[::-1][at] != 0
