"""Where training sequences and held-out drives come from: pictures turned into events, or labelled recordings."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from itertools import islice
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch

from models.datasets import camvid, idd_lite
from models.datasets.labels import class_ids
from models.encoding import InputGrid
from models.errors import TrainingError
from models.training import holdout
from models.training.config import Phase
from models.training.evaluate import SENSOR, TEST_DRIVE, WINDOW_US, LabelledWindow, find_drive
from models.training.prefetch import ChunkPrefetcher
from models.training.recorded import RecordedChunks, window_arrays
from models.training.sequences import Pictures, SequenceConfig
from models.training.task import Batches

HELD_OUT_PIECES = 40
HELD_OUT_READ = 2000
"""Windows of a held-out recording that pieces are taken from."""


class ChunkSource(Protocol):
    """Training sequences and held-out drives of one kind."""

    @property
    def window_us(self) -> int:
        """Length of a window."""

    def describe(self) -> dict[str, Any]:
        """What a finished run says of its data."""

    def chunks(
        self, phases: Sequence[Phase], sequence: SequenceConfig, *, batch: int, count_clip: int, seed: tuple[int, ...]
    ) -> AbstractContextManager[Batches]:
        """Chunks without end."""

    def held_out(self, windows: int, count_clip: int) -> list[holdout.HeldOutDrive]:
        """Drives of so many windows, from rest, that nothing is learned from."""


class PictureSource:
    """CamVid and IDD-Lite pictures under a simulated camera.

    Raises
    ------
    DatasetNotFoundError
        If either is not under the data root.
    """

    window_us = WINDOW_US

    def __init__(self, camvid_share: float, root: Path | None) -> None:
        training, self._held_out = holdout.split(camvid.load("train", root))
        self._sources = [(training, camvid_share), (idd_lite.load(root), 1 - camvid_share)]

    def describe(self) -> dict[str, Any]:
        return {
            "training_pictures": {"CamVid train": len(self._sources[0][0]), "IDD-Lite": len(self._sources[1][0])},
            "held_out_pictures": {"CamVid train": len(self._held_out)},
        }

    @contextmanager
    def chunks(
        self, phases: Sequence[Phase], sequence: SequenceConfig, *, batch: int, count_clip: int, seed: tuple[int, ...]
    ) -> Iterator[Batches]:
        with ChunkPrefetcher(Pictures(self._sources), phases, sequence, batch, count_clip, seed) as prefetcher:
            yield prefetcher

    def held_out(self, windows: int, count_clip: int) -> list[holdout.HeldOutDrive]:
        views = holdout.natural_views(SENSOR.height, SENSOR.width, windows)
        return holdout.drives(self._held_out, views, count_clip)


class RecordingSource:
    """Labelled recordings, of DDD17 or DSEC, as ``models.training.evaluate.find_drive`` names them.

    Parameters
    ----------
    names, held_out : sequence of str
    longest_side : int
        Longer side of the input grid in cells; 0 for the sensor's own pixels.
    root : Path, optional

    Raises
    ------
    TrainingError
        If none is held out, one is both learned from and held out, or one is the test drive.
    """

    def __init__(self, names: Sequence[str], held_out: Sequence[str], longest_side: int, root: Path | None) -> None:
        if not held_out or set(names) & set(held_out):
            raise TrainingError("held_out_drives must name drives that are not among those to learn from")
        if TEST_DRIVE in (*names, *held_out):
            raise TrainingError(f"{TEST_DRIVE} is the test drive: nothing may be learned from it, or chosen by it")
        self._drives = [find_drive(name, root, every_label=True) for name in names]
        self._held_out = [find_drive(name, root, every_label=True) for name in held_out]
        sensor = self._drives[0].sensor
        self._grid = InputGrid.for_sensor(sensor, longest_side) if longest_side else InputGrid(sensor, 1)
        self.window_us = self._drives[0].window_us

    def describe(self) -> dict[str, Any]:
        return {
            "training_drives": [drive.name for drive in self._drives],
            "held_out_drives": [drive.name for drive in self._held_out],
        }

    @contextmanager
    def chunks(
        self,
        phases: Sequence[Phase],  # noqa: ARG002 - recordings come in their own size
        sequence: SequenceConfig,
        *,
        batch: int,
        count_clip: int,
        seed: tuple[int, ...],
    ) -> Iterator[Batches]:
        yield RecordedChunks(
            self._drives, self._grid, count_clip=count_clip, chunk=sequence.chunk, batch=batch, seed=seed
        )

    def held_out(self, windows: int, count_clip: int) -> list[holdout.HeldOutDrive]:
        """Pieces of the held-out recordings, spread over their beginning, that end at a label."""
        pieces = []
        for drive in self._held_out:
            recent: deque[LabelledWindow] = deque(maxlen=windows)
            next_piece = windows
            for k, window in enumerate(islice(drive.read(), HELD_OUT_READ), 1):
                recent.append(window)
                if window.truth is None or k < next_piece:
                    continue
                next_piece = k + HELD_OUT_READ // HELD_OUT_PIECES
                arrays = [window_arrays(each, self._grid, count_clip) for each in recent]
                counts = np.stack([counts for counts, _ in arrays])[:, None]
                pieces.append(holdout.HeldOutDrive(torch.from_numpy(counts), class_ids(arrays[-1][1])))
        if not pieces:
            raise TrainingError(f"no held-out drive has a label after its first {windows} windows")
        return pieces
