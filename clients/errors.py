"""Errors of the clients package.

ClientError
 ├── TransportError            the service cannot be talked to
 │    ├── ConnectError          nobody answers at the address
 │    ├── NoAnswerError         an answer did not come in time
 │    └── ConnectionLostError   the connection broke and could not be taken up again
 ├── ProtocolError             what answers does not speak the protocol
 ├── SourceError               events that cannot be had
 │    ├── RecordingError        a file that cannot be read as a recording of events
 │    └── CameraError           a camera, or a network stream of one, that is not there or went away
 ├── OutputError               a file, a folder or a network that cannot be written to
 ├── MissingExtraError         a library that is not installed; the message says how to install it
 └── ServiceError              the service refuses a request, or fails at it
      ├── UnauthenticatedError  401  4401  no token, or none that the service knows
      ├── ForbiddenError        403  4403  what the token, or the page that asks, may not do
      ├── NotFoundError         404  4404
      │    ├── UnknownModelError
      │    └── UnknownSessionError
      ├── HelloError            400  4400  a sensor, window or option that the service does not take
      ├── InputError            422  4422  events that cannot be used
      │    ├── TimeOrderError           earlier than what has been sent
      │    ├── TimeJumpError            too many windows in one message
      │    ├── WindowOverflowError      too many events in one window
      │    ├── SensorMismatchError      events of another sensor
      │    └── SequenceError            a message number that skips
      ├── SessionInUseError     409  4409  another connection holds the session
      ├── SessionExistsError    409  4409  the id that was chosen for a session is taken
      ├── RequestTimeoutError   408  4408  the request did not reach the service in time
      ├── TooLargeError         413  4413  a body or message above the service's limit
      ├── CapacityError         429  4429  no room for another session
      └── ServerFailureError    5xx  1011  the service failed
           ├── DrainingError    503  1012  the server is about to stop; another one may take over
           └── StoreAwayError   503  1013  the session is elsewhere, and the state store is away

The service names an error by its problem type, over HTTP as over the WebSocket. A close frame that came alone has
only a number: :func:`from_close`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

_TYPE_PREFIX = "urn:spikeseg:problem:"


@dataclass(frozen=True, slots=True)
class FieldError:
    """A field that is to blame, named as the wire contract names it, and why."""

    field: str
    message: str


class ClientError(Exception):
    """Base of every error that this package raises on purpose.

    Attributes
    ----------
    message : str
        What is wrong, in words that the caller can act on.
    """

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message


class TransportError(ClientError):
    """The service cannot be talked to."""


class ConnectError(TransportError):
    """Nobody answers at the address."""


class NoAnswerError(TransportError):
    """An answer did not come in time."""


class ConnectionLostError(TransportError):
    """The connection broke, and could not be taken up again as often as that is tried."""


class ProtocolError(ClientError):
    """What answers does not speak the protocol, or has broken a promise of it."""


class SourceError(ClientError):
    """Events that cannot be had from where they were asked for."""


class RecordingError(SourceError):
    """A file that cannot be read as a recording of events; the message says what is wrong with it."""


class CameraError(SourceError):
    """A camera, or a network stream of one, that is not there or went away."""


class OutputError(ClientError):
    """A file, a folder or a network that cannot be written to."""


class MissingExtraError(ClientError):
    """A library that is not installed; the message says how to install it."""


class ServiceError(ClientError):
    """The service refuses a request, or fails at it.

    Attributes
    ----------
    message : str
        The service's own words.
    code : str
        The problem's code, as ``unknown-model``.
    status : int or None
        HTTP status; None if the service only closed the connection.
    close_code : int or None
        Code of the WebSocket's close frame; None over HTTP, and if the events never left this machine.
    errors : tuple of FieldError
        The fields that are to blame, if any.
    retry_after_s : float or None
        When to try again, in seconds.
    request_id : str or None
        What the service's log lines on this request have as ``request_id``.
    """

    default_code: ClassVar[str] = "internal"

    def __init__(
        self,
        message: str,
        *,
        code: str | None = None,
        status: int | None = None,
        close_code: int | None = None,
        errors: Sequence[FieldError] = (),
        retry_after_s: float | None = None,
        request_id: str | None = None,
    ) -> None:
        super().__init__(message)
        self.code = code or self.default_code
        self.status = status
        self.close_code = close_code
        self.errors = tuple(errors)
        self.retry_after_s = retry_after_s
        self.request_id = request_id

    def __str__(self) -> str:
        return self.message if self.request_id is None else f"{self.message} (request {self.request_id})"

    @property
    def fields(self) -> tuple[str, ...]:
        """Names of the fields that are to blame."""
        return tuple(error.field for error in self.errors)


class UnauthenticatedError(ServiceError):
    """No token, or one that the service does not know or that has expired."""

    default_code = "unauthenticated"


class ForbiddenError(ServiceError):
    """Something that the token is not good for, or that is not for this name or page."""

    default_code = "forbidden"


class NotFoundError(ServiceError):
    """Something that the request names does not exist."""

    default_code = "not-found"


class UnknownModelError(NotFoundError):
    """No model of that name."""

    default_code = "unknown-model"


class UnknownSessionError(NotFoundError):
    """The session has ended, as it does after a long silence or when the service starts anew."""

    default_code = "unknown-session"


class HelloError(ServiceError):
    """A sensor, window or option that the service does not take."""

    default_code = "invalid-hello"


class InputError(ServiceError):
    """Events that cannot be used. Nothing of the message that held them has been applied."""

    default_code = "unusable-input"


class TimeOrderError(InputError):
    """Events that are earlier than what has been sent before."""

    default_code = "time-order"


class TimeJumpError(InputError):
    """A pause in the events of so many windows that the service does not take it as one."""

    default_code = "time-jump"


class WindowOverflowError(InputError):
    """Too many events in one window."""

    default_code = "window-overflow"


class SensorMismatchError(InputError):
    """Events of another sensor."""

    default_code = "sensor-mismatch"


class SequenceError(InputError):
    """A message number that skips."""

    default_code = "sequence"


class SessionInUseError(ServiceError):
    """Another connection holds the session, or has taken it up."""

    default_code = "session-in-use"


class SessionExistsError(SessionInUseError):
    """The id that was chosen for a session is taken."""

    default_code = "session-exists"


class RequestTimeoutError(ServiceError):
    """The hello, or the rest of a body, did not reach the service in time."""

    default_code = "timeout"


class TooLargeError(ServiceError):
    """A body or message above the service's limit."""

    default_code = "too-large"


