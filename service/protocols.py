"""uvicorn's HTTP and WebSocket protocols, with the limits that they lack.

Without them a client holds a connection, and memory, for as long as it likes: one that says nothing, or a line of a
head now and then; one that does not read what it is sent; one whose network is gone.
"""

from __future__ import annotations

import json
import socket
from asyncio import TimerHandle, Transport
from asyncio.transports import BaseTransport
from http import HTTPStatus
from typing import Any, ClassVar

from uvicorn._types import ASGIReceiveEvent, ASGISendEvent
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.protocols.utils import ClientDisconnected
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from websockets.frames import CloseCode, Frame

from service.errors import RequestTimeoutError, problem
from service.settings import Settings

MAX_HEAD_BYTES = 65_536
"""Of a request's head; of whatever else is no body, such as chunk sizes and trailers, between two pieces of body."""
MAX_FRAGMENTS = 4096
_GRACE_SECONDS = 5.0
_PIECE_BYTES = 16_384
"""So many bytes are parsed before the limits are looked at: a head may be larger than its limit by one piece."""
_FRAMING_FACTOR = 8
"""A chunk of one byte has five of framing; many more than that are no way to send a body."""


class HttpProtocol(HttpToolsProtocol):
    """HTTP, with limits for a request's head and framing, and for how long nothing of an answer is taken.

    Attributes
    ----------
    head_seconds : float
        Time for the head of a request, from the connection or from its first byte.
    taking_seconds : float
        Time in which the other side must take something of what is sent. The system watches over it, whichever
        protocol the connection changes to: see TCP_USER_TIMEOUT in tcp(7), and RFC 5482.
    """

    head_seconds: ClassVar[float]
    taking_seconds: ClassVar[float]
    rest_bytes: ClassVar[int]
    """What a request may still bring after it has been answered; the connection is closed then."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._head_timer: TimerHandle | None = None
        self._rest_timer: TimerHandle | None = None
        self._head_bytes = 0
        # Bytes of the request under way: of its body, of all else, and of all else since its last byte of body.
        self._body_bytes = self._framing_bytes = self._bare_bytes = 0
        self._rest_bytes = 0

    def connection_made(self, transport: Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        plain = transport.get_extra_info("socket")
        if plain is not None and hasattr(socket, "TCP_USER_TIMEOUT"):
            milliseconds = min(int(self.taking_seconds * 1e3), 2**31 - 1)
            plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, milliseconds)
        self._expect_head()

    def connection_lost(self, exc: Exception | None) -> None:
        self._head_has_come()
        if self._rest_timer is not None:
            self._rest_timer.cancel()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        for begin in range(0, len(data), _PIECE_BYTES):
            self._parse(data[begin : begin + _PIECE_BYTES])
            if self.transport.is_closing() or self.transport.get_protocol() is not self:
                return

    def _parse(self, piece: bytes) -> None:
        """Parse some bytes, and see to it that what is no body stays within its limits."""
        before = self._body_bytes
        began_with_head = self._head_timer is not None
        super().data_received(piece)
        if self.transport.is_closing():
            return
        framing = len(piece) - max(0, self._body_bytes - before)
        if self._head_timer is not None:
            # A head that began in this piece may share it with the end of another request.
            self._head_bytes += len(piece) if began_with_head else 1
            if self._head_bytes > MAX_HEAD_BYTES:
                self._refuse(HTTPStatus(431), "head-too-large", f"the head has more than {MAX_HEAD_BYTES} bytes")
            return
        self._framing_bytes += framing
        self._bare_bytes = self._bare_bytes + framing if self._body_bytes <= before else 0
        most = MAX_HEAD_BYTES + _FRAMING_FACTOR * self._body_bytes
        if self._bare_bytes > MAX_HEAD_BYTES or self._framing_bytes > most:
            self._refuse(
                HTTPStatus.BAD_REQUEST,
                "bad-request",
                f"chunk sizes, chunk extensions and trailers have more than {MAX_HEAD_BYTES} bytes",
            )
        elif self.cycle is not None and self.cycle.response_complete:
            if not self.cycle.more_body:
                # Between two requests, also where line feeds are all that has come.
                self._wait_for_next()
                return
            self._rest_bytes += len(piece)
            if self._rest_bytes > self.rest_bytes:
                self.transport.close()

    def _wait_for_next(self) -> None:
        self._unset_keepalive_if_required()
        self.timeout_keep_alive_task = self.loop.call_later(self.timeout_keep_alive, self.timeout_keep_alive_handler)

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._body_bytes = self._framing_bytes = self._bare_bytes = self._rest_bytes = 0
        if self._head_timer is None:
            self._expect_head()

    def on_header(self, name: bytes, value: bytes) -> None:
        # What comes after the head is a trailer, which nothing here reads.
        if self._head_timer is not None:
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        self._head_has_come()
        if self.parser.should_upgrade() and self._should_upgrade():
            if self.parser.get_http_version() != "1.1":
                self._refuse(HTTPStatus.BAD_REQUEST, "bad-request", "a WebSocket handshake takes HTTP/1.1")
                return
            if any(
                name == b"transfer-encoding" or (name == b"content-length" and value.strip(b"0"))
                for name, value in self.headers
            ):
                self._refuse(HTTPStatus.BAD_REQUEST, "bad-request", "a WebSocket handshake has no body")
                return
        super().on_headers_complete()

    def handle_websocket_upgrade(self) -> None:
        if not self.transport.is_closing():
            super().handle_websocket_upgrade()

    def on_body(self, body: bytes) -> None:
        self._body_bytes += len(body)
        if self.cycle is not None:
            super().on_body(body)

    def on_message_complete(self) -> None:
        if self.cycle is None:
            return
        answered = self.cycle.response_complete
        super().on_message_complete()
        if answered:
            self.cycle.more_body = False
            if self._rest_timer is not None:
                self._rest_timer.cancel()
                self._rest_timer = None

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self.cycle.response_complete and self.cycle.more_body and not self.transport.is_closing():
            # Closed at once, the system could take the answer back before the client has read it.
            self._unset_keepalive_if_required()
            self._rest_timer = self.loop.call_later(self.head_seconds, self.transport.close)

    def send_400_response(self, msg: str) -> None:
        self._refuse(HTTPStatus.BAD_REQUEST, "bad-request", msg)

    def _expect_head(self) -> None:
        self._head_bytes = 0
        self._head_timer = self.loop.call_later(self.head_seconds, self._give_up)

    def _head_has_come(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _give_up(self) -> None:
        self._head_timer = None
        if self._head_bytes:
            detail = f"the request's head did not arrive within {self.head_seconds:g} s"
            self._refuse(HTTPStatus.REQUEST_TIMEOUT, "timeout", detail)
        else:
            # Browsers open connections in advance; an answer to no request would surprise them.
            self.transport.close()

    def _refuse(self, status: HTTPStatus, code: str, detail: str) -> None:
        """Answer with a problem and close."""
        if self.transport.is_closing():
            return
        body = json.dumps(problem(status, code, status.phrase, detail)).encode("ascii")
        head = (
            f"HTTP/1.1 {status.value} {status.phrase}\r\ncontent-type: application/problem+json\r\n"
            f"content-length: {len(body)}\r\nconnection: close\r\n\r\n"
        )
        self.transport.write(head.encode("ascii") + body)
        self.transport.close()


class WebSocketProtocol(WebSocketsSansIOProtocol):
    """The WebSocket protocol, with clients that do not read, or are gone, in mind."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._heard_at = self.loop.time()

    def connection_made(self, transport: BaseTransport) -> None:
        super().connection_made(transport)
        self._heard_at = self.loop.time()

    def data_received(self, data: bytes) -> None:
        self._heard_at = self.loop.time()
        super().data_received(data)

    async def receive(self) -> ASGIReceiveEvent:
        event = await super().receive()
        # What came while nothing was read can be heard only from now on.
        self._heard_at = self.loop.time()
        return event

    async def send(self, message: ASGISendEvent) -> None:
        if message["type"] == "websocket.close":
            # It is small and the last; it need not wait until what is before it has been taken.
            self.writable.set()
        await self.writable.wait()
        if self.close_sent:
            # By this protocol, since the client broke it or was silent; the app may not have heard of it yet.
            raise ClientDisconnected
        await super().send(message)

    def handle_ping(self) -> None:
        if self.writable.is_set():
            super().handle_ping()
        else:
            # Pongs to one who does not read would heap up without end.
            self.conn.data_to_send()

    def handle_cont(self, event: Frame) -> None:
        if self.close_sent:
            return
        if len(self.frames) >= MAX_FRAGMENTS:
            # Each takes tens of bytes, however few are in it.
            self.conn.fail(CloseCode.MESSAGE_TOO_BIG, f"more than {MAX_FRAGMENTS} fragments")
            self.handle_parser_exception()
        else:
            super().handle_cont(event)

    def keepalive_timeout(self) -> None:
        assert self.ping_timeout is not None
        left_s = self.ping_timeout
        if not self.read_paused and self.writable.is_set():
            left_s -= self.loop.time() - self._heard_at
        if left_s > 0:
            # While a message is computed the next ones wait unread, and a pong behind them. A client that does not
            # read has not seen the ping; sending to it has a time limit of its own.
            self.pong_timer = self.loop.call_later(left_s, self.keepalive_timeout)
            return
        self.pong_timer = self.pending_ping_payload = None
        if not self.close_sent and not self.transport.is_closing():
            reason = f"a ping was not answered within {self.ping_timeout:g} s"
            self.conn.fail(RequestTimeoutError.close_code, reason)
            self.transport.write(b"".join(self.conn.data_to_send()))
            self.close_sent = True
            self.transport.close()


def http_protocol(settings: Settings) -> type[HttpProtocol]:
    """The HTTP protocol with the limits of these settings."""

    class LimitedHttpProtocol(HttpProtocol):
        head_seconds = settings.head_seconds
        rest_bytes = settings.max_body_bytes
        # A WebSocket client that does not read is told so first.
        taking_seconds = settings.send_seconds + _GRACE_SECONDS

    return LimitedHttpProtocol
