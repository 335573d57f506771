"""Replicas of the service behind the HAProxy that is shipped, a Redis between them, and streams that last.

All of them are real processes, and the streams go through the real client.
"""

from __future__ import annotations

import contextlib
import csv
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import httpx
from prometheus_client.parser import text_string_to_metric_families

from clients import Client
from clients.options import StreamOptions
from clients.results import Result
from models.events import EventBatch, SensorSize
from tests.service.harness import PATIENCE_S, REPOSITORY
from tests.service.real_servers import HOST, HaproxyProcess, RedisProcess, free_port, running_haproxy, running_redis

HAPROXY_CONFIG = REPOSITORY / "deploy" / "haproxy.cfg"
# Made once, which takes longer than a request; it keeps no connection to what may be gone at the next one.
get = httpx.Client(limits=httpx.Limits(max_keepalive_connections=0)).get
_SERVERS = re.compile(r"(?<=    # servers begin\n).*?(?=    # servers end\n)", re.DOTALL)


class Replica:
    """A ``python -m service`` on a port of its own; started again, it has the same address.

    Attributes
    ----------
    url : str
    """

    def __init__(self, name: str, folder: Path, settings: dict[str, object]) -> None:
        port = free_port()
        self.url = f"http://{HOST}:{port}"
        self._log = folder / f"{name}.log"
        self._environment = {**os.environ, "SPIKESEG_HOST": HOST, "SPIKESEG_PORT": str(port), "PYTHONUNBUFFERED": "1"}
        self._environment |= {f"SPIKESEG_{key.upper()}": str(value) for key, value in settings.items()}
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def running(self) -> bool:
        """Whether it has been started, and not stopped since."""
        return self._process is not None

    def start(self) -> None:
        """Start it; ``wait_until_ready`` tells when it serves."""
        assert self._process is None, "it runs already"
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "service"],
                cwd=REPOSITORY,
                env=self._environment,
                stdout=subprocess.DEVNULL,
                stderr=log,
            )

    def wait_until_ready(self) -> None:
        """Return once it says that it is ready."""
        process = self._process
        assert process is not None, "it does not run"

        def is_ready() -> bool:
            assert process.poll() is None, f"it ended with code {process.returncode}:\n{self.log()}"
            return get(f"{self.url}/v2/health/ready").status_code == 200

        wait_until(is_ready, "the replica becomes ready")

    def kill(self) -> None:
        """Make it vanish."""
        self._end(signal.SIGKILL)

    def terminate(self, meanwhile: Callable[[], object] = lambda: None) -> None:
        """Have it stop in order: it must end by itself, and well.

        Parameters
        ----------
        meanwhile : callable
            Called after the signal, before the end is waited for.
        """
        code = self._end(signal.SIGTERM, meanwhile)
        assert code == 0, f"exit code {code}:\n{self.log()}"

    def freeze(self) -> None:
        """Make it do nothing; its connections stay."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Let it go on."""
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    def health(self) -> dict[str, Any]:
        """What it says of itself when it is asked whether it is ready."""
        document: dict[str, Any] = get(f"{self.url}/v2/health/ready").json()
        return document

    def metric(self, name: str) -> float:
        """One of its metrics, over all labels; 0 if it does not run or has not counted yet."""
        if not self.running:
            return 0.0
        families = text_string_to_metric_families(get(f"{self.url}/metrics").text)
        return sum(sample.value for family in families for sample in family.samples if sample.name == name)

    def log(self) -> str:
        """What it has said since it was first started."""
        return self._log.read_text() if self._log.exists() else ""

    def _end(self, how: signal.Signals, meanwhile: Callable[[], object] = lambda: None) -> int:
        process, self._process = self._process, None
        assert process is not None, "it does not run"
        process.send_signal(how)
        process.send_signal(signal.SIGCONT)  # A frozen process would not notice.
        try:
            meanwhile()
            return process.wait(PATIENCE_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            raise


class Replicas:
    """The whole: replicas, HAProxy and Redis.

    Parameters
    ----------
    folder : Path
        Where Redis has its files.
    redis : RedisProcess
        It runs.
    haproxy : HaproxyProcess
    replicas : sequence of Replica

    Attributes
    ----------
    url : str
        Address of the service, which is HAProxy's.
    redis_url : str
    """

    def __init__(self, folder: Path, redis: RedisProcess, haproxy: HaproxyProcess, replicas: Sequence[Replica]) -> None:
        self.url, self._statistics = (f"http://{HOST}:{port}" for port in haproxy.ports)
        self.redis_url = redis.url
        self._folder = folder
        self._redis = redis
        self._redis_runs = True
        self._haproxy = haproxy
        self._replicas = tuple(replicas)

    def __len__(self) -> int:
        return len(self._replicas)

    def __getitem__(self, index: int) -> Replica:
        return self._replicas[index]

    def __iter__(self) -> Iterator[Replica]:
        return iter(self._replicas)

    def start(self, index: int) -> None:
        """Start a replica, at the address that it had before."""
        self[index].start()

    def kill(self, index: int) -> None:
        """``kill -9`` a replica."""
        self[index].kill()

    def terminate(self, index: int) -> None:
        """Send a replica SIGTERM and wait for its end, which must be a good one."""
        self[index].terminate()

    def wait_ready(self, index: int) -> None:
        """Return once a replica serves, and HAProxy has taken note."""
        self[index].wait_until_ready()
        wait_until(lambda: self.states()[index] == "UP", f"HAProxy finds replica {index}")

    def wait_all_ready(self) -> None:
        """Start whatever does not run; return once every replica serves, and has found Redis."""
        self.start_redis()
        for index, replica in enumerate(self):
            if not replica.running:
                self.start(index)
        for index in range(len(self)):
            self.wait_ready(index)
        wait_until(lambda: all(self.stores()), "the replicas find Redis")

    def kill_redis(self) -> None:
        """Make Redis vanish."""
        self._redis.kill()
        self._redis_runs = False

    def start_redis(self, *, empty: bool = False) -> None:
        """Start Redis if it does not run, with what it held, or ``empty``."""
        if self._redis_runs:
            return
        if empty:
            shutil.rmtree(self._folder / "appendonlydir")
        self._redis.start()
        self._redis_runs = True

    def stores(self) -> list[bool]:
        """Whether they find Redis, of the replicas that run."""
        return [replica.health()["store"]["available"] for replica in self if replica.running]

    def states(self) -> list[str]:
        """What HAProxy thinks of each replica: ``UP``, ``DOWN``, or on the way from one to the other."""
        return [row["status"] for row in self._rows()]

    def requests(self) -> list[int]:
        """How many requests and connections HAProxy has sent to each replica."""
        return [int(row["stot"]) for row in self._rows()]

    def which(self) -> int:
        """The replica that holds most connections; -1 if none holds any."""
        counts = [replica.metric("spikeseg_connections") for replica in self]
        return counts.index(max(counts)) if any(counts) else -1

    def logs(self) -> str:
        """What all of them have said."""
        return "\n".join([*(replica.log() for replica in self), self._haproxy.log()])

    def _rows(self) -> list[dict[str, str]]:
        text = get(f"{self._statistics}/;csv").text.removeprefix("# ")
        rows = {row["svname"]: row for row in csv.DictReader(text.splitlines()) if row["pxname"] == "replicas"}
        return [rows[server_name(index)] for index in range(len(self))]


@contextlib.contextmanager
def running_replicas(folder: Path, *, replicas: int = 2, **settings: object) -> Iterator[Replicas]:
    """Run replicas of the service, with HAProxy in front and Redis behind; all of them serve.

    Parameters
    ----------
    folder : Path
        For logs and data.
    replicas : int
    **settings
        Of the service.
    """
    with contextlib.ExitStack() as stack:
        redis = stack.enter_context(running_redis(folder, appendonly=True))
        settings = {"store_url": redis.url, "cores": 1, **settings}
        servers = [Replica(server_name(index), folder, settings) for index in range(replicas)]
        for server in servers:
            stack.callback(_kill_if_running, server)
            server.start()
        addresses = [server.url.removeprefix("http://") for server in servers]
        config = local_config(HAPROXY_CONFIG.read_text(), free_port(), free_port(), addresses)
        whole = Replicas(folder, redis, stack.enter_context(running_haproxy(config, folder)), servers)
        whole.wait_all_ready()
        yield whole


def _kill_if_running(replica: Replica) -> None:
    if replica.running:
        replica.kill()


def server_name(index: int) -> str:
    """What HAProxy calls a replica."""
    return f"spikeseg-{index + 1}"


def local_config(text: str, port: int, statistics_port: int, addresses: Sequence[str]) -> str:
    """The shipped configuration for this machine: other ports, and replicas at addresses that are known beforehand."""
    lines = [f"    server {server_name(index)} {address}\n" for index, address in enumerate(addresses)]
    for pattern, replacement in (
        (re.compile(r"(?<=^    bind ):8080$", re.MULTILINE), f"{HOST}:{port}"),
        (re.compile(r"(?<=^    bind )127\.0\.0\.1:8404$", re.MULTILINE), f"{HOST}:{statistics_port}"),
        (_SERVERS, "".join(lines)),
    ):
        text, found = pattern.subn(replacement, text)
        assert found == 1, f"the configuration has {found} places like {pattern.pattern}"
    return text


def wait_until(condition: Callable[[], bool], what: str, *, patience_s: float = PATIENCE_S) -> None:
    """Return once a condition holds; while nobody answers, it does not."""
    end = time.monotonic() + patience_s
    while time.monotonic() < end:
        with contextlib.suppress(httpx.TransportError):
            if condition():
                return
        time.sleep(0.05)
    raise AssertionError(f"waited in vain for this: {what}")


class LongStream:
    """A stream at the pace of a camera, through the client, until it is told to end.

    Parameters
    ----------
    pieces : callable
        Events without end; the same ones at every call.
    sensor : SensorSize
    window_us : int, optional
    options : StreamOptions, optional
    pace_s : float
        Time between two pieces, in seconds.

    Attributes
    ----------
    results : list of Result
        What has come so far.
    times : list of float
        When it came, on ``time.monotonic``.
    reconnects : int
    session : str
    """

    def __init__(
        self,
        pieces: Callable[[], Iterator[EventBatch]],
        sensor: SensorSize,
        *,
        window_us: int | None = None,
        options: StreamOptions | None = None,
        pace_s: float,
    ) -> None:
        self.results: list[Result] = []
        self.times: list[float] = []
        self.reconnects = 0
        self.session = ""
        self._pieces = pieces
        self._sensor = sensor
        self._window_us = window_us
        self._options = options
        self._pace_s = pace_s
        self._sent = 0
        self._enough = threading.Event()

    def run(self, url: str, *, timeout: float = PATIENCE_S) -> None:
        """Stream until ``end`` is called; whatever the client raises is raised."""
        with Client(url, timeout=timeout) as client:
            stream = client.stream(self._paced(), self._sensor, window_us=self._window_us, options=self._options)
            self.session = stream.session.id
            for result in stream:
                self.results.append(result)
                self.times.append(time.monotonic())
                self.reconnects = stream.reconnects

    def end(self) -> None:
        """Send no further events."""
        self._enough.set()

    def expected(self, url: str) -> list[Result]:
        """What the same events give when nothing happens to their stream."""
        pieces = islice(self._pieces(), self._sent)
        with Client(url, timeout=PATIENCE_S) as client:
            return list(client.stream(pieces, self._sensor, window_us=self._window_us, options=self._options))

    def _paced(self) -> Iterator[EventBatch]:
        for piece in self._pieces():
            self._sent += 1
            yield piece
            if self._enough.wait(self._pace_s):
                return


def result_key(result: Result) -> tuple[Any, ...]:
    """All that must be the same however often a stream has moved; membranes show in the spikes."""
    span = (result.window, result.windows, result.t_start, result.t_end, result.events, result.skipped)
    return (*span, result.mask.tobytes(), result.activity)
