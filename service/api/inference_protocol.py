"""The Open Inference Protocol v2 (KServe, Triton): metadata, readiness, inference with and without sequences."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Annotated, Any

from fastapi import APIRouter, Depends, Request
from pydantic import BaseModel, ConfigDict, ValidationError
from starlette.responses import Response, StreamingResponse

from service import __version__
from service.api.bodies import JSON, body_schema, in_parts, read_body
from service.api.callers import AppCaller, takes
from service.api.inference_errors import InferenceRoute
from service.api.inference_tensors import INPUTS, TensorSpec, output_specs, output_tensors
from service.api.problems import PROBLEM_RESPONSES, invalid_fields
from service.api.sequences import Inference, Sequences
from service.api.services import AppServices, Services
from service.auth import Scope
from service.errors import NotFoundError, UnknownModelError, UnusableInputError
from service.wire.tensors import HEADER_LENGTH, TensorError, encode_body

if TYPE_CHECKING:
    from models.runtime.model import SegmentationModel
    from models.zoo import Description

router = APIRouter(
    prefix="/v2", tags=["open inference protocol"], route_class=InferenceRoute, responses=PROBLEM_RESPONSES
)

VERSION = "1"
EXTENSIONS = ("binary_tensor_data", "model_configuration", "parameters", "sequence", "sequence(string_id)")

_OCTETS = "application/octet-stream"
_MAX_INDEX_BYTES = 65_536
_EXAMPLE = {
    "inputs": [
        {"name": "events", "datatype": "INT64", "shape": [2, 4], "data": [0, 12, 7, 1, 150, 13, 7, 0]},
        {"name": "sensor", "datatype": "INT32", "shape": [2], "data": [346, 260]},
    ],
    "outputs": [{"name": "window"}, {"name": "class_share"}],
}
_ANSWERS: dict[int | str, dict[str, Any]] = {
    200: {"description": "The windows that are now complete.", "content": {JSON: {}, _OCTETS: {}}}
}
# Calls of Triton's clients that would otherwise be told so in words that they cannot read.
_NOT_OFFERED = (
    "/models/{name}/stats",
    "/models/{name}/versions/{version}/stats",
    "/models/{name}/trace/setting",
    "/repository/models/{name}/load",
    "/repository/models/{name}/unload",
    "/trace/setting",
    "/logging",
    "/systemsharedmemory/{rest:path}",
    "/cudasharedmemory/{rest:path}",
)


class _IndexFields(BaseModel):
    model_config = ConfigDict(strict=True, extra="ignore")

    ready: bool = False


async def sequences_of(request: Request) -> Sequences:
    """The sequences of the app that a request came to."""
    sequences: Sequences = request.app.state.sequences
    return sequences


@router.get("")
@takes(Scope.READ)
async def server_metadata() -> dict[str, Any]:
    """Name and version of the server, and which extensions of the protocol it has."""
    return {"name": "spikeseg", "version": __version__, "extensions": list(EXTENSIONS)}


@router.get("/models/{name}")
@router.get("/models/{name}/versions/{version}")
@takes(Scope.READ)
async def model_metadata(name: str, services: AppServices, version: str = VERSION) -> dict[str, Any]:
    """Inputs and outputs of a model."""
    model = await _described(services, name, version)
    return {
        "name": model.name,
        "versions": [VERSION],
        "platform": "spikeseg",
        "inputs": [_tensor_metadata(spec) for spec in INPUTS],
        "outputs": [_tensor_metadata(spec) for spec in output_specs(model.classes)],
    }


@router.get("/models/{name}/ready")
@router.get("/models/{name}/versions/{version}/ready")
@takes(Scope.READ)
async def model_ready(name: str, services: AppServices, version: str = VERSION) -> dict[str, Any]:
    """Whether a model can be used: it is loaded if it is not yet, since nobody would ask for it before it is ready."""
    _require_version(name, version)
    services.require_open()
    model = await services.library.get(name)
    return {"name": model.name, "ready": True}


@router.get("/models/{name}/config")
@router.get("/models/{name}/versions/{version}/config")
@takes(Scope.READ)
async def model_config(name: str, services: AppServices, version: str = VERSION) -> dict[str, Any]:
    """A model's configuration as Triton has it."""
    model, settings = await _described(services, name, version), services.settings
    return {
        "name": model.name,
        "platform": "spikeseg",
        "backend": "spikeseg",
        "version_policy": {"latest": {"num_versions": 1}},
        "max_batch_size": 0,
        "input": [{**_tensor_config(spec), "optional": spec.optional} for spec in INPUTS],
        "output": [_tensor_config(spec) for spec in output_specs(model.classes)],
        "sequence_batching": {
            "max_sequence_idle_microseconds": round(settings.idle_seconds * 1e6),
            "oldest": {
                "max_candidate_sequences": settings.max_sessions,
                "max_queue_delay_microseconds": round(settings.batch_wait_ms * 1e3),
            },
        },
    }


