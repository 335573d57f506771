"""One WebSocket connection to the service: a hello and its welcome, then binary messages."""

from __future__ import annotations

import json
import socket
from collections.abc import Mapping
from contextlib import ExitStack, suppress
from typing import Any

from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidMessage, InvalidStatus, InvalidURI
from websockets.http11 import Response
from websockets.sync.client import connect

from clients.errors import ClientError, ConnectError, ConnectionLostError, ProtocolError, from_close, from_problem
from clients.results import SessionInfo, read_welcome
from clients.tracing import trace_headers
from service.wire.errors import MessageError
from service.wire.messages import Message, decode_message

SEND_BUFFER_BYTES = 512 * 1024
_CLOSE_SECONDS = 5.0
_METADATA_BYTES = 1 << 20


class Connection:
    """A connection that has been welcomed.

    Parameters
    ----------
    url : str
        Address of the stream, ``ws://`` or ``wss://``.
    name : str
        Id of the session that the hello opens or resumes; proxies choose the server by it.
    hello : mapping
        First message, opening or resuming a session.
    timeout : float
        Longest wait for the connection, and for the welcome, in seconds.
    mask_bytes : int
        Size of a raw mask; messages far above it are refused.

    Attributes
    ----------
    session : SessionInfo

    Raises
    ------
    ConnectError
        If nobody answers at the address.
    ConnectionLostError
        If the connection breaks before the welcome.
    ServiceError
        If the hello is refused.
    ProtocolError
        If what answers does not speak the protocol.
    """

    session: SessionInfo

    def __init__(self, url: str, name: str, hello: Mapping[str, Any], *, timeout: float, mask_bytes: int) -> None:
        self._closing = ExitStack()
        try:
            opening = connect(
                f"{url}?session={name}",
                additional_headers=trace_headers(),
                # Masks are compressed already.
                compression=None,
                open_timeout=timeout,
                # The service reads on only when it has answered, and a pong waits behind the messages: its lateness
                # says nothing. The service itself sends pings, which keeps proxies awake.
                ping_interval=None,
                close_timeout=_CLOSE_SECONDS,
                max_size=2 * mask_bytes + _METADATA_BYTES,
                # A caller who is slow to take results must not stop the connection; what can wait here is bounded by
                # the messages in flight.
                max_queue=None,
            )
            self._socket = self._closing.enter_context(opening)
        except InvalidURI as error:
            raise ConnectError(f"{url} is not an address: {error}") from error
        except InvalidStatus as error:
            raise _turned_away(url, error.response) from error
        except InvalidHandshake as error:
            # The library reports a connection that broke within the handshake like an answer that is none.
            if isinstance(error, InvalidMessage) and isinstance(error.__cause__, EOFError):
                raise ConnectionLostError(f"the connection to {url} broke as it was opened") from error
            raise ProtocolError(f"{url} is not a stream of the service: {error}") from error
        except (ConnectionResetError, BrokenPipeError) as error:
            raise ConnectionLostError(f"the connection to {url} broke as it was opened: {error}") from error
        except OSError as error:
            raise ConnectError(f"nobody answers at {url}: {error}") from error
        # See ResultStream: what is in flight must fit into the socket, whatever the service is doing.
        self._socket.socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER_BYTES)
        try:
            self.send(json.dumps(hello))
            self.session = read_welcome(self._text(timeout))
        except BaseException:
            self.drop()
            raise

    def send(self, data: str | bytes) -> None:
        """Send a message; that the connection is gone is told by ``receive``, after what had arrived before."""
        with suppress(ConnectionClosed):
            self._socket.send(data)

    def receive(self, timeout: float) -> Message | None:
        """The next binary message, or None if there is none within ``timeout`` seconds.

        Raises
        ------
        ServiceError
            If the service refuses a message, and with it the connection.
        ConnectionLostError
            If the connection is gone.
        ProtocolError
            If something else comes.
        """
        data = self._data(timeout)
        if data is None:
            return None
        if isinstance(data, str):
            raise _refusal(_document(data))
        try:
            return decode_message(data)
        except MessageError as error:
            raise ProtocolError(f"a message of the service cannot be read: {error}") from error

    def close(self) -> None:
        """Close the connection in good order."""
        self._closing.close()

    def drop(self) -> None:
        """Be done with the connection without waiting for the other side."""
        with suppress(OSError):
            self._socket.socket.shutdown(socket.SHUT_RDWR)
        self._closing.close()

    def _text(self, timeout: float) -> dict[str, Any]:
        data = self._data(timeout)
        if data is None:
            raise ConnectionLostError(f"no welcome came within {timeout:g} s")
        if not isinstance(data, str):
            raise ProtocolError("the first message of the service is not the welcome")
        document = _document(data)
        if document.get("type") == "error":
            raise _refusal(document)
        return document

    def _data(self, timeout: float) -> str | bytes | None:
        try:
            return self._socket.recv(timeout)
        except TimeoutError:
            return None
        except ConnectionClosed as closed:
            raise _why(closed) from closed


def _turned_away(url: str, response: Response) -> ClientError:
    """Why the handshake was answered with something else than a connection."""
    status = response.status_code
    if response.headers.get("Content-Type", "").startswith("application/problem+json"):
        with suppress(ProtocolError):
            text = bytes(response.body or b"").decode(errors="replace")
            return from_problem(_document(text), headers=response.headers)
    message = f"{url} is not a stream of the service: it answers with HTTP status {status}"
    # A proxy whose server is just starting anew.
    return ConnectionLostError(message) if status >= 500 else ProtocolError(message)


def _document(text: str) -> dict[str, Any]:
    try:
        document = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ProtocolError(f"a text of the service is not JSON: {error}") from None
    if not isinstance(document, dict):
        raise ProtocolError("a text of the service is not a JSON object")
    return document


def _refusal(document: dict[str, Any]) -> ClientError:
    if document.get("type") != "error":
        return ProtocolError(f"an unexpected text of type {document.get('type')!r} came from the service")
    code = document.get("code")
    return from_problem(document, close_code=code if isinstance(code, int) else None)


def _why(closed: ConnectionClosed) -> ClientError:
    """What the end of a connection means; the service closes with a code of its own if it is to blame on a message."""
    if closed.rcvd is None:
        return ConnectionLostError("the connection to the service broke")
    refusal = from_close(closed.rcvd.code, closed.rcvd.reason)
    reason = f": {closed.rcvd.reason}" if closed.rcvd.reason else ""
    return refusal or ConnectionLostError(f"the service closed the connection with code {closed.rcvd.code}{reason}")
