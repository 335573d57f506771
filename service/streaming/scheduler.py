"""Continuous batching: which windows are computed together, when, and on how many threads.

Every session has at most one window here at a time, so that a session's order is kept whatever is done with the
others, and a session with much to do cannot hold up the rest. Windows of the same network and the same input grid may
share a batch. A batch is closed when a core becomes free: while one is computed, the next one fills up, and nobody
waits for company unless ``max_wait_s`` says so.

The window that is due first is computed first: by its deadline, or by ``PATIENCE_S`` after it was asked for if it has
none. Those times do not move, so that no window waits for ever behind later ones with deadlines.

With ``exact``, a window's answer has the bits that it has when it is computed alone on one thread, whoever shares the
batch: a larger batch or more threads are used only where a trial has shown that they change no bit.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextvars import Context, copy_context
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar, overload

from service.observability.context import session_id
from service.streaming.watch import Watch

if TYPE_CHECKING:
    from models.events import SensorSize
    from models.runtime.model import SegmentationModel, WindowInput, WindowSegmentation

logger = logging.getLogger(__name__)

T = TypeVar("T")

PATIENCE_S = 1.0

_MAX_TRIALS = 8


@dataclass(frozen=True, slots=True)
class TimedSegmentation:
    """A window's segmentation and what it took.

    Attributes
    ----------
    segmentation : WindowSegmentation
    wait_s : float
        How long it queued, in seconds.
    compute_s : float
        How long its batch was computed, in seconds.
    rows : int
        Windows in that batch.
    """

    segmentation: WindowSegmentation
    wait_s: float
    compute_s: float
    rows: int = 1


@dataclass(eq=False, slots=True)
class _Job:
    """A window of a model, or ``work`` that shares no batch."""

    asked: float
    due: float
    future: asyncio.Future[Any]
    window: tuple[SegmentationModel, WindowInput] | None = None
    work: Callable[[], WindowSegmentation] | None = None
    finish: Callable[[TimedSegmentation], Any] | None = None
    context: Context = field(default_factory=copy_context)


@dataclass(frozen=True, slots=True)
class _Way:
    """A way of computing: how many rows together, on how many threads."""

    rows: int
    threads: int


@dataclass(slots=True)
class _Group:
    """Windows that may share a batch, in the order of their coming."""

    jobs: list[_Job] = field(default_factory=list)

    @property
    def due(self) -> float:
        return min(job.due for job in self.jobs)

    def take(self, most: int) -> list[_Job]:
        """The jobs that are due first, taken out."""
        taken = sorted(self.jobs, key=lambda job: job.due)[:most]
        self.jobs = [job for job in self.jobs if job not in taken]
        return taken


class Scheduler:
    """Computes windows of all sessions on threads of its own.

    Parameters
    ----------
    cores : int
        Threads that compute at a time, over all batches.
    max_batch : int
        Most windows in one batch.
    max_wait_s : float
        How long a window may wait for others to share its batch, in seconds.
    exact : bool
        Whether answers must not depend on the company.
    observe : callable, optional
        Called with the number of rows of each batch.

    Attributes
    ----------
    watch : Watch
        On the batches that are computed.
    """

    def __init__(
        self,
        *,
        cores: int = 1,
        max_batch: int = 1,
        max_wait_s: float = 0.0,
        exact: bool = True,
        observe: Callable[[int], object] | None = None,
    ) -> None:
        self._cores = self._free = cores
        self._max_batch = max_batch
        self._max_wait_s = max_wait_s
        self._observe = observe
        self.watch = Watch()
        self._pool = ThreadPoolExecutor(cores, "compute")
        self._groups: dict[tuple[int, tuple[int, int]], _Group] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._ways = _Ways() if exact else None

    @property
    def waiting(self) -> int:
        """Windows that wait to be computed."""
        return sum(len(group.jobs) for group in self._groups.values())

    @overload
    async def segment(
        self, model: SegmentationModel, item: WindowInput, *, due: float | None = None
    ) -> TimedSegmentation: ...

    @overload
    async def segment(
        self,
        model: SegmentationModel,
        item: WindowInput,
        finish: Callable[[TimedSegmentation], T],
        *,
        due: float | None = None,
    ) -> T: ...

    async def segment(
        self,
        model: SegmentationModel,
        item: WindowInput,
        finish: Callable[[TimedSegmentation], Any] | None = None,
        *,
        due: float | None = None,
    ) -> Any:
        """Advance a network by one window; the state given is left as it is.

        If the caller is cancelled, the computation is forgotten and nothing has changed.

        Parameters
        ----------
        model : SegmentationModel
        item : WindowInput
        finish : callable, optional
            Makes what is given out of the segmentation, on the thread that computed it: a change of threads costs more
            than encoding a mask.
        due : float, optional
            When the answer is due, on ``time.perf_counter``; earlier ones go first.
        """
        now = time.perf_counter()
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        job = _Job(now, now + PATIENCE_S if due is None else due, future, window=(model, item), finish=finish)
        self._groups.setdefault((id(model), model.grid_key(item.sensor)), _Group()).jobs.append(job)
        self._dispatch()
        return await future

    async def compute(self, work: Callable[[], WindowSegmentation]) -> TimedSegmentation:
        """Compute what shares no batch, such as a picture, on one thread, in its turn among the windows."""
        now = time.perf_counter()
        future: asyncio.Future[TimedSegmentation] = asyncio.get_running_loop().create_future()
        job = _Job(now, now + PATIENCE_S, future, work=work)
        self._groups[id(job), (0, 0)] = _Group([job])
        self._dispatch()
        return await future

    def close(self) -> None:
        """Stop the threads once they have finished what they are at; what waits is dropped."""
        if self._timer is not None:
            self._timer.cancel()
        self._pool.shutdown(wait=True, cancel_futures=True)
        if self._ways is not None:
            self._ways.close()

    def _dispatch(self) -> None:
        """Begin as many batches as there are free cores for."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        now = time.perf_counter()
        while self._free:
            self._forget_cancelled()
            ready = {key: group for key, group in self._groups.items() if self._is_ready(group, now)}
            if not ready:
                break
            key = min(ready, key=lambda key: ready[key].due)
            group = ready[key]
            way = self._way(group, self.waiting)
            jobs = group.take(way.rows)
            if not group.jobs:
                del self._groups[key]
            self._begin(jobs, way.threads)
        if self._free and self._groups:
            oldest = min(job.asked for group in self._groups.values() for job in group.jobs)
            delay = max(0.0, oldest + self._max_wait_s - now)
            self._timer = asyncio.get_running_loop().call_later(delay, self._dispatch)

    def _forget_cancelled(self) -> None:
        for key, group in list(self._groups.items()):
            group.jobs = [job for job in group.jobs if not job.future.done()]
            if not group.jobs:
                del self._groups[key]

    def _is_ready(self, group: _Group, now: float) -> bool:
        return len(group.jobs) >= self._max_batch or now - min(job.asked for job in group.jobs) >= self._max_wait_s

    def _way(self, group: _Group, waiting: int) -> _Way:
        """All cores for a window that is alone; otherwise one core for each batch, and the windows shared out."""
        if group.jobs[0].window is None:
            return _Way(1, 1)
        model, item = group.jobs[0].window
        if waiting == 1:
            return self._permitted(model, item.sensor, _Way(1, self._free))
        rows = min(-(-len(group.jobs) // self._free), self._max_batch)
        if self._ways is not None:
            # Powers of two, so that few ways need a trial.
            rows = 1 << (rows.bit_length() - 1)
        return self._permitted(model, item.sensor, _Way(rows, 1))

    def _permitted(self, model: SegmentationModel, sensor: SensorSize, way: _Way) -> _Way:
        if self._ways is None or self._ways.keep_bits(model, sensor, way):
            return way
        return _Way(1, 1)

    def _begin(self, jobs: list[_Job], threads: int) -> None:
        self._free -= threads
        number = self.watch.begin()
        running = asyncio.get_running_loop().run_in_executor(self._pool, _context(jobs).run, _compute, jobs, threads)
        running.add_done_callback(lambda _: self.watch.end(number))
        running.add_done_callback(lambda done: self._finish(jobs, threads, done))
        if self._observe is not None:
            self._observe(len(jobs))

    def _finish(self, jobs: Sequence[_Job], threads: int, done: asyncio.Future[list[Any]]) -> None:
        self._free += threads
        if done.cancelled():
            for job in jobs:
                job.future.cancel()
            return
        error = done.exception()
        if error is not None and len(jobs) > 1:
            # Whoever is to blame, the others need not suffer: each is tried by itself.
            for job in jobs:
                if not job.future.done():
                    self._groups.setdefault((id(job), (0, 0)), _Group()).jobs.append(job)
        else:
            for index, job in enumerate(jobs):
                if job.future.done():
                    continue
                if error is not None:
                    job.future.set_exception(error)
                else:
                    job.future.set_result(done.result()[index])
        self._dispatch()


def _context(jobs: Sequence[_Job]) -> Context:
    """Whose work a batch is: its only window's, or that of all their sessions."""
    context = jobs[0].context
    if len(jobs) > 1:
        sessions = [job.context.get(session_id) for job in jobs]
        context = context.copy()
        context.run(session_id.set, ",".join(session for session in sessions if session) or None)
    return context


def _compute(jobs: Sequence[_Job], threads: int) -> list[Any]:
    """What each job is given, once all of them have been computed."""
    import torch

    # OpenMP keeps the number by thread, so it is set by the threads that compute.
    if torch.get_num_threads() != threads:
        torch.set_num_threads(threads)
    begun = time.perf_counter()
    windows = [job.window for job in jobs if job.window is not None]
    found = windows[0][0].segment_many([item for _, item in windows]) if windows else [_work(job) for job in jobs]
    seconds = time.perf_counter() - begun
    answers: list[Any] = []
    for job, segmentation in zip(jobs, found, strict=True):
        timed = TimedSegmentation(segmentation, begun - job.asked, seconds, len(jobs))
        answers.append(timed if job.finish is None else job.finish(timed))
    return answers


def _work(job: _Job) -> WindowSegmentation:
    assert job.work is not None
    return job.work()


class _Ways:
    """Which ways of computing keep the bits; what is not known yet is tried on a thread of its own."""

    def __init__(self) -> None:
        from models.runtime.exactness import Exactness

        self._exactness = Exactness()
        self._tried: set[tuple[int, tuple[int, int], _Way]] = set()
        self._trials = ThreadPoolExecutor(1, "trial")

    def keep_bits(self, model: SegmentationModel, sensor: SensorSize, way: _Way) -> bool:
        """Whether the way is known to change no bit; False, and a trial, if nothing is known."""
        known = self._exactness.known(model, sensor, rows=way.rows, threads=way.threads)
        if known is None:
            self._try_later(model, sensor, way)
        return bool(known)

    def _try_later(self, model: SegmentationModel, sensor: SensorSize, way: _Way) -> None:
        key = (id(model), model.grid_key(sensor), way)
        # Clients choose the grids: the trials that wait must not grow without end.
        if key in self._tried or len(self._tried) >= _MAX_TRIALS:
            return
        self._tried.add(key)
        trial = self._trials.submit(self._exactness.allows, model, sensor, rows=way.rows, threads=way.threads)
        trial.add_done_callback(lambda done: self._conclude(key, done))

    def _conclude(self, key: tuple[int, tuple[int, int], _Way], trial: Future[bool]) -> None:
        if trial.cancelled() or (error := trial.exception()) is None:
            self._tried.discard(key)
        else:
            # Not tried again: the reference is computed instead.
            logger.error("a trial of %s failed", key[2], exc_info=error)

    def close(self) -> None:
        """Wait for the trial that is under way."""
        self._trials.shutdown(wait=True, cancel_futures=True)
