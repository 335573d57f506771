"""Which masks are fresh, and what is said of it."""

from __future__ import annotations

import numpy as np
import pytest

from clients.errors import InputError
from clients.health import StreamState
from clients.results import Latency, Result, Skipped
from clients.vehicle.watch import Level, Watch


def result(t_end: int, dropped: int = 0) -> Result:
    return Result(
        window=0,
        t_start=t_end - 10,
        t_end=t_end,
        events=1,
        windows=1,
        skipped=Skipped(0, dropped, 0, False),
        mask=np.zeros((2, 2), np.uint8),
        activity=None,
        latency=Latency(0, 0, 0, 0, 0),
        class_share=(1.0,),
        deadline_missed=False,
    )


def streaming(**options: float) -> Watch:
    watch = Watch(**options)
    watch.state(StreamState.STREAMING, "")
    return watch


def test_a_mask_is_as_old_as_the_events_that_completed_it() -> None:
    watch = streaming(age_limit_s=1.0)
    watch.events(90, 10.0)
    watch.events(100, 20.0)
    watch.events(200, 30.0)
    assert watch.is_fresh(result(100), 20.9)
    assert watch.status(20.9).values["mask_age_s"] == "0.900"
    assert not watch.is_fresh(result(110), 31.5)
    assert watch.status(31.5).values["masks_too_old"] == "1"
    assert watch.status(31.5).values["masks_published"] == "1"


def test_a_mask_of_a_window_that_no_event_ended_is_as_old_as_the_last_events() -> None:
    watch = streaming(age_limit_s=1.0)
    watch.events(90, 10.0)
    assert not watch.is_fresh(result(100), 11.5)
    assert watch.is_fresh(result(100), 10.5)


def test_a_sensor_that_begins_anew_does_not_make_its_masks_old() -> None:
    watch = streaming(age_limit_s=1.0)
    watch.events(1_000, 10.0)
    watch.events(20, 50.0)
    assert watch.is_fresh(result(20), 50.1)


def test_what_is_said_follows_the_stream_and_the_masks() -> None:
    watch = Watch(age_limit_s=1.0)
    assert watch.status(0.0).level is Level.WARN
    assert watch.status(0.0).message == "no mask has come yet"
    watch.state(StreamState.STREAMING, "")
    watch.events(100, 5.0)
    assert watch.is_fresh(result(100, dropped=3), 5.2)
    assert (watch.status(5.3).level, watch.status(5.3).message) == (Level.OK, "masks are fresh")
    assert watch.status(5.3).values["windows_dropped"] == "3"

    watch.state(StreamState.DEGRADED, "the connection broke")
    assert watch.status(5.4).level is Level.WARN
    assert watch.status(6.4).level is Level.ERROR
    assert watch.status(6.4).message == "segmentation degraded: the connection broke"

    watch.state(StreamState.STREAMING, "")
    watch.asked(7.0)
    watch.events(200, 7.0)
    assert (watch.status(7.1).level, watch.status(7.1).message) == (Level.ERROR, "no mask in time")
    watch.asked(9.0)
    assert (watch.status(9.1).level, watch.status(9.1).message) == (
        Level.WARN,
        "the camera is silent: no events come",
    )


@pytest.mark.parametrize("limit", [0.0, -1.0, float("inf"), float("nan")])
def test_a_limit_that_is_none_is_refused(limit: float) -> None:
    with pytest.raises(InputError, match="age limit"):
        Watch(age_limit_s=limit)
