"""Chunks of windows from labelled recordings, in place of simulated ones: each row of a batch walks through a drive."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice

import numpy as np
from numpy.typing import NDArray

from models.datasets.labels import at_cells, sets_of_ids
from models.encoding import InputGrid, polarity_counts
from models.errors import TrainingError
from models.training.evaluate import LabelledDrive, LabelledWindow
from models.training.sequences import Chunk

LABEL_STRIDE = 2


class RecordedChunks:
    """Iterates over chunks without end, one row for each of ``batch`` walks through the drives.

    Rows begin at places of their own, and go over to another drive, from rest, when theirs is at its end.

    Parameters
    ----------
    drives : sequence of LabelledDrive
        Of one sensor size.
    grid : InputGrid
    count_clip, chunk, batch : int
    most_skipped : int
        Windows of its first drive that a row leaves out at most.
    seed : tuple of int

    Raises
    ------
    TrainingError
        If the drives are of different sensors, or too short for a chunk.
    """

    def __init__(
        self,
        drives: Sequence[LabelledDrive],
        grid: InputGrid,
        *,
        count_clip: int,
        chunk: int,
        batch: int,
        seed: tuple[int, ...],
        most_skipped: int = 1200,
    ) -> None:
        if any(drive.sensor != drives[0].sensor for drive in drives):
            raise TrainingError("drives that are trained on together must be of one sensor size")
        self._drives = drives
        self._grid = grid
        self._clip = count_clip
        self._chunk = chunk
        self._rng = np.random.default_rng(seed)
        self._rows: list[Iterator[LabelledWindow]] = []
        for _ in range(batch):
            row = self._new_row()
            # Apart from each other, so that rows on the same drive do not learn the same windows.
            skipped = int(self._rng.integers(0, most_skipped + 1))
            next(islice(row, skipped, skipped), None)
            self._rows.append(row)
        self._started = [False] * batch

    def __iter__(self) -> Iterator[Chunk]:
        while True:
            yield self._next()

    def advance(self, progress: float) -> bool:  # noqa: ARG002 - recordings have no phases
        """Recordings are shown in one size: there is no other phase to go over to."""
        return False

    def _new_row(self) -> Iterator[LabelledWindow]:
        return self._drives[int(self._rng.integers(0, len(self._drives)))].read()

    def _next(self) -> Chunk:
        fresh, rows = [], []
        for k in range(len(self._rows)):
            windows = list(islice(self._rows[k], self._chunk))
            if len(windows) < self._chunk:
                self._rows[k], self._started[k] = self._new_row(), False
                windows = list(islice(self._rows[k], self._chunk))
            if len(windows) < self._chunk:
                raise TrainingError(f"a drive is shorter than a chunk of {self._chunk} windows")
            fresh.append(not self._started[k])
            self._started[k] = True
            rows.append([window_arrays(window, self._grid, self._clip) for window in windows])
        counts = np.stack([np.stack([c for c, _ in row]) for row in rows], axis=1)
        labels = np.stack([np.stack([la for _, la in row]) for row in rows], axis=1)
        return Chunk(counts, labels, np.array(fresh))


def window_arrays(
    window: LabelledWindow, grid: InputGrid, count_clip: int
) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
    """Counts (2, H, W) of a window, and its labels as sets for every second cell; all unlabelled where it has none."""
    size = -(-grid.height // LABEL_STRIDE), -(-grid.width // LABEL_STRIDE)
    labels = np.zeros(size, np.uint8) if window.truth is None else at_cells(sets_of_ids(window.truth), *size)
    return polarity_counts(window.events, grid, count_clip), labels
