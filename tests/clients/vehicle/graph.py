"""A graph of ROS 1 for tests: a real master, and nodes in processes of their own."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from xmlrpc.client import ServerProxy

from models.events import EventBatch
from tests.service.harness import PATIENCE_S, REPOSITORY
from tests.service.real_servers import free_port

SYSTEM_PYTHON = "/usr/bin/python3"
NODES = Path(__file__).parent


def missing() -> str | None:
    """What of ROS 1 is not installed, or None."""
    if shutil.which("rosmaster") is None:
        return "rosmaster is not installed: apt-get install python3-rosmaster"
    needed = "import rospy, genpy.dynamic, sensor_msgs.msg, diagnostic_msgs.msg"
    if subprocess.run([SYSTEM_PYTHON, "-c", needed], capture_output=True).returncode:
        return "rospy is not installed: apt-get install python3-rospy python3-sensor-msgs python3-diagnostic-msgs"
    return None


class Node:
    """A process that writes lines of JSON, and may read some."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        self.lines: list[dict[str, Any]] = []
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.lines.append(json.loads(line) if line.startswith("{") else {"kind": "text", "text": line.strip()})

    def of(self, kind: str) -> list[dict[str, Any]]:
        """What has come of a kind."""
        return [line for line in self.lines if line["kind"] == kind]

    def wait(self, kind: str, condition: Callable[[dict[str, Any]], bool] = lambda _: True, after: int = 0) -> Any:
        """The first line of a kind, from the given one on, for which the condition holds."""
        end = time.monotonic() + PATIENCE_S
        while time.monotonic() < end:
            for line in self.lines[after:]:
                if line["kind"] == kind and condition(line):
                    return line
            time.sleep(0.01)
        raise AssertionError(f"no such {kind} has come, but {[str(line)[:300] for line in self.lines[-5:]]}")

    def write(self, **fields: Any) -> None:
        """Have the camera publish a message."""
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(fields) + "\n")
        self.process.stdin.flush()

    def send(self, events: EventBatch, stamp: int | None = None) -> None:
        """Have the camera publish events."""
        rows = [list(map(int, row)) for row in zip(events.t, events.x, events.y, events.p, strict=True)]
        self.write(stamp=rows[0][0] if stamp is None else stamp, events=rows)


class Graph:
    """A master on a port of its own.

    Attributes
    ----------
    environment : dict
        For nodes.
    """

    def __init__(self, folder: Path) -> None:
        self._port = free_port()
        self.environment = {
            **os.environ,
            "ROS_MASTER_URI": f"http://127.0.0.1:{self._port}",
            "ROS_IP": "127.0.0.1",
            "ROS_HOME": str(folder),
            "ROS_LOG_DIR": str(folder / "log"),
            "PYTHONUNBUFFERED": "1",
        }
        self._master = subprocess.Popen(
            ["rosmaster", "--core", "-p", str(self._port)],
            env=self.environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )

    def wait_until_ready(self) -> None:
        """Return once the master answers."""
        ask = "import rosgraph, sys; sys.exit(not rosgraph.is_master_online())"
        end = time.monotonic() + PATIENCE_S
        while time.monotonic() < end:
            if not subprocess.run([SYSTEM_PYTHON, "-c", ask], env=self.environment).returncode:
                return
        raise AssertionError("the master does not answer")

    @contextmanager
    def node(self, script: str, *arguments: str) -> Iterator[Node]:
        """Run a script by the system's Python: one beside this file, or one with its whole path."""
        process = subprocess.Popen(
            [SYSTEM_PYTHON, str(NODES / script), *arguments],  # An absolute path stays as it is.
            env={key: value for key, value in self.environment.items() if key != "PYTHONPATH"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        node = Node(process)
        try:
            yield node
        finally:
            process.kill()
            process.wait()
            for stream in (process.stdin, process.stdout):
                assert stream is not None
                stream.close()

    @contextmanager
    def bridge_that_ends(self, *arguments: str) -> Iterator[Callable[[], str]]:
        """Run ``python -m clients.vehicle``; what is given waits for its end, with an error, and is what it said."""
        process = self._start_bridge(*arguments)

        def wait() -> str:
            _, said = process.communicate(timeout=PATIENCE_S)
            assert process.returncode == 1, said
            assert "Traceback" not in said, said
            return said

        try:
            yield wait
        finally:
            if process.poll() is None:
                process.kill()
                process.communicate()

    @contextmanager
    def bridge(self, *arguments: str) -> Iterator[subprocess.Popen[str]]:
        """Run ``python -m clients.vehicle``; it must end well when it is told to."""
        process = self._start_bridge(*arguments)
        try:
            yield process
        finally:
            process.send_signal(signal.SIGTERM)
            try:
                _, said = process.communicate(timeout=PATIENCE_S)
            except subprocess.TimeoutExpired:
                process.kill()
                raise
            print(said, file=sys.stderr)
        assert process.returncode == 0, said
        assert "Traceback" not in said, said

    def _start_bridge(self, *arguments: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "clients.vehicle", *arguments]
        return subprocess.Popen(command, cwd=REPOSITORY, env=self.environment, stderr=subprocess.PIPE, text=True)

    def kill(self, name: str) -> None:
        """Do what ``rosnode kill`` does."""
        found: Any = ServerProxy(self.environment["ROS_MASTER_URI"]).lookupNode("/test", name)
        # A node may be gone before it has answered.
        with contextlib.suppress(OSError):
            ServerProxy(found[2]).shutdown("/test", "enough")

    def close(self) -> None:
        """End the master."""
        self._master.terminate()
        self._master.wait(PATIENCE_S)
