"""Who asks, and the scope that a key needs for each call.

The scope is declared on the call; :mod:`service.api.guard` checks it before the call is reached.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Annotated, Any, TypeVar
from weakref import WeakKeyDictionary

from fastapi import Depends
from starlette.requests import HTTPConnection
from starlette.routing import BaseRoute, Match, Mount
from starlette.types import Scope as Connection

from service.auth import Caller, Scope
from service.errors import ForbiddenError

SUBPROTOCOL = "spikeseg.v1"
"""What a WebSocket client offers beside its token, and the server chooses."""
CALLER = "spikeseg.caller"

Endpoint = TypeVar("Endpoint")

# Apps may come and go, and take the functions and files that they serve with them.
_TAKES: WeakKeyDictionary[Any, Scope | None] = WeakKeyDictionary()


def takes(scope: Scope) -> Callable[[Endpoint], Endpoint]:
    """Declare the scope that a key must have for a call; stands between the route's decorator and the function."""

    def declare(endpoint: Endpoint) -> Endpoint:
        _TAKES[endpoint] = scope
        return endpoint

    return declare


def public(endpoint: Endpoint) -> Endpoint:
    """Declare that a call, or an app that is mounted, takes no key."""
    _TAKES[endpoint] = None
    return endpoint


def route_of(routes: Iterable[BaseRoute], connection: Connection) -> BaseRoute | None:
    """The route that the router will choose: the first that fits, or else the first that fits but for the method."""
    partial = None
    for route in routes:
        match, _ = route.matches(connection)
        if match is Match.FULL:
            return route
        if match is Match.PARTIAL and partial is None:
            partial = route
    return partial


def scope_of(route: BaseRoute) -> Scope | None:
    """The scope that a route takes; None if it is public.

    Raises
    ------
    LookupError
        If none was declared.
    """
    endpoint = route.app if isinstance(route, Mount) else getattr(route, "endpoint", None)
    try:
        return _TAKES[endpoint]
    except (KeyError, TypeError):
        raise LookupError(f"{route} declares no scope: takes(...) or public stands above its function") from None


def caller_of(connection: HTTPConnection) -> Caller:
    """Who a request or WebSocket comes from."""
    caller: Caller = connection.scope[CALLER]
    return caller


def require(caller: Caller, scope: Scope) -> None:
    """Raise ForbiddenError if the caller's key is not good for this."""
    if not caller.may(scope):
        challenge = f'Bearer realm="spikeseg", error="insufficient_scope", scope="{scope}"'
        raise ForbiddenError(
            f"this takes the scope {scope.value!r}, which the key {caller.id!r} does not have",
            headers={"WWW-Authenticate": challenge},
        )


AppCaller = Annotated[Caller, Depends(caller_of)]
