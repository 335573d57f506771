"""Runs codecs and files on threads of their own, so that the event loop never waits for them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")


class Engine:
    """Two pools of threads: one encodes and decodes, one does what may take seconds.

    Parameters
    ----------
    codec_workers : int
        Threads that encode and decode.
    """

    def __init__(self, *, codec_workers: int = 2) -> None:
        self._codecs = ThreadPoolExecutor(codec_workers, "codec")
        self._slow = ThreadPoolExecutor(1, "slow")

    async def offload(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Call a function on a codec thread."""
        return await asyncio.get_running_loop().run_in_executor(self._codecs, partial(function, *args, **kwargs))

    async def offload_slow(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Call a function that may take seconds, such as parsing a recording, where no session waits behind it."""
        return await asyncio.get_running_loop().run_in_executor(self._slow, partial(function, *args, **kwargs))

    def close(self) -> None:
        """Stop the threads once they have finished what they are at; what is queued is dropped."""
        for pool in (self._codecs, self._slow):
            pool.shutdown(wait=True, cancel_futures=True)
