"""Paced WebSocket clients in a process of their own; :mod:`benchmarks.load` starts it and reads what they saw.

    python -m benchmarks.load_clients

Standard input has a line of JSON, ``Order``; when all clients have been welcomed, a line comes back that says how many
were not, and once a line with a time of ``time.monotonic`` has come, they begin at that time. Last comes a line with
``Report``.

Windows are sent when they are due, whatever has been answered (open loop), and latency counts from when a window was
due: a server that holds a client up cannot hide that (coordinated omission; G. Tene, "How NOT to measure latency").
What is sent is encoded beforehand, and of an answer only its header is read.
"""

from __future__ import annotations

import asyncio
import json
import random
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass, field

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from models.events import SensorSize
from service.wire import messages
from service.wire.events import encode_packet
from service.wire.messages import MessageType
from tests.service.harness import PATIENCE_S, random_events

DRAWN_WINDOWS = 8
"""So many windows of events are drawn, and sent over and over with later times."""
_TIME_BASE = slice(messages.HEADER.size + 16, messages.HEADER.size + 24)


@dataclass(frozen=True)
class Order:
    """What a process of clients is to do.

    Attributes
    ----------
    url : str
    streams : int
    seed : int
    sensor : list of int
        Width and height, in pixels.
    model : str
    window_us : int
        A window is sent, and its answer wanted, so often.
    windows : int
        Windows of each stream.
    events_per_pixel : float
        In each window.
    """

    url: str
    streams: int
    seed: int
    sensor: list[int]
    model: str
    window_us: int
    windows: int
    events_per_pixel: float

    @property
    def size(self) -> SensorSize:
        """The sensor."""
        return SensorSize(*self.sensor)


@dataclass
class Report:
    """What the clients of a process saw.

    Attributes
    ----------
    latency_s : list of float
        From when a window was due to its answer, of the second half of each stream.
    late_s : list of float
        By how much later than due a client came to send a window, where nothing but this process held it up.
    answered, lost, repeated : int
        Windows.
    refused : dict of str to int
        By HTTP status of the handshake or by close code.
    cpu_share : float
        Of one core that this process used.
    """

    latency_s: list[float] = field(default_factory=list)
    late_s: list[float] = field(default_factory=list)
    answered: int = 0
    lost: int = 0
    repeated: int = 0
    refused: dict[str, int] = field(default_factory=dict)
    cpu_share: float = 0.0


class PacedClient:
    """One stream."""

    def __init__(self, order: Order, index: int, report: Report) -> None:
        self._order = order
        self._report = report
        self._period_s = order.window_us / 1e6
        self._phase_s = random.Random(f"{order.seed} {index}").uniform(0, self._period_s)
        self._messages = list(self._draw(order.seed + index))
        self._socket: ClientConnection | None = None

    async def open(self) -> str | None:
        """Connect and say hello; what it was refused with, if it was."""
        order = self._order
        name = f"load-{order.seed}-{random.getrandbits(64):016x}"
        address = f"{order.url.replace('http', 'ws', 1)}/v1/stream?session={name}"
        hello = {"type": "hello", "version": 1, "model": order.model, "window": {"us": order.window_us}}
        hello["sensor"] = {"width": order.size.width, "height": order.size.height}
        try:
            self._socket = await connect(
                address, compression=None, max_size=None, ping_interval=None, open_timeout=PATIENCE_S
            )
            await self._socket.send(json.dumps(hello))
            document = json.loads(await self._socket.recv())
        except InvalidStatus as answer:
            return str(answer.response.status_code)
        except ConnectionClosed as closed:
            return str(closed.rcvd.code if closed.rcvd is not None else 1006)
        if document["type"] == "error":
            self._socket = None
            return str(document["code"])
        return None

    async def run(self, start: float) -> None:
        """Send and receive everything, then close."""
        if self._socket is None:
            return
        begin = start + self._phase_s
        receiving = asyncio.create_task(self._receive(self._socket, begin))
        with suppress(ConnectionClosed):
            await self._send(self._socket, begin)
        seen = await receiving
        await self._socket.close()
        self._report.answered += len(seen)
        self._report.lost += self._order.windows - len(seen)

    async def _send(self, socket: ClientConnection, begin: float) -> None:
        free_at = 0.0
        for index in range(self._order.windows):
            due = begin + index * self._period_s
            await asyncio.sleep(due - time.monotonic())
            now = time.monotonic()
            self._report.late_s.append(now - max(due, free_at))
            events = self._messages[index % len(self._messages)]
            events[8:16] = (2 * index + 1).to_bytes(8, "little")
            events[_TIME_BASE] = (index * self._order.window_us).to_bytes(8, "little")
            await socket.send(bytes(events))
            await socket.send(messages.encode_advance(2 * index + 2, (index + 1) * self._order.window_us))
            free_at = time.monotonic()
        await socket.send(messages.encode_end(2 * self._order.windows + 1))

    async def _receive(self, socket: ClientConnection, begin: float) -> set[int]:
        seen: set[int] = set()
        with suppress(ConnectionClosed):
            async for data in socket:
                now = time.monotonic()
                assert isinstance(data, bytes)
                if data[0] != MessageType.RESULT:
                    continue
                window = int.from_bytes(data[8:16], "little")
                self._report.repeated += window in seen
                seen.add(window)
                if window >= self._order.windows // 2:
                    self._report.latency_s.append(now - begin - window * self._period_s)
        return seen

    def _draw(self, seed: int) -> Iterator[bytearray]:
        """Messages with the events of a window that begins at time 0."""
        sensor, window_us = self._order.size, self._order.window_us
        per_window = int(sensor.width * sensor.height * self._order.events_per_pixel)
        for index in range(DRAWN_WINDOWS):
            events = random_events((seed, index), windows=1, per_window=per_window, sensor=sensor, window_us=window_us)
            yield bytearray(messages.encode_events(1, encode_packet(events, sensor, time_base=0)))


async def run_clients(order: Order) -> Report:
    """Connect, wait for the word, stream."""
    report = Report()
    clients = [PacedClient(order, index, report) for index in range(order.streams)]
    refusals = await asyncio.gather(*(client.open() for client in clients))
    report.refused = dict(Counter(why for why in refusals if why is not None))
    print(sum(report.refused.values()), flush=True)
    start = float(await asyncio.to_thread(sys.stdin.readline))
    cpu, begun = time.process_time(), time.monotonic()
    await asyncio.gather(*(client.run(start) for client in clients))
    if report.answered:
        report.cpu_share = (time.process_time() - cpu) / (time.monotonic() - begun)
    return report


def main() -> None:
    """Do as ordered."""
    order = Order(**json.loads(sys.stdin.readline()))
    print(json.dumps(asdict(asyncio.run(run_clients(order)))), flush=True)


if __name__ == "__main__":
    main()
