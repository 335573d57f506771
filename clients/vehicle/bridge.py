"""Joins a source of events, the segmentation service, and whoever is told."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from clients.client import Client
from clients.errors import (
    CapacityError,
    ClientError,
    RequestTimeoutError,
    ServerFailureError,
    SessionInUseError,
    TimeJumpError,
    TransportError,
    UnknownSessionError,
)
from clients.health import StateChange, StreamState
from clients.options import StreamOptions
from clients.sources import Source, play
from clients.vehicle.inbox import TopicSource
from clients.vehicle.publishing import LabelPublisher
from clients.vehicle.watch import Status, Watch
from models.classes import UNLABELLED
from models.events import EventBatch

logger = logging.getLogger(__name__)

_TICK_S = 0.05
_REPORT_S = 1.0
_RETRY_S = 1.0
# A vehicle's computers start and stop in any order, and its cameras pause: none of this is for good.
_PASSING = (
    TransportError,
    CapacityError,
    ServerFailureError,
    UnknownSessionError,
    SessionInUseError,
    RequestTimeoutError,
    TimeJumpError,
)


class Bridge:
    """Streams events, publishes masks that are fresh, and reports once a second and at every change how that goes.

    The reports come from a thread of their own, so that a service that hangs cannot silence them.

    Parameters
    ----------
    publishers : sequence of LabelPublisher
    watch : Watch
    """

    def __init__(self, publishers: Sequence[LabelPublisher], watch: Watch) -> None:
        self._publishers = publishers
        self._watch = watch
        self._lock = threading.Lock()

    def run(
        self, client: Client, source: Source, *, model: str | None, window_us: int | None, loop: bool = False
    ) -> None:
        """Stream until the source is at its end; a service that is away is tried again and again.

        Raises
        ------
        ClientError
            If the events cannot be had, or the service refuses them for good.
        """
        # A camera cannot wait: what comes too fast is left out.
        options = StreamOptions(queue="drop-oldest", queue_windows=1, lost_session="restart")
        with self._reporting():
            batches = self._watched(source, loop)
            while True:
                try:
                    with client.stream(
                        batches,
                        source.sensor,
                        model=model,
                        window_us=window_us,
                        options=options,
                        on_state=self._tell,
                    ) as results:
                        for publisher in self._publishers:
                            publisher.announce(results.session.classes, UNLABELLED)
                        for result in results:
                            with self._lock:
                                fresh = self._watch.is_fresh(result, time.monotonic())
                            if fresh:
                                for publisher in self._publishers:
                                    publisher.publish(result)
                except _PASSING as error:
                    self._lost(error)
                    time.sleep(_RETRY_S)
                    continue
                if not (isinstance(source, TopicSource) and source.begun_anew):
                    return
                logger.warning("the clock of %s went back: beginning anew", source.name)
                batches = self._watched(source, loop)

    def _watched(self, source: Source, loop: bool) -> Iterator[EventBatch]:
        """The source's events, each batch noted."""
        batches = play(source, speed=1.0, loops=None if loop else 1)
        while True:
            with self._lock:
                self._watch.asked(time.monotonic())
            batch = next(batches, None)
            if batch is None:
                return
            if len(batch):
                at = source.arrived if isinstance(source, TopicSource) else time.monotonic()
                with self._lock:
                    self._watch.events(int(batch.t[-1]), at)
            yield batch

    def _tell(self, change: StateChange) -> None:
        logger.info("segmentation: %s -> %s %s", change.before.value, change.after.value, change.reason)
        with self._lock:
            self._watch.state(change.after, change.reason)

    def _lost(self, error: ClientError) -> None:
        logger.warning("the service cannot be used: %s", error)
        with self._lock:
            self._watch.state(StreamState.CLOSED, str(error))

    @contextmanager
    def _reporting(self) -> Iterator[None]:
        over = threading.Event()
        thread = threading.Thread(target=self._report, args=(over,), name="vehicle-status", daemon=True)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()

    def _report(self, over: threading.Event) -> None:
        told: Status | None = None
        told_at = 0.0
        while not over.wait(_TICK_S):
            now = time.monotonic()
            with self._lock:
                status = self._watch.status(now)
            changed = told is None or (told.level, told.message) != (status.level, status.message)
            if not changed and now - told_at < _REPORT_S:
                continue
            if changed:
                logger.info("%s: %s", status.level.name, status.message)
            for publisher in self._publishers:
                publisher.report(status)
            told, told_at = status, now
