"""Events to network input: polarity counts on the network's grid."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from models.errors import EncodingError
from models.events import EventBatch, SensorSize
from models.native.events import event_library


@dataclass(frozen=True, slots=True)
class InputGrid:
    """The pixels that a network sees, for one sensor: blocks of ``factor`` x ``factor`` sensor pixels.

    A whole-numbered factor keeps every cell the same size, so that no sensor leaves a moiré in the counts.
    """

    sensor: SensorSize
    factor: int

    @classmethod
    def for_sensor(cls, sensor: SensorSize, longest_side: int) -> InputGrid:
        """The grid whose factor is nearest to giving its longer side ``longest_side`` cells, at least 1."""
        longest = max(sensor.width, sensor.height)
        return cls(sensor, max(1, round(longest / longest_side)))

    @property
    def width(self) -> int:
        return -(-self.sensor.width // self.factor)

    @property
    def height(self) -> int:
        return -(-self.sensor.height // self.factor)


def polarity_counts(events: EventBatch, grid: InputGrid, clip: int) -> NDArray[np.float32]:
    """Count the OFF and ON events of one window in each cell.

    A cell without events is exactly zero, so that a silent input costs a spiking network nothing.

    Parameters
    ----------
    events : EventBatch
    grid : InputGrid
    clip : int
        Largest count that is kept; it bounds what a hot pixel can do.

    Returns
    -------
    float32 array, (2, grid.height, grid.width)
        Channel 0 holds OFF, channel 1 ON.

    Raises
    ------
    EncodingError
        If an event lies outside the sensor.
    """
    library = event_library()
    if library is None:
        return polarity_counts_in_numpy(events, grid, clip)
    sensor = grid.sensor
    x, y = np.ascontiguousarray(events.x, np.uint16), np.ascontiguousarray(events.y, np.uint16)
    p = np.ascontiguousarray(events.p, np.uint8)
    counts = np.zeros((2, grid.height, grid.width), np.float32)
    outside = library.polarity_counts(
        *(column.ctypes.data for column in (x, y, p)),
        len(events),
        grid.factor,
        sensor.width,
        sensor.height,
        grid.width,
        grid.height,
        float(clip),
        counts.ctypes.data,
    )
    if outside:
        raise EncodingError(f"an event lies outside the {sensor} sensor")
    return counts


def polarity_counts_in_numpy(events: EventBatch, grid: InputGrid, clip: int) -> NDArray[np.float32]:
    """``polarity_counts`` where there is no compiler: the same counts, in several passes."""
    sensor = grid.sensor
    if len(events) and (int(events.x.max()) >= sensor.width or int(events.y.max()) >= sensor.height):
        raise EncodingError(f"an event lies outside the {sensor} sensor")
    cells = grid.height * grid.width
    x, y = events.x.astype(np.int32), events.y.astype(np.int32)
    if grid.factor > 1:
        x, y = x // grid.factor, y // grid.factor
    index = events.p.astype(np.int32) * cells + y * grid.width + x
    counts = np.bincount(index, minlength=2 * cells)
    return np.minimum(counts, clip).astype(np.float32).reshape(2, grid.height, grid.width)
