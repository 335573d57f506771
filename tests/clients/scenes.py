"""Events and files that the clients' tests play."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from models.events import EventBatch, SensorSize

SENSOR = SensorSize(64, 48)


def moving_bars(*, duration_us: int, start_us: int = 5_000_000, step_us: int = 2_000) -> EventBatch:
    """Upright bars that move to the right by a pixel in each step: ON at their front, OFF at their back."""
    rows = np.arange(SENSOR.height)
    t, x, y, p = [], [], [], []
    for step in range(duration_us // step_us):
        for bar in range(0, SENSOR.width, 16):
            for offset, polarity in ((6, 1), (0, 0)):
                t.append(np.full(len(rows), start_us + step * step_us))
                x.append(np.full(len(rows), (bar + offset + step) % SENSOR.width))
                y.append(rows)
                p.append(np.full(len(rows), polarity))
    return EventBatch(
        np.concatenate(t).astype(np.int64),
        np.concatenate(x).astype(np.uint16),
        np.concatenate(y).astype(np.uint16),
        np.concatenate(p).astype(np.uint8),
    )


def write_npz(path: Path, events: EventBatch, sensor: SensorSize = SENSOR) -> Path:
    """An archive as the clients read it."""
    np.savez(path, t=events.t, x=events.x, y=events.y, p=events.p, width=sensor.width, height=sensor.height)
    return path
