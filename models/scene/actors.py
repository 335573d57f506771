"""Things with a shape of their own: cars, people, cyclists, street furniture; each paints itself on a canvas."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from typing import Protocol

import numpy as np

from models.scene.canvas import NEAR_M, Canvas, Face, Mesh

OBJECT, HUMAN, VEHICLE = 2, 4, 5
FAR_M = 130.0
DETAIL_M = 50.0
"""Beyond this distance, what is finer than a pixel is left out."""

Place = tuple[float, float, float]


class Actor(Protocol):
    """Something that stands or moves in the street."""

    def z(self, t: float) -> float:
        """Where along the street it is at a time in seconds; the nearest is painted last."""

    def paint(self, canvas: Canvas, t: float) -> None:
        """Draw it as it is at a time in seconds."""


@dataclass(frozen=True, slots=True)
class CarShape:
    """A kind of car.

    Attributes
    ----------
    profile : tuple of 9 points
        (Distance from the tail, height) in metres: rear bumper, boot edge, foot of the rear window, rear and front end
        of the roof, foot of the windscreen, end of the bonnet, nose, front bumper.
    half_width, half_roof : float
        At the body and at the roof.
    """

    profile: tuple[tuple[float, float], ...]
    half_width: float
    half_roof: float

    @property
    def length(self) -> float:
        return self.profile[-1][0]


HATCHBACK = CarShape(
    ((0, 0.32), (0, 0.72), (0.1, 0.98), (0.55, 1.44), (2.25, 1.48), (3.05, 1), (3.85, 0.86), (3.98, 0.66), (4, 0.3)),
    half_width=0.86,
    half_roof=0.62,
)
SALOON = CarShape(
    ((0, 0.34), (0, 0.8), (0.75, 0.98), (1.35, 1.4), (2.65, 1.43), (3.4, 0.98), (4.3, 0.84), (4.48, 0.64), (4.5, 0.3)),
    half_width=0.89,
    half_roof=0.62,
)
VAN = CarShape(
    ((0, 0.36), (0, 1), (0.04, 1.15), (0.1, 1.98), (3.3, 2.02), (4.1, 1.2), (4.7, 1.02), (4.88, 0.7), (4.9, 0.32)),
    half_width=0.95,
    half_roof=0.86,
)


@dataclass(frozen=True, slots=True)
class Car:
    """A car, parked or moving along the street.

    Attributes
    ----------
    shape : CarShape
    x, z0 : float
        Its middle at time 0, in metres.
    speed : float
        Metres per second along z.
    grey : int
        Body colour.
    heading : int
        1 if its nose points along z, so that its tail is seen; -1 if it faces the camera.
    """

    shape: CarShape
    x: float
    z0: float
    speed: float
    grey: int
    heading: int

    def z(self, t: float) -> float:
        return self.z0 + self.speed * t - self.shape.length / 2

    def paint(self, canvas: Canvas, t: float) -> None:
        middle = self.z0 + self.speed * t
        depth = middle - canvas.pose.z
        if not -self.shape.length < depth < FAR_M:
            return
        if self.speed:
            self._shadow(canvas, middle)
        flank = 1 if canvas.pose.x > self.x else -1
        mesh = car_mesh(self.shape, self.grey, self.heading, flank)
        canvas.mesh(mesh, (self.x, 0.0, middle), VEHICLE, details=depth < DETAIL_M)

    def _shadow(self, canvas: Canvas, middle: float) -> None:
        half, length = self.shape.half_width + 0.1, self.shape.length / 2 + 0.1
        signs = np.array([(-1, -1), (1, -1), (1, 1), (-1, 1)])
        corners = np.stack([self.x + half * signs[:, 0], np.zeros(4), middle + length * signs[:, 1]], axis=1)
        if (corners[:, 2] - canvas.pose.z > NEAR_M).all():
            canvas.polygons(canvas.project(corners)[None], [36], None)


@lru_cache(maxsize=512)
def car_mesh(shape: CarShape, grey: int, heading: int, flank: int) -> Mesh:
    """The faces of a car that can be seen, in the order in which they cover each other.

    Parameters
    ----------
    shape : CarShape
    grey : int
        Body colour.
    heading : int
        As of a :class:`Car`.
    flank : int
        1 if its right-hand side in the picture is seen, -1 for the left.
    """
    return _CarBuilder(shape, grey, heading, flank).build()


class _CarBuilder:
    """Collects the faces of a car; points are (across, height, from the tail)."""

    def __init__(self, shape: CarShape, grey: int, heading: int, flank: int) -> None:
        self.shape, self.body, self.heading, self.flank = shape, grey, heading, flank
        w, roof = shape.half_width, shape.half_roof
        self.widths = (w, w, 0.97 * w, roof, roof, 0.97 * w, 0.95 * w, 0.93 * w, 0.9 * w)
        self.points: list[Place] = []
        self.faces: list[Face] = []

    def build(self) -> Mesh:
        tail_seen = self.heading > 0
        self._underside(tail_seen)
        for i in (1, 0) if tail_seen else (5, 6, 7):
            self._strip(i, {0: 0.72, 1: 0.8, 5: 1.18, 6: 0.85, 7: 0.8}[i])
        self._side()
        self._window(2 if tail_seen else 4)
        self._end(tail_seen)
        return Mesh(np.array(self.points), tuple(self.faces))

    def face(self, points: list[Place], grey: float, *, detail: bool = False) -> None:
        start = len(self.points)
        middle = self.shape.length / 2
        self.points += [(x, y, self.heading * (along - middle)) for x, y, along in points]
        corners = tuple(range(start, len(self.points)))
        self.faces.append(Face(corners, int(min(max(grey, 0), 255)), detail))

    def box(self, x: tuple[float, float], y: tuple[float, float], z: float, grey: float, *, detail: bool) -> None:
        """A rectangle that faces along the street."""
        self.face([(x[0], y[0], z), (x[1], y[0], z), (x[1], y[1], z), (x[0], y[1], z)], grey, detail=detail)

    def plate(self, y: tuple[float, float], z: tuple[float, float], grey: float) -> None:
        """A rectangle on the car's side."""
        x = self.flank * self.widths[0]
        self.face([(x, y[0], z[0]), (x, y[1], z[0]), (x, y[1], z[1]), (x, y[0], z[1])], grey, detail=True)

    def _underside(self, tail_seen: bool) -> None:
        length, w = self.shape.length, self.shape.half_width
        self.box((-0.9 * w, 0.9 * w), (0.0, 0.4), 0.0 if tail_seen else length, 24, detail=False)
        axle = 0.7 if tail_seen else length - 0.75
        for side in (-1, 1):
            self.box((side * 0.98 * w, side * (w - 0.22)), (0.0, 0.5), axle, 18, detail=False)

    def _strip(self, i: int, shade: float) -> None:
        """The part of the hull between two points of the profile, all across the car."""
        (z0, y0), (z1, y1) = self.shape.profile[i], self.shape.profile[i + 1]
        w0, w1 = self.widths[i], self.widths[i + 1]
        self.face([(-w0, y0, z0), (w0, y0, z0), (w1, y1, z1), (-w1, y1, z1)], self.body * shade)

    def _side(self) -> None:
        profile, s, length = self.shape.profile, self.flank, self.shape.length
        grey = self.body * (0.66 if s > 0 else 0.9)

        def corner(i: int) -> Place:
            return s * self.widths[i], profile[i][1], profile[i][0]

        self.face([corner(i) for i in (0, 1, 2, 5, 6, 7, 8)], grey)
        self.face([corner(i) for i in (2, 3, 4, 5)], grey * 0.95)
        for z in (1.45, 2.55):
            if z < length - 1.2:
                self.plate((0.4, 0.95), (z, z + 0.03), grey * 0.5)
        self.plate((0.26, 0.33), (1.2, length - 1.25), 30)
        self.plate((0.62, 0.66), (0.3, length - 0.3), grey * 0.72)
        angles = np.linspace(0, 2 * math.pi, 17)[:-1].tolist()
        x = s * self.widths[0]
        for z in (0.78, length - 0.82):
            for radius, tone in ((0.40, 14), (0.33, 26), (0.21, 128), (0.07, 60)):
                rim = [(x, 0.33 + radius * math.sin(a), z + radius * math.cos(a)) for a in angles]
                self.face(rim, tone, detail=radius < 0.33)
        self._side_windows()

    def _side_windows(self) -> None:
        profile, s = self.shape.profile, self.flank
        low, high = max(profile[2][1], profile[5][1]) + 0.02, min(profile[3][1], profile[4][1]) - 0.07
        x0, x1 = s * self.widths[2], s * self.widths[3]
        rear, rear_top = profile[2][0] + 0.22, profile[3][0] + 0.1
        front, front_top = profile[5][0] - 0.18, profile[4][0] - 0.02
        pillar = (rear_top + front_top) / 2
        back, fore = pillar - 0.05, pillar + 0.05
        self.face([(x0, low, rear), (x0, low, back), (x1, high, back), (x1, high, rear_top)], 38)
        self.face([(x0, low, fore), (x0, low, front), (x1, high, front_top), (x1, high, fore)], 44)

    def _window(self, i: int) -> None:
        """The rear window or the windscreen, with a streak of sky in it."""
        (z0, y0), (z1, y1) = self.shape.profile[i], self.shape.profile[i + 1]
        self._strip(i, 0.9)

        def across(share: float, inset: float) -> Place:
            width = self.widths[i] + (self.widths[i + 1] - self.widths[i]) * share
            return width - inset, y0 + (y1 - y0) * share, z0 + (z1 - z0) * share

        (wl, yl, zl), (wm, ym, zm), (wh, yh, zh) = across(0.09, 0.08), across(0.62, 0.08), across(0.91, 0.07)
        self.face([(-wl, yl, zl), (wl, yl, zl), (wh, yh, zh), (-wh, yh, zh)], 40)
        self.face([(-wm, ym, zm), (0.2 * wm, ym, zm), (0.1 * wh, yh, zh), (-wh, yh, zh)], 92, detail=True)

    def _end(self, tail_seen: bool) -> None:
        """Bumper, lamps and number plate."""
        i = 1 if tail_seen else 7
        z = -0.02 if tail_seen else self.shape.length + 0.01
        low, high, w = 0.36, self.shape.profile[i][1], self.widths[i]
        self.box((-w, w), (low, low + 0.12), z, self.body * 0.45, detail=False)
        for side in (-1, 1):
            self.box((side * w, side * (w - 0.3)), (high - 0.2, high - 0.02), z, 58 if tail_seen else 225, detail=False)
        if not tail_seen:
            self.box((-0.45, 0.45), (high - 0.2, high - 0.05), z, 28, detail=True)
        plate = low + 0.16
        self.box((-0.27, 0.27), (plate, plate + 0.12), z, 216, detail=True)
        for k in range(5):
            x = -0.2 + 0.09 * k
            self.box((x, x + 0.04), (plate + 0.03, plate + 0.09), z, 50, detail=True)


