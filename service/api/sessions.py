"""Sessions over HTTP: the same as over the WebSocket, one request for each message."""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Sequence
from contextlib import aclosing
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from pydantic import ValidationError
from starlette.responses import JSONResponse, Response, StreamingResponse

from models.events import EventBatch
from service import audit
from service.api.bodies import (
    EVENT_TYPES,
    JSON,
    JSON_EVENTS,
    RAW,
    body_schema,
    in_parts,
    read_body,
    read_event_body,
    read_events,
    require_media_type,
)
from service.api.callers import AppCaller, require, takes
from service.api.negotiation import choose_media_type
from service.api.opening import checked_id, open_from_snapshot, open_session
from service.api.problems import PROBLEM_RESPONSES, invalid_fields
from service.api.schemas import MaskName, SessionFields, describe_session
from service.api.services import AppServices, Services
from service.auth import Caller, Scope
from service.errors import FieldError, SessionMovedError, UnusableInputError
from service.streaming.answers import Answer, AnswerFormat, Arrival
from service.streaming.checkpoints import MEDIA_TYPE as STATE_MEDIA_TYPE
from service.streaming.checkpoints import CheckpointError, decode_checkpoint, encode_checkpoint
from service.streaming.session import Command, Events, Look, Reset, Restore, Session
from service.streaming.snapshots import Snapshot, read_snapshot
from service.streaming.windowing import SnapshotError
from service.wire.events import MAX_TIME_US
from service.wire.frames import PICTURE_TYPES, Frame, decode_grey, decode_raw
from service.wire.masks import MaskEncoding
from service.wire.messages import RESULTS_MEDIA_TYPE, encode_result

router = APIRouter(prefix="/v1/sessions", tags=["sessions"], responses=PROBLEM_RESPONSES)

_RESULTS: dict[int | str, dict[str, Any]] = {
    200: {"description": "Every window that is now complete.", "content": {JSON: {}, RESULTS_MEDIA_TYPE: {}}}
}
_SNAPSHOT: dict[int | str, dict[str, Any]] = {200: {"description": "The snapshot.", "content": {STATE_MEDIA_TYPE: {}}}}
_EXAMPLE = {"model": "edge-s", "sensor": {"width": 346, "height": 260}, "window": {"us": 50_000}}
_MAX_SESSION_BODY_BYTES = 65_536

Sequence_ = Annotated[
    int | None,
    Query(
        ge=1,
        description="The message's number: a request that is sent again with it is not applied twice.",
    ),
]


@router.post(
    "",
    status_code=201,
    response_class=JSONResponse,
    openapi_extra=body_schema([JSON, STATE_MEDIA_TYPE], _EXAMPLE),
)
@takes(Scope.STREAM)
async def create_session(
    request: Request,
    caller: AppCaller,
    services: AppServices,
    session: Annotated[
        str | None, Query(description="An id of the client's own choice; proxies choose the server by it.")
    ] = None,
) -> JSONResponse:
    """Open a session: ``{"model", "sensor": {"width", "height"}, "window": {"us"}}``; only the sensor is needed.

    With a snapshot as its body, the session goes on where the snapshot was taken; its messages are numbered from 1.
    """
    media_type = require_media_type(request, [JSON, STATE_MEDIA_TYPE])
    id = checked_id(session)
    services.require_open()
    if media_type == STATE_MEDIA_TYPE:
        require(caller, Scope.STATE)
        snapshot = await _read_snapshot(services, request)
        opened, token = await open_from_snapshot(services, snapshot, id, owner=caller.id)
        audit.record(audit.Event.SNAPSHOT_WRITTEN, key=caller.id, session=opened.id)
        return _opened(services, opened, token)
    body = await read_body(request, _MAX_SESSION_BODY_BYTES, services.settings.body_seconds)
    try:
        fields = SessionFields.model_validate_json(body)
    except ValidationError as error:
        detail, errors = invalid_fields(error)
        raise UnusableInputError(detail, errors) from None
    return _opened(services, *await open_session(services, fields, id, owner=caller.id))


@router.get("/{id}")
@takes(Scope.STREAM)
async def get_session(id: str, caller: AppCaller, services: AppServices) -> dict[str, Any]:
    """Look at a session."""
    session = await services.registry.look(id, caller.id)
    return {**describe_session(session, services.settings), "state_bytes": session.state_bytes}


@router.delete("/{id}", status_code=204, response_class=Response)
@takes(Scope.STREAM)
async def delete_session(id: str, caller: AppCaller, services: AppServices) -> Response:
    """End a session."""
    session = await _find(services, id, caller)
    session.require_free()
    await services.registry.remove(session)
    return Response(status_code=204)


