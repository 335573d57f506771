"""Events as arrays: the one representation that every codec, window and encoder shares."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class SensorSize:
    """Size of an event sensor in pixels."""

    width: int
    height: int

    def __str__(self) -> str:
        return f"{self.width}x{self.height}"


@dataclass(frozen=True, slots=True)
class EventBatch:
    """Brightness-change events as a structure of arrays, all of length N.

    Attributes
    ----------
    t : int64 array, (N,)
        Times in microseconds of the sensor's clock.
    x, y : uint16 array, (N,)
        Column and row; (0, 0) is top left.
    p : uint8 array, (N,)
        Polarity: 1 ON (brighter), 0 OFF (darker).
    """

    t: NDArray[np.int64]
    x: NDArray[np.uint16]
    y: NDArray[np.uint16]
    p: NDArray[np.uint8]

    def __post_init__(self) -> None:
        n = self.t.shape
        if not (self.x.shape == self.y.shape == self.p.shape == n) or len(n) != 1:
            raise ValueError(
                "t, x, y and p must be one-dimensional and of equal length, got "
                f"{self.t.shape}, {self.x.shape}, {self.y.shape}, {self.p.shape}"
            )

    def __len__(self) -> int:
        return int(self.t.shape[0])

    def __getitem__(self, part: slice) -> EventBatch:
        """A view of some of the events; nothing is copied."""
        return EventBatch(self.t[part], self.x[part], self.y[part], self.p[part])

    @classmethod
    def empty(cls) -> EventBatch:
        """A batch without events."""
        return cls(np.empty(0, np.int64), np.empty(0, np.uint16), np.empty(0, np.uint16), np.empty(0, np.uint8))

    @classmethod
    def concatenate(cls, batches: Sequence[EventBatch]) -> EventBatch:
        """Join batches in the order given, with no sorting."""
        if not batches:
            return cls.empty()
        if len(batches) == 1:
            return batches[0]
        return cls(
            np.concatenate([b.t for b in batches]),
            np.concatenate([b.x for b in batches]),
            np.concatenate([b.y for b in batches]),
            np.concatenate([b.p for b in batches]),
        )