@dataclass(frozen=True, slots=True)
class Limb:
    """A rounded stick between two points: its radius at each, and its grey."""

    start: Place
    end: Place
    r0: float
    r1: float
    grey: int


def paint_limbs(canvas: Canvas, limbs: list[Limb], class_id: int) -> None:
    """Paint limbs in the order given."""
    ends = np.array([(limb.start, limb.end) for limb in limbs])
    pixels = canvas.project(ends)
    radii = canvas.focal * np.array([(limb.r0, limb.r1) for limb in limbs]) / (ends[:, :, 2] - canvas.pose.z)
    along = np.arctan2(pixels[:, 1, 1] - pixels[:, 0, 1], pixels[:, 1, 0] - pixels[:, 0, 0])
    half = np.arange(6) * (math.pi / 5)
    turn = along[:, None] + np.concatenate([half + math.pi / 2, half - math.pi / 2])
    end = np.repeat([0, 1], 6)
    rim = np.stack([np.cos(turn), np.sin(turn)], axis=2) * radii[:, end, None]
    canvas.polygons(pixels[:, end] + rim, [limb.grey for limb in limbs], class_id)


@dataclass(frozen=True, slots=True)
class Person:
    """Someone who walks in a straight line.

    Attributes
    ----------
    x0, z0 : float
        Place at time 0, in metres.
    vx, vz : float
        Metres per second; not both 0.
    height : float
    coat, trousers : int
        Greys of the clothes.
    phase : float
        Where in the stride they are at time 0, in radians.
    """

    x0: float
    z0: float
    vx: float
    vz: float
    height: float
    coat: int
    trousers: int
    phase: float

    def z(self, t: float) -> float:
        return self.z0 + self.vz * t

    def paint(self, canvas: Canvas, t: float) -> None:
        if 0.8 < self.z(t) - canvas.pose.z < FAR_M:
            paint_limbs(canvas, self.limbs(t), HUMAN)

    def limbs(self, t: float) -> list[Limb]:
        """The figure at a time in seconds, back to front."""
        h, speed = self.height, math.hypot(self.vx, self.vz)
        x, z = self.x0 + self.vx * t, self.z(t)
        ahead = (self.vx / speed, self.vz / speed)

        def at(forward: float, sideways: float, up: float) -> Place:
            """A point by its place in the figure, in body heights."""
            return (
                x + h * (forward * ahead[0] - sideways * ahead[1]),
                h * up,
                z + h * (forward * ahead[1] + sideways * ahead[0]),
            )

        stride = self.phase + t * speed / (0.43 * h) * math.pi
        bob = 0.02 * abs(math.cos(stride))
        hip, shoulder = 0.5 + bob, 0.81 + bob
        limbs: list[Limb] = []
        for side, step in ((1, stride), (-1, stride + math.pi)):
            angle, bend = 0.42 * math.sin(step), 0.9 * max(0.0, math.cos(step))
            knee = (0.25 * math.sin(angle), hip - 0.25 * math.cos(angle))
            foot = (knee[0] + 0.25 * math.sin(angle - bend), max(knee[1] - 0.25 * math.cos(angle - bend), 0.02))
            a, b, c = at(0, 0.05 * side, hip), at(knee[0], 0.05 * side, knee[1]), at(foot[0], 0.05 * side, foot[1])
            toe = at(foot[0] + 0.07, 0.05 * side, max(foot[1] - 0.01, 0.02))
            limbs.append(Limb(a, b, 0.052 * h, 0.042 * h, self.trousers))
            limbs.append(Limb(b, c, 0.042 * h, 0.032 * h, self.trousers))
            limbs.append(Limb(c, toe, 0.03 * h, 0.026 * h, 20))
        sleeve = int(self.coat * 0.85)
        for side, step in ((1, stride), (-1, stride + math.pi)):
            angle = -0.34 * math.sin(step)
            elbow = (0.17 * math.sin(angle), shoulder - 0.17 * math.cos(angle))
            hand = (elbow[0] + 0.15 * math.sin(angle + 0.4), elbow[1] - 0.15 * math.cos(angle + 0.4))
            a, b = at(0, 0.115 * side, shoulder - 0.02), at(elbow[0], 0.135 * side, elbow[1])
            limbs.append(Limb(a, b, 0.036 * h, 0.03 * h, sleeve))
            limbs.append(Limb(b, at(hand[0], 0.13 * side, hand[1]), 0.03 * h, 0.022 * h, sleeve))
        limbs.append(Limb(at(0, 0, hip), at(0, 0, shoulder - 0.04), 0.1 * h, 0.115 * h, self.coat))
        limbs.append(Limb(at(0, 0, shoulder), at(0.01, 0, 0.87 + bob), 0.04 * h, 0.04 * h, 120))
        limbs.append(Limb(at(0.01, 0, 0.915 + bob), at(0.01, 0, 0.94 + bob), 0.055 * h, 0.055 * h, 134))
        limbs.append(Limb(at(-0.01, 0, 0.95 + bob), at(-0.01, 0, 0.96 + bob), 0.056 * h, 0.05 * h, 36))
        return limbs


