"""Runs codecs and files on threads of their own, so that the event loop never waits for them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import ParamSpec, TypeVar

from service.observability.context import carried
from service.streaming.watch import Watch

P = ParamSpec("P")
T = TypeVar("T")


class Engine:
    """Three pools of threads: one encodes and decodes, one loads networks, one does what else may take seconds.

    Parameters
    ----------
    codec_workers : int
        Threads that encode and decode.

    Attributes
    ----------
    watch : Watch
        On what is being encoded and decoded.
    """

    def __init__(self, *, codec_workers: int = 2) -> None:
        self.watch = Watch()
        self._codecs = ThreadPoolExecutor(codec_workers, "codec")
        self._loader = ThreadPoolExecutor(1, "loader")
        self._slow = ThreadPoolExecutor(1, "slow")

    async def offload(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Call a function on a codec thread."""
        number = self.watch.begin()
        try:
            running = self._codecs.submit(carried(partial(function, *args, **kwargs)))
        except BaseException:
            self.watch.end(number)
            raise
        # Not the event loop's future: that one is done once nobody waits, however long the thread goes on.
        running.add_done_callback(lambda _: self.watch.end(number))
        return await asyncio.wrap_future(running)

    async def offload_loading(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Call a function that reads weights or compiles, where only others of its kind wait behind it."""
        return await _run_on(self._loader, function, *args, **kwargs)

    async def offload_slow(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Call a function that may take seconds, such as parsing a recording, where no session waits behind it."""
        return await _run_on(self._slow, function, *args, **kwargs)

    def close(self) -> None:
        """Stop the threads once they have finished what they are at; what is queued is dropped."""
        for pool in (self._codecs, self._loader, self._slow):
            pool.shutdown(wait=True, cancel_futures=True)


async def _run_on(pool: ThreadPoolExecutor, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    call = carried(partial(function, *args, **kwargs))
    return await asyncio.get_running_loop().run_in_executor(pool, call)