@router.get("/{id}/state", response_class=Response, responses=_SNAPSHOT)
@takes(Scope.STATE)
async def get_state(id: str, caller: AppCaller, services: AppServices) -> Response:
    """A snapshot: all that the session needs to go on from here, in this or another server, with the same bits."""
    session = await services.registry.look(id, caller.id)
    make = session.snapshot(public=True)
    data = await services.engine.offload(lambda: encode_checkpoint(make()))
    audit.record(audit.Event.SNAPSHOT_READ, key=caller.id, session=id)
    return StreamingResponse(in_parts(data), headers={"Content-Length": str(len(data))}, media_type=STATE_MEDIA_TYPE)


@router.put("/{id}/state", openapi_extra=body_schema([STATE_MEDIA_TYPE]))
@takes(Scope.STATE)
async def put_state(
    id: str, request: Request, caller: AppCaller, services: AppServices, sequence: Sequence_ = None
) -> dict[str, Any]:
    """Go on from a snapshot of a session with the same model, sensor and windows."""
    session = await _find(services, id, caller)
    session.require_free()
    require_media_type(request, [STATE_MEDIA_TYPE])
    snapshot = await _read_snapshot(services, request)
    for field, ours, theirs in (
        ("model", session.spec.model, snapshot.spec.model),
        ("sensor", session.spec.sensor, snapshot.spec.sensor),
        ("window", session.spec.config, snapshot.spec.config),
        ("frames", session.spec.camera, snapshot.spec.camera),
    ):
        if ours != theirs:
            message = f"the snapshot has {field} {theirs}, the session {ours}"
            raise SnapshotError(message, [FieldError(field, message)])
    if snapshot.ended:
        raise SnapshotError("the snapshot is of a session that has ended")
    membranes = await services.engine.offload(snapshot.state, session.model)
    command = Restore(snapshot.stream, membranes, snapshot.camera)
    session, _ = await _take(services, session, command, session.form, Arrival(time.perf_counter()), sequence)
    audit.record(audit.Event.SNAPSHOT_WRITTEN, key=caller.id, session=id)
    return describe_session(session, services.settings)


@router.post(
    "/{id}/events", response_class=Response, responses=_RESULTS, openapi_extra=body_schema(EVENT_TYPES, JSON_EVENTS)
)
@takes(Scope.STREAM)
async def post_events(
    id: str,
    request: Request,
    caller: AppCaller,
    services: AppServices,
    until_us: Annotated[
        int | None, Query(ge=0, le=MAX_TIME_US, description="Every event before this time has been sent.")
    ] = None,
    flush: Annotated[bool, Query(description="Answer the open window too, if it holds events.")] = False,
    mask: Annotated[MaskName | None, Query(description="Mask encoding; the session's if not given.")] = None,
    sequence: Sequence_ = None,
) -> Response:
    """Events in; every window that is now complete out, by ``Accept`` as JSON or as ``RESULT`` messages."""
    arrived = time.perf_counter()
    session = await _find(services, id, caller)
    session.require_free()
    answer_type = choose_media_type(request.headers.getlist("accept"), [JSON, RESULTS_MEDIA_TYPE])
    # With nothing but a time there is no content, hence no content type.
    bare = until_us is not None or flush
    if bare and "content-type" not in request.headers:
        body, media_type = await read_event_body(services, request, None), None
        if body:
            require_media_type(request, EVENT_TYPES)
    else:
        media_type = require_media_type(request, EVENT_TYPES)
        body = await read_event_body(services, request, media_type)
    if not body and not bare:
        raise UnusableInputError("the body is empty; send events, or say with until_us how far the time has gone")
    begun = time.perf_counter()
    if body and media_type is not None:
        events, sensor = await read_events(services, body, media_type, session.sensor, ordered=session.stream.ordered)
    else:
        events, sensor = EventBatch.empty(), session.sensor
    decode_s = time.perf_counter() - begun
    services.metrics.observe_decode(decode_s)
    command = Events(events, sensor, until_us, flush)
    return await _answer(services, session, command, mask, Arrival(arrived, decode_s), sequence, answer_type)


