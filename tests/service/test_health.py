"""Health: what is well with a server and what is not, since when, and in words."""

from __future__ import annotations

import asyncio
import logging
import tempfile
import threading
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest

from models.events import EventBatch, SensorSize
from models.runtime.model import SegmentationModel, WindowInput, WindowSegmentation
from service.api.conditions import Disk, filling
from service.api.services import Services
from service.app import create_app, services_of_app
from service.observability.health import Finding, HealthMonitor, Status
from service.settings import Settings
from tests.service.harness import PATIENCE_S, HttpSession, Stream, running_server
from tests.service.real_servers import RedisProcess, running_redis
from tests.service.replicas import Replica, wait_until

SENSOR = SensorSize(64, 48)
COMPONENTS = {
    "compute", "codecs", "model", "serving", "store", "sessions", "state_memory", "connections", "disk", "keys",
}  # fmt: skip


def test_a_component_says_since_when_it_has_been_as_it_is() -> None:
    now = datetime(2026, 1, 1, tzinfo=UTC)
    finding = Finding.ok("All is well.")
    monitor = HealthMonitor({"part": lambda: finding}, lambda: now)
    began = monitor.look()["part"].since
    now += timedelta(seconds=5)
    assert monitor.look()["part"].since == began
    finding = Finding(Status.DEGRADED, "It is slow.")
    assert monitor.look()["part"].since == now
    went = now
    now += timedelta(seconds=5)
    finding = Finding(Status.DEGRADED, "It is still slow.")
    assert monitor.look()["part"].document() == {
        "status": "degraded",
        "since": went.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
        "reason": "It is still slow.",
    }


def test_only_changes_are_logged(caplog: pytest.LogCaptureFixture) -> None:
    finding = Finding.ok("All is well.")
    monitor = HealthMonitor({"part": lambda: finding})
    with caplog.at_level(logging.INFO, "service.observability.health"):
        well, broken = finding, [Finding(Status.FAILING, reason) for reason in ("It broke.", "So it is.")]
        for found in (well, *broken, well):
            finding = found
            monitor.look()
            monitor.look()
    assert [(line.levelname, line.getMessage()) for line in caplog.records] == [
        ("WARNING", "part is failing: It broke."),
        ("INFO", "part is ok: All is well."),
    ]


@pytest.mark.parametrize(
    ("used", "status"), [(0, Status.OK), (89, Status.OK), (90, Status.DEGRADED), (100, Status.DEGRADED)]
)
def test_what_is_nearly_full_is_degraded(used: int, status: Status) -> None:
    finding = filling("sessions", "", used, 100)
    assert finding.status is status
    assert f"{used} of 100" in finding.reason
    assert ("refused" in finding.reason) == (used == 100)


def test_a_folder_that_cannot_be_written_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "gone"
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    disk = Disk()
    disk.probe()
    assert disk.finding().status is Status.DEGRADED
    assert "No such file or directory" in disk.finding().reason
    folder.mkdir()
    disk.probe()
    assert disk.finding().status is Status.OK


@dataclass
class Held:
    """A real model that does not come back from a window until it is let go."""

    inner: SegmentationModel
    gate: threading.Event = field(default_factory=threading.Event)

    def grid_key(self, sensor: SensorSize) -> tuple[int, int]:
        return self.inner.grid_key(sensor)

    def segment_many(self, inputs: Sequence[WindowInput]) -> list[WindowSegmentation]:
        assert self.gate.wait(PATIENCE_S)
        return self.inner.segment_many(inputs)


def in_process(scenario: Callable[[httpx.AsyncClient, Services], Awaitable[None]], **settings: Any) -> None:
    """Run the app itself, threads and all, and talk to it."""

    async def run() -> None:
        app = create_app(Settings(**settings))
        transport = httpx.ASGITransport(app)
        async with (
            app.router.lifespan_context(app),
            httpx.AsyncClient(transport=transport, base_url="http://app") as http,
        ):
            services = services_of_app(app)
            assert services is not None
            await scenario(http, services)

    asyncio.run(run())


async def until(http: httpx.AsyncClient, path: str, status: str, code: int, component: str) -> dict[str, Any]:
    """The health document once it has this status; every one before must come at once and be a whole one."""
    async with asyncio.timeout(PATIENCE_S):
        while True:
            response = await http.get(path)
            document: dict[str, Any] = response.json()
            if document["status"] == status:
                assert response.status_code == code
                assert document["components"][component]["status"] == status
                return document
            await asyncio.sleep(0.01)


