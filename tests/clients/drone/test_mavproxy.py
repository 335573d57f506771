"""The companion behind MAVProxy, the router that most drones have between their links: a real process of it."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import queue
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

import pytest

from tests.service.harness import PATIENCE_S, REPOSITORY
from tests.service.replicas import Replica

os.environ["MAVLINK20"] = "1"
mavutil = pytest.importorskip("pymavlink.mavutil", reason="pymavlink is not installed: pip install 'spikeseg[drone]'")

from tests.clients.drone.test_companion import DEMO, GEOMETRY, UNKNOWN, free_port  # noqa: E402

MAVPROXY = shutil.which("mavproxy.py", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
pytestmark = pytest.mark.skipif(
    MAVPROXY is None or importlib.util.find_spec("serial") is None,
    reason="MAVProxy is not installed: pip install --no-deps MAVProxy, and pip install 'spikeseg[drone]'",
)
COMPANION = 191


class FlightController:
    """An autopilot: it says that it is there, and hears all the time what is sent to it."""

    def __init__(self, port: int) -> None:
        self.connection: Any = mavutil.mavlink_connection(
            f"udpin:127.0.0.1:{port}", source_system=1, source_component=1, dialect="common"
        )
        self._heard: queue.Queue[Any] = queue.Queue()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def wait(self, kind: str, condition: Callable[[Any], bool] = lambda _: True) -> Any:
        """The next message of a kind from the companion for which the condition holds."""
        end = time.monotonic() + PATIENCE_S
        while time.monotonic() < end:
            with contextlib.suppress(queue.Empty):
                message = self._heard.get(timeout=1.0)
                if message.get_type() == kind and condition(message):
                    return message
        raise AssertionError(f"no such {kind} came")

    def forget(self) -> None:
        """Let go of what has come already."""
        with contextlib.suppress(queue.Empty):
            while True:
                self._heard.get_nowait()

    def close(self) -> None:
        self._over.set()
        self._thread.join()
        self.connection.close()

    def _run(self) -> None:
        names = mavutil.mavlink
        next_beat = 0.0
        while not self._over.is_set():
            # It is heard by whoever was heard before: udpin has no other address.
            if time.monotonic() >= next_beat:
                self.connection.mav.heartbeat_send(names.MAV_TYPE_QUADROTOR, names.MAV_AUTOPILOT_ARDUPILOTMEGA, 0, 0, 4)
                next_beat = time.monotonic() + 0.2
            message = self.connection.recv_match(blocking=True, timeout=0.1)
            if message is not None and message.get_srcComponent() == COMPANION:
                self._heard.put(message)


@contextmanager
def mavproxy(folder: Path, master: str, out: str) -> Iterator[None]:
    """Run MAVProxy without a screen or modules, until left; then it is killed."""
    command = [sys.executable, str(MAVPROXY), f"--master={master}", f"--out={out}", "--mav20", "--nowait"]
    command += ["--daemon", "--non-interactive", "--default-modules=", f"--state-basedir={folder}"]
    with (folder / "mavproxy.log").open("ab") as log:
        process = subprocess.Popen(command, cwd=folder, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
    try:
        yield
        assert process.poll() is None, (folder / "mavproxy.log").read_text()
    finally:
        process.kill()
        process.wait()


@contextmanager
def companion(url: str, device: str, log: Path) -> Iterator[subprocess.Popen[bytes]]:
    command = [sys.executable, "-m", "clients.drone", str(DEMO), "--loop", "--url", url, "--mavlink", device, *GEOMETRY]
    with log.open("ab") as stderr:
        process = subprocess.Popen(command, cwd=REPOSITORY, stderr=stderr)
    try:
        yield process
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(PATIENCE_S)
        except subprocess.TimeoutExpired:
            process.kill()
            raise
    assert process.returncode == 0, log.read_text()
    assert "Traceback" not in log.read_text(), log.read_text()


def wait_for(log: Path, text: str) -> None:
    end = time.monotonic() + PATIENCE_S
    while text not in log.read_text():
        assert time.monotonic() < end, log.read_text()
        time.sleep(0.05)


@pytest.mark.parametrize("side", ["master", "out"])
def test_all_comes_through_mavproxy_also_after_it_was_gone(
    replica: Replica,
    tmp_path: Path,
    side: str,
) -> None:
    """The companion is one of MAVProxy's masters, or one of its outputs, beside the ground station."""
    far, near = free_port(), free_port()
    controller = FlightController(far)
    if side == "master":
        device, ends = f"udpout:127.0.0.1:{near}", (f"udpin:127.0.0.1:{near}", f"udpout:127.0.0.1:{far}")
    else:
        device, ends = f"udpin:127.0.0.1:{near}", (f"udpout:127.0.0.1:{far}", f"udpout:127.0.0.1:{near}")
    log = tmp_path / "companion.log"
    try:
        with companion(replica.url, device, log) as process:
            with mavproxy(tmp_path, *ends):
                heartbeat = controller.wait("HEARTBEAT", lambda m: m.system_status == mavutil.mavlink.MAV_STATE_ACTIVE)
                assert heartbeat.type == mavutil.mavlink.MAV_TYPE_ONBOARD_CONTROLLER
                assert heartbeat.get_srcSystem() == 1
                distances = controller.wait("OBSTACLE_DISTANCE", lambda m: set(m.distances) != {UNKNOWN})
                assert len(distances.distances) == 72
                # Extensions of MAVLink 2, which a router that knows only the first version would cut off.
                assert distances.frame == mavutil.mavlink.MAV_FRAME_BODY_FRD
                assert distances.increment_f > 0
                wait_for(log, "the flight controller is heard")

            wait_for(log, "the flight controller is not heard any more")
            assert process.poll() is None
            controller.forget()

            with mavproxy(tmp_path, *ends):
                wait_for(log, "the flight controller is heard again")
                controller.wait("OBSTACLE_DISTANCE", lambda m: set(m.distances) != {UNKNOWN})
                replica.kill()
                text = controller.wait("STATUSTEXT", lambda m: m.severity == mavutil.mavlink.MAV_SEVERITY_CRITICAL)
                assert text.text.startswith("segmentation")
                controller.wait("OBSTACLE_DISTANCE", lambda m: set(m.distances) == {UNKNOWN})
                controller.wait("HEARTBEAT", lambda m: m.system_status == mavutil.mavlink.MAV_STATE_CRITICAL)
                replica.start()
                controller.wait("STATUSTEXT", lambda m: "back" in m.text)
    finally:
        controller.close()
