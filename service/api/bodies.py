"""Request bodies: reading them within limits, and turning them into events."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence

from fastapi import Request

from models.events import EventBatch, SensorSize
from service.api.services import Services
from service.errors import (
    FieldError,
    RequestTimeoutError,
    SensorMismatchError,
    TooLargeError,
    UnsupportedMediaTypeError,
    UnusableInputError,
)
from service.wire import events as wire

JSON = "application/json"
AEDAT4 = "application/vnd.aedat4"
RAW = "application/octet-stream"
EVENT_TYPES = (wire.MEDIA_TYPE, JSON, AEDAT4)

# Copying more than this is left to a thread: it would hold up the event loop.
_LARGE_BYTES = 1 << 20
_PART_BYTES = 1 << 18

JSON_EVENTS = {"t": [0, 150, 33_400], "x": [12, 13, 14], "y": [7, 7, 8], "p": [1, 0, 1]}


def body_schema(media_types: Sequence[str], json_example: object = None) -> dict[str, object]:
    """What OpenAPI says of a body that is read by hand."""
    binary = {"schema": {"type": "string", "format": "binary"}}
    document = {"schema": {"type": "object"}, "example": json_example}
    content = {name: document if name == JSON else binary for name in media_types}
    return {"requestBody": {"required": True, "content": content}}


def require_media_type(request: Request, accepted: Sequence[str]) -> str:
    """The request's content type without parameters.

    Raises
    ------
    UnsupportedMediaTypeError
        If it is not one of those accepted; the message lists them.
    """
    given = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if given not in accepted:
        found = f"not {given[:80]!r}" if given else "but the request names none"
        raise UnsupportedMediaTypeError(
            f"this call reads {', '.join(accepted)}, {found}", headers={"Accept": ", ".join(accepted)}
        )
    return given


async def read_body(request: Request, limit: int, seconds: float) -> bytes:
    """The whole body.

    Parameters
    ----------
    request : Request
    limit : int
        Most bytes.
    seconds : float
        Time for the body to arrive.

    Raises
    ------
    UnsupportedMediaTypeError
        If the body is compressed.
    TooLargeError
        As soon as ``Content-Length`` or what has arrived is more than ``limit``.
    RequestTimeoutError
        If the body takes too long.
    """
    coding = request.headers.get("content-encoding", "identity").strip().lower()
    if coding != "identity":
        raise UnsupportedMediaTypeError(
            f"bodies are read as they are, not with Content-Encoding {coding[:80]!r}",
            headers={"Accept-Encoding": "identity"},
        )
    # The rest of the body is not read, so the connection cannot be used again.
    closing = {"Connection": "close"}
    too_large = TooLargeError(f"the body is larger than {limit} bytes", headers=closing)
    announced = request.headers.get("content-length", "")
    if announced.isdecimal() and int(announced) > limit:
        raise too_large
    chunks: list[bytes] = []
    size = 0
    try:
        async with asyncio.timeout(seconds):
            async for chunk in request.stream():
                chunks.append(chunk)
                size += len(chunk)
                if size > limit:
                    raise too_large
    except TimeoutError:
        raise RequestTimeoutError(f"the body did not arrive within {seconds:g} s", headers=closing) from None
    if size > _LARGE_BYTES:
        return await asyncio.to_thread(b"".join, chunks)
    return b"".join(chunks)


async def in_parts(data: bytes) -> AsyncIterator[bytes]:
    """A body of megabytes in parts, so that the event loop copies only so much at a time."""
    for begin in range(0, len(data), _PART_BYTES):
        yield data[begin : begin + _PART_BYTES]


async def read_event_body(services: Services, request: Request, media_type: str | None) -> bytes:
    """The whole body of a request with events; raises as ``read_body``."""
    settings = services.settings
    limit = settings.max_body_bytes
    if media_type == JSON:
        limit = min(limit, settings.max_json_bytes)
    return await read_body(request, limit, settings.body_seconds)


async def read_events(
    services: Services, body: bytes, media_type: str, sensor: SensorSize | None, *, ordered: bool = True
) -> tuple[EventBatch, SensorSize]:
    """Decode a body of events on a thread.

    Parameters
    ----------
    services : Services
    body : bytes
    media_type : str
        One of ``EVENT_TYPES``.
    sensor : SensorSize, optional
        The sensor that the request names; JSON needs it.
    ordered : bool
        Whether times must not run back.

    Returns
    -------
    EventBatch, SensorSize
        Events inside the sensor.

    Raises
    ------
    WireError
        If the body cannot be decoded.
    UnusableInputError
        If no sensor is known, or the body is of another one than the request names.
    """
    if media_type == AEDAT4:
        return await services.engine.offload_slow(_read_recording, body, sensor)
    most = services.settings.max_packets_per_body
    return await services.engine.offload(_decode, body, media_type, sensor, most, ordered)


def _decode(
    body: bytes, media_type: str, sensor: SensorSize | None, most_packets: int, ordered: bool
) -> tuple[EventBatch, SensorSize]:
    if media_type == JSON:
        if sensor is None:
            message = "events in JSON need the sensor's width and height in the query"
            raise UnusableInputError(message, [FieldError("width", message), FieldError("height", message)])
        events = wire.events_from_json(body, ordered=ordered)
        wire.check_events(events, sensor, ordered=ordered)
        return events, sensor
    packets = wire.decode_packets(body, most=most_packets, ordered=ordered)
    if not packets:
        if sensor is None:
            raise UnusableInputError("the body is empty; send at least one event packet")
        return EventBatch.empty(), sensor
    found = packets[0].sensor
    _require_same(found, sensor)
    return EventBatch.concatenate([packet.events for packet in packets]), found


def _read_recording(body: bytes, sensor: SensorSize | None) -> tuple[EventBatch, SensorSize]:
    # Imported here, so that the service starts without dv-processing.
    from service.wire.aedat4 import read_aedat4

    events, found = read_aedat4(body)
    _require_same(found, sensor)
    wire.check_events(events, found)
    return events, found


def _require_same(found: SensorSize, named: SensorSize | None) -> None:
    if named is not None and found != named:
        message = f"the events are of a {found} sensor, not of {named}"
        raise SensorMismatchError(message, [FieldError("width", message), FieldError("height", message)])