class CapacityError(ServiceError):
    """No room for another session; ``retry_after_s`` says when to try again."""

    default_code = "capacity"


class ServerFailureError(ServiceError):
    """The service failed, or cannot load the model."""


class DrainingError(ServerFailureError):
    """The server is about to stop; another one may take over."""

    default_code = "draining"


class StoreAwayError(ServerFailureError):
    """The server does not have the session, and its state store cannot be asked for it; ask again."""

    default_code = "store-away"


_BY_CODE: dict[str, type[ServiceError]] = {
    kind.default_code: kind
    for kind in (
        UnauthenticatedError,
        ForbiddenError,
        NotFoundError,
        UnknownModelError,
        UnknownSessionError,
        HelloError,
        InputError,
        TimeOrderError,
        TimeJumpError,
        WindowOverflowError,
        SensorMismatchError,
        SequenceError,
        SessionInUseError,
        SessionExistsError,
        RequestTimeoutError,
        TooLargeError,
        CapacityError,
        ServerFailureError,
        DrainingError,
        StoreAwayError,
    )
}
_BY_STATUS: dict[int, type[ServiceError]] = {
    400: HelloError,
    401: UnauthenticatedError,
    403: ForbiddenError,
    421: ForbiddenError,
    404: NotFoundError,
    408: RequestTimeoutError,
    409: SessionInUseError,
    413: TooLargeError,
    422: InputError,
    429: CapacityError,
}
_STATUS_BY_CLOSE_CODE = {1009: 413, 1011: 500, 1013: 503}


def from_problem(
    document: Mapping[str, Any], *, close_code: int | None = None, headers: Mapping[str, str] | None = None
) -> ServiceError:
    """The error that a problem document tells of.

    Parameters
    ----------
    document : mapping
        Members of ``application/problem+json``, or of the text before a WebSocket is closed.
    close_code : int, optional
        Of the WebSocket.
    headers : mapping, optional
        Of the HTTP answer; ``Retry-After`` counts if the document itself does not say when to try again.
    """
    # Over the WebSocket ``type`` says that the text is an error, and ``problem`` which one.
    kind, title = str(document.get("problem", document.get("type", ""))), str(document.get("title", ""))
    code = kind.removeprefix(_TYPE_PREFIX) if kind.startswith(_TYPE_PREFIX) else None
    status = document.get("status")
    status = status if isinstance(status, int) else None
    cls = _BY_CODE.get(code or "") or _BY_STATUS.get(status or 0)
    if cls is None:
        cls = ServerFailureError if status is None or status >= 500 else ServiceError
    listed = document.get("errors")
    errors = [
        FieldError(str(item.get("field", "")), str(item.get("message", "")))
        for item in (listed if isinstance(listed, list) else [])
        if isinstance(item, dict)
    ]
    seconds = (headers or {}).get("Retry-After", "")
    wait = document.get("retry_after", float(seconds) if seconds.isdecimal() else None)
    return cls(
        str(document.get("detail") or title or "the service gives no reason"),
        code=code,
        status=status,
        close_code=close_code,
        errors=errors,
        retry_after_s=float(wait) if isinstance(wait, int | float) else None,
        request_id=str(document["request_id"]) if "request_id" in document else None,
    )


def from_close(close_code: int, reason: str) -> ServiceError | None:
    """The error that a close frame alone tells of; None if its code stands for no refusal."""
    if close_code == 1012:
        return DrainingError(reason or "the server is about to stop", close_code=close_code)
    status = close_code - 4000 if 4400 <= close_code < 4600 else _STATUS_BY_CLOSE_CODE.get(close_code)
    if status is None:
        return None
    cls = _BY_STATUS.get(status, ServerFailureError if status >= 500 else ServiceError)
    return cls(reason or f"the service closed the connection with code {close_code}", close_code=close_code)
