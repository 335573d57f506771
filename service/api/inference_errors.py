"""Errors as clients of the Open Inference Protocol read them: the problem has a member ``error`` with its detail."""

from __future__ import annotations

import json
from collections.abc import Callable, Coroutine
from typing import Any

from fastapi import Request
from fastapi.routing import APIRoute
from starlette.responses import Response

from service.api.problems import PROBLEM_MEDIA_TYPE

Handle = Callable[[Request], Coroutine[Any, Any, Response]]


class InferenceRoute(APIRoute):
    """A route whose refusals say ``error`` too."""

    def get_route_handler(self) -> Handle:
        """How a request is answered."""
        handle = super().get_route_handler()

        async def answer(request: Request) -> Response:
            handlers = request.app.exception_handlers
            # Everything that the app makes a problem of.
            kinds = tuple(kind for kind in handlers if isinstance(kind, type) and issubclass(kind, Exception))
            try:
                return await handle(request)
            except kinds as error:
                kind = next(kind for kind in type(error).__mro__ if kind in handlers)
                return _with_error(await handlers[kind](request, error))

        return answer


def _with_error(response: Response) -> Response:
    if response.media_type == PROBLEM_MEDIA_TYPE:
        document = json.loads(bytes(response.body))
        response.body = json.dumps({"error": document["detail"], **document}).encode("ascii")
        response.headers["Content-Length"] = str(len(response.body))
    return response
