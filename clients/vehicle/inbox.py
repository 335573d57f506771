"""Events that come by themselves: messages wait here, each with the time at which it came."""

from __future__ import annotations

import queue
import time
from typing import Generic, TypeVar

from clients.sources.source import Source
from models.events import SensorSize

Message = TypeVar("Message")
_DEPTH = 256


class Inbox(Generic[Message]):
    """A queue between a network's thread and a source; messages that come too fast push out the oldest."""

    def __init__(self, depth: int = _DEPTH) -> None:
        self._queue: queue.Queue[tuple[float, Message]] = queue.Queue(depth)

    def put(self, message: Message) -> None:
        """Take a message in; from any thread."""
        item = time.monotonic(), message
        while True:
            try:
                self._queue.put_nowait(item)
                return
            except queue.Full:
                try:
                    self._queue.get_nowait()
                except queue.Empty:
                    continue

    def get(self, timeout_s: float) -> tuple[float, Message] | None:
        """When the oldest message came, by ``time.monotonic``, and itself; None if there is none in time."""
        try:
            return self._queue.get(timeout=timeout_s)
        except queue.Empty:
            return None


class TopicSource(Source):
    """A source that a network feeds.

    Attributes
    ----------
    arrived : float
        When the events of the last batch came, by ``time.monotonic``: they may have waited since.
    begun_anew : bool
        Whether the batches ended because the sensor's clock went back; asked for again, they go on from there.
    """

    live = True

    def __init__(self, name: str, sensor: SensorSize) -> None:
        super().__init__(name, sensor)
        self.arrived = time.monotonic()
        self.begun_anew = False
