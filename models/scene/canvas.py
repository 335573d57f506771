"""A pinhole camera that looks along a street, and the picture that it paints.

World coordinates are metres: x to the right, y up from the ground, z along the street. The picture is painted for a
camera that looks exactly along z, back to front and larger than needed; the camera's small rotations are then one
homography of the finished picture, which is exact because a rotation moves nothing in front of anything else.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import cv2
import numpy as np
from numpy.typing import NDArray

from models.classes import UNLABELLED

GreyImage = NDArray[np.uint8]
FloatArray = NDArray[np.float32]
Points = NDArray[np.float64]

NEAR_M = 0.4
_SUBPIXEL_BITS = 4


@dataclass(frozen=True, slots=True)
class Camera:
    """A pinhole camera.

    Attributes
    ----------
    width, height : int
        Pixels of the finished picture.
    focal : float
        Focal length in pixels.
    horizon : float
        Row of the horizon when the camera is level.
    oversampling : int
        The picture is painted this many times larger in each direction and then averaged.
    margin : int
        Pixels painted beyond each side, for the rotations to bring in.
    blur : float
        Standard deviation, in pixels, of the spot that the lens makes of a point.
    """

    width: int = 346
    height: int = 260
    focal: float = 340.0
    horizon: float = 120.0
    oversampling: int = 2
    margin: int = 14
    blur: float = 0.65


@dataclass(frozen=True, slots=True)
class Pose:
    """Where the camera is (metres) and how it is turned (radians, small)."""

    x: float
    y: float
    z: float
    yaw: float
    pitch: float
    roll: float


@dataclass(frozen=True, slots=True)
class Sprite:
    """A flat picture with its coverage, in halving sizes.

    Attributes
    ----------
    levels : tuple of uint8 arrays, (h, w, 3)
        Grey times coverage, coverage, and 255 where the sprite's class holds, which may be wider than its coverage. The
        first is the largest.
    """

    levels: tuple[GreyImage, ...]

    @classmethod
    def build(cls, grey: GreyImage, alpha: GreyImage, mask: GreyImage | None = None) -> Sprite:
        """Make the smaller sizes; without ``mask``, the class holds wherever the sprite covers."""
        covered = cv2.multiply(grey, alpha, scale=1 / 255)
        levels = [np.dstack([covered, alpha, alpha if mask is None else mask])]
        while min(levels[-1].shape[:2]) >= 8:
            size = (levels[-1].shape[1] // 2, levels[-1].shape[0] // 2)
            levels.append(cv2.resize(levels[-1], size, interpolation=cv2.INTER_AREA))
        return cls(tuple(levels))


@dataclass(frozen=True, slots=True)
class Mesh:
    """Polygons that share points, painted in their order.

    Attributes
    ----------
    points : float array, (n, 3)
        Metres, around the mesh's own origin.
    faces : tuple of Face
    """

    points: Points
    faces: tuple[Face, ...]


@dataclass(frozen=True, slots=True)
class Face:
    """One polygon of a mesh.

    Attributes
    ----------
    corners : tuple of int
        Indices of points.
    grey : int
    detail : bool
        Lies within other faces, and is too small to be seen from afar.
    """

    corners: tuple[int, ...]
    grey: int
    detail: bool = False


class StripTexture:
    """A long texture that can be averaged exactly over any stretch of its length.

    Seen along its length, a road or a row of houses is squeezed without limit towards the horizon. Running sums along
    the length give the mean over the stretch that a line of pixels sees; across, there are halving sizes.

    Parameters
    ----------
    texture : uint8 array, (length, across, channels)
    length_res, across_res : float
        Metres of a texel.
    """

    def __init__(self, texture: GreyImage, length_res: float, across_res: float, n_levels: int = 4) -> None:
        self.length_res = length_res
        self.across_res = across_res
        self._textures: list[GreyImage] = []
        self._sums: list[NDArray[np.int32]] = []
        level = texture
        for _ in range(n_levels):
            # A last line of zeros can be looked up, never counted.
            self._textures.append(np.concatenate([level, np.zeros_like(level[:1])]))
            start = np.zeros((1, *level.shape[1:]), np.int32)
            self._sums.append(np.concatenate([start, np.cumsum(level, axis=0, dtype=np.int32)]))
            half = level[:, : level.shape[1] // 2 * 2].astype(np.uint16)
            level = ((half[:, 0::2] + half[:, 1::2] + 1) // 2).astype(np.uint8)

    @property
    def n_levels(self) -> int:
        """Number of sizes across."""
        return len(self._textures)

    @property
    def across(self) -> float:
        """Metres across the texture."""
        return float(self._textures[0].shape[1] * self.across_res)

    def mean(self, start: Points, end: Points, level: int, first: int = 0, last: int | None = None) -> FloatArray:
        """Mean over stretches of the length; what lies beyond the texture counts as zero.

        Parameters
        ----------
        start, end : float array, (n,)
            Metres along the texture, ``start < end``.
        level : int
        first, last : int
            Texels across to look at.

        Returns
        -------
        float32 array, (n, last - first, channels)
        """
        texture, sums = self._textures[level][:, first:last], self._sums[level][:, first:last]
        n = len(texture) - 1
        a, b = (np.clip(edge / self.length_res, 0, n) for edge in (start, end))
        ia, ib = a.astype(np.intp), b.astype(np.intp)
        fa, fb = ((edge - i).astype(np.float32)[:, None, None] for edge, i in ((a, ia), (b, ib)))
        # Whole texels are subtracted as integers, so that no precision is lost far along the street.
        total = (sums[ib] - sums[ia]).astype(np.float32) + fb * texture[ib] - fa * texture[ia]
        return cast(FloatArray, total / ((end - start) / self.length_res).astype(np.float32)[:, None, None])


class Canvas:
    """A grey picture and its class ids, painted back to front.

    Attributes
    ----------
    grey : uint8 array, (H, W)
        Larger than the finished picture: oversampled, and with a margin.
    labels : uint8 array, (H, W)
    """

    def __init__(self, camera: Camera, pose: Pose, sky: GreyImage, sky_class: int) -> None:
        s = camera.oversampling
        self.camera = camera
        self.pose = pose
        self.width = (camera.width + 2 * camera.margin) * s
        self.height = (camera.height + 2 * camera.margin) * s
        self.focal = camera.focal * s
        self.cx = (self.width - 1) / 2
        self.cy = (camera.horizon + camera.margin) * s
        self.grey: GreyImage = cv2.resize(sky, (self.width, self.height), interpolation=cv2.INTER_LINEAR)
        self.labels: GreyImage = np.full((self.height, self.width), sky_class, np.uint8)

    def ground(self, texture: StripTexture, x_start: float, z_start: float, class_id: int, far_m: float) -> None:
        """Paint the ground plane.

        Parameters
        ----------
        texture : StripTexture
            One channel; its length lies along z and its width along x.
        x_start, z_start : float
            World coordinates of its first texel.
        class_id : int
        far_m : float
            Distance at which it ends.
        """
        first = math.ceil(self.cy + self.focal * self.pose.y / far_m)
        rows = np.arange(first, self.height, dtype=np.float64)
        near_z, far_z = (self.focal * self.pose.y / (rows + side - self.cy) for side in (0.5, -0.5))
        middle_z = self.focal * self.pose.y / (rows - self.cy)
        columns = np.arange(self.width, dtype=np.float64)
        bounds = [0.0, 7.0] + [27.0 * 2**k for k in range(texture.n_levels - 1)] + [math.inf]
        for band in range(len(bounds) - 1):
            inside = (middle_z > bounds[band]) & (middle_z <= bounds[band + 1])
            if not inside.any():
                continue
            level = max(band - 1, 0)
            res = texture.across_res * 2**level
            z = middle_z[inside]
            texels = (self.pose.x - x_start + (columns - self.cx) / self.focal * z[:, None]) / res - 0.5
            lo = max(int(texels.min()) - 1, 0)
            start = self.pose.z - z_start
            lines = texture.mean(start + near_z[inside], start + far_z[inside], level, lo, int(texels.max()) + 3)
            which = np.broadcast_to(np.arange(len(z), dtype=np.float32)[:, None], texels.shape)
            picture = cv2.remap(
                lines[:, :, 0],
                (texels - lo).astype(np.float32),
                which,
                cv2.INTER_LINEAR,
                borderMode=cv2.BORDER_REPLICATE,
            )
            at = int(rows[inside].min())
            self.grey[at : at + len(z)] = np.rint(picture)
        self.labels[first:] = class_id

    def wall(self, texture: StripTexture, x: float, z_start: float, length: float, class_id: int, haze: int) -> None:
        """Paint an upright plane that runs along the street.

        Parameters
        ----------
        texture : StripTexture
            Grey times coverage, and coverage; its length lies along z and its width along y, from the ground up.
        x, z_start, length : float
            Where it stands, in metres.
        class_id : int
        haze : int
            Grey that distant parts fade to.
        """
        side = x - self.pose.x
        z_near = max(z_start - self.pose.z, NEAR_M)
        z_far = z_start + length - self.pose.z
        if z_far <= z_near or abs(side) < 1e-6:
            return
        ends = sorted(self.cx + self.focal * side / z for z in (z_near, z_far))
        first, last = max(math.floor(ends[0]), 0), min(math.ceil(ends[1]) + 1, self.width)
        columns = np.arange(first, last, dtype=np.float64)
        columns = columns[(columns - self.cx) * side > 0.5 * abs(side)]
        if not len(columns):
            return
        offset = np.abs(columns - self.cx)
        near_z, far_z = (self.focal * abs(side) / (offset + part) for part in (0.5, -0.5))
        middle_z = np.clip(self.focal * abs(side) / offset, z_near, z_far)
        top_row = self.cy - self.focal * (texture.across - self.pose.y) / z_near
        bottom_row = self.cy + self.focal * self.pose.y / z_near
        row_0, row_1 = max(math.floor(top_row), 0), min(math.ceil(bottom_row) + 2, self.height)
        if row_1 <= row_0:
            return
        rows = np.arange(row_0, row_1, dtype=np.float64)
        metres_per_pixel = middle_z / self.focal
        wanted = np.clip(np.floor(np.log2(metres_per_pixel / texture.across_res)), 0, texture.n_levels - 1).astype(int)
        start = self.pose.z - z_start
        for level in np.unique(wanted).tolist():
            inside = wanted == level
            z, c = middle_z[inside], columns[inside]
            lines = texture.mean(start + near_z[inside], start + far_z[inside], level)
            res = texture.across_res * 2**level
            texels = (self.pose.y - (rows[:, None] - self.cy) * (z / self.focal)) / res - 0.5
            which = np.broadcast_to(np.arange(len(z), dtype=np.float32), texels.shape)
            picture = cv2.remap(
                np.ascontiguousarray(lines),
                texels.astype(np.float32),
                which,
                cv2.INTER_LINEAR,
                borderMode=cv2.BORDER_CONSTANT,
            )
            fade = np.exp(-z / 500.0).astype(np.float32)
            covered, alpha = picture[:, :, 0], picture[:, :, 1]
            covered = covered * fade + alpha * (haze / 255 * (1 - fade))
            c0 = int(c.min())
            part = np.s_[row_0:row_1, c0 : c0 + len(c)]
            self.grey[part] = np.rint(self.grey[part] * (1 - alpha / 255) + covered)
            self.labels[part][alpha > 127] = class_id

    def sprite(self, sprite: Sprite, x: tuple[float, float], y: tuple[float, float], z: float, class_id: int) -> None:
        """Paint a flat picture that faces the camera.

        Parameters
        ----------
        sprite : Sprite
        x, y : pair of float
            Left and right, bottom and top, in metres.
        z : float
        class_id : int
        """
        depth = z - self.pose.z
        if depth < NEAR_M:
            return
        u0, u1 = (self.cx + self.focal * (edge - self.pose.x) / depth for edge in x)
        v1, v0 = (self.cy - self.focal * (edge - self.pose.y) / depth for edge in y)
        left, right = max(math.floor(u0) - 1, 0), min(math.ceil(u1) + 2, self.width)
        top, bottom = max(math.floor(v0) - 1, 0), min(math.ceil(v1) + 2, self.height)
        if left >= right or top >= bottom:
            return
        texels_per_pixel = sprite.levels[0].shape[1] / (u1 - u0)
        level = sprite.levels[min(int(math.log2(max(texels_per_pixel, 1.0))), len(sprite.levels) - 1)]
        sx, sy = level.shape[1] / (u1 - u0), level.shape[0] / (v1 - v0)
        # Texel centres lie at half steps in from the sprite's edge, pixel centres on whole numbers.
        place = np.array([[sx, 0, (left - u0) * sx - 0.5], [0, sy, (top - v0) * sy - 0.5]])
        flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
        seen = cv2.warpAffine(level, place, (right - left, bottom - top), flags=flags, borderMode=cv2.BORDER_CONSTANT)
        covered, alpha, holds = cv2.split(seen)
        part = np.s_[top:bottom, left:right]
        self.grey[part] = cv2.add(cv2.multiply(self.grey[part], cv2.bitwise_not(alpha), scale=1 / 255), covered)
        self.labels[part][holds > 127] = class_id

    def project(self, points: Points) -> Points:
        """Pixels (..., 2) of world points (..., 3) in front of the camera."""
        scale = self.focal / (points[..., 2] - self.pose.z)
        pixels = np.empty((*points.shape[:-1], 2))
        pixels[..., 0] = self.cx + scale * (points[..., 0] - self.pose.x)
        pixels[..., 1] = self.cy - scale * (points[..., 1] - self.pose.y)
        return pixels

    def mesh(self, mesh: Mesh, origin: tuple[float, float, float], class_id: int, *, details: bool) -> None:
        """Paint a mesh that is not turned.

        Parameters
        ----------
        mesh : Mesh
        origin : tuple of float
            Where its origin lies in the world.
        class_id : int
        details : bool
            Paint its details too.
        """
        points = mesh.points + np.array(origin)
        depth = points[:, 2] - self.pose.z
        faces = [face for face in mesh.faces if details or not face.detail]
        if (depth >= NEAR_M).all():
            pixels = self.project(points)
            if self._in_sight(pixels):
                fixed = _fixed_point(pixels)
                for face in faces:
                    self._fill(fixed[list(face.corners)], face.grey, None if face.detail else class_id)
        elif (depth > NEAR_M).any():
            for face in faces:
                corners = _clip_near(points[list(face.corners)], self.pose.z + NEAR_M)
                if len(corners) >= 3:
                    self._fill(_fixed_point(self.project(corners)), face.grey, None if face.detail else class_id)

    def polygons(self, pixels: Points, greys: Sequence[int], class_id: int | None) -> None:
        """Paint polygons of equally many corners: pixels (n, corners, 2), in the order given."""
        if self._in_sight(pixels.reshape(-1, 2)):
            for corners, grey in zip(_fixed_point(pixels), greys, strict=True):
                self._fill(corners, grey, class_id)

    def _in_sight(self, pixels: Points) -> bool:
        (u0, v0), (u1, v1) = pixels.min(0), pixels.max(0)
        return bool(u1 >= 0 and v1 >= 0 and u0 <= self.width and v0 <= self.height)

    def _fill(self, corners: NDArray[np.int32], grey: int, class_id: int | None) -> None:
        cv2.fillPoly(self.grey, [corners], grey, cv2.LINE_AA, _SUBPIXEL_BITS)
        if class_id is not None:
            cv2.fillPoly(self.labels, [corners], class_id, cv2.LINE_8, _SUBPIXEL_BITS)

    def finish(self) -> tuple[FloatArray, GreyImage]:
        """Turn the camera, put its lens on, and average down to its pixels.

        Returns
        -------
        grey : float32 array, (height, width)
            In [0, 1].
        labels : uint8 array, (height, width)
        """
        camera, s = self.camera, self.camera.oversampling
        w, h = camera.width * s, camera.height * s
        painted = np.array([[self.focal, 0, self.cx], [0, self.focal, self.cy], [0, 0, 1]])
        seen = np.array([[self.focal, 0, (w - 1) / 2], [0, self.focal, camera.horizon * s], [0, 0, 1]])
        turn = painted @ _rotation(self.pose) @ np.linalg.inv(seen)
        flags = cv2.WARP_INVERSE_MAP
        large = cv2.warpPerspective(
            self.grey.astype(np.float32), turn, (w, h), flags=flags | cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE
        )
        if camera.blur:
            large = cv2.GaussianBlur(large, (0, 0), camera.blur * s)
        grey = large.reshape(camera.height, s, camera.width, s).mean(axis=(1, 3), dtype=np.float32) / np.float32(255)
        centre = (s - 1) / 2
        pick = turn @ np.array([[s, 0, centre], [0, s, centre], [0, 0, 1]])
        labels = cv2.warpPerspective(
            self.labels,
            pick,
            (camera.width, camera.height),
            flags=flags | cv2.INTER_NEAREST,
            borderMode=cv2.BORDER_CONSTANT,
            borderValue=UNLABELLED,
        )
        return cast(FloatArray, grey), cast(GreyImage, labels)


def _rotation(pose: Pose) -> Points:
    """Directions in the turned camera (x right, y down, z ahead) to directions in the level one."""
    (sy, cy), (sp, cp), (sr, cr) = ((math.sin(a), math.cos(a)) for a in (pose.yaw, pose.pitch, pose.roll))
    yaw = np.array([[cy, 0, sy], [0, 1, 0], [-sy, 0, cy]])
    pitch = np.array([[1, 0, 0], [0, cp, -sp], [0, sp, cp]])
    roll = np.array([[cr, -sr, 0], [sr, cr, 0], [0, 0, 1]])
    return cast(Points, yaw @ pitch @ roll)


def _fixed_point(pixels: Points) -> NDArray[np.int32]:
    """Pixels as OpenCV takes parts of them."""
    return np.rint(pixels * (1 << _SUBPIXEL_BITS)).astype(np.int32)


def _clip_near(corners: Points, z_min: float) -> Points:
    """The part of a polygon that lies beyond a plane of constant z."""
    kept: list[Points] = []
    for i, here in enumerate(corners):
        before = corners[i - 1]
        if (here[2] >= z_min) != (before[2] >= z_min):
            kept.append(before + (here - before) * (z_min - before[2]) / (here[2] - before[2]))
        if here[2] >= z_min:
            kept.append(here)
    return np.array(kept) if kept else np.empty((0, 3))
