"""Surfaces of the street, drawn from random numbers: road and pavement, house fronts, trees, hedges, sky."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import cast

import cv2
import numpy as np

from models.scene.canvas import FloatArray, GreyImage, Sprite

Rng = np.random.Generator
Offset = tuple[float, float]
Box = Callable[[float, float, float, float, float], None]
"""Paints a rectangle on a house front: left, bottom, width, height in metres, and its grey."""


@dataclass(frozen=True, slots=True)
class StreetPlan:
    """Where things lie across the street, in metres from the middle of the camera's lane.

    Attributes
    ----------
    kerb_left, kerb_right : float
        Edges of the carriageway.
    front_left, front_right : float
        Where the house fronts stand.
    centre_line : float
    bay_left, bay_right : float
        Edges of the parking bays towards the lanes.
    zebra_z : float
        Beginning of the zebra crossing, along the street.
    """

    kerb_left: float = -4.5
    kerb_right: float = 7.3
    front_left: float = -7.0
    front_right: float = 9.9
    centre_line: float = 1.7
    bay_left: float = -2.4
    bay_right: float = 5.2
    zebra_z: float = 44.0


def noise(rng: Rng, shape: tuple[int, int], cell: tuple[float, float], sigma: float) -> FloatArray:
    """Smooth random values of standard deviation about ``sigma``, varying over ``cell`` texels (rows, columns)."""
    rows, columns = (max(2, math.ceil(n / c) + 1) for n, c in zip(shape, cell, strict=True))
    coarse = rng.standard_normal((rows, columns), dtype=np.float32) * np.float32(sigma)
    return cast(FloatArray, cv2.resize(coarse, (shape[1], shape[0]), interpolation=cv2.INTER_CUBIC))


def to_grey(values: FloatArray) -> GreyImage:
    """Round to what an 8-bit picture can hold."""
    return np.clip(np.rint(values), 0, 255).astype(np.uint8)


def sky(rng: Rng, shape: tuple[int, int]) -> GreyImage:
    """A bright sky, a little darker towards the top, with thin clouds."""
    height, width = shape
    fall = np.linspace(-18, 10, height, dtype=np.float32)[:, None]
    clouds = noise(rng, shape, (height / 6, width / 4), 7) + noise(rng, shape, (height / 16, width / 12), 3)
    return to_grey(cast(FloatArray, 214 + fall + clouds))


class RoadPainter:
    """Draws carriageway and pavements as seen from above: rows along the street, columns across it."""

    def __init__(self, rng: Rng, plan: StreetPlan, length: float, x_start: float, x_end: float) -> None:
        self.rng = rng
        self.plan = plan
        self.along, self.across = 0.04, 0.02
        self.x_start = x_start
        self.shape = (round(length / self.along), round((x_end - x_start) / self.across))
        self.x = (x_start + (np.arange(self.shape[1], dtype=np.float32) + 0.5) * self.across).astype(np.float32)
        self.grey = self._asphalt()

    def texture(self) -> GreyImage:
        """Draw everything; shape (length, across, 1)."""
        self._repairs()
        self._markings()
        self._pavement()
        self._shadows()
        return to_grey(self.grey)[:, :, None]

    def rows(self, z0: float, z1: float) -> slice:
        return slice(max(round(z0 / self.along), 0), max(round(z1 / self.along), 0))

    def columns(self, x0: float, x1: float) -> slice:
        return slice(max(round((x0 - self.x_start) / self.across), 0), max(round((x1 - self.x_start) / self.across), 0))

    def _asphalt(self) -> FloatArray:
        rng, shape, plan = self.rng, self.shape, self.plan
        grey = np.full(shape, 84, np.float32)
        # Stones, then patches of wear as large as a hand, a metre, and a car.
        for cell_m, sigma in ((0.04, 5.0), (0.12, 3.0), (0.5, 1.8), (3.0, 4.0)):
            grey += noise(rng, shape, (max(cell_m / self.along, 1), cell_m / self.across), sigma)
        for lane in (0.0, 2 * plan.centre_line):
            for wheel in (-0.75, 0.75):
                grey += 5 * np.exp(-(((self.x - lane - wheel) / 0.28) ** 2))
            grey -= 7 * np.exp(-(((self.x - lane) / 0.25) ** 2))
        return grey

    def _repairs(self) -> None:
        rng, plan = self.rng, self.plan
        length = self.shape[0] * self.along
        for _ in range(int(length / 7)):
            z, x = rng.uniform(0, length), rng.uniform(plan.kerb_left, plan.kerb_right - 1.5)
            dz, dx = rng.uniform(0.8, 6), rng.uniform(0.5, 1.8)
            rows, columns = self.rows(z, z + dz), self.columns(x, x + dx)
            self.grey[rows, columns] += np.float32(rng.choice([-15, -9, 10]))
            for edge in (self.rows(z, z + 0.05), self.rows(z + dz - 0.05, z + dz)):
                self.grey[edge, columns] -= 24
            for edge in (self.columns(x, x + 0.04), self.columns(x + dx - 0.04, x + dx)):
                self.grey[rows, edge] -= 24
        for _ in range(int(length / 2.5)):
            self._crack(rng.uniform(0, length), rng.uniform(plan.kerb_left, plan.kerb_right))
        for _ in range(int(length / 11)):
            z, x = rng.uniform(0, length), rng.uniform(plan.kerb_left + 0.8, plan.kerb_right - 0.8)
            centre = (round((x - self.x_start) / self.across), round(z / self.along))
            radius = (round(0.34 / self.across), round(0.34 / self.along))
            cv2.ellipse(self.grey, centre, radius, 0, 0, 360, 46, -1)
            cv2.ellipse(self.grey, centre, radius, 0, 0, 360, 112, 2)

    def _crack(self, z: float, x: float) -> None:
        rng = self.rng
        angle = rng.uniform(0, 2 * math.pi)
        points = []
        for _ in range(int(rng.integers(5, 16))):
            points.append((round((x - self.x_start) / self.across), round(z / self.along)))
            angle += rng.normal(0, 0.5)
            z, x = z + 0.3 * math.sin(angle), x + 0.3 * math.cos(angle)
        cv2.polylines(self.grey, [np.array(points, np.int32)], False, 44, int(rng.integers(1, 3)))

    def _paint(self, z0: float, z1: float, x0: float, x1: float, grey: float = 196) -> None:
        """A worn rectangle of road paint."""
        part = self.grey[self.rows(z0, z1), self.columns(x0, x1)]
        if part.size:
            shape = (part.shape[0], part.shape[1])
            wear = noise(self.rng, shape, (3, 3), 1) + noise(self.rng, shape, (12, 6), 0.7)
            part[:] = np.where(wear > -1.9, grey + 4 * wear, part)

    def _markings(self) -> None:
        plan, length = self.plan, self.shape[0] * self.along
        for z in np.arange(2.0, length, 6.0).tolist():
            self._paint(z, z + 2.6, plan.centre_line - 0.07, plan.centre_line + 0.07)
        for bay in (plan.bay_left, plan.bay_right):
            for z in np.arange(0.5, length, 1.6).tolist():
                self._paint(z, z + 0.8, bay - 0.05, bay + 0.05, 168)
        for kerb, side in ((plan.kerb_left, 1), (plan.kerb_right, -1)):
            for gap in (0.22, 0.42):
                x = kerb + side * gap
                self._paint(0, length, x - 0.05, x + 0.05, 150)
        zebra = plan.zebra_z
        clear = self.grey[self.rows(zebra - 2.5, zebra + 5.0), self.columns(plan.bay_left - 0.3, plan.bay_right + 0.3)]
        clear[:] = 80 + noise(self.rng, (clear.shape[0], clear.shape[1]), (1, 2), 5)
        for x in np.arange(plan.kerb_left + 0.4, plan.kerb_right - 0.3, 1.1).tolist():
            self._paint(zebra, zebra + 2.8, x, x + 0.55, 205)
        for x in np.arange(plan.kerb_left + 0.3, plan.kerb_right - 0.3, 0.6).tolist():
            for z in (zebra - 0.9, zebra + 3.6):
                self._paint(z, z + 0.25, x, x + 0.3)
        for z in (16.0, 33.0, 58.0, 80.0, 100.0):
            self._arrow(z, 0.0)
        self._word("SLOW", 24.0, 0.0)
        self._word("SLOW", 66.0, 0.0)

    def _arrow(self, z: float, x: float) -> None:
        outline = [(-0.09, 0), (0.09, 0), (0.09, 2.0), (0.34, 2.0), (0, 3.4), (-0.34, 2.0), (-0.09, 2.0)]
        points = [((x + dx - self.x_start) / self.across, (z + dz) / self.along) for dx, dz in outline]
        cv2.fillPoly(self.grey, [np.rint(points).astype(np.int32)], 192)

    def _word(self, text: str, z: float, x: float) -> None:
        (width, height), base = cv2.getTextSize(text, cv2.FONT_HERSHEY_SIMPLEX, 1.6, 4)
        ink = np.zeros((height + base, width), np.uint8)
        cv2.putText(ink, text, (0, height), cv2.FONT_HERSHEY_SIMPLEX, 1.6, 255, 6)
        # Letters on a road are drawn out along it, and seen from behind, so that they read from a car.
        size = (round(1.7 / self.across), round(2.6 / self.along))
        ink = cv2.resize(ink[::-1], size, interpolation=cv2.INTER_AREA)
        part = self.grey[self.rows(z, z + 2.6), self.columns(x - 0.85, x + 0.85)]
        share = ink[: part.shape[0], : part.shape[1]].astype(np.float32) / np.float32(255)
        part += (192 - part) * share

    def _pavement(self) -> None:
        rng, plan = self.rng, self.plan
        rows = self.shape[0]
        across = [
            (self.x_start, plan.kerb_left - 0.16, plan.kerb_left, 1),
            (plan.kerb_right + 0.16, self.x_start + self.shape[1] * self.across, plan.kerb_right, -1),
        ]
        for x0, x1, kerb, side in across:
            part = self.grey[:, self.columns(x0, x1)]
            shape = (part.shape[0], part.shape[1])
            slab_z, slab_x = round(0.88 / self.along), round(0.6 / self.across)
            slabs = rng.normal(0, 5, (shape[0] // slab_z + 1, shape[1] // slab_x + 1)).astype(np.float32)
            part[:] = 126 + np.kron(slabs, np.ones((slab_z, slab_x), np.float32))[: shape[0], : shape[1]]
            part += noise(rng, shape, (1, 2), 3) + noise(rng, shape, (30, 40), 3)
            part[::slab_z] = 96
            for joint in (0, 1):
                part[:, joint::slab_x] = 98
            # Kerbstones, and the dark gutter at their foot.
            stones = self.grey[:, self.columns(min(kerb, kerb - 0.16 * side), max(kerb, kerb - 0.16 * side))]
            stones[:] = 156 + rng.normal(0, 6, (rows, 1)).astype(np.float32) * 0.5
            stones[:: round(0.92 / self.along)] = 90
            gutter = self.grey[:, self.columns(min(kerb, kerb + 0.1 * side), max(kerb, kerb + 0.1 * side))]
            gutter -= 34

    def _shadows(self) -> None:
        """Ragged shade of the trees on the right, and of poles, falling across the road."""
        rng, plan = self.rng, self.plan
        shade = np.zeros(self.shape, np.float32)
        length = self.shape[0] * self.along
        for z in np.arange(5.0, length, 13.0).tolist():
            for _ in range(9):
                centre = (
                    round((plan.kerb_right - rng.uniform(-0.5, 2.6) - self.x_start) / self.across),
                    round((z + rng.normal(0, 0.8)) / self.along),
                )
                size = (round(rng.uniform(0.4, 1.1) / self.across), round(rng.uniform(0.4, 0.9) / self.along))
                cv2.ellipse(shade, centre, size, 0, 0, 360, 1.0, -1)
        ragged = noise(rng, self.shape, (4, 8), 0.5) + noise(rng, self.shape, (10, 20), 0.4)
        shade = np.where(shade + ragged * (shade > 0) > 0.6, shade, 0)
        for z in np.arange(9.0, length, 26.0).tolist():
            shade[self.rows(z, z + 0.16), self.columns(plan.bay_left, plan.kerb_right)] = 1
        self.grey *= 1 - np.float32(0.3) * cv2.GaussianBlur(shade, (0, 0), 1.5)

    def contact_shadow(self, z0: float, z1: float, x0: float, x1: float) -> None:
        """Darken the ground below a parked car."""
        part = self.grey[self.rows(z0 - 0.4, z1 + 0.4), self.columns(x0 - 0.3, x1 + 0.3)]
        if not part.size:
            return
        rows, columns = (np.minimum(np.arange(n), np.arange(n)[::-1]) for n in part.shape)
        soft = np.minimum(rows[:, None] * self.along, columns * self.across) / 0.5
        part *= (1 - 0.6 * np.clip(soft, 0, 1)).astype(np.float32)


@dataclass(frozen=True, slots=True)
class Front:
    """A house front: grey and coverage with rows from the ground up, columns along the street; res metres a texel."""

    grey: GreyImage
    alpha: GreyImage
    res: float


def house_front(rng: Rng, length: float, height: float, *, shop: bool) -> Front:
    """Draw a house front with windows, a shop or doors at street level, a cornice, and a roof with chimneys."""
    res = 0.03
    roof = rng.uniform(1.2, 2.4)
    rows, columns = round((height + roof + 1.2) / res), round(length / res)
    wall_rows = round(height / res)
    grey = np.zeros((rows, columns), np.float32)
    alpha = np.zeros((rows, columns), np.float32)
    base = float(rng.choice([64, 82, 98, 118, 142, 168]))

    def box(x: float, y: float, w: float, h: float, value: float) -> None:
        x0, x1, y0, y1 = (max(round(v / res), 0) for v in (x, x + w, y, y + h))
        grey[y0:y1, x0:x1] = value

    wall = grey[:wall_rows]
    shape = (wall.shape[0], wall.shape[1])
    wall += base + noise(rng, shape, (3, 8), base * 0.05) + noise(rng, shape, (60, 60), base * 0.05)
    if rng.random() < 0.6:
        wall[:: max(round(0.15 / res), 2)] *= np.float32(0.86)
    alpha[:wall_rows] = 255

    storey = rng.uniform(2.9, 3.5)
    first = 3.6 if shop else 0.9
    if shop:
        _shop(rng, box, length)
    else:
        box(0, 0, length, 0.7, base * 0.75)
        for x in np.arange(0.8, length - 1.5, rng.uniform(4.0, 6.5)).tolist():
            box(x - 0.15, 0, 1.3, 2.45, min(base * 1.4, 225))
            box(x, 0, 1.0, 2.25, float(rng.choice([30, 52, 88])))
    pitch = rng.uniform(1.9, 3.1)
    width, tall = rng.uniform(0.9, 1.35), rng.uniform(1.4, 1.9)
    frame = 215.0 if base < 150 else 70.0
    n_columns = max(int((length - 0.6) / pitch), 1)
    inset = (length - n_columns * pitch) / 2 + (pitch - width) / 2
    y = first + 0.5
    while y + tall < height - 0.4:
        for column in range(n_columns):
            _window(rng, box, inset + column * pitch, y, width, tall, frame, base)
        y += storey
    box(0, height - 0.35, length, 0.25, min(base * 1.45, 225))
    box(0, height - 0.1, length, 0.1, base * 0.5)
    for x in (0.1, length - 0.2):
        box(x, 0, 0.1, height, base * 0.6)

    roof_rows = slice(wall_rows, round((height + roof) / res))
    slates = grey[roof_rows]
    tone = rng.uniform(52, 78)
    slates += tone + noise(rng, (slates.shape[0], slates.shape[1]), (3, 5), 7)
    slates[:: max(round(0.2 / res), 2)] *= np.float32(0.75)
    alpha[roof_rows] = 255
    for x in np.arange(rng.uniform(0.5, 2), length - 1, rng.uniform(4, 7)).tolist():
        x0, x1 = round(x / res), round((x + 0.8) / res)
        grey[roof_rows.start : rows - 4, x0:x1] = base * 0.8 + 10
        grey[rows - 14 : rows - 4, x0:x1] = base * 1.2
        alpha[roof_rows.start : rows - 4, x0:x1] = 255
    return Front(to_grey(grey), alpha.astype(np.uint8), res)


def _window(rng: Rng, box: Box, x: float, y: float, w: float, h: float, frame: float, base: float) -> None:
    """A sash window of four panes, with a sill and a lintel; ``base`` is the grey of the wall."""
    glass = float(rng.uniform(26, 60))
    box(x - 0.1, y - 0.16, w + 0.2, 0.16, min(base * 1.5, 230))
    box(x, y, w, h, frame)
    half_w, half_h = (w - 0.21) / 2, (h - 0.21) / 2
    for i in (0, 1):
        for j in (0, 1):
            bright = glass * (2.6 if rng.random() < 0.15 else 1.0) + 14 * j
            box(x + 0.07 + i * (half_w + 0.07), y + 0.07 + j * (half_h + 0.07), half_w, half_h, bright)
    box(x - 0.05, y + h, w + 0.1, 0.18, base * 0.62)


def _shop(rng: Rng, box: Box, length: float) -> None:
    """A shop front: panes with things behind them, doors, and a sign with letters."""
    trim = float(rng.choice([36, 60, 150, 200]))
    box(0, 0, length, 3.4, trim)
    x = 0.3
    while x < length - 1.2:
        w = min(rng.uniform(1.6, 3.0), length - 0.3 - x)
        if rng.random() < 0.25:
            box(x, 0.05, 1.0, 2.4, 30)
            box(x + 0.1, 0.9, 0.8, 1.4, 64)
            x += 1.2
            continue
        box(x, 0.55, w, 2.0, rng.uniform(24, 48))
        for _ in range(int(rng.integers(4, 12))):
            left, low = x + rng.uniform(0, w - 0.3), 0.6 + rng.uniform(0, 1.3)
            wide, tall = rng.uniform(0.1, 0.5, 2).tolist()
            box(left, low, wide, tall, rng.uniform(40, 190))
        x += w + 0.18
    sign = 230.0 if trim < 100 else 44.0
    box(0.15, 2.72, length - 0.3, 0.62, 255 - sign if trim < 100 else 225)
    x = 0.6
    while x < length - 1.0:
        w = rng.uniform(0.14, 0.3)
        box(x, 2.84, w, 0.38, sign)
        if rng.random() < 0.7:
            box(x + w * 0.35, 2.9, w * 0.35, rng.uniform(0.08, 0.2), 255 - sign if trim < 100 else 225)
        x += w + (0.07 if rng.random() < 0.85 else 0.35)
    box(0, 0, length, 0.05, 30)


def hedge(rng: Rng, length: float, height: float) -> Front:
    """A clipped hedge with a ragged top."""
    res = 0.04
    rows, columns = round((height + 0.4) / res), round(length / res)
    grey = 62 + noise(rng, (rows, columns), (2, 2), 12) + noise(rng, (rows, columns), (7, 7), 13)
    grey += np.linspace(-22, 22, rows, dtype=np.float32)[:, None]
    top = (height + noise(rng, (1, columns), (1, 5), 0.08) + noise(rng, (1, columns), (1, 40), 0.1)) / res
    alpha = np.where(np.arange(rows)[:, None] < top, 255, 0)
    return Front(to_grey(cast(FloatArray, np.maximum(grey, 12))), alpha.astype(np.uint8), res)


def railing(length: float, height: float) -> Front:
    """Iron railings: upright bars between two rails."""
    res = 0.02
    rows, columns = round((height + 0.1) / res), round(length / res)
    alpha = np.zeros((rows, columns), np.uint8)
    for start in range(0, columns, round(0.14 / res)):
        alpha[:, start : start + 1] = 255
    for start in range(0, columns, round(2.4 / res)):
        alpha[:, start : start + 4] = 255
    for y in (0.15, height - 0.1):
        alpha[round(y / res) : round(y / res) + 2] = 255
    return Front(np.full((rows, columns), 34, np.uint8), alpha, res)


def wall_channels(front: Front) -> GreyImage:
    """Grey times coverage, and coverage, with the street's direction first: shape (length, height, 2)."""
    covered = cv2.multiply(front.grey, front.alpha, scale=1 / 255)
    return np.ascontiguousarray(np.dstack([covered, front.alpha]).transpose(1, 0, 2))


