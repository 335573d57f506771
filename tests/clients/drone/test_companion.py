"""The companion as a drone runs it: a real process, a real service, and a flight controller at the end of real UDP."""

from __future__ import annotations

import os
import select
import signal
import socket
import subprocess
import sys
import time
import tty
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from tests.service.harness import PATIENCE_S, REPOSITORY
from tests.service.replicas import Replica

os.environ["MAVLINK20"] = "1"
mavutil = pytest.importorskip("pymavlink.mavutil", reason="pymavlink is not installed: pip install 'spikeseg[drone]'")

DEMO = REPOSITORY / "service" / "demo" / "street.aedat4"
UNKNOWN = 0xFFFF


def free_port() -> int:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class FlightController:
    """Hears what is sent to a port."""

    def __init__(self, port: int) -> None:
        self.connection: Any = mavutil.mavlink_connection(f"udpin:127.0.0.1:{port}", dialect="common")

    def wait(self, kind: str, condition: Callable[[Any], bool] = lambda _: True) -> Any:
        """The next message of a kind for which the condition holds."""
        end = time.monotonic() + PATIENCE_S
        while time.monotonic() < end:
            message = self.connection.recv_match(type=kind, blocking=True, timeout=1.0)
            if message is not None and condition(message):
                return message
        raise AssertionError(f"no such {kind} came")

    def close(self) -> None:
        self.connection.close()


@contextmanager
def companion(url: str, port: int, *options: str) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-m", "clients.drone", str(DEMO), "--loop", "--url", url]
    command += ["--mavlink", f"udpout:127.0.0.1:{port}", *options]
    process = subprocess.Popen(command, cwd=REPOSITORY, stderr=subprocess.PIPE, text=True)
    try:
        yield process
    finally:
        process.send_signal(signal.SIGTERM)
        _, said = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 0, said
    assert "Traceback" not in said, said


GEOMETRY = ("--height", "1.5", "--pitch", "5", "--hfov", "70", "--age-limit", "2.0")


def test_a_flight_controller_is_told_what_the_service_sees_and_when_it_sees_nothing(replica: Replica) -> None:
    port = free_port()
    controller = FlightController(port)
    with companion(replica.url, port, *GEOMETRY):
        heartbeat = controller.wait("HEARTBEAT", lambda m: m.system_status == mavutil.mavlink.MAV_STATE_ACTIVE)
        assert heartbeat.type == mavutil.mavlink.MAV_TYPE_ONBOARD_CONTROLLER
        assert (heartbeat.get_srcSystem(), heartbeat.get_srcComponent()) == (1, 191)
        distances = controller.wait("OBSTACLE_DISTANCE", lambda m: set(m.distances) != {UNKNOWN})
        assert len(distances.distances) == 72
        assert distances.frame == mavutil.mavlink.MAV_FRAME_BODY_FRD
        assert (distances.min_distance, distances.max_distance) == (50, 3000)
        assert distances.increment_f == pytest.approx(70 / 72, rel=0.05)
        assert distances.angle_offset == pytest.approx(-35, abs=1)
        assert all(50 <= d <= 3001 or d == UNKNOWN for d in distances.distances)
        occupied = controller.wait("DEBUG_FLOAT_ARRAY")
        assert occupied.name == "segclass"
        assert occupied.array_id == 48
        assert sum(occupied.data[:6]) == pytest.approx(1, abs=1e-5)

        replica.kill()
        text = controller.wait("STATUSTEXT")
        assert text.severity == mavutil.mavlink.MAV_SEVERITY_CRITICAL
        assert text.text.startswith("segmentation")
        for _ in range(5):
            assert set(controller.wait("OBSTACLE_DISTANCE").distances) == {UNKNOWN}
        controller.wait("HEARTBEAT", lambda m: m.system_status == mavutil.mavlink.MAV_STATE_CRITICAL)

        replica.start()
        assert controller.wait("STATUSTEXT", lambda m: "back" in m.text)
        controller.wait("OBSTACLE_DISTANCE", lambda m: set(m.distances) != {UNKNOWN})
    controller.close()


def test_a_link_that_goes_away_and_comes_back(server: str) -> None:
    port = free_port()
    with companion(server, port, *GEOMETRY) as process:
        for _ in range(2):
            controller = FlightController(port)
            controller.wait("OBSTACLE_DISTANCE", lambda m: set(m.distances) != {UNKNOWN})
            controller.close()
            time.sleep(1.0)
            assert process.poll() is None


def test_a_flight_controller_at_a_serial_line(server: str) -> None:
    pytest.importorskip("serial", reason="pyserial is not installed: pip install 'spikeseg[drone]'")
    controller, line = os.openpty()
    tty.setraw(line)
    command = [sys.executable, "-m", "clients.drone", str(DEMO), "--loop", "--url", server]
    command += ["--mavlink", os.ttyname(line), "--baud", "115200", *GEOMETRY]
    process = subprocess.Popen(command, cwd=REPOSITORY, stderr=subprocess.PIPE, text=True)
    parser = mavutil.mavlink.MAVLink(None)
    heard: set[str] = set()
    end = time.monotonic() + PATIENCE_S
    try:
        while not heard >= {"HEARTBEAT", "OBSTACLE_DISTANCE", "DEBUG_FLOAT_ARRAY"} and time.monotonic() < end:
            if select.select([controller], [], [], 1.0)[0]:
                heard |= {message.get_type() for message in parser.parse_buffer(os.read(controller, 4096)) or ()}
    finally:
        # A cable that is pulled out keeps nothing from ending.
        os.close(controller)
        process.send_signal(signal.SIGTERM)
        _, said = process.communicate(timeout=PATIENCE_S)
        os.close(line)
    assert heard >= {"HEARTBEAT", "OBSTACLE_DISTANCE", "DEBUG_FLOAT_ARRAY"}, said
    assert process.returncode == 0, said
    assert "Traceback" not in said, said


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ((), "distances need --height and --pitch"),
        (("--height", "1", "--pitch", "0"), "distances need the camera's --hfov"),
        (("--height", "-1", "--pitch", "0", "--hfov", "60"), "height above the ground must be above 0"),
        (("--no-distances", "--model", "nothing"), "no network 'nothing'; there are: "),
        (("--height", "1", "--pitch", "0", "--hfov", "60", "--obstacles", "tree"), "no class 'tree'; there are: flat"),
    ],
)
def test_what_cannot_be_flown_with_is_refused_at_once(server: str, options: tuple[str, ...], message: str) -> None:
    command = [sys.executable, "-m", "clients.drone", str(DEMO), "--url", server, "--mavlink", "udpout:127.0.0.1:9"]
    found = subprocess.run([*command, *options], cwd=REPOSITORY, capture_output=True, text=True, timeout=PATIENCE_S)
    assert found.returncode == 1
    assert message in found.stderr
    assert "Traceback" not in found.stderr
