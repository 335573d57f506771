"""One shot: events in, the last window's mask out, or a picture in and its mask out, with no session."""

from __future__ import annotations

import json
import time
from functools import partial
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from starlette.requests import ClientDisconnect
from starlette.responses import Response

from models.events import EventBatch, SensorSize
from models.runtime.model import WindowInput
from service.api.bodies import (
    EVENT_TYPES,
    JSON,
    JSON_EVENTS,
    body_schema,
    read_body,
    read_event_body,
    read_events,
    require_media_type,
)
from service.api.callers import takes
from service.api.negotiation import choose_media_type
from service.api.problems import PROBLEM_RESPONSES
from service.api.schemas import limit_errors
from service.api.services import AppServices, Services
from service.auth import Scope
from service.errors import FieldError, UnusableInputError
from service.observability.tracing import record
from service.streaming.answers import COCO_RLE, Answer, AnswerFormat, Arrival, build_answer
from service.streaming.windowing import EventStream, StreamConfig, TimeWindows, Window
from service.wire.frames import PICTURE_TYPES, decode_rgb
from service.wire.masks import MaskEncoding

router = APIRouter(tags=["segment"], responses=PROBLEM_RESPONSES)

_FORMATS = {
    "image/png": AnswerFormat(MaskEncoding.PNG),
    "application/octet-stream": AnswerFormat(MaskEncoding.RAW),
    "application/x-npy": AnswerFormat(MaskEncoding.NPY),
    JSON: AnswerFormat(COCO_RLE),
}
_ANSWERS: dict[int | str, dict[str, Any]] = {
    200: {"description": "The last window's mask.", "content": {name: {} for name in _FORMATS}}
}

Side = Annotated[int | None, Query(ge=1, le=0xFFFF, description="Sensor size; JSON events need it.")]


@router.post(
    "/v1/segment",
    response_class=Response,
    responses=_ANSWERS,
    openapi_extra=body_schema([*EVENT_TYPES, *PICTURE_TYPES], JSON_EVENTS),
)
@takes(Scope.STREAM)
async def segment(
    request: Request,
    services: AppServices,
    model: Annotated[str | None, Query(description="A name from /v1/models.")] = None,
    window_us: Annotated[int | None, Query(ge=1, description="Length of a window in microseconds.")] = None,
    width: Side = None,
    height: Side = None,
) -> Response:
    """Run the events through a network at rest, window by window; answer the last window by ``Accept``.

    A picture (PNG, JPEG, WebP) goes through a network of frames instead. The header ``Spikeseg-Result`` holds the
    result's metadata as JSON.
    """
    arrived = time.perf_counter()
    services.require_open()
    answer_type = choose_media_type(request.headers.getlist("accept"), list(_FORMATS))
    media_type = require_media_type(request, [*EVENT_TYPES, *PICTURE_TYPES])
    if media_type in PICTURE_TYPES:
        _refuse_options(window_us=window_us, width=width, height=height)
        answer = await _segment_picture(request, services, model, _FORMATS[answer_type], arrived)
        return _respond(answer, answer_type)
    network = await services.library.get(model if model is not None else services.settings.default_model)
    named = _named_sensor(width, height)
    _check_limits(services, named, window_us)
    body = await read_event_body(services, request, media_type)

    begun = time.perf_counter()
    events, sensor = await read_events(services, body, media_type, named)
    decode_s = time.perf_counter() - begun
    services.metrics.observe_decode(decode_s)
    _check_limits(services, sensor, None)
    span_us = window_us or network.window_us
    stream = EventStream.start(StreamConfig(TimeWindows(span_us, span_us)), services.window_limits)
    windows = await services.engine.offload(_all_windows, stream, events)

    state = await services.engine.offload(network.initial_state, sensor)
    counts = services.metrics.of(network)
    for window in windows:
        if await request.is_disconnected():
            raise ClientDisconnect
        asked = time.perf_counter()
        timed = await services.scheduler.segment(network, WindowInput(state, window.events, sensor))
        state = timed.segmentation.state
        begun = asked + timed.wait_s
        parts = {"wait": (asked, begun), "compute": (begun, begun + timed.compute_s)}
        record(parts, "window", {"spikeseg.model": network.name, "spikeseg.events": len(window.events)})
        counts.observe_window(len(window.events), timed.segmentation.activity, timed.wait_s, timed.compute_s)
    answer = await services.engine.offload(
        build_answer,
        windows[-1],
        timed,
        network.classes,
        _FORMATS[answer_type],
        acked=0,
        arrival=Arrival(arrived, decode_s),
    )
    counts.observe_answer(answer.metadata)
    return _respond(answer, answer_type)


def _respond(answer: Answer, answer_type: str) -> Response:
    if answer_type == JSON:
        return Response(json.dumps(answer.metadata), media_type=JSON)
    header = json.dumps(answer.metadata, separators=(",", ":"))
    return Response(answer.mask, headers={"Spikeseg-Result": header}, media_type=answer_type)


async def _segment_picture(
    request: Request, services: Services, model: str | None, form: AnswerFormat, arrived: float
) -> Answer:
    settings, offload = services.settings, services.engine.offload
    network = await services.library.get_for_frames(model if model is not None else settings.frame_model)
    body = await read_body(request, settings.max_body_bytes, settings.body_seconds)
    begun = time.perf_counter()
    limits = {"most_side": settings.max_sensor_side, "most_pixels": settings.max_sensor_pixels}
    rgb = await offload(partial(decode_rgb, body, **limits))
    decode_s = time.perf_counter() - begun
    services.metrics.observe_decode(decode_s)
    timed = await services.scheduler.compute(partial(network.segment_frame, rgb))
    counts = services.metrics.of(network)
    counts.observe_window(0, timed.segmentation.activity, timed.wait_s, timed.compute_s)
    answer = await offload(
        build_answer, None, timed, network.classes, form, acked=0, arrival=Arrival(arrived, decode_s)
    )
    counts.observe_answer(answer.metadata)
    return answer


def _refuse_options(**given: int | None) -> None:
    """Raise UnusableInputError for options of events beside a picture."""
    errors = [
        FieldError(name, f"{name} does not go with a picture") for name, value in given.items() if value is not None
    ]
    if errors:
        raise UnusableInputError(errors[0].message, errors)


def _all_windows(stream: EventStream, events: EventBatch) -> list[Window]:
    windows, stream = stream.push(events)
    last, _ = stream.flush()
    if not windows and not last:
        raise UnusableInputError("there are no events, so there is no window to answer")
    return windows + last


def _named_sensor(width: int | None, height: int | None) -> SensorSize | None:
    if width is None and height is None:
        return None
    if width is None or height is None:
        field = "width" if width is None else "height"
        raise UnusableInputError("width and height go together", [FieldError(field, f"{field} is missing")])
    return SensorSize(width, height)


def _check_limits(services: AppServices, sensor: SensorSize | None, window_us: int | None) -> None:
    errors = limit_errors(services.settings, sensor, window_us=window_us)
    if errors:
        raise UnusableInputError(errors[0].message, errors)
