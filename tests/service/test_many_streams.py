"""64 streams at once, of several geometries and networks: each is answered as if it were alone."""

from __future__ import annotations

from benchmarks.many_streams import differences, make_plans, resident, run_streams
from models.events import SensorSize
from tests.service.harness import metric, running_server

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
