"""Endless labelled event sequences from stills, a chunk of windows at a time, for truncated BPTT.

Each slot of a batch drives over one picture for some windows, then takes up another; its first chunk is marked, so that
the trainer resets that row's membranes there. Network and emulator state otherwise carry over from chunk to chunk, as
they do when the network is served. People and vehicles cut out of other pictures move about on their own in front of
the picture, since a street is not a still.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import cv2
import numpy as np
from numpy.typing import NDArray

from models.datasets.labels import class_ids
from models.datasets.stills import Still
from models.ego_motion import EgoMotion
from models.emulator import EmulatorConfig, crossings, initial, log_intensity

REFERENCE_WIDTH = 346
RARE_CLASSES = (2, 4, 5)
MOVING_CLASSES = (4, 5)
WINDOWS_PER_SECOND = 30
HOT_PIXEL_CHANCE = 0.7
"""Chance that a hot pixel fires in a window, for each polarity."""


@dataclass(frozen=True, slots=True)
class SequenceConfig:
    """How stills become event sequences.

    Attributes
    ----------
    height, width : int
        Size of the simulated sensor: a part of the picture is looked at.
    chunk : int
        Windows in a chunk: the length of backpropagation through time.
    chunks : (int, int)
        Fewest and most chunks that a slot stays with one picture.
    scales : (float, float)
        Range of the picture's size, relative to a width of 346 pixels.
    together : bool
        Whether the windows of a chunk are to be shown in one step.
    label_stride : int
        Sensor pixels to a label, along each side.
    pastes, movers : int
        Most things of rare classes that are pasted into the picture, and that move in front of it.
    rare_views : float
        Share of the views that are placed around something of a rare class.
    noise_hz, hot_pixels : float
        Mean rate of a pixel's background events, and mean share of hot pixels, each exponentially distributed over
        the slots. A hot pixel fires in most windows.
    """

    height: int = 144
    width: int = 192
    chunk: int = 6
    chunks: tuple[int, int] = (2, 4)
    scales: tuple[float, float] = (0.65, 1.4)
    together: bool = False
    label_stride: int = 2
    pastes: int = 3
    movers: int = 2
    rare_views: float = 0.4
    noise_hz: float = 0.2
    hot_pixels: float = 0.0


@dataclass(frozen=True, slots=True)
class Chunk:
    """One chunk of a batch.

    Attributes
    ----------
    counts : float32 array, (T, B, 2, H, W)
    labels : uint8 array, (T, B, H / stride, W / stride)
        Bit masks of classes, as they are at the end of each window.
    fresh : bool array, (B,)
        Rows that begin a new sequence: their state starts from rest.
    together : bool
        Whether the windows are to be shown in one step, and the last one's labels learned.
    """

    counts: NDArray[np.float32]
    labels: NDArray[np.uint8]
    fresh: NDArray[np.bool_]
    together: bool = False


@dataclass(frozen=True, slots=True)
class Thing:
    """An object cut out of a picture: its box of grey values, labels and silhouette, and where it stood."""

    class_id: int
    grey: NDArray[np.uint8]
    labels: NDArray[np.uint8]
    inside: NDArray[np.bool_]
    bottom: float
    centre: float
    width_of_picture: int


def cut_things(stills: Sequence[Still], smallest: int = 80) -> list[list[Thing]]:
    """Connected things of the rare classes, one list for each class of ``RARE_CLASSES``."""
    found: list[list[Thing]] = [[] for _ in RARE_CLASSES]
    for still in stills:
        ids = class_ids(still.labels)
        height, width = ids.shape
        for things, c in zip(found, RARE_CLASSES, strict=True):
            count, components, stats, _ = cv2.connectedComponentsWithStats((ids == c).astype(np.uint8))
            for k in range(1, count):
                x, y, w, h, area = (int(v) for v in stats[k])
                if area < smallest or w > width // 2:
                    continue
                box = (slice(y, y + h), slice(x, x + w))
                things.append(
                    Thing(
                        c,
                        still.grey[box],
                        still.labels[box],
                        components[box] == k,
                        (y + h) / height,
                        (x + w / 2) / width,
                        width,
                    )
                )
    return found


def paste(
    rng: np.random.Generator, grey: NDArray[np.uint8], labels: NDArray[np.uint8], things: list[list[Thing]], most: int
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Copies of a picture and its labels with up to ``most`` things added about where they stood in their own."""
    grey, labels = grey.copy(), labels.copy()
    height, width = grey.shape
    for _ in range(rng.integers(0, most + 1)):
        of_class = things[rng.integers(0, len(things))]
        if not of_class:
            continue
        thing = of_class[rng.integers(0, len(of_class))]
        scale = width / thing.width_of_picture * rng.uniform(0.7, 1.3)
        h, w = (max(2, round(n * scale)) for n in thing.inside.shape)
        if h >= height or w >= width:
            continue
        centre = thing.centre if rng.random() < 0.5 else 1 - thing.centre
        x = int(np.clip(centre * width + rng.normal(0, 0.1 * width) - w / 2, 0, width - w))
        y = int(np.clip(thing.bottom * height + rng.normal(0, 0.02 * height) - h, 0, height - h))
        inside = cv2.resize(thing.inside.astype(np.uint8), (w, h), interpolation=cv2.INTER_NEAREST) > 0
        picture = cv2.resize(thing.grey, (w, h), interpolation=cv2.INTER_LINEAR)
        thing_labels = cv2.resize(thing.labels, (w, h), interpolation=cv2.INTER_NEAREST)
        if rng.random() < 0.5:
            inside, picture, thing_labels = inside[:, ::-1], picture[:, ::-1], thing_labels[:, ::-1]
        box = (slice(y, y + h), slice(x, x + w))
        grey[box][inside] = picture[inside]
        labels[box][inside] = thing_labels[inside]
    return grey, labels


