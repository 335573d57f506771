"""Recordings to event packets: what the viewer plays."""

from __future__ import annotations

import time
from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import Response

from service.api.bodies import AEDAT4, body_schema, read_body, require_media_type
from service.api.callers import takes
from service.api.demo import recording_to_packets
from service.api.problems import PROBLEM_RESPONSES
from service.api.services import AppServices
from service.auth import Scope
from service.errors import UnusableInputError
from service.wire.events import MEDIA_TYPE

router = APIRouter(prefix="/v1/recordings", tags=["recordings"], responses=PROBLEM_RESPONSES)

_PACKETS: dict[int | str, dict[str, Any]] = {
    200: {"description": "Event packets, one after the other.", "content": {MEDIA_TYPE: {}}}
}


@router.post("", response_class=Response, responses=_PACKETS, openapi_extra=body_schema([AEDAT4]))
@takes(Scope.READ)
async def convert_recording(request: Request, services: AppServices) -> Response:
    """An AEDAT4 file in, event packets out."""
    require_media_type(request, [AEDAT4, "application/octet-stream"])
    body = await read_body(request, services.settings.max_recording_bytes, services.settings.body_seconds)
    if not body:
        raise UnusableInputError("the body is empty; send an AEDAT4 file")
    begun = time.perf_counter()
    packets = await services.engine.offload_slow(recording_to_packets, body)
    services.metrics.observe_decode(time.perf_counter() - begun)
    return Response(packets, media_type=MEDIA_TYPE)


@router.get("/demo", response_class=Response, responses=_PACKETS)
@takes(Scope.READ)
async def demo_recording(services: AppServices) -> Response:
    """The bundled demo recording as event packets."""
    return Response(await services.demo.packets(), media_type=MEDIA_TYPE)
