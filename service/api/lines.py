"""Waiting lines: one at a time, in the order of coming."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager

from service.errors import BacklogError


class Place:
    """A place in a line."""

    def __init__(self) -> None:
        self.first = asyncio.Event()

    async def reached(self) -> None:
        """Return once everybody who was before has left."""
        await self.first.wait()


class Line:
    """Lets those through in the order in which they joined who need different times until they can go."""

    def __init__(self) -> None:
        self._places: deque[Place] = deque()

    def __len__(self) -> int:
        return len(self._places)

    @contextmanager
    def join(self) -> Iterator[Place]:
        """A place at the end, until it is left; it may be left before it is reached."""
        place = Place()
        self._places.append(place)
        self._call()
        try:
            yield place
        finally:
            self._places.remove(place)
            self._call()

    def _call(self) -> None:
        if self._places:
            self._places[0].first.set()


class Lines:
    """A line for each name that somebody waits for.

    Parameters
    ----------
    most : int
        Most that wait in one line behind the first.
    """

    def __init__(self, most: int) -> None:
        self._lines: dict[str, Line] = {}
        self._most = most

    def __len__(self) -> int:
        return len(self._lines)

    @contextmanager
    def join(self, name: str) -> Iterator[Place]:
        """A place at the end of a line.

        Raises
        ------
        BacklogError
            If too many wait.
        """
        line = self._lines.setdefault(name, Line())
        if len(line) > self._most:
            raise BacklogError(
                f"{self._most} requests of this sequence wait already; send the next when one is answered",
                headers={"Retry-After": "1"},
            )
        try:
            with line.join() as place:
                yield place
        finally:
            if not line:
                del self._lines[name]