@dataclass(frozen=True, slots=True)
class Mover:
    """A thing on its way across the view, in pixels of the view and in windows.

    Attributes
    ----------
    thing : Thing
    centre, velocity : (float, float)
        Where it is at time 0, and how it goes on.
    scale, growth : float
        Pixels of the view to a pixel of the thing at time 0, and the rate at which that grows.
    """

    thing: Thing
    centre: tuple[float, float]
    velocity: tuple[float, float]
    scale: float
    growth: float

    def draw(
        self, canvas: NDArray[np.uint8], picture: NDArray[np.uint8], time: float, stride: int, interpolation: int
    ) -> None:
        """Draw ``picture`` (the thing's grey values or labels) at ``time`` onto every ``stride``-th pixel of a view."""
        shrink = float(np.exp(-self.growth * time)) / self.scale
        height, width = self.thing.inside.shape
        first = (stride - 1) / 2
        (x, y), (vx, vy) = self.centre, self.velocity
        to_thing = np.array(
            [
                [shrink * stride, 0, shrink * (first - x - vx * time) + (width - 1) / 2],
                [0, shrink * stride, shrink * (first - y - vy * time) + (height - 1) / 2],
            ]
        )
        size, flags = (canvas.shape[1], canvas.shape[0]), cv2.INTER_NEAREST | cv2.WARP_INVERSE_MAP
        inside = cv2.warpAffine(self.thing.inside.astype(np.uint8), to_thing, size, flags=flags) > 0
        if inside.any():
            drawn = cv2.warpAffine(
                picture,
                to_thing,
                size,
                flags=interpolation | cv2.WARP_INVERSE_MAP,
                borderMode=cv2.BORDER_REPLICATE,
            )
            canvas[inside] = drawn[inside]


@dataclass(slots=True)
class _Slot:
    """One row of the batch: a drive over one picture, and the sensor's state.

    ``noise`` (H, W) is the chance of a background event in a window, for each polarity.
    """

    grey: NDArray[np.uint8]
    labels: NDArray[np.uint8]
    motion: EgoMotion
    movers: tuple[Mover, ...]
    emulator: EmulatorConfig
    noise: NDArray[np.float32]
    gamma: float
    windows_for_each_frame: int
    chunks_left: int
    window: int = 0
    started: bool = False
    reference: NDArray[np.float32] = field(default_factory=lambda: np.empty(0, np.float32))
    level: NDArray[np.float32] = field(default_factory=lambda: np.empty(0, np.float32))
    thresholds: tuple[NDArray[np.float32], NDArray[np.float32]] = field(
        default_factory=lambda: (np.empty(0, np.float32), np.empty(0, np.float32))
    )


