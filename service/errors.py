"""Everything that the service refuses or fails at, as HTTP problems and as WebSocket close codes.

ServiceError
 ├── UnauthenticatedError         401  4401  no token, or one that no key has
 ├── ForbiddenError               403  4403  the key is not good for this
 │    └── OriginError                        a web page of another origin asks
 ├── UnknownHostError             421  4421  the request is for a host that this server is not
 ├── NotFoundError                404  4404
 │    ├── UnknownModelError                  no model of that name
 │    ├── UnknownSessionError                no such session, or it has ended
 │    └── RecordingNotFoundError             the bundled recording is not on this machine
 ├── RequestTimeoutError          408  4408  the hello, or a body, did not come in time
 ├── SessionInUseError            409  4409  a WebSocket connection holds the session
 │    └── SessionMovedError                  another replica has taken up the session
 ├── SessionExistsError           409  4409  a session of that id is there already
 ├── TooLargeError                413  4413  a body or message above the limit
 ├── UnsupportedMediaTypeError    415        a content type that the call does not read
 ├── NotAcceptableError           406        no offered type is in the request's Accept
 ├── HelloError                   400  4400  the hello is not valid
 ├── SequenceStartError           400  4400  a request of a sequence that does not run
 ├── UnusableInputError           422  4422  content that cannot be used
 │    ├── TimeOrderError                     an event earlier than what has been seen
 │    ├── TimeJumpError                      a message that would close too many windows
 │    ├── WindowOverflowError                too many events in one window
 │    ├── SensorMismatchError                a packet of another sensor
 │    └── SequenceError                      a message number that skips
 ├── RateLimitError               429  4429  more requests than a caller may make
 ├── CapacityError                429  4429  no room for another session
 │    ├── StateMemoryError                   no memory for more state
 │    └── BacklogError                       too many requests of one session wait
 ├── DrainingError                503  1012  the server is about to stop
 ├── StoreAwayError               503  1013  the session is not here, and the state store cannot be asked for it
 ├── ModelUnavailableError        503  1011  the model's weights cannot be loaded
 ├── ExhaustedError               503  1013  no file descriptors, processes or memory are left
 └── StorageFullError             507  1013  no room on the disk, where recordings are unpacked

Nothing here knows of a web framework; :mod:`service.api.problems` turns these into responses.
"""

from __future__ import annotations

import errno
from collections.abc import Sequence
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, ClassVar

from service.observability.context import request_id
from service.wire.errors import WireError

INTERNAL_CLOSE_CODE = 1011
_DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_SYSTEM_ERRORS = (errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EAGAIN)
_MAX_REASON_BYTES = 123  # RFC 6455: a close frame holds 125 bytes, two of them the code.


@dataclass(frozen=True, slots=True)
class FieldError:
    """A field that is to blame, and why."""

    field: str
    message: str


class ServiceError(Exception):
    """Base of every error that the service answers with on purpose.

    Parameters
    ----------
    detail : str
        What is wrong, in words that the caller can act on.
    errors : sequence of FieldError
        The fields that are to blame, if any.
    headers : dict, optional
        HTTP headers of the answer.
    """

    status: ClassVar[HTTPStatus] = HTTPStatus.INTERNAL_SERVER_ERROR
    close_code: ClassVar[int] = INTERNAL_CLOSE_CODE
    code: ClassVar[str] = "internal"
    title: ClassVar[str] = "Internal error"

    def __init__(
        self, detail: str, errors: Sequence[FieldError] = (), *, headers: dict[str, str] | None = None
    ) -> None:
        super().__init__(detail)
        self.detail = detail
        self.errors = tuple(errors)
        self.headers = headers or {}

    @property
    def reason(self) -> str:
        """The detail, short enough for a WebSocket close frame."""
        return self.detail.encode(errors="replace")[:_MAX_REASON_BYTES].decode(errors="ignore")

    def problem(self) -> dict[str, Any]:
        """The members of an RFC 9457 problem document."""
        return problem(self.status, self.code, self.title, self.detail, self.errors)


class UnauthenticatedError(ServiceError):
    """No token, or one that no valid key has."""

    status = HTTPStatus.UNAUTHORIZED
    close_code = 4401
    code = "unauthenticated"
    title = "Not authenticated"


class ForbiddenError(ServiceError):
    """The caller's key has not the scope that this takes."""

    status = HTTPStatus.FORBIDDEN
    close_code = 4403
    code = "forbidden"
    title = "Not allowed"


class OriginError(ForbiddenError):
    """A web page of another origin asks, which this server has not been told to trust."""

    code = "origin"
    title = "The page's origin is not allowed"


class UnknownHostError(ServiceError):
    """The request is for a host that this server has not been told it is."""

    status = HTTPStatus.MISDIRECTED_REQUEST
    close_code = 4421
    code = "unknown-host"
    title = "Unknown host"


class NotFoundError(ServiceError):
    """Something that the request names does not exist."""

    status = HTTPStatus.NOT_FOUND
    close_code = 4404
    code = "not-found"
    title = "Not found"


class UnknownModelError(NotFoundError):
    """No model of that name."""

    code = "unknown-model"
    title = "Unknown model"


class UnknownSessionError(NotFoundError):
    """No such session, or it has ended."""

    code = "unknown-session"
    title = "Unknown session"


class RecordingNotFoundError(NotFoundError):
    """The bundled recording is not on this machine."""

    code = "recording-not-found"
    title = "Recording not found"


class RequestTimeoutError(ServiceError):
    """The hello, or the rest of a body, did not come in time."""

    status = HTTPStatus.REQUEST_TIMEOUT
    close_code = 4408
    code = "timeout"
    title = "Nothing came in time"