def house_side(rng: Rng, width: float, height: float) -> Sprite:
    """The side of a house that faces along the street: rendered wall, few windows, a gable."""
    res = 0.04
    rows, columns = round(height / res), round(width / res)
    base = float(rng.choice([72, 96, 124]))
    grey = base + noise(rng, (rows, columns), (3, 6), base * 0.05) + noise(rng, (rows, columns), (40, 40), base * 0.07)
    grey[:: round(0.16 / res)] *= np.float32(0.88)
    for _ in range(int(rng.integers(0, 4))):
        y, x = round(rng.uniform(0.2, 0.7) * rows), round(rng.uniform(0.1, 0.8) * columns)
        grey[y : y + 30, x : x + 20] = 40
    alpha = np.full((rows, columns), 255, np.uint8)
    return Sprite.build(to_grey(grey), alpha)


def leafy_tree(rng: Rng) -> Sprite:
    """A tree in leaf, 5 m wide and 7.5 m tall; texels of 2 cm."""
    h, w = 375, 250
    crown = np.zeros((h, w), np.uint8)
    for _ in range(46):
        angle, out = rng.uniform(0, 2 * math.pi), math.sqrt(rng.uniform(0, 1))
        centre = (round(w / 2 + 82 * out * math.cos(angle)), round(138 + 92 * out * math.sin(angle)))
        cv2.circle(crown, centre, int(rng.integers(16, 38)), 255, -1)
    ragged = noise(rng, (h, w), (4, 4), 60) + noise(rng, (h, w), (12, 12), 60)
    soft = cv2.GaussianBlur(crown, (0, 0), 6).astype(np.float32)
    leaves = (soft + ragged > 128) & (soft > 20)
    light = np.linspace(34, -26, h, dtype=np.float32)[:, None] + np.linspace(-14, 14, w, dtype=np.float32)
    tone = 70 + light + noise(rng, (h, w), (4, 4), 13) + noise(rng, (h, w), (14, 14), 17)
    grey = np.maximum(tone, 12)
    wood = np.zeros((h, w), np.uint8)
    _branch(rng, wood, (w / 2, float(h)), -math.pi / 2, 150.0, 11.0, 4)
    wood[(crown == 0) & (np.arange(h) < h - 160)[:, None]] = 0
    grey = np.where(wood > 0, 46 + noise(rng, (h, w), (8, 2), 12), grey)
    hidden = leaves & (noise(rng, (h, w), (10, 10), 1) > -0.9)
    grey = np.where(hidden, np.maximum(tone, 12), grey)
    alpha = np.where(leaves | (wood > 0), 255, 0).astype(np.uint8)
    return Sprite.build(to_grey(grey), cv2.GaussianBlur(alpha, (3, 3), 0), _outline(alpha, 9))


