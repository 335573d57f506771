"""Events to polarity counts."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.encoding import InputGrid, polarity_counts
from models.errors import EncodingError
from models.events import EventBatch, SensorSize


def batch(x: list[int], y: list[int], p: list[int]) -> EventBatch:
    return EventBatch(
        np.arange(len(x), dtype=np.int64), np.array(x, np.uint16), np.array(y, np.uint16), np.array(p, np.uint8)
    )


def test_counts_by_polarity_and_cell() -> None:
    counts = polarity_counts(batch([0, 0, 2, 2], [1, 1, 0, 0], [1, 1, 0, 1]), InputGrid(SensorSize(3, 2), 1), clip=9)
    assert counts[0].tolist() == [[0, 0, 1], [0, 0, 0]]
    assert counts[1].tolist() == [[0, 0, 1], [2, 0, 0]]


def test_a_hot_pixel_is_clipped() -> None:
    counts = polarity_counts(batch([1] * 50, [0] * 50, [1] * 50), InputGrid(SensorSize(2, 1), 1), clip=4)
    assert counts.max() == 4


def test_no_event_is_exactly_zero() -> None:
    assert not polarity_counts(EventBatch.empty(), InputGrid(SensorSize(5, 4), 1), clip=4).any()


@pytest.mark.parametrize(
    ("sensor", "factor", "size"),
    [
        (SensorSize(346, 260), 1, (346, 260)),
        (SensorSize(320, 240), 1, (320, 240)),
        (SensorSize(128, 128), 1, (128, 128)),
        (SensorSize(640, 480), 2, (320, 240)),
        (SensorSize(1280, 720), 4, (320, 180)),
        (SensorSize(641, 481), 2, (321, 241)),
    ],
)
def test_large_sensors_are_binned_by_whole_numbers(sensor: SensorSize, factor: int, size: tuple[int, int]) -> None:
    grid = InputGrid.for_sensor(sensor, 346)
    assert (grid.factor, (grid.width, grid.height)) == (factor, size)


@given(st.integers(1, 50), st.integers(1, 50), st.integers(1, 4), st.integers(0, 300), st.integers(0, 99))
def test_every_event_is_counted_once(width: int, height: int, factor: int, n: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    events = batch(*(rng.integers(0, high, n).tolist() for high in (width, height, 2)))
    counts = polarity_counts(events, InputGrid(SensorSize(width, height), factor), clip=1000)
    assert counts.shape == (2, -(-height // factor), -(-width // factor))
    assert counts.sum() == n
    assert counts[1].sum() == events.p.sum()


def test_an_event_outside_the_sensor_is_refused() -> None:
    with pytest.raises(EncodingError, match="outside the 3x2 sensor"):
        polarity_counts(batch([3], [0], [0]), InputGrid(SensorSize(3, 2), 1), clip=4)