@router.post("/repository/index")
@takes(Scope.READ)
async def repository_index(request: Request, services: AppServices) -> list[dict[str, str]]:
    """The models that there are; with ``{"ready": true}``, those that can be used."""
    body = await read_body(request, _MAX_INDEX_BYTES, services.settings.body_seconds)
    try:
        fields = _IndexFields.model_validate_json(body) if body.strip() else _IndexFields()
    except ValidationError as error:
        raise UnusableInputError(*invalid_fields(error)) from None
    usable = {model.name for model in await services.library.describe()}
    return [
        {
            "name": name,
            "version": VERSION,
            "state": "READY" if name in usable else "UNAVAILABLE",
            "reason": "" if name in usable else "its card cannot be used; the server's log says why",
        }
        for name in await services.library.names()
        if name in usable or not fields.ready
    ]


@router.post(
    "/models/{name}/infer",
    response_class=Response,
    responses=_ANSWERS,
    openapi_extra=body_schema([JSON, _OCTETS], _EXAMPLE),
)
@router.post(
    "/models/{name}/versions/{version}/infer",
    response_class=Response,
    responses=_ANSWERS,
    openapi_extra=body_schema([JSON, _OCTETS], _EXAMPLE),
)
@takes(Scope.STREAM)
async def infer(
    name: str,
    request: Request,
    caller: AppCaller,
    sequences: Annotated[Sequences, Depends(sequences_of)],
    version: str = VERSION,
) -> Response:
    """Events in; every window that is now complete out.

    With a ``sequence_id`` the membranes are carried on from request to request. Without, the network starts from rest
    and the open window is answered too.
    """
    arrived = time.perf_counter()
    services = sequences.services
    _require_version(name, version)
    model = await services.library.get(name)
    header_length = _header_length(request)
    limit = services.settings.max_body_bytes
    if header_length is None:
        limit = min(limit, services.settings.max_json_bytes)
    body = await read_body(request, limit, services.settings.body_seconds)
    inference = await sequences.infer(model, body, header_length, arrived, request.is_disconnected, caller.id)
    content, json_length = await services.engine.offload(_answer, model, inference)
    headers = {"Content-Length": str(len(content))}
    if json_length is not None:
        headers[HEADER_LENGTH] = str(json_length)
    return StreamingResponse(in_parts(content), headers=headers, media_type=JSON if json_length is None else _OCTETS)


@takes(Scope.READ)
async def not_offered(request: Request) -> Response:
    """What other servers of the protocol have, and this one does not."""
    raise NotFoundError(f"this server does not offer {request.url.path}")


for path in _NOT_OFFERED:
    router.add_api_route(path, not_offered, methods=["GET", "POST"], include_in_schema=False)


def _answer(model: SegmentationModel, inference: Inference) -> tuple[bytes, int | None]:
    request = inference.request
    document: dict[str, Any] = {"model_name": model.name, "model_version": VERSION}
    if request.id is not None:
        document["id"] = request.id
    if inference.next_sequence is not None:
        document["parameters"] = {
            "sequence_id": request.parameters.sequence_id,
            "next_sequence": inference.next_sequence,
        }
    tensors = output_tensors(request.outputs, inference.answers, inference.sensor, model.classes)
    return encode_body(document, "outputs", tensors)


def _header_length(request: Request) -> str | None:
    given = request.headers.getlist(HEADER_LENGTH)
    if len(given) > 1:
        raise TensorError(f"{HEADER_LENGTH} is given {len(given)} times", HEADER_LENGTH)
    return given[0] if given else None


async def _described(services: Services, name: str, version: str) -> Description | SegmentationModel:
    """What is known of a model, without reading its weights."""
    _require_version(name, version)
    for description in await services.library.describe():
        if description.name == name:
            return description
    # Says what is wrong with it.
    return await services.library.get(name)


def _require_version(name: str, version: str) -> None:
    if version != VERSION:
        raise UnknownModelError(f"model {name[:80]!r} has version {VERSION} only, not {version[:20]!r}")


def _tensor_metadata(spec: TensorSpec) -> dict[str, Any]:
    return {"name": spec.name, "datatype": spec.datatype, "shape": list(spec.shape)}


def _tensor_config(spec: TensorSpec) -> dict[str, Any]:
    return {"name": spec.name, "data_type": f"TYPE_{spec.datatype}", "dims": list(spec.shape)}
