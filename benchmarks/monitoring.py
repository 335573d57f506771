"""Draws the dashboards of replicas that are busy, and to which something happens.

    python -m benchmarks.monitoring --seconds 150 --out docs

Two replicas, Redis, HAProxy and Prometheus, all of them real processes on this machine; callers of the demo recording,
and sessions that come and go. After two fifths of the time the replica that holds most streams is killed and started
again, after three fifths Redis is killed, and is back a while later. The pictures show what the panels' queries gave.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from itertools import count, islice
from pathlib import Path

import httpx

from benchmarks.failover import Recording
from clients import Client
from monitoring.queries import Prometheus
from monitoring.render import Span, render
from service.settings import Settings
from tests.monitoring.stack import running_prometheus
from tests.service.replicas import Replicas, running_replicas, wait_until

REDIS_AWAY_S = 15.0


def come_and_go(url: str, recording: Recording, enough: threading.Event) -> None:
    """Short sessions, one after the other, and a request now and then that is refused."""
    for k in count():
        pieces = islice(recording.from_window(k), 20)
        with Client(url) as client:
            for _ in client.stream(pieces, recording.sensor):
                pass
        httpx.post(f"{url}/v1/segment", content=b"")
        if enough.wait(2.0):
            return


def incidents(replicas: Replicas, prometheus: Prometheus, begun: float, seconds: float) -> None:
    """Kill a replica, then Redis; both come back."""
    time.sleep(max(0.0, begun + 0.4 * seconds - time.time()))
    victim = max(replicas.which(), 0)
    print(f"replica {victim} is killed", file=sys.stderr, flush=True)
    replicas.kill(victim)
    wait_until(lambda: len(prometheus.query("up{job='spikeseg'} == 0")) == 1, "Prometheus misses the replica")
    replicas.start(victim)
    replicas.wait_ready(victim)
    time.sleep(max(0.0, begun + 0.6 * seconds - time.time()))
    print("Redis is killed", file=sys.stderr, flush=True)
    replicas.kill_redis()
    time.sleep(REDIS_AWAY_S)
    replicas.start_redis()
    time.sleep(max(0.0, begun + seconds - time.time()))


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=150.0, help="how long they run")
    parser.add_argument("--streams", type=int, default=2, help="callers of the demo recording")
    parser.add_argument("--out", type=Path, default=Path("docs"), help="folder of the pictures")
    args = parser.parse_args()
    recording = Recording.read(Settings().demo_recording)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        with (
            running_replicas(folder) as replicas,
            running_prometheus(folder / "prometheus", [r.url.removeprefix("http://") for r in replicas]) as url,
            ThreadPoolExecutor(args.streams + 1) as pool,
        ):
            prometheus, enough, begun = Prometheus(url), threading.Event(), time.time()
            streams = [recording.stream(17 * k) for k in range(args.streams)]
            futures = [pool.submit(stream.run, replicas.url) for stream in streams]
            futures.append(pool.submit(come_and_go, replicas.url, recording, enough))
            try:
                incidents(replicas, prometheus, begun, args.seconds)
                for path in render(prometheus, Span(begun, time.time(), "10s"), args.out):
                    print(path)
            finally:
                enough.set()
                for stream in streams:
                    stream.end()
            for future in futures:
                future.result()


if __name__ == "__main__":
    main()
