"""What the health of this server is made of."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Callable

from service.api.services import Services
from service.key_file import KeyFile
from service.observability.health import Component, Finding, HealthMonitor, Status
from service.streaming.watch import Watch

LIVE = ("compute", "codecs")
"""What only a new process can mend."""
READY = (*LIVE, "model", "serving")
"""Without which nothing can be served here."""

NEARLY_FULL = 0.9
_LOOK_SECONDS = 1.0
_DISK_SECONDS = 10.0


class Disk:
    """Whether temporary files can be written, which recordings that are converted need.

    Attributes
    ----------
    problem : str or None
        What was wrong at the last attempt.
    """

    def __init__(self) -> None:
        self.problem: str | None = None

    def probe(self) -> None:
        """Write and remove a small file; may take long where the disk is in trouble."""
        try:
            with tempfile.TemporaryFile(prefix="spikeseg-") as file:
                file.write(bytes(4096))
                file.flush()
        except OSError as error:
            # tempfile's own message lists every folder that it has tried.
            self.problem = error.strerror or str(error)
        else:
            self.problem = None

    def finding(self) -> Finding:
        """How it is."""
        if self.problem is None:
            return Finding.ok("Temporary files can be written.")
        return Finding(
            Status.DEGRADED, f"Temporary files cannot be written ({self.problem}): recordings cannot be converted."
        )


class ServerHealth:
    """The health of a running server.

    Parameters
    ----------
    services : Services
    """

    def __init__(self, services: Services) -> None:
        self._disk = Disk()
        settings, registry = services.settings, services.registry

        def busy(watch: Watch, what: str) -> Callable[[], Finding]:
            return lambda: working(watch, what, settings.compute_slow_seconds, settings.compute_stuck_seconds)

        def used(what: str, unit: str, used: Callable[[], int], most: int) -> Callable[[], Finding]:
            return lambda: filling(what, unit, used(), most)

        self._monitor = HealthMonitor(
            {
                "compute": busy(services.scheduler.watch, "A batch of windows"),
                "codecs": busy(services.engine.watch, "A piece of decoding or encoding"),
                "model": lambda: _model(services),
                "serving": lambda: _serving(services),
                "store": lambda: _store(services),
                "sessions": used("sessions", "", lambda: registry.active, settings.max_sessions),
                "state_memory": used(
                    "memory for state", " bytes", lambda: registry.state_bytes, settings.max_state_bytes
                ),
                "connections": used(
                    "connections", "", lambda: len(services.presence.connections), settings.max_connections
                ),
                "disk": self._disk.finding,
                "keys": lambda: _keys(services.keys),
            }
        )

    def live(self) -> dict[str, Component]:
        """What the process needs to live."""
        return self._monitor.look(LIVE)

    def all(self) -> dict[str, Component]:
        """Everything."""
        return self._monitor.look()

    async def watch(self) -> None:
        """Look now and then, so that the log tells of changes and when they came, until cancelled."""
        disk = asyncio.create_task(self._watch_disk())
        try:
            while True:
                self._monitor.look()
                await asyncio.sleep(_LOOK_SECONDS)
        finally:
            disk.cancel()

    async def _watch_disk(self) -> None:
        while True:
            await asyncio.to_thread(self._disk.probe)
            await asyncio.sleep(_DISK_SECONDS)


def is_ready(components: dict[str, Component]) -> bool:
    """Whether the server can serve."""
    return all(components[name].finding.status is not Status.FAILING for name in READY)


def working(watch: Watch, what: str, slow_s: float, stuck_s: float) -> Finding:
    """How threads are, by how long they have been at what they are at."""
    seconds = watch.longest_s
    if seconds >= stuck_s:
        return Finding(
            Status.FAILING, f"{what} has been under way for {seconds:.0f} s: its thread is stuck, or has died."
        )
    if seconds >= slow_s:
        return Finding(Status.DEGRADED, f"{what} has been under way for {seconds:.0f} s, unusually long.")
    return Finding.ok("The threads do their work.")


def filling(what: str, unit: str, used: int, most: int) -> Finding:
    """How full something is."""
    how_much = f"{used} of {most}{unit}"
    if used >= most:
        return Finding(Status.DEGRADED, f"All {what} in use, {how_much}: new sessions are refused.")
    if used >= NEARLY_FULL * most:
        return Finding(Status.DEGRADED, f"Nearly all {what} in use, {how_much}.")
    return Finding.ok(f"{what.capitalize()} in use: {how_much}.")


def _model(services: Services) -> Finding:
    name = services.settings.default_model
    if not services.library.is_ready(name):
        return Finding(Status.FAILING, f"The default model, {name}, is not loaded.")
    if damaged := services.library.damaged:
        reasons = "; ".join(f"{name}: {problem}" for name, problem in damaged.items())
        return Finding(Status.DEGRADED, f"Models that cannot be used: {reasons}.")
    return Finding.ok(f"The default model, {name}, is loaded.")


def _serving(services: Services) -> Finding:
    if services.presence.leaving:
        return Finding(Status.FAILING, "The server is about to stop and hands its sessions over.")
    return Finding.ok("The server takes what comes.")


def _keys(keys: KeyFile | None) -> Finding:
    if keys is None:
        return Finding.ok("No file of keys is configured: whoever reaches this server may use it.")
    keys.look()
    if keys.problem is not None:
        return Finding(Status.DEGRADED, "The file of keys cannot be read; those from before stay valid.")
    return Finding.ok("The file of keys has been read.")


def _store(services: Services) -> Finding:
    keeping = services.keeping
    if keeping.health.problem is not None:
        return Finding(
            Status.DEGRADED,
            f"The state store cannot be used, sessions go on in memory and nothing is acknowledged: "
            f"{keeping.health.problem}.",
        )
    if keeping.store.durable:
        return Finding.ok("The state store answers.")
    return Finding.ok("Sessions are kept in this process alone; no state store is configured.")
