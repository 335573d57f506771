"""One WebSocket connection to the service, synchronous or not; what goes over it is the protocol's business."""

from __future__ import annotations

import asyncio
import json
import socket
import ssl
from collections.abc import Mapping
from contextlib import ExitStack, suppress
from typing import Any, Self

from websockets.asyncio import client as asyncio_client
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidMessage, InvalidStatus, InvalidURI
from websockets.http11 import Response
from websockets.sync.client import connect

from clients.access import Access
from clients.errors import ClientError, ConnectError, ConnectionLostError, ProtocolError, from_close, from_problem
from clients.stream_protocol import SEND_BUFFER_BYTES
from clients.tracing import trace_headers

_CLOSE_SECONDS = 5.0


class Connection:
    """A connection of a thread.

    Parameters
    ----------
    access : Access
    session : str
        Id for the address.
    timeout : float
        Longest wait for the connection, in seconds.
    max_message_bytes : int
        Larger messages of the service are refused.

    Raises
    ------
    ConnectError
        If nobody answers at the address.
    ConnectionLostError
        If the connection breaks as it is opened.
    ServiceError
        If the service turns it away.
    ProtocolError
        If what answers does not speak the protocol.
    """

    def __init__(self, access: Access, session: str, *, timeout: float, max_message_bytes: int) -> None:
        self._closing = ExitStack()
        url = access.stream
        try:
            opening = connect(
                f"{url}?session={session}",
                open_timeout=timeout,
                **_settings(access.headers, access.tls, max_message_bytes),
            )
            self._socket = self._closing.enter_context(opening)
        except (InvalidURI, InvalidHandshake, OSError) as error:
            raise _not_opened(url, error) from error
        _widen(self._socket.socket)

    def send(self, data: str | bytes) -> None:
        """Send a message; that the connection is gone is told by ``receive``, after what had arrived before."""
        with suppress(ConnectionClosed):
            self._socket.send(data)

    def receive(self, timeout: float | None) -> str | bytes | None:
        """The next message, or None if there is none within ``timeout`` seconds.

        Raises
        ------
        ServiceError
            If the service closed the connection with a code of its own.
        ConnectionLostError
            If the connection is gone.
        """
        try:
            data: str | bytes = self._socket.recv(timeout)
        except TimeoutError:
            return None
        except ConnectionClosed as closed:
            raise _why(closed) from closed
        return data

    def close(self) -> None:
        """Close the connection in good order."""
        self._closing.close()

    def drop(self) -> None:
        """Be done with the connection without waiting for the other side."""
        with suppress(OSError):
            self._socket.socket.shutdown(socket.SHUT_RDWR)
        self._closing.close()


class AsyncConnection:
    """A connection of an event loop; :meth:`open` makes it, and raises what :class:`Connection` raises."""

    def __init__(self, socket: asyncio_client.ClientConnection) -> None:
        self._socket = socket

    @classmethod
    async def open(cls, access: Access, session: str, *, timeout: float, max_message_bytes: int) -> Self:
        """Connect; the parameters are those of :class:`Connection`."""
        url = access.stream
        try:
            opened = await asyncio_client.connect(
                f"{url}?session={session}",
                open_timeout=timeout,
                **_settings(access.headers, access.tls, max_message_bytes),
            )
        except (InvalidURI, InvalidHandshake, OSError) as error:
            raise _not_opened(url, error) from error
        _widen(opened.transport.get_extra_info("socket"))
        return cls(opened)

    async def send(self, data: str | bytes) -> None:
        """As :meth:`Connection.send`."""
        with suppress(ConnectionClosed):
            await self._socket.send(data)

    async def receive(self) -> str | bytes:
        """The next message; errors are those of :meth:`Connection.receive`. May be cancelled."""
        try:
            return await self._socket.recv()
        except ConnectionClosed as closed:
            raise _why(closed) from closed

    async def close(self) -> None:
        """Close the connection in good order."""
        await self._socket.close()

    async def drop(self) -> None:
        """Be done with the connection without waiting for the other side."""
        self._socket.transport.abort()
        # The library takes note in the loop's next rounds.
        with suppress(TimeoutError):
            async with asyncio.timeout(_CLOSE_SECONDS):
                await self._socket.wait_closed()


def _settings(headers: Mapping[str, str], tls: ssl.SSLContext | None, max_message_bytes: int) -> dict[str, Any]:
    return {
        "additional_headers": {**headers, **trace_headers()},
        "ssl": tls,
        # Masks are compressed already.
        "compression": None,
        # The service reads on only when it has answered, and a pong waits behind the messages: its lateness says
        # nothing. The service itself sends pings, which keeps proxies awake.
        "ping_interval": None,
        "close_timeout": _CLOSE_SECONDS,
        "max_size": max_message_bytes,
        # A caller who is slow to take results must not stop the connection; what can wait here is bounded by the
        # messages in flight.
        "max_queue": None,
    }


def _widen(end: socket.socket) -> None:
    """See the protocol's limits: what is in flight must fit into the socket, whatever the service is doing."""
    end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER_BYTES)


def _not_opened(url: str, error: Exception) -> ClientError:
    if isinstance(error, InvalidURI):
        return ConnectError(f"{url} is not an address: {error}")
    if isinstance(error, InvalidStatus):
        return _turned_away(url, error.response)
    if isinstance(error, InvalidHandshake):
        # The library reports a connection that broke within the handshake like an answer that is none.
        if isinstance(error, InvalidMessage) and isinstance(error.__cause__, EOFError):
            return ConnectionLostError(f"the connection to {url} broke as it was opened")
        return ProtocolError(f"{url} is not a stream of the service: {error}")
    if isinstance(error, ssl.SSLCertVerificationError):
        return ConnectError(f"the certificate of {url} is not trusted: {error.verify_message}")
    if isinstance(error, ConnectionResetError | BrokenPipeError):
        return ConnectionLostError(f"the connection to {url} broke as it was opened: {error}")
    return ConnectError(f"nobody answers at {url}: {error}")


def _turned_away(url: str, response: Response) -> ClientError:
    """Why the handshake was answered with something else than a connection."""
    status = response.status_code
    if response.headers.get("Content-Type", "").startswith("application/problem+json"):
        with suppress(ValueError, RecursionError):
            document = json.loads(bytes(response.body or b""))
            if isinstance(document, dict):
                return from_problem(document, headers=response.headers)
    message = f"{url} is not a stream of the service: it answers with HTTP status {status}"
    # A proxy whose server is just starting anew.
    return ConnectionLostError(message) if status >= 500 else ProtocolError(message)


def _why(closed: ConnectionClosed) -> ClientError:
    """What the end of a connection means; the service closes with a code of its own if it is to blame on a message."""
    if closed.rcvd is None:
        return ConnectionLostError("the connection to the service broke")
    refusal = from_close(closed.rcvd.code, closed.rcvd.reason)
    reason = f": {closed.rcvd.reason}" if closed.rcvd.reason else ""
    return refusal or ConnectionLostError(f"the service closed the connection with code {closed.rcvd.code}{reason}")
