"""A moving camera over a still picture: smooth driving motion, as maps for ``cv2.remap``.

A picture is looked at through a window that drives towards a focus of expansion. Things move outwards in proportion to
their distance from the focus and to an inverse depth that grows towards the border and the ground, as in a street;
yaw, pitch vibration and roll are added. All randomness is drawn once, so that a motion is a pure function of time.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

MapXY = tuple[NDArray[np.float32], NDArray[np.float32]]


@dataclass(frozen=True, slots=True)
class EgoMotion:
    """Motion of a camera, in pixels of the picture and in windows.

    Attributes
    ----------
    origin : (float, float)
        Where the view's top left corner looks at time 0.
    focus : (float, float)
        Focus of expansion in the picture.
    speed : float
        Expansion in a window, at inverse depth 1; negative drives backwards.
    depth_slope, ground_slope : float
        How the inverse depth grows with the distance from the focus, and below the horizon.
    yaw : float
        Sideways pixels in a window.
    vibration : (float, float, float)
        Amplitude in pixels, period in windows and phase of the vertical vibration.
    roll : float
        Radians in a window.
    size : float
        Length in pixels that distances are measured by (the picture's width).
    """

    origin: tuple[float, float]
    focus: tuple[float, float]
    speed: float
    depth_slope: float
    ground_slope: float
    yaw: float
    vibration: tuple[float, float, float]
    roll: float
    size: float

    @classmethod
    def random(
        cls, rng: np.random.Generator, picture: tuple[int, int], origin: tuple[float, float], windows: int
    ) -> EgoMotion:
        """Draw a drive over ``windows`` windows over a picture of size (height, width)."""
        height, width = picture
        speed = float(np.exp(rng.uniform(np.log(0.004), np.log(0.03))))
        # A long fast drive would end inside a few magnified pixels.
        speed = min(speed, 0.35 / windows) * (1 if rng.random() < 0.95 else -1)
        turning = rng.random() < 0.2
        return cls(
            origin=origin,
            focus=(width * rng.normal(0.5, 0.06), height * rng.normal(0.48, 0.04)),
            speed=speed,
            depth_slope=float(rng.uniform(0, 2)),
            ground_slope=float(rng.uniform(0, 2)),
            yaw=float(rng.normal(0, 2.0 if turning else 0.35)),
            vibration=(float(rng.exponential(0.4)), float(rng.uniform(3, 12)), float(rng.uniform(0, 2 * np.pi))),
            roll=float(rng.normal(0, 0.001)),
            size=float(width),
        )

    def maps(self, time: float, view_x: NDArray[np.float32], view_y: NDArray[np.float32]) -> MapXY:
        """Where the view's pixels look at ``time`` (in windows).

        Parameters
        ----------
        time : float
        view_x, view_y : float32 array, (h, w)
            Pixel coordinates in the view.

        Returns
        -------
        map_x, map_y : float32 array, (h, w)
            Coordinates in the picture.
        """
        dx = view_x + np.float32(self.origin[0] - self.focus[0])
        dy = view_y + np.float32(self.origin[1] - self.focus[1])
        inverse_depth = (
            np.float32(0.5)
            + np.float32(self.depth_slope / self.size) * np.hypot(dx, dy)
            + np.float32(self.ground_slope / self.size) * np.maximum(dy, 0)
        )
        shrink = np.exp(np.float32(-self.speed * time) * inverse_depth)
        amplitude, period, phase = self.vibration
        shift_y = amplitude * (np.sin(2 * np.pi * time / period + phase) - np.sin(phase))
        angle = self.roll * time
        cos, sin = np.float32(np.cos(angle)), np.float32(np.sin(angle))
        rx, ry = dx * shrink, dy * shrink
        map_x = cos * rx - sin * ry + np.float32(self.focus[0] + self.yaw * time)
        map_y = sin * rx + cos * ry + np.float32(self.focus[1] + shift_y)
        return map_x, map_y
