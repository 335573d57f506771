"""What the paper's networks are shown in training: cells of simulated or recorded windows, and pictures."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from models.classes import DDD17_CLASSES, UNLABELLED, SegmentationClass
from models.coding import frame_input
from models.datasets import ddd17, voc2012
from models.datasets.labels import at_cells, sets_of_ids
from models.training import holdout
from models.training.chunk_sources import ChunkSource, PictureSource, RecordingSource
from models.training.config import Phase, TrainConfig
from models.training.evaluate import SENSOR
from models.training.metrics import Confusion, confusion
from models.training.sequences import Chunk, SequenceConfig

SETTLING_WINDOWS = 2


"""Windows before the one that is learned, in which the simulated sensor leaves its start behind."""


COUNT_LIMIT = 255


HELD_OUT_EVERY = 20


FRAME_SCALES = (0.5, 2.0)


FRAME_SHIFT = 0.25


FRAME_DEGREES = 15.0


@dataclass(frozen=True, slots=True)
class Sample:
    """Inputs before coding, oldest window first, and what the last of them shows.

    Attributes
    ----------
    x : float32 Tensor, (windows, B, C, H, W)
        Normalised.
    labels : uint8 Tensor, (B, H, W)
        Bit masks of classes for events, class ids for pictures.
    """

    x: Tensor
    labels: Tensor


def cells_of_counts(counts: Tensor, height: int, width: int) -> Tensor:
    """Sum pixel counts (..., H, W) over the cells of a fixed grid, as ``models.coding.cells_64`` counts events."""
    rows = _membership(counts.shape[-2], height).to(counts)
    columns = _membership(counts.shape[-1], width).to(counts)
    return rows @ counts @ columns.T


def _membership(pixels: int, cells: int) -> Tensor:
    """(cells, pixels): 1 where a pixel lies in a cell."""
    return nn.functional.one_hot(torch.arange(pixels) * cells // pixels, cells).T.float()


def vary_frame(
    rng: np.random.Generator, rgb: NDArray[np.uint8], labels: NDArray[np.uint8], height: int, width: int
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """A picture and its labels at height x width, flipped, scaled, shifted and turned at random, as in the paper.

    What lies beyond the picture's border is grey, and unlabelled.
    """
    scale = float(np.exp(rng.uniform(*np.log(FRAME_SCALES))))
    shrink = max(labels.shape[1] / width, labels.shape[0] / height) / scale
    if shrink > 1:
        # A warp takes single pixels of the picture: what is finer than its output must go first.
        size = tuple(max(1, round(side / shrink)) for side in labels.shape[::-1])
        rgb = np.asarray(cv2.resize(rgb, size, interpolation=cv2.INTER_AREA), np.uint8)
        labels = np.asarray(cv2.resize(labels, size, interpolation=cv2.INTER_NEAREST_EXACT), np.uint8)
    turn = np.deg2rad(rng.uniform(-FRAME_DEGREES, FRAME_DEGREES))
    flip = -1.0 if rng.random() < 0.5 else 1.0
    h, w = labels.shape
    shift = rng.uniform(-FRAME_SHIFT, FRAME_SHIFT, 2) * (w, h)
    # From the output's pixels to the picture's.
    zoom = np.diag([flip * w / width, h / height]) / scale
    turned = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]]) @ zoom
    middle = np.array([(w - 1) / 2, (h - 1) / 2]) + shift - turned @ np.array([(width - 1) / 2, (height - 1) / 2])
    to_picture = np.column_stack([turned, middle])
    size = (width, height)
    smooth = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    picture = cv2.warpAffine(rgb, to_picture, size, flags=smooth, borderValue=(124, 117, 104))
    varied = cv2.warpAffine(
        labels, to_picture, size, flags=cv2.INTER_NEAREST | cv2.WARP_INVERSE_MAP, borderValue=(UNLABELLED,)
    )
    return np.asarray(picture, np.uint8), np.asarray(varied, np.uint8)


def data_of(config: TrainConfig, root: Path | None) -> EventData | FrameData | Ddd17Frames:
    if config.protocol.ddd17_frames:
        return Ddd17Frames(config, root)
    return (FrameData if config.protocol.coding.source == "frames" else EventData)(config, root)


class EventData:
    """The last windows of sequences, on the paper's grid of cells."""

    classes: tuple[SegmentationClass, ...] = DDD17_CLASSES

    def __init__(self, config: TrainConfig, root: Path | None) -> None:
        self._config = config
        data = config.protocol
        self._source: ChunkSource
        if data.drives:
            self._source = RecordingSource(data.drives, data.held_out_drives, 0, root)
        else:
            self._source = PictureSource(data.camvid_share, root)
        self._windows = data.steps if data.coding.code == "history" and not config.twin else 1

    def describe(self) -> dict[str, Any]:
        return {"window_us": self._source.window_us, **self._source.describe()}

    @contextmanager
    def samples(self, seed: tuple[int, ...]) -> Iterator[Iterator[Sample]]:
        sequence = SequenceConfig(chunk=self._windows + SETTLING_WINDOWS, chunks=(1, 1))
        phase = Phase(1.0, SENSOR.height, SENSOR.width, (1.0, 1.5))
        with self._source.chunks(
            [phase], sequence, batch=self._config.batch, count_clip=COUNT_LIMIT, seed=seed
        ) as chunks:
            yield (self._sample(chunk) for chunk in chunks)

    def _sample(self, chunk: Chunk) -> Sample:
        coding = self._config.protocol.coding
        labels = at_cells(chunk.labels[-1], coding.height, coding.width)
        return Sample(self._input(torch.from_numpy(chunk.counts)), torch.from_numpy(labels))

    def _input(self, counts: Tensor) -> Tensor:
        coding = self._config.protocol.coding
        return coding.normalise(cells_of_counts(counts[-self._windows :], coding.height, coding.width))

    def sets(self, labels: Tensor) -> Tensor:
        return labels

    @cached_property
    def _drives(self) -> list[holdout.HeldOutDrive]:
        return self._source.held_out(self._windows + SETTLING_WINDOWS, COUNT_LIMIT)

    def score(self, run: Callable[[Tensor], Tensor]) -> Confusion:
        logits = holdout.final_logits(self._drives, lambda counts: run(self._input(counts))[None])
        return holdout.score(self._drives, logits)


