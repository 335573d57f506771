"""Chunks made ahead of the trainer, in a thread of their own, of the size that the run's progress asks for."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from queue import Full, Queue

import numpy as np

from models.datasets.stills import Still
from models.training.sequences import Chunk, SequenceBatches, SequenceConfig


@dataclass(frozen=True, slots=True)
class Phase:
    """A part of a run with its own size of the simulated sensor and range of picture sizes.

    Small views first are cheap; large ones at the end show the network what it will be served.
    """

    share: float
    height: int
    width: int
    scales: tuple[float, float]


class ChunkPrefetcher:
    """Iterates over chunks without end; use as a context manager, so that its thread ends.

    Parameters
    ----------
    sources : sequence of (stills, weight)
    phases : sequence of Phase
    batch, count_clip, seed : int
        As for ``SequenceBatches``.
    """

    def __init__(
        self,
        sources: Sequence[tuple[Sequence[Still], float]],
        phases: Sequence[Phase],
        batch: int,
        count_clip: int,
        seed: int,
    ) -> None:
        self._sources = sources
        self._phases = phases
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
        ends = np.cumsum([phase.share for phase in self._phases])
        phase = min(int(np.searchsorted(ends, progress, side="right")), len(ends) - 1)
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
                    sequence = SequenceConfig(height=phase.height, width=phase.width, scales=phase.scales)
                    seed = self._seed * 100 + made_for
                    batches = SequenceBatches(self._sources, sequence, self._batch, self._count_clip, seed)
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