@dataclass(frozen=True, slots=True)
class Cyclist:
    """Someone on a bicycle, riding along the street ahead of the camera.

    Attributes
    ----------
    x0, z0 : float
        Place at time 0, in metres.
    speed : float
        Metres per second along z.
    coat : int
        Grey of the jacket.
    phase : float
        Where the pedals are at time 0, in radians.
    """

    x0: float
    z0: float
    speed: float
    coat: int
    phase: float

    def z(self, t: float) -> float:
        return self.z0 + self.speed * t

    def paint(self, canvas: Canvas, t: float) -> None:
        if 1.2 < self.z(t) - canvas.pose.z < FAR_M:
            paint_limbs(canvas, self.limbs(t), HUMAN)

    def limbs(self, t: float) -> list[Limb]:
        """The rider and the bicycle at a time in seconds, back to front."""
        z = self.z(t)
        lean = 0.035 * math.sin(2.1 * t + self.phase)
        turn = self.phase + t * self.speed / 0.9

        def at(forward: float, sideways: float, up: float) -> Place:
            return self.x0 + sideways + lean * up, up, z + forward

        limbs: list[Limb] = []
        for axle in (0.55, -0.5):
            rim = [at(axle + 0.34 * math.cos(a), 0, 0.35 + 0.34 * math.sin(a)) for a in np.linspace(0, 2 * math.pi, 17)]
            limbs += [Limb(a, b, 0.022, 0.022, 20) for a, b in pairwise(rim)]
        limbs.append(Limb(at(-0.2, 0, 0.4), at(-0.2, 0, 0.95), 0.03, 0.03, 50))
        limbs.append(Limb(at(0.45, -0.28, 1.02), at(0.45, 0.28, 1.02), 0.02, 0.02, 30))
        for side, angle in ((1, turn), (-1, turn + math.pi)):
            forward, up = 0.17 * math.cos(angle), 0.32 + 0.17 * math.sin(angle)
            hip, knee = at(-0.22, 0.1 * side, 1.0), at(0.22, 0.14 * side, 0.42 + up)
            pedal = at(forward, 0.12 * side, up)
            limbs.append(Limb(hip, knee, 0.095, 0.07, 38))
            limbs.append(Limb(knee, pedal, 0.065, 0.05, 38))
            limbs.append(Limb(pedal, at(forward + 0.1, 0.12 * side, up - 0.02), 0.05, 0.05, 190))
        for side in (1, -1):
            shoulder, elbow = at(0.05, 0.2 * side, 1.42), at(0.3, 0.29 * side, 1.2)
            limbs.append(Limb(shoulder, elbow, 0.06, 0.05, self.coat))
            limbs.append(Limb(elbow, at(0.45, 0.27 * side, 1.04), 0.05, 0.04, self.coat))
        limbs.append(Limb(at(-0.22, 0, 1.02), at(0.05, 0, 1.38), 0.165, 0.2, self.coat))
        limbs.append(Limb(at(-0.25, 0, 1.16), at(-0.1, 0, 1.38), 0.12, 0.13, 44))
        limbs.append(Limb(at(0.1, 0, 1.56), at(0.1, 0, 1.64), 0.1, 0.1, 126))
        limbs.append(Limb(at(0.1, 0, 1.66), at(0.1, 0, 1.7), 0.115, 0.1, 214))
        return limbs


