"""Calls over HTTP without I/O: generators that yield what is to be done, and are sent what came of it.

A client, synchronous or not, drives one with :class:`Call` (make the request; send back an :class:`Answer`, or the
:class:`~clients.errors.ClientError` that it came to) and :class:`Pause` (wait). So retries, time limits and the reading
of answers are written once. httpx drives authentication in the same way.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

import httpx

from clients.errors import (
    ClientError,
    ConnectError,
    FieldError,
    InputError,
    NoAnswerError,
    ProtocolError,
    TransportError,
    from_problem,
)
from clients.pictures import Picture, picture_file
from clients.policies import ONCE, Retries, Timeouts, is_passing
from clients.results import ModelInfo, PictureResult, Result, read_models, read_picture_result, read_result
from clients.tracing import trace_headers
from models.events import EventBatch, SensorSize
from service.wire.errors import WireError
from service.wire.events import MEDIA_TYPE, encode_packets

T = TypeVar("T")

_PACKET_US = 2**32
_DISCARD_DELAYS_S = (0.0, 0.05, 0.2, 0.5)
_DISCARD_SECONDS = 5.0
_READY_INTERVAL_S = 0.2
_CONFLICT = 409


@dataclass(frozen=True, slots=True)
class Call:
    """A request to make.

    Attributes
    ----------
    method, path : str
    params, headers : mapping
    content : bytes, optional
    connect_s, read_s : float
        Longest waits for the connection, and for the next part of the answer.
    total_s : float, optional
        Longest wait for the whole answer.
    """

    method: str
    path: str
    params: Mapping[str, Any] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)
    content: bytes | None = None
    connect_s: float = 0.0
    read_s: float = 0.0
    total_s: float | None = None

    @property
    def timeout(self) -> httpx.Timeout:
        """The waits as httpx takes them."""
        return httpx.Timeout(self.read_s, connect=self.connect_s)


@dataclass(frozen=True, slots=True)
class Answer:
    """What a request was answered with, whatever its status."""

    status: int
    headers: Mapping[str, str]
    content: bytes


@dataclass(frozen=True, slots=True)
class Pause:
    """A time to wait."""

    seconds: float


Flow = Generator[Call | Pause, Answer | ClientError | None, T]


@dataclass(frozen=True, slots=True)
class Calls:
    """The calls of one client.

    Attributes
    ----------
    base_url : str
        For messages.
    timeouts : Timeouts
    retries : Retries
    clock : callable
    """

    base_url: str
    timeouts: Timeouts
    retries: Retries
    clock: Callable[[], float] = time.monotonic

    def models(self) -> Flow[tuple[ModelInfo, ...]]:
        """``GET /v1/models``."""
        answer = yield from self._call(Call("GET", "/v1/models"))
        return read_models(_json(answer.content))

    def segment(self, events: EventBatch, sensor: SensorSize, model: str | None, window_us: int | None) -> Flow[Result]:
        """``POST /v1/segment``, which keeps nothing and so may be made again."""
        if not len(events):
            raise InputError("there are no events, so there is no window to segment")
        try:
            body = b"".join(encode_packets(events, sensor, packet_us=_PACKET_US))
        except WireError as error:
            raise _unusable(error) from None
        metadata, mask = yield from self._segment(
            MEDIA_TYPE, body, {"model": model, "window_us": window_us}, "application/octet-stream"
        )
        return read_result(metadata, mask)

    def segment_picture(self, picture: Picture, model: str | None) -> Flow[PictureResult]:
        """``POST /v1/segment`` with a picture."""
        try:
            media_type, body = picture_file(picture)
        except WireError as error:
            raise _unusable(error) from None
        metadata, mask = yield from self._segment(media_type, body, {"model": model}, "image/png")
        return read_picture_result(metadata, mask)

    def wait_until_ready(self, patience_s: float) -> Flow[None]:
        """Ask for ``/v2/health/ready`` until it says yes.

        Raises
        ------
        ClientError
            What the last attempt came to, when there is no time left.
        """
        end = self.clock() + patience_s
        once = replace(self, retries=ONCE)
        while True:
            try:
                yield from once._call(Call("GET", "/v2/health/ready"))
            except ClientError:
                if self.clock() >= end:
                    raise
            else:
                return
            yield Pause(_READY_INTERVAL_S)

    def discard(self, session: str) -> Flow[None]:
        """End a session that nobody will take up again; if that fails, the service does so after a while."""
        for delay_s in _DISCARD_DELAYS_S:
            yield Pause(delay_s)
            answer = yield Call(
                "DELETE", f"/v1/sessions/{session}", connect_s=_DISCARD_SECONDS, read_s=_DISCARD_SECONDS
            )
            # The service may still be busy with the connection that was left.
            if not isinstance(answer, Answer) or answer.status != _CONFLICT:
                return

    def failed(self, error: httpx.TransportError) -> ClientError:
        """What an error of httpx means."""
        if isinstance(error, httpx.ConnectError):
            return ConnectError(f"nobody answers at {self.base_url}: {error}")
        if isinstance(error, httpx.TimeoutException):
            return self.too_late()
        return TransportError(f"the request to {self.base_url} failed: {error}")

    def too_late(self) -> ClientError:
        """The error of an answer that did not come in time."""
        return NoAnswerError(f"{self.base_url} gave no answer within {self._longest_s:g} s")

    @property
    def _longest_s(self) -> float:
        return self.timeouts.read if self.timeouts.total is None else min(self.timeouts.read, self.timeouts.total)

    def _segment(
        self, media_type: str, body: bytes, query: Mapping[str, Any], accept: str
    ) -> Flow[tuple[Mapping[str, Any], bytes]]:
        """The metadata and the encoded mask that a body is answered with."""
        answer = yield from self._call(
            Call(
                "POST",
                "/v1/segment",
                {name: value for name, value in query.items() if value is not None},
                {"Content-Type": media_type, "Accept": accept},
                body,
            )
        )
        header = answer.headers.get("Spikeseg-Result")
        if header is None:
            raise ProtocolError("the answer lacks the header Spikeseg-Result")
        return _json(header), answer.content

    def _call(self, call: Call) -> Flow[Answer]:
        """Make a call, more than once if need be; an answer that is no success is an error."""
        end = None if self.timeouts.total is None else self.clock() + self.timeouts.total
        attempt = 0
        while True:
            left = None if end is None else end - self.clock()
            if left is not None and left <= 0:
                raise self.too_late()
            waits = [wait if left is None else min(wait, left) for wait in (self.timeouts.connect, self.timeouts.read)]
            headers = {**call.headers, **trace_headers()}
            answer = yield replace(call, headers=headers, connect_s=waits[0], read_s=waits[1], total_s=left)
            assert answer is not None
            error = answer if isinstance(answer, ClientError) else self._refusal(call, answer)
            if error is None:
                assert isinstance(answer, Answer)
                return answer
            wait_s = self.retries.wait_s(attempt, error) if is_passing(error) else None
            if wait_s is None or (end is not None and self.clock() + wait_s >= end):
                raise error
            yield Pause(wait_s)
            attempt += 1

    def _refusal(self, call: Call, answer: Answer) -> ClientError | None:
        if 200 <= answer.status < 300:
            return None
        if answer.headers.get("Content-Type", "").partition(";")[0] == "application/problem+json":
            return from_problem(_json(answer.content), headers=answer.headers)
        message = f"{self.base_url} is not the service: it answers {call.path} with HTTP status {answer.status}"
        # A proxy whose server is just starting anew.
        return TransportError(message) if answer.status in (502, 503, 504) else ProtocolError(message)


def _unusable(error: WireError) -> InputError:
    return InputError(str(error), errors=[FieldError(error.field, str(error))] if error.field else [])


def _json(text: str | bytes) -> Mapping[str, Any]:
    try:
        document = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ProtocolError(f"the answer is not JSON: {error}") from None
    if not isinstance(document, dict):
        raise ProtocolError("the answer is not a JSON object")
    return document
