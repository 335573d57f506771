"""Follow a camera with an eye on the connection: ``python -m clients.examples.live_camera [ADDRESS [URL]]``.

ADDRESS is ``camera://``, ``tcp://HOST:PORT``, ``webcam://0`` or a recording, which is played at its own pace. Windows
that come faster than they are computed are left out, so that what is shown is never old.
"""

from __future__ import annotations

import asyncio
import sys

from clients import AsyncClient, StateChange, StreamOptions, open_source
from clients.sources import play


def tell(change: StateChange) -> None:
    """Say how the connection is doing."""
    print(f"-- {change.after.value} {change.reason}".rstrip())


async def follow(address: str, url: str) -> None:
    """Print a line for each window until the source ends."""
    newest_only = StreamOptions(queue="drop-oldest", queue_windows=1)
    with open_source(address) as source:
        async with (
            AsyncClient(url) as client,
            client.stream(play(source, speed=1.0), source.sensor, options=newest_only, on_state=tell) as stream,
        ):
            async for result in stream:
                health = stream.health
                person = result.mask == 4
                print(f"window {result.window}: {person.mean():.1%} human, {(health.lag_us or 0) / 1e3:.0f} ms behind")


def main(address: str = "camera://", url: str = "http://127.0.0.1:8000") -> None:
    """Follow a source."""
    asyncio.run(follow(address, url))


if __name__ == "__main__":
    main(*sys.argv[1:])
