"""What the calls share: made when the app starts, closed when it stops."""

from __future__ import annotations

import asyncio
import logging
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Annotated, Protocol

from fastapi import Depends
from starlette.requests import HTTPConnection

from service.api.demo import DemoRecording
from service.errors import DrainingError, SessionMovedError
from service.key_file import KeyFile
from service.metrics import ServiceMetrics
from service.settings import Settings
from service.streaming.engine import Engine
from service.streaming.keeper import Keeping, StoreHealth
from service.streaming.library import ModelLibrary
from service.streaming.registry import Limits, SessionRegistry
from service.streaming.scheduler import Scheduler
from service.streaming.session import Session, Workplace
from service.streaming.snapshots import read_snapshot
from service.streaming.state_store import Claim, MemoryStateStore, StateStore
from service.streaming.windowing import WindowLimits

logger = logging.getLogger(__name__)


class Leaving(Protocol):
    """A connection that can be told that the server is about to stop."""

    def go_away(self) -> None:
        """Bring what is under way to its end, then close."""


@dataclass(slots=True)
class Presence:
    """Who is connected, and whether the server is about to stop."""

    leaving: bool = False
    draining: bool = False
    connections: set[Leaving] = field(default_factory=set)


@dataclass(frozen=True, slots=True)
class Services:
    """Everything that lives as long as the app."""

    settings: Settings
    metrics: ServiceMetrics
    engine: Engine
    scheduler: Scheduler
    library: ModelLibrary
    keeping: Keeping
    registry: SessionRegistry
    workplace: Workplace
    demo: DemoRecording
    presence: Presence
    keys: KeyFile | None = None

    @classmethod
    def start(cls, settings: Settings) -> Services:
        """Make them; threads start when they are first needed.

        Raises
        ------
        ValueError
            If the state store's address or the file of keys cannot be used.
        """
        keys = KeyFile(settings.keys_file) if settings.keys_file is not None else None
        metrics = ServiceMetrics()
        engine = Engine(codec_workers=settings.codec_workers)
        scheduler = Scheduler(
            cores=settings.cores,
            max_batch=settings.max_batch,
            max_wait_s=settings.batch_wait_ms / 1e3,
            exact=settings.exact,
            observe=metrics.observe_batch,
        )
        keeping = Keeping(
            _store(settings),
            StoreHealth(metrics),
            metrics,
            interval_s=settings.checkpoint_seconds,
            ttl_s=settings.checkpoint_ttl_seconds,
        )
        registry = SessionRegistry(
            Limits(
                sessions=settings.max_sessions,
                state_bytes=settings.max_state_bytes,
                idle_s=settings.idle_seconds,
                attached_idle_s=settings.attached_idle_seconds,
                lifetime_s=settings.lifetime_seconds,
                ended_s=settings.ended_seconds,
            ),
            keeping,
        )
        workplace = Workplace(
            engine,
            scheduler,
            metrics,
            keeping,
            replay_bytes=settings.replay_bytes,
            max_waiting=settings.queue_messages,
            require_memory=registry.require_memory,
        )
        services = cls(
            settings,
            metrics,
            engine,
            scheduler,
            ModelLibrary(engine, settings.zoo, settings.backend_of_replica, settings.weights),
            keeping,
            registry,
            workplace,
            DemoRecording(settings.demo_recording, engine),
            Presence(),
            keys,
        )
        registry.revive_with(services._revive)
        metrics.watch_sessions(lambda: registry.active, lambda: registry.state_bytes, lambda: registry.checkpoint_age_s)
        metrics.watch_server(lambda: len(services.presence.connections), lambda: scheduler.waiting)
        metrics.set_limits(sessions=settings.max_sessions, state_bytes=settings.max_state_bytes, threads=settings.cores)
        return services

    @property
    def window_limits(self) -> WindowLimits:
        """What one message may do."""
        return WindowLimits(windows=self.settings.max_windows_per_message, events=self.settings.max_events_per_window)

    def require_open(self) -> None:
        """Raise DrainingError if the server is about to stop."""
        if self.presence.draining:
            raise DrainingError("this server is about to stop; another one takes over", headers={"Retry-After": "1"})

    async def drain(self) -> None:
        """Take nothing new, tell the clients to go, and bring every session into the store."""
        self.presence.leaving = True
        if self.keeping.store.durable:
            await asyncio.sleep(self.settings.drain_notice_seconds)
        self.presence.draining = True
        if not self.presence.connections and not self.registry.all:
            return
        logger.info("the server is about to stop: %d connections are told to go", len(self.presence.connections))
        try:
            async with asyncio.timeout(self.settings.drain_seconds):
                for connection in list(self.presence.connections):
                    connection.go_away()
                while self.presence.connections or any(session.busy for session in self.registry.all):
                    await asyncio.sleep(0.01)
                await asyncio.gather(*(self._hand_over(session) for session in self.registry.all))
        except TimeoutError:
            logger.warning("not every session could be handed over within %g s", self.settings.drain_seconds)

    async def close(self) -> None:
        """Stop the threads, and be done with the store."""
        for session in self.registry.all:
            await self.registry.remove(session, forget=False)
        self.scheduler.close()
        self.engine.close()
        await self.keeping.store.close()

    async def _hand_over(self, session: Session) -> None:
        with suppress(SessionMovedError):
            await session.keep()
        await self.registry.remove(session, forget=False)

    async def _revive(self, claim: Claim) -> Session:
        snapshot = await self.engine.offload(read_snapshot, claim.checkpoint, self.window_limits)
        model = await self.library.get(snapshot.spec.model)
        progress = await self.engine.offload(snapshot.progress, model)
        self.registry.require_memory(progress.membranes.nbytes + progress.stream.nbytes)
        return Session(snapshot.spec, model, progress, self.workplace, epoch=claim.epoch, recent=snapshot.recent)


def _store(settings: Settings) -> StateStore:
    url = settings.store_url.get_secret_value()
    if not url:
        return MemoryStateStore()
    from service.streaming.redis_store import RedisStateStore

    return RedisStateStore(
        url.replace("valkey", "redis", 1),
        prefix=settings.store_prefix,
        timeout_s=settings.store_seconds,
        threads=settings.store_threads,
    )


def services_of(connection: HTTPConnection) -> Services:
    """The services of the app that a request or WebSocket came to."""
    services: Services = connection.app.state.services
    return services


AppServices = Annotated[Services, Depends(services_of)]