@dataclass(frozen=True, slots=True)
class Plate:
    """A sign, a lamp or a signal head on a post.

    Attributes
    ----------
    y : float
        Height of its middle, in metres.
    width, height : float
    corners : int
        4 for a rectangle, 3 for a triangle, more for a disc.
    greys : tuple of int
        Of the plate, and of smaller ones within it.
    lights : tuple of int
        Greys of three round lights, from top to bottom.
    """

    y: float
    width: float
    height: float
    corners: int
    greys: tuple[int, ...]
    lights: tuple[int, ...] = ()

    def outlines(self) -> list[tuple[list[tuple[float, float]], int]]:
        """Polygons (across, height) and their greys, back to front."""
        shapes = []
        for k, grey in enumerate(self.greys):
            w, h = (1 - 0.42 * k) * self.width / 2, (1 - 0.42 * k) * self.height / 2
            if self.corners == 4:
                shapes.append(([(-w, self.y - h), (w, self.y - h), (w, self.y + h), (-w, self.y + h)], grey))
            else:
                shapes.append(([(w * c, self.y + h * s) for c, s in _circle(self.corners)], grey))
        for k, grey in enumerate(self.lights):
            y = self.y + self.height * (1 - k) / 3
            shapes.append(([(0.11 * c, y + 0.11 * s) for c, s in _circle(12)], grey))
        return shapes


