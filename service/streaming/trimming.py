"""Hands the memory of sessions that are gone back to the system."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from models.machine import give_back_freed_memory
from service.streaming.engine import Engine

_LOOK_SECONDS = 0.5
_REST_SECONDS = 5.0
_WORTHWHILE_BYTES = 16 << 20


async def trim_forever(engine: Engine, state_bytes: Callable[[], int]) -> None:
    """Trim the heap some time after much state has been freed, until cancelled.

    It takes tens of milliseconds, on another thread, and what is needed again must be faulted in: so not while the
    same sessions go on.

    Parameters
    ----------
    engine : Engine
    state_bytes : callable
        What all sessions hold.
    """
    most = 0
    while True:
        held = state_bytes()
        most = max(most, held)
        if most - held >= _WORTHWHILE_BYTES:
            await engine.offload_slow(give_back_freed_memory)
            most = held
            await asyncio.sleep(_REST_SECONDS)
        await asyncio.sleep(_LOOK_SECONDS)
