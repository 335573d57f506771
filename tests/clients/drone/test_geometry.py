"""Distances over a flat ground, worked by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from clients.drone.geometry import BINS, UNKNOWN_CM, GroundCamera, ObstacleMap, ground_of
from clients.errors import InputError

GROUND, WALL, SKY = 0, 2, 1
# 90 degrees across, so that the focal length is half the width; level with the horizon in row 60.
LEVEL = GroundCamera.from_view(161, 121, hfov_deg=90.0, height_m=2.0, pitch_deg=0.0)


def watch(camera: GroundCamera = LEVEL, **options: float) -> ObstacleMap:
    return ObstacleMap(camera, obstacles=frozenset({WALL}), ground=frozenset({GROUND}), **options)  # type: ignore[arg-type]


def test_straight_down_the_middle() -> None:
    """f = 80.5, so row 60 + 40 looks down by 40 / 80.5, and meets the ground at 2 m * 80.5 / 40 = 4.025 m."""
    range_m, bearing = ground_of(LEVEL)
    assert range_m[100, 80] == pytest.approx(4.025)
    assert bearing[100, 80] == 0
    assert np.isinf(range_m[:61]).all()


def test_aside_the_ground_is_further_than_ahead() -> None:
    """At x' = 40 / 80.5 the same row meets the ground 4.025 m ahead and 2 m to the right."""
    range_m, bearing = ground_of(LEVEL)
    assert range_m[100, 120] == pytest.approx(math.hypot(4.025, 2.0))
    assert bearing[100, 120] == pytest.approx(math.atan2(2.0, 4.025))
    assert bearing[100, 40] == pytest.approx(-bearing[100, 120])


def test_turned_down_by_45_degrees_the_axis_meets_the_ground_as_far_as_it_is_high() -> None:
    camera = GroundCamera.from_view(161, 121, hfov_deg=60.0, height_m=3.0, pitch_deg=45.0)
    range_m, _ = ground_of(camera)
    assert range_m[60, 80] == pytest.approx(3.0)
    assert range_m[100, 80] < 3.0 < range_m[20, 80]


def test_an_obstacle_is_as_far_as_the_ground_at_its_foot() -> None:
    mask = np.full((121, 161), GROUND, np.uint8)
    mask[:61] = SKY
    mask[20:101, 76:86] = WALL
    found = watch(max_m=30).distances(mask)
    near = [d for d in found.distances_cm if d < 500]
    # Row 100: 4.025 m straight ahead, and a little more to the side.
    assert min(near) in (402, 403)
    assert max(near) == pytest.approx(402.5 * math.hypot(1, 4 / 80.5), abs=1)
    assert found.distances_cm[BINS // 2] in near
    assert len(near) == pytest.approx(math.degrees(2 * math.atan(5 / 80.5)) / (90 / BINS), abs=1.5)
    # All else is ground, as far as 30 m.
    assert set(found.distances_cm) - set(near) == {3001}


def test_bearings_go_from_left_to_right_about_straight_ahead() -> None:
    mask = np.full((121, 161), GROUND, np.uint8)
    mask[60:110, :30] = WALL
    found = watch().distances(mask)
    assert found.distances_cm[0] < 3000
    assert found.distances_cm[-1] == 3001
    assert found.increment_deg == pytest.approx(90 / BINS, rel=0.01)
    assert found.offset_deg == pytest.approx(-45 + found.increment_deg / 2, abs=0.2)
    mirrored = watch().distances(mask[:, ::-1])
    assert mirrored.distances_cm == found.distances_cm[::-1]


def test_what_is_not_seen_as_ground_is_not_clear() -> None:
    """Sky down to the ground, or pixels without a class: nothing stands there, but nothing says that it is free."""
    for id in (SKY, 255):
        assert set(watch().distances(np.full((121, 161), id, np.uint8)).distances_cm) == {UNKNOWN_CM}
    assert set(watch().unknown().distances_cm) == {UNKNOWN_CM}


def test_what_only_shows_above_the_horizon_has_no_distance_and_blocks_nothing() -> None:
    mask = np.full((121, 161), GROUND, np.uint8)
    mask[:61] = WALL
    assert set(watch().distances(mask).distances_cm) == {3001}


def test_a_few_pixels_are_noise() -> None:
    mask = np.full((121, 161), GROUND, np.uint8)
    mask[100, 80:82] = WALL
    assert set(watch(fewest_pixels=3).distances(mask).distances_cm) == {3001}
    assert min(watch(fewest_pixels=1).distances(mask).distances_cm) in (402, 403)


def test_a_camera_that_sees_no_ground_knows_nothing() -> None:
    camera = GroundCamera.from_view(64, 48, hfov_deg=40.0, height_m=2.0, pitch_deg=-40.0)
    assert set(watch(camera).distances(np.zeros((48, 64), np.uint8)).distances_cm) == {UNKNOWN_CM}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"hfov_deg": 0.0}, "field of view"),
        ({"hfov_deg": 179.0}, "field of view"),
        ({"height_m": 0.0}, "height above the ground"),
        ({"height_m": float("nan")}, "finite"),
        ({"pitch_deg": 90.0}, "between -45 and 90"),
    ],
)
def test_a_camera_that_cannot_be_is_refused(change: dict[str, float], message: str) -> None:
    with pytest.raises(InputError, match=message):
        GroundCamera.from_view(64, 48, **{"hfov_deg": 60.0, "height_m": 2.0, "pitch_deg": 10.0, **change})


def test_a_mask_of_another_size_is_refused() -> None:
    with pytest.raises(InputError, match="the mask is 64x48, the camera 161x121"):
        watch().distances(np.zeros((48, 64), np.uint8))
    with pytest.raises(InputError, match="least < most"):
        watch(min_m=5.0, max_m=2.0)