@router.post(
    "/{id}/frames", response_class=Response, responses=_RESULTS, openapi_extra=body_schema([*PICTURE_TYPES, RAW])
)
@takes(Scope.STREAM)
async def post_frame(
    id: str,
    request: Request,
    caller: AppCaller,
    services: AppServices,
    t_us: Annotated[int, Query(ge=0, lt=MAX_TIME_US, description="The frame's time, after that of the one before.")],
    mask: Annotated[MaskName | None, Query(description="Mask encoding; the session's if not given.")] = None,
    sequence: Sequence_ = None,
) -> Response:
    """A frame in, as a picture or as raw grey or RGB bytes; every window that it completes out.

    For sessions that were opened with ``frames``. The first frame gives no events.
    """
    arrived = time.perf_counter()
    session = await _find(services, id, caller)
    session.require_free()
    answer_type = choose_media_type(request.headers.getlist("accept"), [JSON, RESULTS_MEDIA_TYPE])
    media_type = require_media_type(request, [*PICTURE_TYPES, RAW])
    body = await read_body(request, services.settings.max_body_bytes, services.settings.body_seconds)
    begun = time.perf_counter()
    grey = await services.engine.offload(decode_raw if media_type == RAW else decode_grey, body, session.sensor)
    decode_s = time.perf_counter() - begun
    services.metrics.observe_decode(decode_s)
    command = Look(Frame(t_us, grey))
    return await _answer(services, session, command, mask, Arrival(arrived, decode_s), sequence, answer_type)


async def _answer(
    services: Services,
    session: Session,
    command: Command,
    mask: MaskName | None,
    arrival: Arrival,
    sequence: int | None,
    answer_type: str,
) -> Response:
    """Take a message, and give its results."""
    form = AnswerFormat(MaskEncoding(mask), session.form.metrics) if mask else session.form
    session, answers = await _take(services, session, command, form, arrival, sequence)
    numbers = {"Spikeseg-Acked": str(session.acked), "Spikeseg-Next-Sequence": str(session.next_sequence)}
    if answer_type == JSON:
        return Response(await services.engine.offload(_as_json, answers), media_type=JSON, headers=numbers)
    return Response(
        await services.engine.offload(_as_messages, answers), media_type=RESULTS_MEDIA_TYPE, headers=numbers
    )


@router.post("/{id}/reset")
@takes(Scope.STREAM)
async def reset_session(
    id: str, caller: AppCaller, services: AppServices, sequence: Sequence_ = None
) -> dict[str, Any]:
    """Membranes to rest, windows from 0 again; the clock may start anew too."""
    session = await _find(services, id, caller)
    session, _ = await _take(services, session, Reset(), session.form, Arrival(time.perf_counter()), sequence)
    return describe_session(session, services.settings)


async def _find(services: Services, id: str, caller: Caller) -> Session:
    """The session of that id; while the server is about to stop, another one is to be asked for it."""
    services.require_open()
    return await services.registry.get(id, caller.id)


async def _take(
    services: Services,
    session: Session,
    command: Command,
    form: AnswerFormat,
    arrival: Arrival,
    sequence: int | None,
) -> tuple[Session, list[Answer]]:
    """The answers to a message, once its effect is in the state store; by the session as it is now, if it has moved."""
    while True:
        taken = False
        try:
            async with aclosing(session.process([command], form, arrival, sequence=sequence)) as answers:
                found = [answer async for answer in answers]
            taken = True
            await session.keep()
        except SessionMovedError:
            # What was taken may be in the store all the same; only by its number can it be taken once.
            if taken and sequence is None:
                raise
            moved = session
            session = await services.registry.get(session.id, session.spec.owner)
            if session is moved:
                raise
        else:
            return session, found


def _opened(services: Services, session: Session, token: str) -> JSONResponse:
    document = {"resume": token, **describe_session(session, services.settings)}
    return JSONResponse(document, 201, {"Location": f"/v1/sessions/{session.id}"})


async def _read_snapshot(services: Services, request: Request) -> Snapshot:
    body = await read_body(request, services.settings.max_snapshot_bytes, services.settings.body_seconds)

    def read() -> Snapshot:
        try:
            return read_snapshot(decode_checkpoint(body), services.window_limits)
        except CheckpointError as error:
            raise SnapshotError(str(error)) from None

    return await services.engine.offload(read)


def _as_json(answers: Sequence[Answer]) -> bytes:
    results = []
    for answer in answers:
        data = base64.b64encode(answer.mask).decode("ascii")
        results.append({**answer.metadata, "mask": {**answer.metadata["mask"], "data": data}})
    return json.dumps({"results": results}, separators=(",", ":")).encode()


def _as_messages(answers: Sequence[Answer]) -> bytes:
    return b"".join(encode_result(answer.window, answer.metadata, answer.mask) for answer in answers)
