"""Which ways of computing leave every bit of an answer as it is.

The reference is a window computed alone on one thread. With others in its batch, or on more threads, the libraries
beneath may take sums in another order, and a last bit decides whether a neuron at its threshold fires. Whether they do
hangs on the processor, the network and the size of its grid: here it is tried out, once for each way.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from threading import Lock
from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor

from models.events import EventBatch, SensorSize
from models.runtime.model import SegmentationModel, WindowInput, WindowSegmentation

_WINDOWS = 4
_SEED = 0
# Events for each pixel: as a scene at rest, in motion, no scene at all, and a flash give them.
_DENSITIES = (0.02, 0.3, 0.0, 1.0)


class _Key(NamedTuple):
    model: int
    grid: tuple[int, int]
    rows: int
    threads: int


class Exactness:
    """Tells which ways of computing give the bits of the reference; safe to share between threads.

    What it has found out it keeps for as long as it exists, and with it the models that it was asked about.

    Parameters
    ----------
    most : int
        Largest number of findings that are kept; the one that was asked for longest ago goes first.
    """

    def __init__(self, most: int = 1024) -> None:
        self._most = most
        # The model stands there so that its id is given to no other one.
        self._findings: OrderedDict[_Key, tuple[SegmentationModel, bool]] = OrderedDict()
        self._reading = Lock()
        self._trying = Lock()

    def known(self, model: SegmentationModel, sensor: SensorSize, *, rows: int, threads: int) -> bool | None:
        """What ``allows`` would say, as far as that is known without a trial; None otherwise.

        Raises
        ------
        ValueError
            If ``rows`` or ``threads`` is below 1.
        """
        key = _key(model, sensor, rows, threads)
        return True if key is None else self._find(key)

    def allows(self, model: SegmentationModel, sensor: SensorSize, *, rows: int, threads: int) -> bool:
        """Whether so many windows together on so many threads get the answers of each alone on one thread.

        The first question about a network, grid, number of rows and number of threads takes a trial on the calling
        thread: eight windows for each row. Two sensors of one grid share a finding, since masks are made row by row
        from the grid's logits. Networks of the protocol compute row by row, so that only the threads count; ones whose
        order of sums is fixed need no trial at all.

        Raises
        ------
        ValueError
            If ``rows`` or ``threads`` is below 1.
        """
        key = _key(model, sensor, rows, threads)
        if key is None:
            return True
        known = self._find(key)
        if known is not None:
            return known
        # One trial at a time; who wants to know the same waits for it.
        with self._trying:
            known = self._find(key)
            if known is None:
                known = keeps_bits(model, sensor, rows=key.rows, threads=threads)
                self._keep(key, model, known)
        return known

    def _find(self, key: _Key) -> bool | None:
        with self._reading:
            if key not in self._findings:
                return None
            self._findings.move_to_end(key)
            return self._findings[key][1]

    def _keep(self, key: _Key, model: SegmentationModel, finding: bool) -> None:
        with self._reading:
            self._findings[key] = (model, finding)
            while len(self._findings) > self._most:
                self._findings.popitem(last=False)


def _key(model: SegmentationModel, sensor: SensorSize, rows: int, threads: int) -> _Key | None:
    """What a finding is kept under; None where there is nothing to find out."""
    if min(rows, threads) < 1:
        raise ValueError(f"rows and threads must be at least 1, got {rows} and {threads}")
    if (threads == 1 and (rows == 1 or model.mode == "protocol")) or model.fixed_order:
        return None
    return _Key(id(model), model.grid_key(sensor), 1 if model.mode == "protocol" else rows, threads)


def keeps_bits(model: SegmentationModel, sensor: SensorSize, *, rows: int, threads: int) -> bool:
    """Try out whether windows together on some threads get the masks, states and spikes of each alone on one thread.

    Each row is a stream of random events of several densities, whose state is carried from window to window. Logits are
    compared too where the model shows them, since the mask of an ANN twin hides nearly any difference. All this is
    evidence and no proof; but an order of sums hangs on shapes and threads, not on values, and another order shows in
    the last bits of nearly any sum.
    """
    rng = np.random.default_rng(_SEED)
    alone = together = [model.initial_state(sensor)] * rows
    for window in range(_WINDOWS):
        events = [_random_events(rng, sensor, _DENSITIES[(row + window) % len(_DENSITIES)]) for row in range(rows)]
        singles = [
            answer
            for state, seen in zip(alone, events, strict=True)
            for answer in _answers(model, [WindowInput(state, seen, sensor)], threads=1)
        ]
        inputs = [WindowInput(state, seen, sensor) for state, seen in zip(together, events, strict=True)]
        batch = _answers(model, inputs, threads=threads)
        if not all(one.equals(other) for one, other in zip(singles, batch, strict=True)):
            return False
        alone, together = [one.segmentation.state for one in singles], [one.segmentation.state for one in batch]
    return True


@runtime_checkable
class _ShowsLogits(Protocol):
    def segment_with_logits(self, inputs: Sequence[WindowInput]) -> list[tuple[WindowSegmentation, Tensor]]: ...


@dataclass(frozen=True, slots=True)
class _Answer:
    segmentation: WindowSegmentation
    logits: Tensor

    def equals(self, other: _Answer) -> bool:
        """Whether both have the same bits."""
        one, two = self.segmentation, other.segmentation
        return (
            np.array_equal(one.mask, two.mask)
            and one.activity == two.activity
            and one.state.equals(two.state)
            and torch.equal(self.logits, other.logits)
        )


def _answers(model: SegmentationModel, inputs: Sequence[WindowInput], *, threads: int) -> list[_Answer]:
    with computing_threads(threads):
        if isinstance(model, _ShowsLogits):
            return [_Answer(*answer) for answer in model.segment_with_logits(inputs)]
        return [_Answer(answer, torch.empty(0)) for answer in model.segment_many(inputs)]


def _random_events(rng: np.random.Generator, sensor: SensorSize, density: float) -> EventBatch:
    n = round(density * sensor.width * sensor.height)
    return EventBatch(
        np.zeros(n, np.int64),
        rng.integers(0, sensor.width, n, np.uint16),
        rng.integers(0, sensor.height, n, np.uint16),
        rng.integers(0, 2, n, np.uint8),
    )


@contextmanager
def computing_threads(count: int) -> Iterator[None]:
    """Have torch compute on so many threads for the calling thread, which gets its own number back afterwards.

    A thread that computes for the first time meanwhile may start out with that number: threads that compute must set
    their own.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
