"""What stands before every call, HTTP and WebSocket alike: host, origin, key, rate, scope; and headers for browsers.

Which scope a call takes is declared on the call (:mod:`service.api.callers`); the guard asks the router which call a
request is for. What no route answers is not found, whoever asks.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Sequence
from datetime import UTC, datetime

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import Response
from starlette.routing import BaseRoute
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from starlette.websockets import WebSocket

from service import audit
from service.api.callers import CALLER, require, route_of, scope_of
from service.api.problems import problem_response
from service.api.services import Services
from service.auth import Caller
from service.errors import (
    ForbiddenError,
    NotFoundError,
    OriginError,
    RateLimitError,
    ServiceError,
    UnauthenticatedError,
    UnknownHostError,
)
from service.key_file import KeyFile
from service.origins import host_of, is_same_origin, names_in, origin_of
from service.rate_limits import RateLimiter, network_of
from service.settings import Settings

HEALTH = ("/v2/health/live", "/v2/health/ready")
"""Asked for by probes, which know the server by its address alone: any host name will do."""
_PAGES = ("/", "/docs")
_PAGE_FOLDERS = ("/viewer/", "/docs/")
"""What browsers show or run; which headers it gets is decided by the path."""

_REFUSAL_SECONDS = 0.2
"""How long a caller with too many requests waits for the refusal."""
_SAFE = ("GET", "HEAD")
_BEARER = "bearer."
_CHALLENGE = 'Bearer realm="spikeseg"'
_REVOKED = UnauthenticatedError("the key has been revoked, or has expired")

_PAGE_POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self' data: blob:",
        "media-src 'self' blob:",
        "worker-src 'self'",
        "connect-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
    )
)
_DATA_POLICY = "default-src 'none'; frame-ancestors 'none'"
_SECURE = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}
_TLS_ONLY = {"Strict-Transport-Security": "max-age=31536000"}


class Guard:
    """ASGI middleware that lets nobody pass who may not.

    Parameters
    ----------
    app : ASGI application
    settings : Settings
    routes : sequence of BaseRoute
        The app's.
    """

    def __init__(self, app: ASGIApp, settings: Settings, routes: Sequence[BaseRoute]) -> None:
        self._app = app
        self._routes = routes
        self._requests = RateLimiter(settings.request_rate, settings.request_burst)
        self._refusals = RateLimiter(settings.refusal_rate, settings.refusal_burst)
        self._hosts = frozenset(name.lower() for name in names_in(settings.allowed_hosts))
        self._origins = frozenset(map(origin_of, names_in(settings.allowed_origins)))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request or connection, or refuse it."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        services: Services = scope["app"].state.services
        try:
            caller = self._admit(scope, services.keys)
        except ServiceError as error:
            services.metrics.count_error(error.code)
            if isinstance(error, RateLimitError):
                await asyncio.sleep(_REFUSAL_SECONDS)
            await _refuse(error, scope, receive, send)
            return
        scope[CALLER] = caller
        if scope["type"] == "websocket" and services.keys is not None and caller.key is not None:
            receive = _while_valid(caller, services.keys, receive, send)
        await self._app(scope, receive, send)

    def _admit(self, scope: Scope, keys: KeyFile | None) -> Caller:
        """Who asks.

        Raises
        ------
        ServiceError
            If they may not.
        """
        path, headers = scope["path"], Headers(scope=scope)
        client = scope.get("client")
        address = network_of(client[0]) if client else ""
        caller = Caller()
        route = route_of(self._routes, scope)
        if route is None:
            self._check_rate(address)
            raise NotFoundError(f"there is nothing at {path[:200]}")
        wanted = scope_of(route)
        try:
            if path not in HEALTH:
                self._check_host(headers)
            if scope["type"] == "websocket" or scope["method"] not in _SAFE:
                self._check_origin(headers)
            if keys is not None and wanted is not None:
                caller = _authenticate(scope, headers, keys)
            self._check_rate(caller.id or address)
            if wanted is not None:
                require(caller, wanted)
        except (UnauthenticatedError, ForbiddenError, UnknownHostError) as error:
            # A good key passes whatever its neighbours do: nobody can guess one, and nobody lock one out.
            wait_s = self._refusals.take(address)
            if wait_s:
                raise _slow_down(wait_s, "too many requests from this address have been refused") from None
            audit.record(audit.Event.REFUSED, key=caller.id, reason=error.code, path=path[:200], client=address)
            raise
        return caller

    def _check_host(self, headers: Headers) -> None:
        if not self._hosts:
            return
        given = headers.getlist("host")
        host = host_of(given[0], "") if len(given) == 1 else None
        if host is None or host[0] not in self._hosts:
            raise UnknownHostError("this server is not the host that the request is for; see SPIKESEG_ALLOWED_HOSTS")

    def _check_origin(self, headers: Headers) -> None:
        """Browsers say which page asks; one of another origin could use a server that its user reaches, and it not."""
        given = headers.get("origin")
        if given is None:
            return
        origin = origin_of(given)
        if origin is None or not (origin in self._origins or is_same_origin(origin, headers.get("host", ""))):
            raise OriginError(f"pages of {given[:100]!r} may not use this server; see SPIKESEG_ALLOWED_ORIGINS")

    def _check_rate(self, caller: str) -> None:
        if wait_s := self._requests.take(caller):
            raise _slow_down(wait_s, "this is more requests than one caller may make")


class SecureHeaders:
    """ASGI middleware that tells browsers what not to do with an answer.

    Parameters
    ----------
    app : ASGI application
    tls : bool
        Whether this server does TLS itself.
    """

    def __init__(self, app: ASGIApp, *, tls: bool) -> None:
        self._app = app
        self._headers = _SECURE | (_TLS_ONLY if tls else {})

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request or connection."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        path = scope["path"]
        is_page = path in _PAGES or path.startswith(_PAGE_FOLDERS)

        async def secured(message: Message) -> None:
            if message["type"] in ("http.response.start", "websocket.http.response.start"):
                message.setdefault("headers", [])
                headers = MutableHeaders(scope=message)
                headers.update(self._headers)
                headers["Content-Security-Policy"] = _PAGE_POLICY if is_page else _DATA_POLICY
                if not is_page:
                    headers.setdefault("Cache-Control", "no-store")
            await send(message)

        await self._app(scope, receive, secured)


def _authenticate(scope: Scope, headers: Headers, keys: KeyFile) -> Caller:
    token = _token(scope, headers)
    if token is None:
        raise UnauthenticatedError(
            "this server takes a token: Authorization: Bearer TOKEN, or for browsers' WebSockets the subprotocols "
            "spikeseg.v1 and bearer.TOKEN",
            headers={"WWW-Authenticate": _CHALLENGE},
        )
    key = keys.ring.verify(token, datetime.now(UTC))
    if key is None:
        challenge = f'{_CHALLENGE}, error="invalid_token"'
        raise UnauthenticatedError("no valid key has this token", headers={"WWW-Authenticate": challenge})
    return Caller(key)


def _token(scope: Scope, headers: Headers) -> str | None:
    """The token in a request's header (RFC 6750) or a WebSocket's subprotocols; None if there is none, or two."""
    found = []
    for value in headers.getlist("authorization"):
        scheme, _, token = value.partition(" ")
        if scheme.lower() == "bearer":
            found.append(token.strip())
    if scope["type"] == "websocket":
        offered = scope.get("subprotocols", ())
        found += [name.removeprefix(_BEARER) for name in offered if name.startswith(_BEARER)]
    return found[0] if len(set(found)) == 1 else None


def _slow_down(wait_s: float, why: str) -> RateLimitError:
    # A connection that may be used again at once would make refusing as dear as serving.
    headers = {"Retry-After": str(max(1, math.ceil(wait_s))), "Connection": "close"}
    return RateLimitError(f"{why}; try again later", headers=headers)


def _while_valid(caller: Caller, keys: KeyFile, receive: Receive, send: Send) -> Receive:
    """Receives until the key is taken back or expires; the connection is then closed at its next message."""

    async def checked() -> Message:
        message = await receive()
        key = caller.key
        if key is None or message["type"] != "websocket.receive" or keys.ring.holds(key, datetime.now(UTC)):
            return message
        audit.record(audit.Event.REFUSED, key=caller.id, reason=_REVOKED.code)
        await send({"type": "websocket.close", "code": _REVOKED.close_code, "reason": _REVOKED.reason})
        return {"type": "websocket.disconnect", "code": _REVOKED.close_code, "reason": _REVOKED.reason}

    return checked


async def _refuse(error: ServiceError, scope: Scope, receive: Receive, send: Send) -> None:
    """Answer a request or a handshake with a problem."""
    document = error.problem()
    if scope["path"].startswith("/v2/"):
        # As clients of the Open Inference Protocol read it.
        document = {"error": error.detail, **document}
    response: Response = problem_response(document, error.headers)
    if scope["type"] == "websocket":
        await WebSocket(scope, receive, send).send_denial_response(response)
    else:
        await response(scope, receive, send)
