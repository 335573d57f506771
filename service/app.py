"""The ASGI application."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

from fastapi import FastAPI
from starlette.responses import FileResponse
from starlette.staticfiles import StaticFiles

from service import __version__
from service.api import health, models, recordings, segment, sessions, stream
from service.api.problems import install_problem_handlers
from service.api.services import Services
from service.settings import PACKAGE, Settings

VIEWER = PACKAGE / "viewer"


def create_app(settings: Settings | None = None) -> FastAPI:
    """The service as an ASGI application.

    Parameters
    ----------
    settings : Settings, optional
        From the environment if not given.
    """
    settings = settings if settings is not None else Settings()

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        services = Services.start(settings)
        try:
            await services.library.warm_up(settings.default_model)
            app.state.services = services
            reaper = asyncio.create_task(services.registry.reap_forever(settings.reap_seconds))
            try:
                yield
            finally:
                reaper.cancel()
                with suppress(asyncio.CancelledError):
                    await reaper
        finally:
            services.engine.close()

    app = FastAPI(
        title="Spikeseg",
        summary="Streaming semantic segmentation of event-camera data with spiking networks.",
        version=__version__,
        lifespan=lifespan,
        redoc_url=None,
    )
    install_problem_handlers(app)
    for module in (segment, sessions, stream, models, recordings, health):
        app.include_router(module.router)
    app.mount("/viewer", StaticFiles(directory=VIEWER, check_dir=False, html=True), name="viewer")

    @app.get("/", include_in_schema=False)
    async def index() -> FileResponse:
        return FileResponse(VIEWER / "index.html")

    return app
