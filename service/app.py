"""The ASGI application."""

from __future__ import annotations

import asyncio
import gc
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import FileResponse, Response
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp

from models.errors import BackendUnavailableError
from service import __version__
from service.api import health, inference_protocol, models, recordings, segment, sessions, stream
from service.api.callers import public, scope_of
from service.api.conditions import ServerHealth, is_ready
from service.api.docs import add_docs
from service.api.guard import Guard, SecureHeaders
from service.api.problems import install_problem_handlers
from service.api.sequences import Sequences
from service.api.services import Services
from service.errors import ServiceError
from service.observability import tracing
from service.observability.requests import RequestContext
from service.origins import names_in
from service.settings import PACKAGE, Settings
from service.streaming.keeper import watch_store
from service.streaming.trimming import trim_forever

logger = logging.getLogger(__name__)

VIEWER = PACKAGE / "viewer"
# A browser that kept old modules beside a new page would run a mixture of two versions.
REVALIDATE = {"Cache-Control": "no-cache"}
_METHODS = ["GET", "POST", "PUT", "DELETE"]
_EXPOSED = ["Spikeseg-Result", "Spikeseg-Acked", "Spikeseg-Next-Sequence", "Location", "Retry-After", "X-Request-ID"]


class ViewerFiles(StaticFiles):
    """The viewer's files, which a browser may keep but must ask about."""

    def file_response(self, *args: Any, **kwargs: Any) -> Response:
        """A file, or 304 if the browser's copy is still good."""
        response = super().file_response(*args, **kwargs)
        response.headers.update(REVALIDATE)
        return response


class StartError(Exception):
    """The service cannot start; the log says why."""


class _App(FastAPI):
    """Gives every request its id, also those that end in the framework's last resort for errors."""

    settings: Settings

    def build_middleware_stack(self) -> ASGIApp:
        """As the framework does, and around it the guard, the headers that browsers heed, the request's context."""
        guarded: ASGIApp = Guard(super().build_middleware_stack(), self.settings, self.routes)
        if origins := list(names_in(self.settings.allowed_origins)):
            # Answers the browser's question beforehand, which comes without a token.
            guarded = CORSMiddleware(
                guarded, allow_origins=origins, allow_methods=_METHODS, allow_headers=["*"], expose_headers=_EXPOSED
            )
        secured = SecureHeaders(guarded, tls=self.settings.tls_cert is not None)
        return RequestContext(secured, access_log=self.settings.access_log)


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
        _start_tracing(settings)
        try:
            services = Services.start(settings)
        except ValueError as error:
            raise _cannot_start(app, error) from None
        try:
            try:
                await services.library.warm_up(settings.default_model, services.scheduler)
            except ServiceError as error:
                why = error.__cause__ or error
                if isinstance(why, BackendUnavailableError) and settings.backend == "auto":
                    why = StartError(
                        f"{why}; sessions move between replicas of one state store, so all of them must compute alike: "
                        "install a compiler, or set SPIKESEG_BACKEND=torch on every replica"
                    )
                raise _cannot_start(app, why) from None
            app.state.services = services
            app.state.health = health = ServerHealth(services)
            services.metrics.watch_ready(lambda: is_ready(health.all()))
            app.state.sequences = Sequences(services)
            # What is here now stays; the collector need not look at all of torch again and again.
            gc.collect()
            gc.freeze()
            chores = [
                asyncio.create_task(services.registry.reap_forever(settings.reap_seconds)),
                asyncio.create_task(watch_store(services.keeping, settings.store_seconds)),
                asyncio.create_task(health.watch()),
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
            await asyncio.to_thread(tracing.stop_tracing)

    app = _App(
        title="Spikeseg",
        summary="Streaming semantic segmentation of event-camera data with spiking networks.",
        version=__version__,
        lifespan=lifespan,
        openapi_url=None,
        docs_url=None,
        redoc_url=None,
        # The framework's own spans of WebSockets would last for days; see service/observability/requests.py.
        telemetry={"tracing": False, "metrics": False, "logs": False, "auto_configure": False},
    )
    app.settings = settings
    install_problem_handlers(app)
    for module in (segment, sessions, stream, models, recordings, health, inference_protocol):
        # As routes of the app itself, so that the guard can ask each what it takes.
        app.routes.extend(module.router.routes)
    add_docs(app)
    app.mount("/viewer", public(ViewerFiles(directory=VIEWER)), name="viewer")

    @app.get("/", include_in_schema=False)
    @public
    async def index() -> FileResponse:
        return FileResponse(VIEWER / "index.html", headers=REVALIDATE)

    for route in app.routes:
        scope_of(route)
    return app


def _start_tracing(settings: Settings) -> None:
    if not tracing.traces_wanted(settings.traces):
        return
    try:
        tracing.start_tracing()
    except tracing.TracingError as error:
        # A collector is often named for all programs of a machine; segmentation does not need it.
        logger.error("there will be no traces: %s", error)


def _cannot_start(app: FastAPI, why: BaseException) -> StartError:
    app.state.cannot_start = True
    logger.critical("the service cannot start: %s", why)
    return StartError(str(why))


def services_of_app(app: Any) -> Services | None:
    """What an app works with while it runs."""
    state = getattr(app, "state", None)
    services = getattr(state, "services", None)
    return services if isinstance(services, Services) else None
