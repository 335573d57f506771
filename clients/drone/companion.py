"""Joins a source of events, the segmentation service, and a flight controller."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

from clients.client import Client
from clients.drone.link import MavlinkLink
from clients.drone.reporter import Reporter
from clients.errors import ClientError, InputError
from clients.health import StateChange, StreamState
from clients.items import Item
from clients.options import StreamOptions
from clients.results import SessionInfo
from models.events import SensorSize

logger = logging.getLogger(__name__)

_TICK_S = 0.02
_RETRY_S = 1.0
_SILENT_S = 5.0

MakeReporter = Callable[[SessionInfo], Reporter]


class Companion:
    """Streams events and reports; the reports come from a thread of their own, so that nothing can silence them.

    Parameters
    ----------
    link : MavlinkLink
    reporter : Reporter
        Told by what is running; replaced with one for the network's classes once the session is open.
    """

    def __init__(self, link: MavlinkLink, reporter: Reporter) -> None:
        self._link = link
        self._reporter = reporter
        self._lock = threading.Lock()
        self._stop = threading.Event()

    def run(
        self,
        client: Client,
        items: Iterable[Item],
        sensor: SensorSize,
        *,
        model: str | None = None,
        window_us: int | None = None,
        until: Callable[[], bool] = lambda: False,
    ) -> None:
        """Stream until the source is at its end; a service that is away is tried again and again.

        A camera cannot wait: windows that come too fast are left out, the newest first served.
        """
        options = StreamOptions(queue="drop-oldest", queue_windows=1, lost_session="restart")
        # One iterator for all attempts: what came while the service was away is gone.
        left = iter(items)
        with self._reporting():
            while not until() and not self._stop.is_set():
                try:
                    with client.stream(
                        left, sensor, model=model, window_us=window_us, options=options, on_state=self._tell
                    ) as results:
                        for result in results:
                            with self._lock:
                                self._reporter.result(result, time.monotonic())
                            if until() or self._stop.is_set():
                                return
                    return
                except InputError:
                    raise
                except ClientError as error:
                    logger.warning("the service cannot be used: %s", error)
                    with self._lock:
                        self._reporter.state(StreamState.CLOSED, str(error))
                    self._stop.wait(_RETRY_S)

    def stop(self) -> None:
        """Have ``run`` return soon."""
        self._stop.set()

    def _tell(self, change: StateChange) -> None:
        logger.info("segmentation: %s -> %s %s", change.before.value, change.after.value, change.reason)
        with self._lock:
            self._reporter.state(change.after, change.reason)

    @contextmanager
    def _reporting(self) -> Iterator[None]:
        over = threading.Event()
        thread = threading.Thread(target=self._report, args=(over,), name="mavlink", daemon=True)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()

    def _report(self, over: threading.Event) -> None:
        heard: bool | None = None
        while not over.is_set():
            with self._lock:
                reports = self._reporter.due(time.monotonic())
            for report in reports:
                self._link.send(report)
            self._link.hear()
            silence = self._link.silence_s
            if silence is not None and (silence <= _SILENT_S) is not heard:
                before, heard = heard, silence <= _SILENT_S
                again = "" if before is None else " again"
                logger.warning("the flight controller %s", f"is heard{again}" if heard else "is not heard any more")
            over.wait(_TICK_S)
