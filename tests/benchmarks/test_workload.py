"""Windows for benchmarks have the rate, the sensor and the order that they are said to have."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.workload import WINDOW_US, tiled, windows_at
from models.events import EventBatch, SensorSize
from tests.service.harness import random_events

SENSOR = SensorSize(64, 48)


def recording(n: int) -> EventBatch:
    return random_events(0, windows=1, per_window=n, sensor=SENSOR, window_us=5_000_000)


@pytest.mark.parametrize("rate", [0.0, 1e3, 1e5, 1e6])
def test_each_window_has_the_events_of_its_rate_and_lies_in_its_time(rate: float) -> None:
    windows = windows_at(recording(50_000), rate, 12)
    assert len(windows) == 12
    for k, window in enumerate(windows):
        assert len(window) == round(rate * WINDOW_US / 1e6)
        assert (np.diff(window.t) >= 0).all()
        assert ((window.t >= k * WINDOW_US) & (window.t < (k + 1) * WINDOW_US)).all()


def test_windows_follow_one_another_in_the_recording() -> None:
    events = recording(1000)
    first, second, *_ = windows_at(events, 1e4, 3)
    assert np.concatenate([first.x, second.x]).tolist() == events.x[:200].tolist()


def test_a_window_larger_than_the_recording_is_refused() -> None:
    with pytest.raises(ValueError, match="the recording has 10 events, a window of 10000"):
        windows_at(recording(10), 1e6, 1)


@pytest.mark.parametrize("sensor", [SensorSize(64, 48), SensorSize(100, 48), SensorSize(130, 97), SensorSize(40, 30)])
def test_a_tiled_sensor_repeats_the_small_one(sensor: SensorSize) -> None:
    events = recording(2000)
    found = tiled(events, SENSOR, sensor)
    assert (np.diff(found.t) >= 0).all()
    counts = np.zeros((sensor.height, sensor.width), int)
    np.add.at(counts, (found.y, found.x), 1)
    small = np.zeros((SENSOR.height, SENSOR.width), int)
    np.add.at(small, (events.y, events.x), 1)
    y, x = np.mgrid[: sensor.height, : sensor.width]
    assert (counts == small[y % SENSOR.height, x % SENSOR.width]).all()
