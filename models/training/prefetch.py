"""Chunks made ahead of the trainer, in a thread of their own, of the size that the run's progress asks for."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from dataclasses import replace
from queue import Full, Queue

import numpy as np

from models.training.config import Phase
from models.training.sequences import Chunk, Pictures, SequenceBatches, SequenceConfig


def phase_at(shares: Sequence[float], progress: float) -> int:
    """Number of the phase that ``progress`` in [0, 1) belongs to, of phases that each take a share of the run."""
    return min(int(np.searchsorted(np.cumsum(shares), progress, side="right")), len(shares) - 1)


class ChunkPrefetcher:
    """Iterates over chunks without end; use as a context manager, so that its thread ends.

    Parameters
    ----------
    pictures : Pictures
    phases : sequence of Phase
    sequence : SequenceConfig
        All but the sizes, which the phases give.
    batch, count_clip : int
    seed : tuple of int
        As for ``SequenceBatches``.
    """

    def __init__(
        self,
        pictures: Pictures,
        phases: Sequence[Phase],
        sequence: SequenceConfig,
        batch: int,
        count_clip: int,
        seed: tuple[int, ...],
    ) -> None:
        self._pictures = pictures
        self._phases = phases
        self._sequence = sequence
        self._batch = batch
        self._count_clip = count_clip
        self._seed = seed
        self._phase = 0
        self._stopped = threading.Event()
        self._queue: Queue[tuple[int, Chunk] | Exception] = Queue(maxsize=2)
        self._thread = threading.Thread(target=self._make, name="chunks", daemon=True)

    def __enter__(self) -> ChunkPrefetcher:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopped.set()
        self._thread.join()

    def __iter__(self) -> Iterator[Chunk]:
        while True:
            item = self._queue.get()
            if isinstance(item, Exception):
                raise item
            phase, chunk = item
            if phase == self._phase:
                yield chunk

    def advance(self, progress: float) -> bool:
        """Go over to the phase that ``progress`` in [0, 1) belongs to; true if it is a new one."""
        phase = phase_at([phase.share for phase in self._phases], progress)
        changed = phase != self._phase
        self._phase = phase
        return changed

    def _make(self) -> None:
        try:
            made_for, batches = -1, None
            while not self._stopped.is_set():
                if batches is None or made_for != self._phase:
                    made_for = self._phase
                    phase = self._phases[made_for]
                    sequence = replace(self._sequence, height=phase.height, width=phase.width, scales=phase.scales)
                    if phase.together:
                        sequence = replace(sequence, chunk=phase.together, chunks=(1, 1), together=True)
                    seed = (*self._seed, made_for)
                    batches = SequenceBatches(self._pictures, sequence, self._batch, self._count_clip, seed)
                self._put((made_for, next(batches)))
        except Exception as error:  # noqa: BLE001 - it is raised again where the chunks are used
            self._put(error)

    def _put(self, item: tuple[int, Chunk] | Exception) -> None:
        while not self._stopped.is_set():
            try:
                self._queue.put(item, timeout=0.5)
                return
            except Full:
                continue
