"""Whether the server is alive and ready, and its metrics."""

from __future__ import annotations

from fastapi import APIRouter
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.responses import JSONResponse, Response

from service.api.services import AppServices

router = APIRouter(tags=["health"])


@router.get("/v2/health/live")
async def live() -> dict[str, bool]:
    """The process answers."""
    return {"live": True}


@router.get("/v2/health/ready")
async def ready(services: AppServices) -> JSONResponse:
    """The default model is loaded and the server is not about to stop; 503 otherwise.

    A state store that cannot be used is named, but does not make the server unready: sessions go on without it.
    """
    settings, keeping = services.settings, services.keeping
    loaded = services.library.is_ready(settings.default_model)
    is_ready = services.is_ready
    document = {
        "ready": is_ready,
        "model": "loaded" if loaded else "loading",
        "draining": services.presence.leaving,
        "store": {
            "kind": "durable" if keeping.store.durable else "memory",
            "available": keeping.health.problem is None,
            "problem": keeping.health.problem,
        },
    }
    return JSONResponse(document, 200 if is_ready else 503)


@router.get("/metrics", response_class=Response)
async def metrics(services: AppServices) -> Response:
    """Metrics in Prometheus' text format."""
    return Response(generate_latest(services.metrics.registry), headers={"Content-Type": CONTENT_TYPE_LATEST})
