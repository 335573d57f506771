"""What the calls share: made when the app starts, closed when it stops."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from fastapi import Depends
from starlette.requests import HTTPConnection

from service.api.demo import DemoRecording
from service.metrics import ServiceMetrics
from service.settings import Settings
from service.streaming.engine import Engine
from service.streaming.library import ModelLibrary
from service.streaming.registry import SessionRegistry


@dataclass(frozen=True, slots=True)
class Services:
    """Everything that lives as long as the app."""

    settings: Settings
    metrics: ServiceMetrics
    engine: Engine
    library: ModelLibrary
    registry: SessionRegistry
    demo: DemoRecording

    @classmethod
    def start(cls, settings: Settings) -> Services:
        """Make them; threads start when they are first needed."""
        engine = Engine(
            compute_workers=settings.compute_workers,
            torch_threads=settings.torch_threads,
            codec_workers=settings.codec_workers,
        )
        registry = SessionRegistry(
            max_sessions=settings.max_sessions,
            idle_seconds=settings.idle_seconds,
            ended_seconds=settings.ended_seconds,
        )
        metrics = ServiceMetrics()
        metrics.watch_sessions(lambda: registry.active, lambda: registry.state_bytes)
        return cls(
            settings,
            metrics,
            engine,
            ModelLibrary(engine, settings.zoo),
            registry,
            DemoRecording(settings.demo_recording, engine),
        )


def services_of(connection: HTTPConnection) -> Services:
    """The services of the app that a request or WebSocket came to."""
    services: Services = connection.app.state.services
    return services


AppServices = Annotated[Services, Depends(services_of)]
