"""Who asks, for the calls; found out by :mod:`service.api.guard` before they are reached."""

from __future__ import annotations

from typing import Annotated

from fastapi import Depends
from starlette.requests import HTTPConnection

from service.auth import Caller, Scope
from service.errors import ForbiddenError

SUBPROTOCOL = "spikeseg.v1"
"""What a WebSocket client offers beside its token, and the server chooses."""
CALLER = "spikeseg.caller"


def caller_of(connection: HTTPConnection) -> Caller:
    """Who a request or WebSocket comes from."""
    caller: Caller = connection.scope[CALLER]
    return caller


def require(caller: Caller, scope: Scope) -> None:
    """Raise ForbiddenError if the caller's key is not good for this."""
    if not caller.may(scope):
        challenge = f'Bearer realm="spikeseg", error="insufficient_scope", scope="{scope}"'
        raise ForbiddenError(
            f"the key {caller.id!r} has not the scope {scope!r}, which this takes",
            headers={"WWW-Authenticate": challenge},
        )


AppCaller = Annotated[Caller, Depends(caller_of)]