class SessionInUseError(ServiceError):
    """A WebSocket connection holds the session."""

    status = HTTPStatus.CONFLICT
    close_code = 4409
    code = "session-in-use"
    title = "Session in use"


class SessionMovedError(SessionInUseError):
    """Another replica has taken up the session."""

    code = "session-moved"
    title = "Session moved"


class SessionExistsError(ServiceError):
    """A session of the id that the client chose is there already."""

    status = HTTPStatus.CONFLICT
    close_code = 4409
    code = "session-exists"
    title = "Session exists"


class TooLargeError(ServiceError):
    """A body or message above the limit."""

    status = HTTPStatus(413)  # Its name differs between Python versions.
    close_code = 4413
    code = "too-large"
    title = "Too large"


class UnsupportedMediaTypeError(ServiceError):
    """A content type that the call does not read."""

    status = HTTPStatus.UNSUPPORTED_MEDIA_TYPE
    code = "unsupported-media-type"
    title = "Unsupported content type"


class NotAcceptableError(ServiceError):
    """No type that the call offers is in the request's ``Accept``."""

    status = HTTPStatus.NOT_ACCEPTABLE
    code = "not-acceptable"
    title = "No acceptable answer"


class HelloError(ServiceError):
    """The hello is not valid."""

    status = HTTPStatus.BAD_REQUEST
    close_code = 4400
    code = "invalid-hello"
    title = "The hello is not valid"


class SequenceStartError(ServiceError):
    """A request of a sequence that does not run."""

    status = HTTPStatus.BAD_REQUEST
    close_code = 4400
    code = "sequence-start"
    title = "The sequence has not been started"


class UnusableInputError(ServiceError):
    """Content that cannot be used; nothing of it has been applied."""

    status = HTTPStatus(422)  # Its name differs between Python versions.
    close_code = 4422
    code = "unusable-input"
    title = "The content cannot be used"

    @classmethod
    def from_wire(cls, error: WireError) -> UnusableInputError:
        """The same complaint, as an answer."""
        return cls(str(error), [FieldError(error.field, str(error))] if error.field else [])


class TimeOrderError(UnusableInputError):
    """An event that is earlier than what has been seen."""

    code = "time-order"
    title = "Time goes back"


class TimeJumpError(UnusableInputError):
    """A message that would close too many windows."""

    code = "time-jump"
    title = "Too large a jump in time"


class WindowOverflowError(UnusableInputError):
    """Too many events in one window."""

    code = "window-overflow"
    title = "Too many events in one window"


class SensorMismatchError(UnusableInputError):
    """A packet of another sensor."""

    code = "sensor-mismatch"
    title = "Another sensor"


class SequenceError(UnusableInputError):
    """A message number that skips."""

    code = "sequence"
    title = "Message number out of order"


class RateLimitError(ServiceError):
    """More requests in a time than a caller may make."""

    status = HTTPStatus.TOO_MANY_REQUESTS
    close_code = 4429
    code = "rate-limit"
    title = "Too many requests"


class CapacityError(ServiceError):
    """No room for another session."""

    status = HTTPStatus.TOO_MANY_REQUESTS
    close_code = 4429
    code = "capacity"
    title = "No room"


class StateMemoryError(CapacityError):
    """The state of all sessions takes as much memory as it may."""

    code = "state-memory"
    title = "No memory for more state"


class BacklogError(CapacityError):
    """Too many requests of one session wait already."""

    code = "backlog"
    title = "Too many requests wait"


class DrainingError(ServiceError):
    """The server is about to stop and takes nothing new."""

    status = HTTPStatus.SERVICE_UNAVAILABLE
    close_code = 1012
    code = "draining"
    title = "The server is about to stop"


class StoreAwayError(ServiceError):
    """The session is not here, and the state store cannot be asked for it."""

    status = HTTPStatus.SERVICE_UNAVAILABLE
    close_code = 1013
    code = "store-away"
    title = "The state store is away"


class ModelUnavailableError(ServiceError):
    """A model that is listed, but whose weights cannot be loaded."""

    status = HTTPStatus.SERVICE_UNAVAILABLE
    code = "model-unavailable"
    title = "Model unavailable"


class ExhaustedError(ServiceError):
    """The system gives this process no more of something."""

    status = HTTPStatus.SERVICE_UNAVAILABLE
    close_code = 1013
    code = "exhausted"
    title = "The server has run out of resources"


class StorageFullError(ServiceError):
    """No room on the disk for what is unpacked there."""

    status = HTTPStatus.INSUFFICIENT_STORAGE
    close_code = 1013
    code = "storage-full"
    title = "The server's disk is full"


def exhaustion(error: OSError) -> ServiceError | None:
    """What to answer where the system has run out of something; None if the error is of another kind."""
    retry = {"Retry-After": "5"}
    if error.errno in _DISK_ERRORS:
        return StorageFullError("the server has no room for temporary files; try again later", headers=retry)
    if error.errno in _SYSTEM_ERRORS:
        return ExhaustedError(
            "the server has no file descriptors, processes or memory left for this; try again later", headers=retry
        )
    return None


def problem(status: int, code: str, title: str, detail: str, errors: Sequence[FieldError] = ()) -> dict[str, Any]:
    """Members of an RFC 9457 problem document."""
    document: dict[str, Any] = {
        "type": f"urn:spikeseg:problem:{code}",
        "title": title,
        "status": int(status),
        "detail": detail,
    }
    if (id := request_id.get()) is not None:
        document["request_id"] = id
    if errors:
        document["errors"] = [{"field": error.field, "message": error.message} for error in errors]
    return document
