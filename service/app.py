"""The ASGI application."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI
from starlette.responses import FileResponse, Response
from starlette.staticfiles import StaticFiles

from service import __version__
from service.api import health, inference_protocol, models, recordings, segment, sessions, stream
from service.api.problems import install_problem_handlers
from service.api.sequences import Sequences
from service.api.services import Services
from service.settings import PACKAGE, Settings
from service.streaming.keeper import watch_store
from service.streaming.trimming import trim_forever

VIEWER = PACKAGE / "viewer"
# A browser that kept old modules beside a new page would run a mixture of two versions.
REVALIDATE = {"Cache-Control": "no-cache"}


class ViewerFiles(StaticFiles):
    """The viewer's files, which a browser may keep but must ask about."""

    def file_response(self, *args: Any, **kwargs: Any) -> Response:
        """A file, or 304 if the browser's copy is still good."""
        response = super().file_response(*args, **kwargs)
        response.headers.update(REVALIDATE)
        return response


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
            await services.library.warm_up(settings.default_model, services.scheduler)
            app.state.services = services
            app.state.sequences = Sequences(services)
            # What is here now stays; the collector need not look at all of torch again and again.
            gc.collect()
            gc.freeze()
            chores = [
                asyncio.create_task(services.registry.reap_forever(settings.reap_seconds)),
                asyncio.create_task(watch_store(services.keeping, settings.store_seconds)),
                asyncio.create_task(trim_forever(services.engine, lambda: services.registry.state_bytes)),
            ]
            try:
                yield
            finally:
                for chore in chores:
                    chore.cancel()
                await asyncio.gather(*chores, return_exceptions=True)
        finally:
            await services.close()

    app = FastAPI(
        title="Spikeseg",
        summary="Streaming semantic segmentation of event-camera data with spiking networks.",
        version=__version__,
        lifespan=lifespan,
        redoc_url=None,
    )
    install_problem_handlers(app)
    for module in (segment, sessions, stream, models, recordings, health, inference_protocol):
        app.include_router(module.router)
    app.mount("/viewer", ViewerFiles(directory=VIEWER), name="viewer")

    @app.get("/", include_in_schema=False)
    async def index() -> FileResponse:
        return FileResponse(VIEWER / "index.html", headers=REVALIDATE)

    return app


def services_of_app(app: Any) -> Services | None:
    """What an app works with while it runs."""
    state = getattr(app, "state", None)
    services = getattr(state, "services", None)
    return services if isinstance(services, Services) else None
