"""Whose work is being done: the ids of the request and the session, as they go into log lines and answers.

Context variables follow a task into the tasks that it starts. They do not follow it onto a thread of an executor:
what runs there is wrapped with :func:`carried`.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar, copy_context
from functools import partial
from typing import TypeVar

T = TypeVar("T")

REQUEST_ID_HEADER = "X-Request-ID"

# Nothing that could end a line, a quoted string or a header; UUIDs, ULIDs and the ids of the usual proxies fit.
_REQUEST_ID = re.compile(r"[A-Za-z0-9._~:=+/@-]{1,128}")

request_id: ContextVar[str | None] = ContextVar("request_id", default=None)
session_id: ContextVar[str | None] = ContextVar("session_id", default=None)


def sane_request_id(given: str | None) -> str:
    """The id that a client gave its request if it can be one, else a new one."""
    return given if given is not None and _REQUEST_ID.fullmatch(given) else secrets.token_hex(16)


@contextmanager
def bound(*, request: str | None = None, session: str | None = None) -> Iterator[None]:
    """Do what is inside as work of this request and session; what is None stays as it is."""
    tokens = [
        (variable, variable.set(value))
        for variable, value in ((request_id, request), (session_id, session))
        if value is not None
    ]
    try:
        yield
    finally:
        for variable, token in reversed(tokens):
            variable.reset(token)


def carried(function: Callable[[], T]) -> Callable[[], T]:
    """The function, to be called on another thread as work of whoever calls ``carried``."""
    return partial(copy_context().run, function)
