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
    """The default model is loaded; 503 until then."""
    loaded = services.library.is_ready(services.settings.default_model)
    return JSONResponse({"ready": loaded}, 200 if loaded else 503)


@router.get("/metrics", response_class=Response)
async def metrics(services: AppServices) -> Response:
    """Metrics in Prometheus' text format."""
    return Response(generate_latest(services.metrics.registry), headers={"Content-Type": CONTENT_TYPE_LATEST})
