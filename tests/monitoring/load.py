"""Load for servers whose metrics are looked at: streams of the demo's kind, and what goes wrong in between."""

from __future__ import annotations

import contextlib
import itertools
import threading
from collections.abc import Callable, Iterator, Sequence

import httpx

from tests.service.harness import PATIENCE_S, WINDOW_US, HttpSession, Stream, hello, random_events

_WINDOWS = 4
_PAUSE_S = 0.1


class Load:
    """Streams random events to servers until it is told to stop: sessions that last, that resume, and that end."""

    def __init__(self, urls: Sequence[str]) -> None:
        self._stop = threading.Event()
        self._failures: list[BaseException] = []
        self._threads = [
            threading.Thread(target=self._run, args=(work, url, seed), daemon=True)
            for seed, (url, work) in enumerate(itertools.product(urls, (self._stream, self._come_and_go)))
        ]

    def start(self) -> None:
        """Begin."""
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """End; raises what has failed."""
        self._stop.set()
        for thread in self._threads:
            thread.join(PATIENCE_S)
        if self._failures:
            raise self._failures[0]

    def _run(self, work: Callable[[str, int], None], url: str, seed: int) -> None:
        try:
            work(url, seed)
        except BaseException as error:  # noqa: BLE001
            self._failures.append(error)

    def _stream(self, url: str, seed: int) -> None:
        """One session that lasts, with a deadline that it does not always keep."""
        greeting = hello(queue={"policy": "drop-oldest", "windows": 2}, deadline_ms=1)
        with Stream(url, greeting) as stream:
            for piece in itertools.count():
                start = piece * _WINDOWS * WINDOW_US
                stream.events(random_events((seed, piece), windows=_WINDOWS, start_us=start))
                if self._stop.wait(_PAUSE_S):
                    break
            stream.end()

    def _come_and_go(self, url: str, seed: int) -> None:
        """Sessions that are resumed once and then ended, and requests that are refused."""
        for piece in itertools.count():
            events = random_events((seed, piece), windows=_WINDOWS)
            with Stream(url) as stream:
                stream.events(events)
                stream.drop()
            with Stream.resume(url, stream.token) as stream:
                stream.end()
            with httpx.Client(base_url=url, timeout=PATIENCE_S) as http:
                session = HttpSession(http)
                session.events(events)
                http.post(f"{session.path}/events", params={"until_us": 10**15})
                http.delete(session.path)
            if self._stop.wait(_PAUSE_S):
                return


@contextlib.contextmanager
def running_load(urls: Sequence[str]) -> Iterator[Load]:
    """Keep servers busy."""
    load = Load(urls)
    load.start()
    try:
        yield load
    finally:
        load.stop()
