"""Whether the server is alive and ready, and why; and its metrics."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from fastapi import APIRouter, Depends
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.requests import HTTPConnection
from starlette.responses import JSONResponse, Response

from service.api.callers import public, takes
from service.api.conditions import ServerHealth, is_ready
from service.api.services import AppServices
from service.auth import Scope
from service.observability.health import Component, Status, worst

router = APIRouter(tags=["health"])


def health_of(connection: HTTPConnection) -> ServerHealth:
    """The health of the app that a request came to."""
    health: ServerHealth = connection.app.state.health
    return health


AppHealth = Annotated[ServerHealth, Depends(health_of)]


@router.get("/v2/health/live")
@public
async def live(health: AppHealth) -> JSONResponse:
    """The process answers and its threads do their work; 503 if only a new process can help.

    Nothing is computed, asked or waited for here.
    """
    components = health.live()
    status = worst(components)
    alive = status is not Status.FAILING
    document = {"live": alive, "status": status.word, "components": _documents(components)}
    return JSONResponse(document, 200 if alive else 503)


@router.get("/v2/health/ready")
@public
async def ready(services: AppServices, health: AppHealth) -> JSONResponse:
    """Whether the server can serve; 503 if not, with the reasons.

    What merely makes it worse, such as a state store that is away, makes it ``degraded``, with 200: sessions go on.
    """
    keeping, components = services.keeping, health.all()
    serves = is_ready(components)
    document = {
        "ready": serves,
        "status": (worst(components) if serves else Status.FAILING).word,
        "components": _documents(components),
        "model": "loaded" if services.library.is_ready(services.settings.default_model) else "loading",
        "draining": services.presence.leaving,
        "store": {
            "kind": "durable" if keeping.store.durable else "memory",
            "available": keeping.health.problem is None,
            "problem": keeping.health.problem,
        },
    }
    return JSONResponse(document, 200 if serves else 503)


@router.get("/metrics", response_class=Response)
@takes(Scope.METRICS)
async def metrics(services: AppServices) -> Response:
    """Metrics in Prometheus' text format."""
    return Response(generate_latest(services.metrics.registry), headers={"Content-Type": CONTENT_TYPE_LATEST})


def _documents(components: Mapping[str, Component]) -> dict[str, Any]:
    return {name: component.document() for name, component in components.items()}
