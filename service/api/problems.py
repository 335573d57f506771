"""Errors to ``application/problem+json`` responses."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Mapping, Sequence
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from pydantic import ValidationError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.responses import Response

from service.api.services import services_of
from service.errors import FieldError, ServiceError, UnusableInputError, exhaustion, problem
from service.wire.errors import WireError

PROBLEM_MEDIA_TYPE = "application/problem+json"
PROBLEM_RESPONSES: dict[int | str, dict[str, Any]] = {
    "default": {
        "description": "A problem (RFC 9457).",
        "content": {PROBLEM_MEDIA_TYPE: {"schema": {"type": "object"}}},
    }
}
_MAX_FIELD_ERRORS = 20
_MAX_FIELD_CHARS = 200
_SLUGS = {404: "not-found", 405: "method-not-allowed"}

logger = logging.getLogger(__name__)


def install_problem_handlers(app: FastAPI) -> None:
    """Have every error of an app answered as a problem."""
    app.add_exception_handler(ServiceError, _service_error)
    app.add_exception_handler(WireError, _wire_error)
    app.add_exception_handler(RequestValidationError, _validation_error)
    app.add_exception_handler(HTTPException, _http_error)
    app.add_exception_handler(ClientDisconnect, _client_gone)
    app.add_exception_handler(OSError, _system_error)
    app.add_exception_handler(Exception, _unexpected_error)


def problem_response(document: Mapping[str, Any], headers: Mapping[str, str] | None = None) -> Response:
    """A response with the members of a problem document."""
    # ASCII, because a quoted input may hold halves of surrogate pairs, which no UTF-8 can.
    content = json.dumps(document).encode("ascii")
    return Response(content, document["status"], headers, media_type=PROBLEM_MEDIA_TYPE)


def field_errors(errors: Iterable[Mapping[str, Any]], skip: int = 0) -> list[FieldError]:
    """Errors of pydantic as fields to blame; ``skip`` leaves out leading parts of their places."""
    found = []
    for error in errors:
        field = ".".join(str(part) for part in error["loc"][skip:])
        found.append(FieldError(field[:_MAX_FIELD_CHARS], str(error["msg"])[:_MAX_FIELD_CHARS]))
    return found[:_MAX_FIELD_ERRORS]


def invalid_fields(error: ValidationError) -> tuple[str, list[FieldError]]:
    """A sentence on a body that breaks its schema, and the fields to blame."""
    errors = field_errors(error.errors(include_url=False, include_context=False, include_input=False))
    return _sentence(errors), errors


def _sentence(errors: Sequence[FieldError]) -> str:
    first = errors[0]
    return f"{first.field}: {first.message}" if first.field else first.message


def _count(request: Request, code: str) -> None:
    services_of(request).metrics.count_error(code)


async def _service_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, ServiceError)
    _count(request, error.code)
    return problem_response(error.problem(), error.headers)


async def _wire_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, WireError)
    return await _service_error(request, UnusableInputError.from_wire(error))


async def _validation_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    # The first part of a place says where the parameter stands: in the query, in the path.
    errors = field_errors(error.errors(), skip=1)
    return await _service_error(request, UnusableInputError(_sentence(errors), errors))


async def _http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    status = HTTPStatus(error.status_code)
    code = _SLUGS.get(status, "http-error")
    _count(request, code)
    details = {
        404: f"there is nothing at {request.url.path}",
        405: f"{request.method} is not possible here",
    }
    document = problem(status, code, status.phrase, details.get(status, str(error.detail)))
    return problem_response(document, error.headers)


async def _client_gone(_request: Request, _error: Exception) -> Response:
    # Nobody is left to read this.
    return Response(status_code=HTTPStatus.BAD_REQUEST)


async def _system_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, OSError)
    exhausted = exhaustion(error)
    if exhausted is None:
        return await _unexpected_error(request, error)
    logger.error("%s %s: %s", request.method, request.url.path, error)
    return await _service_error(request, exhausted)


async def _unexpected_error(request: Request, error: Exception) -> Response:
    logger.error("%s %s failed", request.method, request.url.path, exc_info=error)
    return await _service_error(request, ServiceError("the server failed at this request; its log says why"))
