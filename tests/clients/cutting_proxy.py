"""A TCP proxy that breaks connections where a test wants it to."""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
from dataclasses import dataclass
from types import TracebackType
from typing import Literal, Self
from urllib.parse import urlsplit

Direction = Literal["up", "down"]
_RESET = struct.pack("ii", 1, 0)  # SO_LINGER of no time: the connection ends with a reset, not in good order.


@dataclass(frozen=True)
class Cut:
    """Break a connection once so many bytes have passed up, to the server, or down; or before these bytes do.

    With ``stall`` it is not broken: nothing passes that way any more, and nobody is told.
    """

    direction: Direction
    after_bytes: int = 2**63
    before: bytes | None = None
    reset: bool = False
    stall: bool = False


class CuttingProxy:
    """Passes bytes between a client and the server; the n-th connection is broken as the n-th cut says.

    Attributes
    ----------
    connections : int
        How many there have been.
    passed : dict
        Bytes that went each way over all connections.
    """

    def __init__(self, server: str, cuts: list[Cut | None]) -> None:
        parts = urlsplit(server)
        assert parts.hostname is not None
        self._target = (parts.hostname, parts.port)
        self._cuts = cuts
        self._open: list[socket.socket] = []
        self._threads: list[threading.Thread] = []
        self.connections = 0
        self.passed: dict[Direction, int] = {"up": 0, "down": 0}
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self._start(self._accept)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # A thread that waits in accept is woken by shutdown, not by close.
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.break_all()
        for thread in self._threads:
            thread.join(10)
            assert not thread.is_alive()
        for end in self._open:
            end.close()

    def break_all(self) -> None:
        """Break every connection."""
        for end in self._open:
            _shut(end)

    def _start(self, target: object, *arguments: object) -> None:
        assert callable(target)
        thread = threading.Thread(target=target, args=arguments, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._listener.accept()
            except OSError:
                return
            far = socket.create_connection(self._target)
            self._open += [near, far]
            cut = self._cuts[self.connections] if self.connections < len(self._cuts) else None
            self.connections += 1
            for direction, source, target in (("up", near, far), ("down", far, near)):
                self._start(self._pass, direction, source, target, cut)

    def _pass(self, direction: Direction, source: socket.socket, target: socket.socket, cut: Cut | None) -> None:
        mine = cut if cut is not None and cut.direction == direction else Cut(direction)
        left = mine.after_bytes
        with contextlib.suppress(OSError):
            while data := source.recv(65_536):
                if mine.before is not None and mine.before in data:
                    break
                target.sendall(data[:left])
                self.passed[direction] += len(data)
                left = max(left - len(data), 0)
                if left <= 0 and not mine.stall:
                    break
        for end in (source, target):
            if cut is not None and cut.reset:
                # The other thread may wait in recv; until it is woken, closing would do nothing.
                with contextlib.suppress(OSError):
                    end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
                    end.shutdown(socket.SHUT_RD)
                end.close()
            else:
                _shut(end)


def _shut(end: socket.socket) -> None:
    with contextlib.suppress(OSError):
        end.shutdown(socket.SHUT_RDWR)
