"""Distances from a mask: where the ground seen by a pixel lies, if the ground is flat.

A camera at height ``h`` looks ahead, turned down by the pitch ``θ``. A pixel's ray, in a frame that looks ahead and is
level, is ``forward = cos θ − y' sin θ``, ``right = x'``, ``down = sin θ + y' cos θ`` with ``x' = (u − cx) / fx`` and
``y' = (v − cy) / fy`` (pinhole model, Hartley and Zisserman, Multiple View Geometry, ch. 6). Where ``down > 0`` it
meets the ground at ``h / down`` times itself. An obstacle stands on the ground, so the nearest ground that its pixels
cover tells how far away its foot is.

That is an estimate from one camera and one assumption: it holds for a drone that flies level over a plane, and is no
range finder.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from clients.errors import InputError

BINS = 72
"""Distances that an ``OBSTACLE_DISTANCE`` message holds."""
UNKNOWN_CM = 0xFFFF
"""What stands there where nothing is known."""


@dataclass(frozen=True, slots=True)
class GroundCamera:
    """A camera above a flat ground.

    Attributes
    ----------
    width, height : int
        Pixels.
    fx, fy, cx, cy : float
        Focal lengths and principal point, in pixels.
    height_m : float
        Above the ground, in metres.
    pitch_rad : float
        How far it is turned down from level, in radians.
    """

    width: int
    height: int
    fx: float
    fy: float
    cx: float
    cy: float
    height_m: float
    pitch_rad: float

    def __post_init__(self) -> None:
        numbers = (self.fx, self.fy, self.cx, self.cy, self.height_m, self.pitch_rad)
        if not all(math.isfinite(number) for number in numbers):
            raise InputError("the camera's intrinsics, height and pitch must be finite numbers")
        if min(self.width, self.height) < 1 or min(self.fx, self.fy) <= 0:
            raise InputError("the camera's size and focal lengths must be above 0")
        if self.height_m <= 0:
            raise InputError(f"the camera's height above the ground must be above 0 m, not {self.height_m}")
        if not -math.pi / 4 <= self.pitch_rad < math.pi / 2:
            raise InputError("the camera's pitch, downwards, must be between -45 and 90 degrees")

    @classmethod
    def from_view(cls, width: int, height: int, *, hfov_deg: float, height_m: float, pitch_deg: float) -> Self:
        """A camera with square pixels and its principal point in the middle, from its horizontal field of view."""
        if not 0 < hfov_deg < 170:
            raise InputError(f"the horizontal field of view must be between 0 and 170 degrees, not {hfov_deg}")
        focal = width / 2 / math.tan(math.radians(hfov_deg) / 2)
        center = ((width - 1) / 2, (height - 1) / 2)
        return cls(width, height, focal, focal, *center, height_m, math.radians(pitch_deg))


@dataclass(frozen=True, slots=True)
class Sectors:
    """Distances around the drone as ``OBSTACLE_DISTANCE`` has them.

    Attributes
    ----------
    distances_cm : tuple of int
        One for each of 72 bearings, from left to right: ``max_cm + 1`` if the ground is clear as far as ``max_cm``,
        65535 if nothing is known.
    offset_deg, increment_deg : float
        Bearing of the first one, from straight ahead, and the step to the next.
    min_cm, max_cm : int
    """

    distances_cm: tuple[int, ...]
    offset_deg: float
    increment_deg: float
    min_cm: int
    max_cm: int


class ObstacleMap:
    """Turns masks of one camera into distances.

    Parameters
    ----------
    camera : GroundCamera
    obstacles, ground : set of int
        Class ids of what must not be flown into, and of what is clear.
    min_m, max_m : float
        Distances outside are not told.
    fewest_pixels : int
        Pixels of obstacles that a bearing must have within reach; fewer are taken for noise.
    clear_share : float
        Share of a bearing's ground within reach that must be seen as ground for it to count as clear.
    """

    def __init__(
        self,
        camera: GroundCamera,
        *,
        obstacles: frozenset[int],
        ground: frozenset[int],
        min_m: float = 0.5,
        max_m: float = 30.0,
        fewest_pixels: int = 3,
        clear_share: float = 0.5,
    ) -> None:
        if not 0 < min_m < max_m <= 600:
            raise InputError("distances must have 0 < least < most <= 600 m")
        if not obstacles:
            raise InputError("there must be a class that counts as an obstacle")
        self._camera = camera
        self._obstacles = np.zeros(256, bool)
        self._obstacles[sorted(obstacles)] = True
        self._ground = np.zeros(256, bool)
        self._ground[sorted(ground)] = True
        self._min_cm, self._max_cm = round(min_m * 100), round(max_m * 100)
        self._fewest_pixels = fewest_pixels
        self._clear_share = clear_share
        range_m, bearing = ground_of(camera)
        left, right = _edges(camera)
        self._increment = (right - left) / BINS
        self._left = left
        with np.errstate(invalid="ignore"):
            within = (range_m >= min_m) & (range_m <= max_m)
        sector = np.floor((bearing - left) / self._increment)
        within &= (sector >= 0) & (sector < BINS)
        self._within = np.flatnonzero(within)
        self._sector = sector.ravel()[self._within].astype(np.int64)
        self._range_cm = np.round(range_m.ravel()[self._within] * 100).astype(np.int64)
        self._reachable = np.bincount(self._sector, minlength=BINS)

    def distances(self, mask: NDArray[np.uint8]) -> Sectors:
        """Distances from a mask, uint8 class ids of the camera's size.

        Raises
        ------
        InputError
            If the mask has another size.
        """
        if mask.shape != (self._camera.height, self._camera.width):
            raise InputError(
                f"the mask is {mask.shape[1]}x{mask.shape[0]}, the camera {self._camera.width}x{self._camera.height}"
            )
        seen = mask.ravel()[self._within]
        blocked = self._obstacles[seen]
        counts = np.bincount(self._sector[blocked], minlength=BINS)
        nearest = np.full(BINS, UNKNOWN_CM, np.int64)
        np.minimum.at(nearest, self._sector[blocked], self._range_cm[blocked])
        clear = np.bincount(self._sector[self._ground[seen]], minlength=BINS)
        found = np.full(BINS, UNKNOWN_CM, np.int64)
        is_clear = (self._reachable > 0) & (clear >= self._clear_share * self._reachable)
        found[is_clear] = self._max_cm + 1
        stands = counts >= self._fewest_pixels
        found[stands] = nearest[stands]
        return self._sectors(found.tolist())

    def unknown(self) -> Sectors:
        """Nothing is known."""
        return self._sectors([UNKNOWN_CM] * BINS)

    def _sectors(self, distances: list[int]) -> Sectors:
        increment = math.degrees(self._increment)
        offset = math.degrees(self._left) + increment / 2
        return Sectors(tuple(distances), offset, increment, self._min_cm, self._max_cm)


def ground_of(camera: GroundCamera) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Where each pixel sees the ground.

    Returns
    -------
    range_m : float64 array, (H, W)
        Horizontal distance of the ground, in metres; infinite at and above the horizon.
    bearing : float64 array, (H, W)
        Clockwise from straight ahead, in radians.
    """
    forward, right, down = _rays(
        camera, np.arange(camera.width, dtype=float), np.arange(camera.height, dtype=float)[:, None]
    )
    meets = down > 1e-9
    scale = camera.height_m / np.where(meets, down, 1.0)
    range_m = np.where(meets, np.hypot(forward, right) * scale, np.inf)
    return range_m, np.arctan2(right, forward)


def _rays(
    camera: GroundCamera, u: NDArray[np.float64], v: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    x, y = np.broadcast_arrays((u - camera.cx) / camera.fx, (v - camera.cy) / camera.fy)
    sine, cosine = math.sin(camera.pitch_rad), math.cos(camera.pitch_rad)
    return cosine - y * sine, x, sine + y * cosine


def _edges(camera: GroundCamera) -> tuple[float, float]:
    """Bearings of the left and right edge of the view, halfway down."""
    forward, right, _ = _rays(camera, np.array([-0.5, camera.width - 0.5]), np.array([camera.cy]))
    left, last = np.arctan2(right, forward).tolist()
    return float(left), float(last)
