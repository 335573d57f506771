"""Windows to measure with: the demo recording at any event rate and on a sensor of any size."""

from __future__ import annotations

import numpy as np

from models.events import EventBatch, SensorSize

WINDOW_US = 10_000


def windows_at(events: EventBatch, rate: float, count: int) -> list[EventBatch]:
    """Windows of ``WINDOW_US`` with as many events as so many a second bring, one after the other.

    The same drive, faster or slower: it is cut by number, and the times within a window are stretched to fill it. Where
    the recording ends, it begins again.

    Raises
    ------
    ValueError
        If a window would have more events than the recording.
    """
    size = round(rate * WINDOW_US / 1e6)
    if size > len(events):
        raise ValueError(f"the recording has {len(events)} events, a window of {size} does not fit in")
    starts = [k * size % (len(events) - size + 1) for k in range(count)]
    return [_stretched(events[start : start + size], k) for k, start in enumerate(starts)]


def _stretched(events: EventBatch, index: int) -> EventBatch:
    if not len(events):
        return events
    t = events.t - events.t[0]
    t = (t * ((WINDOW_US - 1) / max(1, int(t[-1])))).astype(np.int64) + index * WINDOW_US
    return EventBatch(t, events.x, events.y, events.p)


def tiled(events: EventBatch, size: SensorSize, sensor: SensorSize) -> EventBatch:
    """The events of a sensor of that size, repeated side by side over another sensor and cut at its edges.

    So a larger sensor has as many events on each of its pixels, and edges as sharp. Order in time is kept.
    """
    columns, rows = -(-sensor.width // size.width), -(-sensor.height // size.height)
    n, tiles = len(events), columns * rows
    x = events.x[:, None].astype(np.int64) + np.tile(np.arange(columns) * size.width, rows)
    y = events.y[:, None].astype(np.int64) + np.repeat(np.arange(rows) * size.height, columns)
    kept = ((x < sensor.width) & (y < sensor.height)).reshape(n * tiles)
    return EventBatch(
        np.repeat(events.t, tiles)[kept],
        x.reshape(-1)[kept].astype(np.uint16),
        y.reshape(-1)[kept].astype(np.uint16),
        np.repeat(events.p, tiles)[kept],
    )
