"""What a flight controller is told as time goes by."""

from __future__ import annotations

import numpy as np
import pytest

from clients.drone.geometry import UNKNOWN_CM, GroundCamera, ObstacleMap
from clients.drone.reporter import (
    Heartbeat,
    Obstacles,
    Occupancy,
    Report,
    Reporter,
    Severity,
    StatusText,
    Timing,
    class_ids,
    occupancy,
)
from clients.errors import InputError
from clients.health import StreamState
from clients.results import Latency, Result, Skipped

CAMERA = GroundCamera.from_view(64, 48, hfov_deg=60.0, height_m=2.0, pitch_deg=20.0)


def reporter() -> Reporter:
    obstacles = ObstacleMap(CAMERA, obstacles=frozenset({2}), ground=frozenset({0}))
    return Reporter(classes=6, strips=4, obstacles=obstacles, timing=Timing(age_limit_s=0.5))


def result(compute_s: float = 0.0) -> Result:
    mask = np.zeros((48, 64), np.uint8)
    latency = Latency(0.0, 0.0, 0.0, 0.0, compute_s * 1e3)
    return Result(0, 0, 50_000, 10, 1, Skipped(), mask, None, latency, (1.0, 0, 0, 0, 0, 0), False)


def run(told: Reporter, begin: float, end: float, step: float = 0.02) -> list[tuple[float, Report]]:
    return [(now, report) for now in np.arange(begin, end, step).tolist() for report in told.due(now)]


def of(reports: list[tuple[float, Report]], kind: type) -> list[tuple[float, Report]]:
    return [(now, report) for now, report in reports if isinstance(report, kind)]


def is_unknown(report: Report) -> bool:
    assert isinstance(report, Obstacles)
    return set(report.sectors.distances_cm) == {UNKNOWN_CM}


def test_before_the_first_mask_everything_is_unknown_and_that_is_said() -> None:
    reports = run(reporter(), 0.0, 3.0)
    assert all(is_unknown(report) for _, report in of(reports, Obstacles))
    assert len(of(reports, Obstacles)) == pytest.approx(30, abs=2)
    assert [report.healthy for _, report in of(reports, Heartbeat)] == [False] * 3
    assert [report for _, report in of(reports, StatusText)] == [
        StatusText(Severity.WARNING, "no mask has come yet"),
    ]
    assert not of(reports, Occupancy)


def test_a_mask_is_believed_until_it_is_too_old_and_then_never_silently() -> None:
    told = reporter()
    told.state(StreamState.STREAMING, "")
    told.result(result(), 10.0)
    reports = run(told, 10.0, 12.0)
    for now, report in of(reports, Obstacles):
        assert is_unknown(report) is (now > 10.5)
    assert any(now > 11.9 for now, _ in of(reports, Obstacles))
    # The moment that it is too old, all is said at once.
    late = [(now, report) for now, report in reports if now > 10.5]
    assert {type(report) for now, report in late if now < 10.53} == {StatusText, Heartbeat, Obstacles}
    assert of(late, StatusText)[0][1] == StatusText(Severity.CRITICAL, "no mask in time")
    assert len(of(reports, Occupancy)) == 1


def test_a_masks_age_counts_from_when_its_events_came() -> None:
    told = reporter()
    told.result(result(compute_s=0.4), 10.0)
    reports = run(told, 10.0, 10.4)
    first_unknown = min(now for now, report in of(reports, Obstacles) if is_unknown(report))
    assert first_unknown == pytest.approx(10.1, abs=0.03)


def test_that_masks_are_back_is_said_too() -> None:
    told = reporter()
    told.result(result(), 0.0)
    run(told, 0.0, 1.0)
    told.state(StreamState.DEGRADED, "the connection broke")
    texts = of(run(told, 1.0, 21.0), StatusText)
    assert {report.text for _, report in texts} == {"segmentation degraded: the connection broke"}
    assert len(texts) == 2
    told.result(result(), 21.0)
    back = told.due(21.0)
    assert StatusText(Severity.INFO, "segmentation is back") in back
    assert Heartbeat(True) in back


def test_without_a_ground_plane_no_distance_is_told() -> None:
    told = Reporter(classes=6, strips=4)
    told.result(result(), 0.0)
    assert not of(run(told, 0.0, 2.0), Obstacles)


def test_occupancies_are_shares_strip_by_strip_from_the_left() -> None:
    mask = np.zeros((4, 8), np.uint8)
    mask[:, :2] = 1
    mask[:2, 2:4] = 2
    mask[:, 6:] = 255
    assert occupancy(mask, classes=3, strips=4) == (0, 1, 0, 0.5, 0, 0.5, 1, 0, 0, 0, 0, 0)


def test_what_does_not_fit_a_message_is_refused() -> None:
    with pytest.raises(InputError, match="more than 58 numbers"):
        Reporter(classes=6, strips=10)
    with pytest.raises(InputError, match="no class 'wall'; there are: flat, object"):
        class_ids(["wall"], [(0, "flat"), (2, "object")])
    assert class_ids(["object"], [(0, "flat"), (2, "object")]) == {2}
    with pytest.raises(InputError, match="above 0 s"):
        Timing(age_limit_s=0)