def bare_tree(rng: Rng) -> Sprite:
    """A tree in winter, 6 m wide and 8 m tall; texels of 2 cm. Its class fills the space between the twigs."""
    h, w = 400, 300
    wood = np.zeros((h, w), np.uint8)
    _branch(rng, wood, (w / 2, float(h)), -math.pi / 2, 96.0, 13.0, 9)
    grey = 58 + noise(rng, (h, w), (5, 3), 12)
    return Sprite.build(to_grey(grey), wood, _outline(wood, 15))


def _branch(rng: Rng, picture: GreyImage, at: Offset, angle: float, length: float, width: float, depth: int) -> None:
    """Draw a branch and, from its end, two or three thinner ones."""
    if depth == 0 or length < 4:
        return
    end = (at[0] + length * math.cos(angle), at[1] + length * math.sin(angle))
    points = np.rint(np.array([at, end]) * 16).astype(np.int32)
    cv2.line(picture, points[0].tolist(), points[1].tolist(), 255, max(round(width), 1), cv2.LINE_AA, 4)
    for _ in range(3 if depth > 3 and rng.random() < 0.75 else 2):
        turn = angle + rng.normal(0, 0.55)
        _branch(
            rng,
            picture,
            end,
            0.85 * turn - 0.15 * math.pi / 2,
            length * rng.uniform(0.58, 0.82),
            width * 0.66,
            depth - 1,
        )


def _outline(alpha: GreyImage, reach: int) -> GreyImage:
    """What a person would outline: the shape with its small gaps closed."""
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (reach, reach))
    return cast(GreyImage, cv2.morphologyEx(alpha, cv2.MORPH_CLOSE, kernel))
