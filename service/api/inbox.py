"""Messages of one connection that have arrived and wait to be answered."""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import dataclass

from service.wire.messages import Message


@dataclass(frozen=True, slots=True)
class Arrived:
    """A message, and when it arrived on ``time.perf_counter``."""

    message: Message
    at: float


class Inbox:
    """A bounded queue with an end.

    Parameters
    ----------
    messages : int
        Most messages that wait.
    size : int
        Most bytes that wait; one message may always wait.
    """

    def __init__(self, messages: int, size: int) -> None:
        self._items: deque[Arrived] = deque()
        self._bytes = 0
        self._most_messages = messages
        self._most_bytes = size
        self._end: Exception | None = None
        self._shut = False
        self._changed = asyncio.Event()

    async def put(self, item: Arrived) -> None:
        """Add a message, once there is room; after an end at once it is thrown away, as those before it were."""
        size = len(item.message.payload)
        while self._items and (len(self._items) >= self._most_messages or self._bytes + size > self._most_bytes):
            await self._wait()
        if self._shut:
            return
        self._items.append(item)
        self._bytes += size
        self._notify()

    def end(self, why: Exception, *, at_once: bool = False) -> None:
        """Have ``next`` raise this after the messages that are here; ``at_once`` they are thrown away."""
        if at_once:
            self._shut = True
            self._items.clear()
            self._bytes = 0
        if self._end is None or at_once:
            self._end = why
        self._notify()

    async def next(self) -> Arrived:
        """The oldest message, taken out."""
        while not self._items:
            if self._end is not None:
                raise self._end
            await self._wait()
        return self.take()

    def peek(self) -> Arrived | None:
        """The oldest message that is here."""
        return self._items[0] if self._items else None

    def take(self) -> Arrived:
        """The oldest message that is here, taken out."""
        item = self._items.popleft()
        self._bytes -= len(item.message.payload)
        self._notify()
        return item

    async def _wait(self) -> None:
        await self._changed.wait()

    def _notify(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()
