"""Around every request: its id, its access line, its span.

Wraps the whole application, the framework's last resort for errors included, so that each answer has an id.
FastAPI's own telemetry, like OpenTelemetry's for ASGI, holds a WebSocket's span open for as long as its connection
lasts, and exports nothing before; here a handshake has a span, and each message has one of its own.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from typing import Any

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.observability.context import REQUEST_ID_HEADER, request_id, sane_request_id, session_id
from service.observability.tracing import span

access = logging.getLogger("service.access")

# Asked every few seconds by machines, for ever.
_PROBED = ("/v2/health/live", "/v2/health/ready", "/metrics")
_SWITCHING = 101


class RequestContext:
    """ASGI middleware that gives every request and connection an id.

    Parameters
    ----------
    app : ASGI application
    access_log : bool
        Whether to log a line for each.
    """

    def __init__(self, app: ASGIApp, *, access_log: bool = True) -> None:
        self._app = app
        self._access_log = access_log

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request or connection."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, _explaining(scope, send))
            return
        headers = Headers(scope=scope)
        id = sane_request_id(headers.get(REQUEST_ID_HEADER))
        tokens = request_id.set(id), session_id.set(None)
        exchange = _Exchange(scope, id, receive, send)
        try:
            if scope["type"] == "http" and scope["path"] not in _PROBED:
                await self._serve_traced(exchange, headers)
            else:
                await self._serve(exchange)
        finally:
            request_id.reset(tokens[0])
            session_id.reset(tokens[1])

    async def _serve(self, exchange: _Exchange) -> None:
        try:
            await self._app(exchange.scope, exchange.receive, exchange.send)
        finally:
            if self._access_log:
                exchange.log()

    async def _serve_traced(self, exchange: _Exchange, headers: Mapping[str, str]) -> None:
        scope = exchange.scope
        attributes = {"http.request.method": scope["method"], "url.path": scope["path"]}
        # The route is known only afterwards; until then a name that says little, but is one of few.
        with span(scope["method"], attributes, server=True, carrier=headers) as current:
            await self._serve(exchange)
            if current is not None:
                if (route := getattr(scope.get("route"), "path", None)) is not None:
                    current.update_name(f"{scope['method']} {route}")
                    current.set_attribute("http.route", route)
                current.set_attribute("http.response.status_code", exchange.status or 0)
                if session_id.get() is not None:
                    current.set_attribute("spikeseg.session", session_id.get() or "")


class _Exchange:
    """What goes to and fro in one request or connection."""

    def __init__(self, scope: Scope, id: str, receive: Receive, send: Send) -> None:
        self.scope = scope
        self.status: int | None = None
        self._id = id
        self._receive = receive
        self._send = send
        self._begun = time.perf_counter()
        self._bytes_in = self._bytes_out = 0
        self._close_code: int | None = None

    async def receive(self) -> Message:
        message = await self._receive()
        self._bytes_in += _size(message)
        if message["type"] == "websocket.disconnect" and self._close_code is None:
            self._close_code = message.get("code", 1005)
        return message

    async def send(self, message: Message) -> None:
        kind = message["type"]
        if kind in ("http.response.start", "websocket.accept", "websocket.http.response.start"):
            self.status = message.get("status", _SWITCHING)
            message.setdefault("headers", [])
            MutableHeaders(scope=message)[REQUEST_ID_HEADER] = self._id
        elif kind == "websocket.close":
            self._close_code = message.get("code", 1000)
        self._bytes_out += _size(message)
        await self._send(message)

    def log(self) -> None:
        """The access line; the query is left out, it may hold secrets."""
        scope, path = self.scope, self.scope["path"]
        method = scope.get("method", "WEBSOCKET")
        refused = self.status is None or self.status >= 400
        client = scope.get("client")
        fields: dict[str, Any] = {
            "method": method,
            "path": path,
            "status": self.status,
            "duration_ms": round((time.perf_counter() - self._begun) * 1e3, 3),
            "bytes_in": self._bytes_in,
            "bytes_out": self._bytes_out,
            "client": client[0] if client else None,
        }
        if self._close_code is not None:
            fields["close_code"] = self._close_code
        level = logging.DEBUG if path in _PROBED and not refused else logging.INFO
        access.log(level, "%s %s %s", method, path, self.status, extra=fields)


def _size(message: Message) -> int:
    """Bytes of a part of a body, or of a WebSocket message."""
    data = message.get("body") or message.get("bytes")
    if data:
        return len(data)
    text = message.get("text")
    return len(text) if text else 0


def _explaining(scope: Scope, send: Send) -> Send:
    """Passes on what a lifespan says, without the traceback of a failure that the app has explained in its log."""

    async def passed_on(message: Message) -> None:
        if message["type"] == "lifespan.startup.failed" and getattr(scope["app"].state, "cannot_start", False):
            message = {**message, "message": ""}
        await send(message)

    return passed_on