def test_a_thread_that_is_stuck_makes_the_server_degraded_and_then_dead() -> None:
    async def scenario(http: httpx.AsyncClient, services: Services) -> None:
        model = await services.library.get("edge-s")
        held = Held(model)
        item = WindowInput(model.initial_state(SENSOR), EventBatch.empty(), SENSOR)
        window = asyncio.create_task(services.scheduler.segment(held, item))  # type: ignore[arg-type]
        try:
            slow = await until(http, "/v2/health/live", "degraded", 200, "compute")
            assert slow["live"] is True
            stuck = await until(http, "/v2/health/live", "failing", 503, "compute")
            assert stuck["live"] is False
            assert "stuck" in stuck["components"]["compute"]["reason"]
            ready = await http.get("/v2/health/ready")
            assert (ready.status_code, ready.json()["ready"]) == (503, False)
        finally:
            held.gate.set()
        await window
        well = await until(http, "/v2/health/live", "ok", 200, "compute")
        assert well["components"]["compute"]["since"] >= stuck["components"]["compute"]["since"]

    in_process(scenario, cores=1, compute_slow_seconds=0.5, compute_stuck_seconds=1.5)


def test_a_stuck_codec_is_found_even_when_nobody_waits_for_it() -> None:
    async def scenario(http: httpx.AsyncClient, services: Services) -> None:
        started, gate = threading.Event(), threading.Event()

        def hold() -> None:
            started.set()
            gate.wait(PATIENCE_S)

        waiting = asyncio.create_task(services.engine.offload(hold))
        # What no thread has begun yet is dropped when nobody waits for it.
        assert await asyncio.to_thread(started.wait, PATIENCE_S)
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
        try:
            await until(http, "/v2/health/live", "failing", 503, "codecs")
        finally:
            gate.set()
        await until(http, "/v2/health/live", "ok", 200, "codecs")

    in_process(scenario, compute_slow_seconds=0.3, compute_stuck_seconds=0.3)


def test_a_failing_window_does_not_count_as_stuck() -> None:
    async def scenario(http: httpx.AsyncClient, services: Services) -> None:
        model = await services.library.get("edge-s")
        wrong = WindowInput(model.initial_state(SensorSize(128, 96)), EventBatch.empty(), SENSOR)
        with pytest.raises(Exception, match=r".+"):
            await services.scheduler.segment(model, wrong)
        assert services.scheduler.watch.longest_s == 0.0
        assert (await http.get("/v2/health/live")).json()["status"] == "ok"

    in_process(scenario)


def ready(url: str) -> httpx.Response:
    return httpx.get(f"{url}/v2/health/ready", timeout=PATIENCE_S)


def test_every_component_gives_a_reason(server: str) -> None:
    document = ready(server).json()
    assert set(document["components"]) == COMPONENTS
    for component in document["components"].values():
        assert set(component) == {"status", "since", "reason"}
        assert component["reason"].endswith(".")
        datetime.fromisoformat(component["since"])
    live = httpx.get(f"{server}/v2/health/live").json()
    assert set(live["components"]) == {"compute", "codecs"}


def test_a_full_server_is_ready_but_degraded() -> None:
    with running_server(max_sessions=1, max_connections=1) as url:
        with Stream(url) as stream:
            response = ready(url)
            document = response.json()
            assert (response.status_code, document["ready"], document["status"]) == (200, True, "degraded")
            assert "1 of 1" in document["components"]["sessions"]["reason"]
            assert document["components"]["connections"]["status"] == "degraded"
            stream.end()
        wait_until(lambda: ready(url).json()["status"] == "ok", "the server has room again")


@pytest.fixture(scope="module")
def redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisProcess]:
    with running_redis(tmp_path_factory.mktemp("redis")) as redis:
        yield redis


@pytest.fixture(scope="module")
def replica(redis: RedisProcess, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Replica]:
    settings = {"store_url": redis.url, "store_seconds": 0.5, "drain_notice_seconds": 3.0, "log_format": "json"}
    replica = Replica("durable", tmp_path_factory.mktemp("replica"), settings)
    replica.start()
    replica.wait_until_ready()
    yield replica
    if replica.running:
        replica.terminate()


def test_a_store_that_is_away_degrades_the_server_until_it_is_back(redis: RedisProcess, replica: Replica) -> None:
    def store() -> dict[str, Any]:
        component: dict[str, Any] = replica.health()["components"]["store"]
        return component

    wait_until(lambda: store()["status"] == "ok", "the store is found")
    redis.kill()
    wait_until(lambda: store()["status"] == "degraded", "the store is missed")
    away = store()
    document = replica.health()
    assert (document["ready"], document["status"], document["store"]["available"]) == (True, "degraded", False)
    assert "cannot be used" in away["reason"]
    with httpx.Client(base_url=replica.url) as http:
        HttpSession(http).advance(5)
    assert store()["since"] == away["since"]
    redis.start()
    wait_until(lambda: store()["status"] == "ok", "the store is back")
    assert store()["since"] > away["since"]
    assert '"component": "store", "status": "degraded"' in replica.log()


def test_a_server_that_is_about_to_stop_is_alive_and_not_ready(replica: Replica) -> None:
    def meanwhile() -> None:
        wait_until(lambda: ready(replica.url).status_code == 503, "the server says that it is about to stop")
        document = replica.health()
        assert (document["ready"], document["status"], document["draining"]) == (False, "failing", True)
        assert "about to stop" in document["components"]["serving"]["reason"]
        alive = httpx.get(f"{replica.url}/v2/health/live")
        assert (alive.status_code, alive.json()["live"]) == (200, True)

    replica.terminate(meanwhile)