class FrameData:
    """VOC2012 pictures, varied as in the paper."""

    classes: tuple[SegmentationClass, ...] = voc2012.CLASSES

    def __init__(self, config: TrainConfig, root: Path | None) -> None:
        self._config = config
        self._pictures = voc2012.load("train_aug", root)
        every = range(len(self._pictures))
        self._held_out = [k for k in every if (k + 1) % HELD_OUT_EVERY == 0] or [every[-1]]
        self._training = sorted(set(every) - set(self._held_out))

    def describe(self) -> dict[str, Any]:
        return {
            "training_pictures": {"VOC2012 train_aug": len(self._training)},
            "held_out_pictures": {"VOC2012 train_aug": len(self._held_out)},
        }

    @contextmanager
    def samples(self, seed: tuple[int, ...]) -> Iterator[Iterator[Sample]]:
        yield self._forever(np.random.default_rng(seed))

    def _forever(self, rng: np.random.Generator) -> Iterator[Sample]:
        coding = self._config.protocol.coding
        while True:
            drawn = rng.integers(0, len(self._training), self._config.batch)
            chosen = [self._pictures[self._training[int(k)]] for k in drawn]
            varied = [vary_frame(rng, p.rgb, p.labels, coding.height, coding.width) for p in chosen]
            x = torch.stack([frame_input(rgb, coding.height, coding.width) for rgb, _ in varied])
            yield Sample(x[None], torch.from_numpy(np.stack([labels for _, labels in varied])))

    def sets(self, labels: Tensor) -> Tensor:
        return id_sets(labels)

    def score(self, run: Callable[[Tensor], Tensor]) -> Confusion:
        coding = self._config.protocol.coding
        total = np.zeros((len(self.classes), len(self.classes)), np.int64)
        for picture in (self._pictures[k] for k in self._held_out):
            logits = run(frame_input(picture.rgb, coding.height, coding.width)[None, None])
            full = holdout.at_cells(logits[0], *picture.labels.shape)
            total += confusion(picture.labels, full.argmax(0).to(torch.uint8).numpy(), len(self.classes))
        return total


class Ddd17Frames:
    """Ev-SegNet's tensors of single windows; the last of the training recordings' are held out."""

    classes: tuple[SegmentationClass, ...] = DDD17_CLASSES

    def __init__(self, config: TrainConfig, root: Path | None) -> None:
        self._config = config
        self._frames = ddd17.load("train", root)
        self._training = max(1, len(self._frames) - max(1, len(self._frames) // HELD_OUT_EVERY))

    def describe(self) -> dict[str, Any]:
        return {
            "window_us": ddd17.WINDOW_US,
            "training_drives": [f"{self._training} of DDD17's training frames (Ev-SegNet)"],
            "held_out_drives": [f"the last {len(self._frames) - self._training} of them"],
        }

    @contextmanager
    def samples(self, seed: tuple[int, ...]) -> Iterator[Iterator[Sample]]:
        yield self._forever(np.random.default_rng(seed))

    def _forever(self, rng: np.random.Generator) -> Iterator[Sample]:
        while True:
            chosen = [self._frames[int(k)] for k in rng.integers(0, self._training, self._config.batch)]
            x, labels = [], []
            for frame in chosen:
                flip = slice(None, None, -1 if rng.random() < 0.5 else 1)
                x.append(self._input(frame)[..., torch.from_numpy(np.arange(self._width)[flip].copy())])
                labels.append(sets_of_ids(at_cells(frame.labels, self._height, self._width)[:, flip]))
            yield Sample(torch.stack(x)[None], torch.from_numpy(np.stack(labels)))

    @property
    def _height(self) -> int:
        return self._config.protocol.coding.height

    @property
    def _width(self) -> int:
        return self._config.protocol.coding.width

    def _input(self, frame: ddd17.Frame) -> Tensor:
        cells = torch.from_numpy(ddd17.paper_cells(frame.events, self._height, self._width))
        return self._config.protocol.coding.normalise(cells)

    def sets(self, labels: Tensor) -> Tensor:
        return labels

    def score(self, run: Callable[[Tensor], Tensor]) -> Confusion:
        total = np.zeros((len(self.classes), len(self.classes)), np.int64)
        for k in range(self._training, len(self._frames)):
            frame = self._frames[k]
            logits = run(self._input(frame)[None, None])[0]
            predicted = holdout.at_cells(logits, *frame.labels.shape).argmax(0).to(torch.uint8).numpy()
            total += confusion(frame.labels, predicted, len(self.classes))
        return total


def id_sets(ids: Tensor) -> Tensor:
    """Class ids to bit masks of one class each, int32; unlabelled ones to the empty set."""
    return torch.where(ids == UNLABELLED, 0, 1 << ids.clamp_max(30).int())
