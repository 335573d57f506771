"""Many streams at once, of several geometries and networks: each is answered as if it were alone."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor

import httpx

from benchmarks.many_streams import CAMERA, differences, make_plans, resident, run_streams
from models.events import SensorSize
from tests.service.harness import PATIENCE_S, HttpSession, metric, random_events, running_server

SENSORS = (SensorSize(64, 48), SensorSize(48, 64), SensorSize(96, 72), SensorSize(33, 77))
STREAMS = 64
WINDOWS = 4


def test_64_streams_do_not_meet() -> None:
    with running_server(max_sessions=STREAMS, max_connections=STREAMS, cores=2, max_batch=4) as url:
        plans = make_plans(STREAMS, ["edge-s", "edge-s-ann"], SENSORS)
        memory = []
        for _ in range(3):
            outcomes = run_streams(url, plans, 600.0, WINDOWS)
            memory.append(resident(url))
        assert metric(url, "spikeseg_sessions_active") == 0
        assert metric(url, "spikeseg_state_bytes") == 0
    assert differences(plans, outcomes) == {
        "streams": STREAMS,
        "windows": STREAMS * WINDOWS,
        "lost_or_repeated": 0,
        "different": 0,
    }
    # In MB. The first round fills caches; what the sessions held is given back.
    assert memory[2] < memory[0] + 60


def test_the_memory_of_sessions_that_are_gone_is_given_back() -> None:
    """The C library would keep it: what was freed lies between what is still used."""
    events = random_events(3, windows=3, per_window=20_000, sensor=CAMERA)
    with running_server() as url, httpx.Client(base_url=url, timeout=PATIENCE_S) as http:
        size = {"width": CAMERA.width, "height": CAMERA.height}
        sessions = [HttpSession(http, sensor=size) for _ in range(16)]
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(lambda session: session.events(events, CAMERA), sessions))
        state, held = metric(url, "spikeseg_state_bytes") / 1e6, resident(url)
        for session in sessions:
            http.delete(session.path).raise_for_status()
        end = time.monotonic() + PATIENCE_S
        while resident(url) > held - state:
            assert time.monotonic() < end, f"{resident(url)} MB are held, {held} were with {state} MB of state"
            time.sleep(0.2)
