"""The event loop only hands on: nothing that it runs takes long."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest
import uvicorn

from clients import Client, StreamOptions
from models.events import SensorSize
from service.app import create_app
from service.settings import Settings
from service.streaming.checkpoints import MEDIA_TYPE
from service.wire.events import MEDIA_TYPE as EVENTS_MEDIA_TYPE
from service.wire.events import encode_packet
from tests.service.harness import PATIENCE_S, random_events
from tests.service.real_servers import free_port, running_redis

LONGEST_S = 0.005
SERVER = "server"
ROUNDS = 6
CAMERA = SensorSize(346, 260)


class Watch:
    """Processor time of each callback of one thread's event loop; time that others take from it does not count."""

    def __init__(self) -> None:
        self.thread: int | None = None
        self.slow: list[tuple[float, str]] = []
        self.callbacks = 0

    def install(self, monkeypatch: pytest.MonkeyPatch) -> None:
        plain = asyncio.Handle._run

        def timed(handle: asyncio.Handle) -> None:
            if threading.get_ident() != self.thread:
                return plain(handle)
            begun = time.thread_time()
            plain(handle)
            seconds = time.thread_time() - begun
            self.callbacks += 1
            if seconds > LONGEST_S:
                callback = handle._callback  # type: ignore[attr-defined]
                self.slow.append((seconds, f"{getattr(callback, '__self__', None)!r} {handle!r}"))
            return None

        monkeypatch.setattr(asyncio.Handle, "_run", timed)


@pytest.fixture
def watched(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[tuple[str, Watch]]:
    """A server in this process, on asyncio's own loop, and a watch over it."""
    watch = Watch()
    watch.install(monkeypatch)
    with running_redis(tmp_path) as redis:
        port = free_port()
        settings = Settings(port=port, store_url=redis.url, checkpoint_seconds=0.1)
        config = uvicorn.Config(
            create_app(settings), port=port, loop="asyncio", log_config=None, ws_max_size=2**25, ws_ping_timeout=None
        )
        server = uvicorn.Server(config)
        thread = threading.Thread(target=lambda: asyncio.run(server.serve()), name=SERVER)
        thread.start()
        try:
            while not server.started:
                assert thread.is_alive()
                time.sleep(0.01)
            yield f"http://127.0.0.1:{port}", watch
        finally:
            server.should_exit = True
            thread.join(PATIENCE_S)
        watch.thread = None
    assert not thread.is_alive()


def use_everything(url: str) -> None:
    """Streams, sessions over HTTP, snapshots, single masks, metrics, all at once."""
    events = random_events(11, windows=6, per_window=20_000, sensor=CAMERA)

    def stream(options: StreamOptions) -> int:
        with Client(url, timeout=PATIENCE_S) as client:
            return sum(r.windows for r in client.stream([events], CAMERA, window_us=20_000, options=options))

    def session(_: object) -> int:
        with httpx.Client(base_url=url, timeout=PATIENCE_S) as http:
            body = {"sensor": {"width": CAMERA.width, "height": CAMERA.height}, "window": {"us": 20_000}}
            path = f"/v1/sessions/{http.post('/v1/sessions', json=body).json()['session']}"
            packet = {"content": encode_packet(events, CAMERA), "headers": {"Content-Type": EVENTS_MEDIA_TYPE}}
            answers = http.post(f"{path}/events", params={"mask": "raw"}, **packet).json()["results"]
            state = http.get(f"{path}/state").content
            http.put(f"{path}/state", content=state, headers={"Content-Type": MEDIA_TYPE}).raise_for_status()
            http.post("/v1/segment", **packet).raise_for_status()
            http.get("/metrics").raise_for_status()
            http.get("/v1/models").raise_for_status()
            return len(answers)

    with ThreadPoolExecutor(4) as pool:
        options = [StreamOptions(), StreamOptions(queue="merge"), StreamOptions(gaps="leak", reorder_us=100)]
        counts = [pool.submit(stream, option) for option in options] + [pool.submit(session, None)]
        assert [count.result() for count in counts] == [6, 6, 6, 5]


def test_nothing_holds_up_the_event_loop(watched: tuple[str, Watch]) -> None:
    url, watch = watched
    use_everything(url)  # What is imported or compiled at first use is not meant.
    [watch.thread] = [thread.ident for thread in threading.enumerate() if thread.name == SERVER]
    for _ in range(ROUNDS):
        watch.slow.clear()
        use_everything(url)
        # Once is no habit: a processor that is shared with others takes longer now and then.
        if not watch.slow:
            break
    watch.thread = None
    assert watch.callbacks > 500
    assert [(round(s * 1e3, 1), text[:150], text[-200:]) for s, text in watch.slow] == []