class Pictures:
    """Labelled pictures to drive over, and the things of rare classes cut out of them.

    Parameters
    ----------
    sources : sequence of (stills, weight)
        Data sets, and how often to draw from each.
    """

    def __init__(self, sources: Sequence[tuple[Sequence[Still], float]]) -> None:
        self.sources = [stills for stills, _ in sources]
        weights = np.array([weight for _, weight in sources])
        self.weights = weights / weights.sum()
        self.things = cut_things([still for stills in self.sources for still in stills])

    def draw(self, rng: np.random.Generator) -> Still:
        """One picture at random."""
        stills = self.sources[int(rng.choice(len(self.sources), p=self.weights))]
        return stills[int(rng.integers(0, len(stills)))]


class SequenceBatches:
    """An endless iterator of chunks.

    Parameters
    ----------
    pictures : Pictures
    config : SequenceConfig
    batch : int
    count_clip : int
    seed : int
    """

    def __init__(
        self,
        pictures: Pictures,
        config: SequenceConfig,
        batch: int,
        count_clip: int,
        seed: int | tuple[int, ...],
    ) -> None:
        self.pictures = pictures
        self.config = config
        self.count_clip = count_clip
        self.rng = np.random.default_rng(seed)
        self.view_y, self.view_x = np.mgrid[0 : config.height, 0 : config.width].astype(np.float32)
        # The middle of each block of label_stride x label_stride pixels.
        stride = config.label_stride
        rows, columns = config.height // stride, config.width // stride
        self.label_y, self.label_x = (np.mgrid[0:rows, 0:columns] * stride + (stride - 1) / 2).astype(np.float32)
        self.slots = [self._new_slot() for _ in range(batch)]
        # Different lengths from the start keep the slots from changing pictures all at once.
        for i, slot in enumerate(self.slots):
            slot.chunks_left = 1 + i % config.chunks[1]

    def __iter__(self) -> SequenceBatches:
        return self

    def __next__(self) -> Chunk:
        for i, slot in enumerate(self.slots):
            if slot.chunks_left == 0:
                self.slots[i] = self._new_slot()
        fresh = np.array([not slot.started for slot in self.slots])
        rows = [self._advance(slot) for slot in self.slots]
        counts = np.stack([c for c, _ in rows], axis=1)
        return Chunk(counts, np.stack([la for _, la in rows], axis=1), fresh, self.config.together)

    def _new_slot(self) -> _Slot:
        rng, config = self.rng, self.config
        still = self.pictures.draw(rng)
        grey, labels = paste(rng, still.grey, still.labels, self.pictures.things, config.pastes)

        lowest, highest = (np.log(s) for s in config.scales)
        scale = float(np.exp(rng.uniform(lowest, highest))) * REFERENCE_WIDTH / grey.shape[1]
        # The view always fits into the picture.
        scale = max(scale, 1.02 * config.width / grey.shape[1], 1.02 * config.height / grey.shape[0])
        size = (round(grey.shape[1] * scale), round(grey.shape[0] * scale))
        grey = cv2.resize(grey, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR)
        labels = cv2.resize(labels, size, interpolation=cv2.INTER_NEAREST_EXACT)
        if rng.random() < 0.5:
            grey, labels = np.ascontiguousarray(grey[:, ::-1]), np.ascontiguousarray(labels[:, ::-1])

        chunks = int(rng.integers(config.chunks[0], config.chunks[1] + 1))
        origin = self._look_at(labels)
        contrast = float(np.exp(rng.uniform(np.log(0.13), np.log(0.32))))
        emulator = EmulatorConfig(
            contrast_on=contrast * float(rng.uniform(0.9, 1.1)),
            contrast_off=contrast * float(rng.uniform(0.9, 1.1)),
            threshold_sigma=float(rng.uniform(0, 0.05)),
            noise_rate_hz=float(rng.exponential(config.noise_hz)),
        )
        noise = np.full((config.height, config.width), 0.5 * emulator.noise_rate_hz / WINDOWS_PER_SECOND, np.float32)
        if config.hot_pixels:
            noise[rng.random(noise.shape) < rng.exponential(config.hot_pixels)] = HOT_PIXEL_CHANCE
        return _Slot(
            grey,
            labels,
            EgoMotion.random(rng, grey.shape, origin, chunks * config.chunk),
            self._movers(grey.shape, origin),
            emulator,
            noise,
            gamma=float(np.exp(rng.normal(0, 0.2))),
            windows_for_each_frame=int(rng.integers(1, 3)),
            chunks_left=chunks,
        )

    def _movers(self, picture: tuple[int, ...], origin: tuple[float, float]) -> tuple[Mover, ...]:
        """Up to ``movers`` people and vehicles in front of a picture of size (height, width)."""
        rng, config = self.rng, self.config
        movers = []
        for _ in range(rng.integers(0, config.movers + 1)):
            of_class = self.pictures.things[RARE_CLASSES.index(int(rng.choice(MOVING_CLASSES)))]
            if not of_class:
                continue
            thing = of_class[int(rng.integers(0, len(of_class)))]
            scale = picture[1] / thing.width_of_picture * float(rng.uniform(0.7, 1.3))
            ground = thing.bottom * picture[0] - origin[1]
            if not 0.3 * config.height < ground < 1.2 * config.height:
                ground = config.height * float(rng.uniform(0.5, 1.1))
            # One in three keeps its place before the camera, as a vehicle ahead does.
            speed = 0.0 if rng.random() < 1 / 3 else picture[1] / REFERENCE_WIDTH
            movers.append(
                Mover(
                    thing,
                    (config.width * float(rng.uniform(0, 1)), ground - scale * thing.inside.shape[0] / 2),
                    (float(rng.normal(0, 1.5)) * speed, float(rng.normal(0, 0.2)) * speed),
                    scale,
                    float(rng.normal(0, 0.015)) * min(speed, 1.0),
                )
            )
        return tuple(movers)

    def _look_at(self, labels: NDArray[np.uint8]) -> tuple[float, float]:
        """Top left corner of the view: anywhere, or around a pixel of a rare class."""
        rng, config = self.rng, self.config
        room_y, room_x = labels.shape[0] - config.height, labels.shape[1] - config.width
        if rng.random() < config.rare_views:
            c = int(rng.choice(RARE_CLASSES))
            ys, xs = np.nonzero(labels[::4, ::4] == 1 << c)
            if len(ys):
                k = rng.integers(0, len(ys))
                y = 4 * ys[k] - config.height * rng.uniform(0.3, 0.7)
                x = 4 * xs[k] - config.width * rng.uniform(0.3, 0.7)
                return float(np.clip(x, 0, room_x)), float(np.clip(y, 0, room_y))
        return float(rng.uniform(0, room_x)), float(rng.uniform(0, room_y))

    def _render(self, slot: _Slot, time: float) -> NDArray[np.float32]:
        map_x, map_y = slot.motion.maps(time, self.view_x, self.view_y)
        view = cv2.remap(slot.grey, map_x, map_y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT_101)
        for mover in slot.movers:
            mover.draw(view, mover.thing.grey, time, 1, cv2.INTER_LINEAR)
        return log_intensity((view.astype(np.float32) / 255) ** np.float32(slot.gamma), slot.emulator.dark_level)

    def _label(self, slot: _Slot, time: float) -> NDArray[np.uint8]:
        map_x, map_y = slot.motion.maps(time, self.label_x, self.label_y)
        # What lies beyond the picture's border is a reflection for the sensor, and unlabelled.
        labels = cv2.remap(slot.labels, map_x, map_y, cv2.INTER_NEAREST, borderMode=cv2.BORDER_CONSTANT, borderValue=0)
        for mover in slot.movers:
            mover.draw(labels, mover.thing.labels, time, self.config.label_stride, cv2.INTER_NEAREST)
        return np.asarray(labels)

    def _advance(self, slot: _Slot) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
        config = self.config
        if not slot.started:
            slot.started = True
            slot.level = self._render(slot, 0.0)
            sensor = initial(np.exp(slot.level), slot.emulator, seed=int(self.rng.integers(1 << 31)))
            slot.reference, slot.thresholds = slot.level, (sensor.theta_on, sensor.theta_off)
        counts = np.empty((config.chunk, 2, config.height, config.width), np.float32)
        labels = np.empty((config.chunk, *self.label_x.shape), np.uint8)
        for k in range(config.chunk):
            step = slot.windows_for_each_frame
            part = slot.window % step
            target = self._render(slot, slot.window - part + step)
            # Log intensity goes over linearly into the next frame.
            slot.level = slot.level + (target - slot.level) / np.float32(step - part)
            n_on, n_off, slot.reference = crossings(slot.reference, slot.level, *slot.thresholds)
            for channel, n in ((0, n_off), (1, n_on)):
                counts[k, channel] = n
                counts[k, channel] += self.rng.random(n.shape, dtype=np.float32) < slot.noise
            slot.window += 1
            labels[k] = self._label(slot, float(slot.window))
        slot.chunks_left -= 1
        return np.minimum(counts, self.count_clip), labels
