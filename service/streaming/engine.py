"""Runs computation and codecs on threads of their own, so that the event loop never waits for them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, ParamSpec, TypeVar

from models.events import EventBatch, SensorSize

if TYPE_CHECKING:
    from models.runtime.model import SegmentationModel, WindowSegmentation
    from models.runtime.state import State

P = ParamSpec("P")
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class TimedSegmentation:
    """A window's segmentation, how long it queued for the engine, and how long it took, in seconds."""

    segmentation: WindowSegmentation
    wait_s: float
    compute_s: float


class Engine:
    """Pools of threads: one steps networks, one encodes and decodes, one does what may take seconds.

    Windows are computed in the order in which they are asked for, whichever session they belong to, so that a session
    with many windows does not hold up the others.

    Parameters
    ----------
    compute_workers : int
        Windows computed at a time.
    torch_threads : int
        Threads within each.
    codec_workers : int
        Threads that encode and decode.
    """

    def __init__(self, *, compute_workers: int = 1, torch_threads: int = 1, codec_workers: int = 2) -> None:
        self._compute = ThreadPoolExecutor(
            compute_workers, "compute", initializer=_set_torch_threads, initargs=(torch_threads,)
        )
        self._codecs = ThreadPoolExecutor(codec_workers, "codec")
        self._slow = ThreadPoolExecutor(1, "slow")

    async def segment(
        self, model: SegmentationModel, state: State, events: EventBatch, sensor: SensorSize
    ) -> TimedSegmentation:
        """Advance a network by one window; ``state`` is left as it is.

        If the caller is cancelled, the computation is forgotten and nothing has changed.
        """
        asked = time.perf_counter()

        def compute() -> TimedSegmentation:
            begun = time.perf_counter()
            segmentation = model.segment(state, events, sensor)
            return TimedSegmentation(segmentation, begun - asked, time.perf_counter() - begun)

        return await asyncio.get_running_loop().run_in_executor(self._compute, compute)

    async def offload(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Call a function on a codec thread."""
        return await asyncio.get_running_loop().run_in_executor(self._codecs, partial(function, *args, **kwargs))

    async def offload_slow(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Call a function that may take seconds, such as parsing a recording, where no session waits behind it."""
        return await asyncio.get_running_loop().run_in_executor(self._slow, partial(function, *args, **kwargs))

    def close(self) -> None:
        """Stop the threads once they have finished what they are at; what is queued is dropped."""
        for pool in (self._compute, self._codecs, self._slow):
            pool.shutdown(wait=True, cancel_futures=True)


def _set_torch_threads(count: int) -> None:
    # OpenMP keeps the number by thread, so it is set by the threads that compute.
    import torch

    torch.set_num_threads(count)
