"""A server under visitors of every kind for a long time: right answers all along, and nothing that grows.

    python -m benchmarks.soak --minutes 60 --json docs/results/soak.json

Callers come and go: whole streams, streams whose connection breaks and is taken up again, sessions over HTTP that are
moved by snapshot, single requests, clients that leave without a word, and bad input in between. Every answer is held
against the same stream computed alone in this process, bit for bit. Meanwhile the server's resident memory, file
descriptors, threads, sessions and state are looked at; after the warm-up a straight line is fitted to each, and its
slope must not be told from none, or come to next to nothing over the whole run.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import random
import threading
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import torch

from benchmarks.many_streams import WINDOW_US, Plan, digest, make_plans
from clients import Client
from models import zoo
from models.events import EventBatch, SensorSize
from models.machine import describe_machine
from service.wire import messages
from service.wire.events import MEDIA_TYPE, encode_packet
from tests.service.harness import (
    PATIENCE_S,
    HttpSession,
    RefusedError,
    Result,
    Stream,
    hello,
    metric,
    running_server,
)

SENSORS = (SensorSize(346, 260), SensorSize(128, 128), SensorSize(64, 48))
MODELS = ("edge-s", "edge-s-ann")
WINDOWS = 10
IDLE_SECONDS = 10.0
WARM_UP = 0.25
"""Share of the run that is left out of the fits: caches fill, and the memory allocator finds its size."""
BLOCKS = 20
ALLOWED_GROWTH = {"resident_mb": 10.0, "open_fds": 2.0, "threads": 1.0, "sessions": 2.0, "state_mb": 20.0}
"""By so much each may grow over the part of the run that is fitted, if it grows at all."""


class SoakError(Exception):
    """A visit that went otherwise than it should."""


@dataclass(frozen=True)
class Known:
    """A stream and what it is answered with: a digest for each window."""

    plan: Plan
    digests: tuple[int, ...]

    @property
    def hello(self) -> dict[str, Any]:
        """The fields that open a session for it."""
        sensor = self.plan.sensor
        return {
            "model": self.plan.model,
            "sensor": {"width": sensor.width, "height": sensor.height},
            "window": {"us": WINDOW_US},
        }

    def events(self, first: int = 0, last: int = WINDOWS) -> EventBatch:
        """Its events from one window to before another."""
        return EventBatch.concatenate([self.plan.window(index) for index in range(first, last)])

    def check(self, results: Sequence[Result], first: int = 0) -> None:
        """Raise SoakError unless these are its answers from this window on."""
        for index, result in enumerate(results, first):
            if result.window != index:
                raise SoakError(f"window {result.window} came where {index} was due")
            if result_digest(result) != self.digests[index]:
                raise SoakError(f"window {index} of {self.plan} was answered otherwise than alone")


def result_digest(result: Result) -> int:
    """What a result has in common with one of the same bits."""
    assert result.activity is not None
    return digest(result.mask, [layer["spikes"] for layer in result.activity["layers"]])


def learn(plans: Sequence[Plan]) -> list[Known]:
    """Compute each stream alone, on one thread."""
    torch.set_num_threads(1)
    known = []
    for plan in plans:
        model = zoo.load_events(plan.model)
        state = model.initial_state(plan.sensor)
        digests = []
        for index in range(WINDOWS):
            answer = model.segment(state, plan.window(index), plan.sensor)
            state = answer.state
            digests.append(digest(answer.mask, [layer.spikes for layer in answer.activity.layers]))
        known.append(Known(plan, tuple(digests)))
    return known


# Visits


def stream_whole(url: str, known: Known, _: random.Random) -> int:
    """The Python client, from hello to end."""
    plan = known.plan
    batches = (plan.window(index) for index in range(WINDOWS))
    with Client(url, timeout=PATIENCE_S) as client:
        results = list(client.stream(batches, plan.sensor, model=plan.model, window_us=WINDOW_US))
    for index, result in enumerate(results):
        assert result.activity is not None
        given = digest(result.mask, [layer.spikes for layer in result.activity.layers])
        if (result.window, given) != (index, known.digests[index]):
            raise SoakError(f"window {index} of {plan} was answered otherwise than alone")
    return _all_of(len(results))


def stream_broken(url: str, known: Known, rng: random.Random) -> int:
    """A connection that breaks with a message on the way, and is taken up again."""
    plan, cut = known.plan, rng.randrange(1, WINDOWS)
    with Stream(url, hello(**known.hello)) as stream:
        results = stream.events(known.events(0, cut), plan.sensor)
        packet = encode_packet(known.events(cut), plan.sensor)
        stream.socket.send(messages.encode_events(2, packet))
        stream.drop()
    with Stream.resume(url, stream.token) as stream:
        # Whether it was taken or not.
        stream.sequence = 2
        results += stream.events(known.events(cut), plan.sensor)
        results += stream.end()
    known.check(results)
    return _all_of(len(results))


def move_by_snapshot(url: str, known: Known, rng: random.Random) -> int:
    """A session over HTTP that another one goes on from."""
    plan, cut = known.plan, rng.randrange(1, WINDOWS)
    with httpx.Client(base_url=url, timeout=PATIENCE_S) as http:
        before = HttpSession(http, **known.hello)
        results = before.events(known.events(0, cut), plan.sensor)
        after = HttpSession(http, snapshot=http.get(f"{before.path}/state").content)
        http.delete(before.path).raise_for_status()
        results += after.events(known.events(cut), plan.sensor, flush=True)
        http.delete(after.path).raise_for_status()
    known.check(results)
    return _all_of(len(results))


def ask_once(url: str, known: Known, _: random.Random) -> int:
    """A single request."""
    plan = known.plan
    headers = {"Content-Type": MEDIA_TYPE, "Accept": "application/octet-stream"}
    query: dict[str, Any] = {"model": plan.model, "window_us": WINDOW_US}
    packet = encode_packet(known.events(), plan.sensor)
    with httpx.Client(base_url=url, timeout=PATIENCE_S) as http:
        response = http.post("/v1/segment", params=query, content=packet, headers=headers).raise_for_status()
    layers = json.loads(response.headers["Spikeseg-Result"])["activity"]["layers"]
    mask = np.frombuffer(response.content, np.uint8)
    if digest(mask, [layer["spikes"] for layer in layers]) != known.digests[-1]:
        raise SoakError(f"a single request with {plan} was answered otherwise than alone")
    return 1


def leave_rudely(url: str, known: Known, rng: random.Random) -> int:
    """A client that goes without a word; its session ends by itself."""
    plan, cut = known.plan, rng.randrange(1, WINDOWS)
    with Stream(url, hello(**known.hello)) as stream:
        results = stream.events(known.events(0, cut), plan.sensor)
        stream.socket.send(messages.encode_events(2, encode_packet(known.events(cut), plan.sensor)))
        stream.drop()
    known.check(results)
    return len(results)


def send_rubbish(url: str, known: Known, rng: random.Random) -> int:
    """Bad input of several kinds; a session that got some goes on."""
    junk = rng.randbytes(rng.randrange(1, 5000))
    with httpx.Client(base_url=url, timeout=PATIENCE_S) as http:
        for kind, status in ((MEDIA_TYPE, 422), ("application/json", 422), ("application/vnd.aedat4", 422)):
            found = http.post("/v1/segment", content=junk, headers={"Content-Type": kind}).status_code
            if found != status:
                raise SoakError(f"rubbish as {kind} was answered with {found}, not {status}")
    _expect(4400, lambda: Stream(url, junk))
    with Stream(url, hello(**known.hello)) as stream:
        results = stream.events(known.events(0, 2), known.plan.sensor)
        stream.socket.send(messages.encode_events(2, junk))
        _expect(4422, stream.message)
    with Stream.resume(url, stream.token) as stream:
        results += stream.events(known.events(2), known.plan.sensor) + stream.end()
    known.check(results)
    return _all_of(len(results))


VISITS: tuple[Callable[[str, Known, random.Random], int], ...] = (
    stream_whole,
    stream_broken,
    move_by_snapshot,
    ask_once,
    leave_rudely,
    send_rubbish,
)


def _all_of(count: int) -> int:
    if count != WINDOWS:
        raise SoakError(f"{count} windows were answered, not {WINDOWS}")
    return count


def _expect(code: int, call: Callable[[], object]) -> None:
    try:
        call()
    except RefusedError as refused:
        if refused.code != code:
            raise SoakError(f"rubbish was answered with {refused.code}, not {code}") from None
    else:
        raise SoakError(f"rubbish was not answered with {code}")


@dataclass
class Tally:
    """What the visitors did, and what went wrong."""

    visits: Counter[str] = field(default_factory=Counter)
    windows: int = 0
    failures: list[str] = field(default_factory=list)


def visit(url: str, known: Sequence[Known], seed: int, until: float, tally: Tally, lock: threading.Lock) -> None:
    """Visit after visit, each of a kind and with a stream drawn at random."""
    rng = random.Random(seed)
    while time.monotonic() < until:
        kind = rng.choice(VISITS)
        windows, failure = 0, None
        try:
            windows = kind(url, rng.choice(known), rng)
        except Exception:  # noqa: BLE001 - whatever it is, it is what the soak is to find
            failure = f"{kind.__name__}: {traceback.format_exc()}"
        with lock:
            tally.visits[kind.__name__] += 1
            tally.windows += windows
            if failure is not None:
                tally.failures.append(failure)


# What grows


def sample(url: str, process: Path) -> dict[str, float]:
    """What the server holds at this moment."""
    return {
        "resident_mb": metric(url, "process_resident_memory_bytes") / 1e6,
        "open_fds": metric(url, "process_open_fds"),
        "threads": float(len(list((process / "task").iterdir()))),
        "sessions": metric(url, "spikeseg_sessions_active"),
        "state_mb": metric(url, "spikeseg_state_bytes") / 1e6,
    }


def server_process() -> Path:
    """Where the system tells of the server, a child of this process."""
    for process in Path("/proc").iterdir():
        if process.name.isdecimal():
            try:
                parent = int((process / "stat").read_text().rpartition(")")[2].split()[1])
                command = (process / "cmdline").read_bytes().split(b"\0")
            except (OSError, ValueError):
                continue
            if parent == os.getpid() and command[1:3] == [b"-m", b"service"]:
                return process
    raise SoakError("the server's process cannot be found")


@dataclass(frozen=True)
class Trend:
    """A straight line through samples.

    Attributes
    ----------
    mean : float
    per_hour : float
        Slope.
    low, high : float
        Bounds of the slope, 95 %.
    growth : float
        The line's rise over the samples.
    """

    mean: float
    per_hour: float
    low: float
    high: float
    growth: float

    def is_flat(self, allowed: float) -> bool:
        """Whether the slope cannot be told from none or a fall, or comes to less than is allowed."""
        return self.low <= 0 or self.growth <= allowed


def fit(times_s: Sequence[float], values: Sequence[float]) -> Trend:
    """A least-squares line through the means of blocks of samples.

    Samples that lie close together are alike; means of blocks are nearly independent, as the bounds suppose.
    """
    blocks = min(BLOCKS, len(values))
    if blocks < 4:
        raise SoakError("too few samples for a fit; the soak was too short")
    t = np.array([part.mean() for part in np.array_split(np.asarray(times_s, float), blocks)]) / 3600
    y = np.array([part.mean() for part in np.array_split(np.asarray(values, float), blocks)])
    slope, offset = np.polyfit(t, y, 1)
    rest = y - (slope * t + offset)
    error = math.sqrt(float(rest @ rest) / (blocks - 2) / float(((t - t.mean()) ** 2).sum()))
    bound = T_95[blocks - 2] * error
    span = (times_s[-1] - times_s[0]) / 3600
    return Trend(float(y.mean()), float(slope), float(slope - bound), float(slope + bound), float(slope * span))


# Student's t, two-sided 95 %, by degrees of freedom.
T_95 = dict(
    zip(
        range(2, 19),
        (4.30, 3.18, 2.78, 2.57, 2.45, 2.36, 2.31, 2.26, 2.23, 2.20, 2.18, 2.16, 2.14, 2.13, 2.12, 2.11, 2.10),
        strict=True,
    )
)


def watch(url: str, until: float, every_s: float) -> Iterator[tuple[float, dict[str, float]]]:
    """Samples and their times, until the end."""
    process, begun = server_process(), time.monotonic()
    while time.monotonic() < until:
        yield time.monotonic() - begun, sample(url, process)
        time.sleep(every_s)


def soak(seconds: float, callers: int, every_s: float) -> dict[str, Any]:
    """Let callers at a server for so long; what they found, and what the server held."""
    known = learn(make_plans(2 * len(SENSORS) * len(MODELS), MODELS, SENSORS))
    tally, lock = Tally(), threading.Lock()
    with running_server(idle_seconds=IDLE_SECONDS, reap_seconds=0.5) as url, ThreadPoolExecutor(callers) as pool:
        process = server_process()
        before = sample(url, process)
        until = time.monotonic() + seconds
        visiting = [pool.submit(visit, url, known, seed, until, tally, lock) for seed in range(callers)]
        samples = list(watch(url, until, every_s))
        for each in visiting:
            each.result()
        time.sleep(2 * IDLE_SECONDS + 6)  # Kept-alive connections end after 5 s.
        after = sample(url, process)
    late = [(t, values) for t, values in samples if t >= WARM_UP * seconds]
    trends = {name: fit([t for t, _ in late], [values[name] for _, values in late]) for name in before}
    return {
        "seconds": seconds,
        "callers": callers,
        "visits": dict(tally.visits),
        "windows_checked": tally.windows,
        "failures": len(tally.failures),
        "first_failures": tally.failures[:5],
        "before": rounded(before),
        "after": rounded(after),
        "trends": {
            name: {**rounded(vars(trend)), "flat": trend.is_flat(ALLOWED_GROWTH[name])}
            for name, trend in trends.items()
        },
        "samples": [{"t_s": round(t, 1), **rounded(values)} for t, values in samples],
    }


def rounded(values: dict[str, float]) -> dict[str, float]:
    """To two places."""
    return {name: round(value, 2) for name, value in values.items()}


def main() -> None:
    """Run it, print it, and keep it as JSON if asked to; the exit status is 1 if anything was wrong or grew."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--callers", type=int, default=6)
    parser.add_argument("--json", type=Path, help="where to keep the result")
    arguments = parser.parse_args()
    seconds = arguments.minutes * 60
    found = {"machine": describe_machine(), **soak(seconds, arguments.callers, max(1.0, seconds / 400))}
    print(json.dumps({name: value for name, value in found.items() if name != "samples"}, indent=1))
    for name, trend in found["trends"].items():
        print(
            f"{name}: mean {trend['mean']}, slope {trend['per_hour']:+} an hour, 95 % between {trend['low']:+} and "
            f"{trend['high']:+}; {'flat' if trend['flat'] else 'GROWS'}"
        )
    if arguments.json:
        arguments.json.write_text(json.dumps(found, indent=1) + "\n")
    if found["failures"] or not all(trend["flat"] for trend in found["trends"].values()):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
