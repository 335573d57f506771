"""A stream in a thread of its own, for programs that have a loop already: a flight controller's, a robot's."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from types import TracebackType
from typing import Self

from clients.health import Health
from clients.items import Item
from clients.results import Result, SessionInfo
from clients.streaming import ResultStream

ResultListener = Callable[[Result], None]


class Follower:
    """Takes the results of a stream as they come; :meth:`clients.client.Client.follow` makes it.

    A context manager. The source runs in the follower's thread, and so do the listeners; whatever one of them raises
    ends the stream, and is raised again by :meth:`stop`.
    """

    def __init__(
        self,
        open_stream: Callable[[Iterable[Item]], ResultStream],
        items: Iterable[Item],
        on_result: ResultListener | None,
    ) -> None:
        self._enough = threading.Event()
        self._on_result = on_result
        self._latest: Result | None = None
        self._error: BaseException | None = None
        self._stream = open_stream(self._until_enough(items))
        self._thread = threading.Thread(target=self._run, name="spikeseg-follower", daemon=True)
        self._thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            self.stop()
            return
        self._enough.set()
        self._thread.join()

    @property
    def session(self) -> SessionInfo:
        """The session, with its classes."""
        return self._stream.session

    @property
    def latest(self) -> Result | None:
        """The newest result; None before the first. ``health.result_age_s`` says how old it is."""
        return self._latest

    @property
    def health(self) -> Health:
        """How the stream is doing."""
        return self._stream.health

    @property
    def running(self) -> bool:
        """Whether further results may come."""
        return self._thread.is_alive()

    def wait(self, timeout_s: float | None = None) -> bool:
        """Wait for the source's end, at most so many seconds; whether it has come."""
        self._thread.join(timeout_s)
        return not self.running

    def stop(self) -> None:
        """End the source, and with it the stream; the open window is answered first.

        Raises
        ------
        Exception
            What ended the stream before, if it failed.
        """
        self._enough.set()
        self._thread.join()
        error, self._error = self._error, None
        if error is not None:
            raise error

    def _until_enough(self, items: Iterable[Item]) -> Iterator[Item]:
        for item in items:
            yield item
            if self._enough.is_set():
                return

    def _run(self) -> None:
        try:
            with self._stream:
                for result in self._stream:
                    self._latest = result
                    if self._on_result is not None:
                        self._on_result(result)
        # It is raised where the program can see it.
        except BaseException as error:  # noqa: BLE001
            self._error = error