@dataclass(frozen=True, slots=True)
class Post:
    """An upright post, with what it carries.

    Attributes
    ----------
    x, place : float
        Where it stands, across and along the street, in metres.
    height, radius : float
    grey : int
    plates : tuple of Plate
    arm : float
        Reach of an arm at the top that carries a lamp, negative to the left; 0 for none.
    bands : int
        Number of bright bands around it.
    """

    x: float
    place: float
    height: float
    radius: float
    grey: int
    plates: tuple[Plate, ...] = ()
    arm: float = 0.0
    bands: int = 0

    def z(self, t: float) -> float:  # noqa: ARG002
        return self.place

    def paint(self, canvas: Canvas, t: float) -> None:  # noqa: ARG002
        if NEAR_M < self.place - canvas.pose.z < FAR_M:
            canvas.mesh(post_mesh(self), (self.x, 0.0, self.place), OBJECT, details=True)


@lru_cache(maxsize=1024)
def post_mesh(post: Post) -> Mesh:
    """The polygons of a post, around its foot."""
    r, h, a = post.radius, post.height, post.arm
    shapes: list[tuple[list[tuple[float, float]], int]] = [
        ([(-r, 0), (r, 0), (0.7 * r, h), (-0.7 * r, h)], post.grey),
        ([(0.2 * r, 0), (0.75 * r, 0), (0.5 * r, h), (0.15 * r, h)], min(post.grey + 45, 255)),
    ]
    for band in range(post.bands):
        y0, y1 = h * band / post.bands, h * (band + 0.5) / post.bands
        shapes.append(([(-r, y0), (r, y0), (r, y1), (-r, y1)], 222))
    if a:
        shapes.append(([(0, h - 0.1), (a, h + 0.35), (a, h + 0.45), (0, h + 0.05)], post.grey))
        lamp = [(0.95 * a, h + 0.3), (1.45 * a, h + 0.34), (1.45 * a, h + 0.46), (0.95 * a, h + 0.46)]
        shapes.append((lamp, 176))
    for plate in post.plates:
        shapes += plate.outlines()
    points: list[Place] = []
    faces: list[Face] = []
    for outline, grey in shapes:
        faces.append(Face(tuple(range(len(points), len(points) + len(outline))), grey))
        points += [(x, y, 0.0) for x, y in outline]
    return Mesh(np.array(points), tuple(faces))


def _circle(corners: int) -> list[tuple[float, float]]:
    """Cosines and sines of a polygon that stands on a side."""
    angles = math.pi / 2 + np.arange(corners) * (2 * math.pi / corners)
    return list(zip(np.cos(angles).tolist(), np.sin(angles).tolist(), strict=True))


__all__ = ["HATCHBACK", "SALOON", "VAN", "Actor", "Car", "CarShape", "Cyclist", "Person", "Plate", "Post"]
