"""The bridge in a graph of ROS 1: a real master, a camera and a listener by rospy, the real bridge and service."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from clients import Client
from clients.results import Result
from clients.sources import open_source, play
from clients.sources.evt import encode_evt3
from models.events import EventBatch, SensorSize
from tests.clients.vehicle import graph as ros1
from tests.clients.vehicle.graph import Graph, Node
from tests.service.harness import PATIENCE_S, REPOSITORY, SENSOR, WINDOW_US, random_events
from tests.service.replicas import Replica

_MISSING = ros1.missing()
pytestmark = pytest.mark.skipif(_MISSING is not None, reason=str(_MISSING))

DEMO = REPOSITORY / "service" / "demo" / "street.aedat4"
# ROS time: today, not the beginning of a recording.
EPOCH_US = 1_700_000_000_000_000
ARRAY, PACKET = "dvs_msgs/EventArray", "event_camera_msgs/EventPacket"
LABELS = "/seen/labels"
OK, WARN, ERROR = 0, 1, 2


@pytest.fixture
def graph(tmp_path: Path) -> Iterator[Graph]:
    graph = Graph(tmp_path)
    graph.wait_until_ready()
    yield graph
    graph.close()


@pytest.fixture
def replica(tmp_path: Path) -> Iterator[Replica]:
    replica = Replica("ros1", tmp_path, {})
    replica.start()
    replica.wait_until_ready()
    yield replica
    if replica.running:
        replica.kill()


def options(url: str, *, age_limit_s: float = PATIENCE_S) -> tuple[str, ...]:
    return ("ros1:///dvs/events", "--ros1", LABELS, "--url", url, "--age-limit", str(age_limit_s))


def at(events: EventBatch, us: int) -> EventBatch:
    return EventBatch(events.t + us, events.x, events.y, events.p)


def windows(first: int, count: int, window_us: int = WINDOW_US) -> list[EventBatch]:
    """Events of so many windows, from a given one on."""
    start = EPOCH_US - EPOCH_US % window_us
    return [random_events(n, windows=1, start_us=start + n * window_us) for n in range(first, first + count)]


def demo(count: int, window_us: int) -> tuple[SensorSize, list[EventBatch]]:
    """The beginning of the demo recording, as if it happened at ``EPOCH_US``, thinned so that JSON can carry it."""
    with open_source(DEMO) as source:
        shift = EPOCH_US - EPOCH_US % window_us
        batches = list(play(source, duration_us=count * window_us, chunk_us=window_us))
        return source.sensor, [at(batch[::4], shift) for batch in batches[:count]]


def direct(url: str, batches: list[EventBatch], sensor: SensorSize, window_us: int) -> dict[int, Result]:
    """What the SDK is told for the same events, by the end of the window."""
    with Client(url) as client:
        return {result.t_end: result for result in client.stream(batches, sensor, window_us=window_us)}


def feed(camera: Node, listener: Node, batches: list[EventBatch], window_us: int = WINDOW_US) -> None:
    """Publish windows, each once the one before has been answered, so that none is left out."""
    camera.wait("ready")
    camera.send(batches[0])
    # Only events tell the bridge how large its sensor is; then it publishes.
    listener.wait("connected")
    listener.wait("info")
    for batch in batches[1:]:
        camera.send(batch)
        wait_for_image(listener, batch, window_us)


def wait_for_image(listener: Node, following: EventBatch, window_us: int = WINDOW_US) -> None:
    """Return once the window has been answered that the first of these events ends."""
    end = int(following.t[0]) // window_us * window_us
    listener.wait("image", lambda image: image["stamp"] == end)


def test_labels_of_the_demo_are_those_that_the_sdk_gets_with_the_sensors_stamps_and_frame(
    graph: Graph, server: str
) -> None:
    window_us = 50_000
    sensor, batches = demo(6, window_us)
    expected = direct(server, batches, sensor, window_us)
    size = (str(sensor.width), str(sensor.height))
    with (
        graph.node("ros1_listener.py", LABELS) as listener,
        graph.node("ros1_camera.py", "/dvs/events", ARRAY, "davis", *size) as camera,
        graph.bridge(*options(server), "--window-us", str(window_us)),
    ):
        feed(camera, listener, batches, window_us)
        images = listener.of("image")
        # Who comes late is told what the labels mean all the same.
        with graph.node("ros1_listener.py", LABELS) as late:
            info = late.wait("info")
    assert len(images) >= len(batches) - 1
    for image in images:
        result = expected[image["stamp"]]
        assert bytes.fromhex(image["data"]) == result.mask.tobytes()
        assert (image["width"], image["height"], image["step"]) == (sensor.width, sensor.height, sensor.width)
        assert (image["encoding"], image["frame_id"]) == ("mono8", "davis")
    assert len({image["stamp"] for image in images}) == len(images)
    assert info["latched"] == "1"
    assert info["classes"]["5"] == "vehicle"
    assert info["classes"]["255"] == "UNLABELED"
    assert {str(item["id"]): item["name"] for item in info["parameter"]} == info["classes"]
    assert info["frame_id"] == "davis"


def mono(events: EventBatch) -> dict[str, object]:
    """A packet as ``event_camera_codecs`` lays out ``mono``."""
    base = int(events.t[0])
    words = (events.t - base).astype(np.uint64) * np.uint64(1000)
    words |= events.x.astype(np.uint64) << np.uint64(32) | events.y.astype(np.uint64) << np.uint64(48)
    words |= events.p.astype(np.uint64) << np.uint64(63)
    return {"stamp": base, "time_base": base * 1000, "packet": "mono", "data": words.astype("<u8").tobytes().hex()}


@pytest.mark.parametrize("encoding", ["mono", "evt3"])
def test_packets_of_event_camera_msgs_are_read_too(graph: Graph, server: str, encoding: str) -> None:
    batches = windows(0, 5)
    expected = direct(server, batches, SENSOR, WINDOW_US)
    first = int(batches[0].t[0])
    # The camera's own clock began a second before its first event.
    high: int | None = None
    with (
        graph.node("ros1_listener.py", LABELS) as listener,
        graph.node("ros1_camera.py", "/dvs/events", PACKET, "prophesee", "64", "48") as camera,
        graph.bridge(*options(server), "--window-us", str(WINDOW_US)),
    ):
        camera.wait("ready")
        for number, batch in enumerate(batches):
            if encoding == "mono":
                camera.write(**mono(batch))
            else:
                data, high = encode_evt3(at(batch, 1_000_000 - first), high)
                camera.write(stamp=int(batch.t[0]), time_base=0, packet="evt3", data=data.hex())
            if number == 0:
                listener.wait("connected")
                listener.wait("info")
            else:
                wait_for_image(listener, batch)
        images = listener.of("image")
    assert len(images) >= 4
    for image in images:
        assert bytes.fromhex(image["data"]) == expected[image["stamp"]].mask.tobytes()
        assert image["frame_id"] == "prophesee"


class Shooting:
    """Has the camera publish one window after the other, for as long as it is entered."""

    def __init__(self, camera: Node) -> None:
        self._camera = camera
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def _run(self) -> None:
        number = 0
        while not self._over.wait(0.1):
            self._camera.send(windows(number, 1)[0])
            number += 1

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()


def test_the_loss_of_the_service_is_told_and_so_is_its_return(graph: Graph, replica: Replica) -> None:
    with (
        graph.node("ros1_listener.py", LABELS) as listener,
        graph.node("ros1_camera.py", "/dvs/events", ARRAY, "davis", "64", "48") as camera,
        graph.bridge(*options(replica.url, age_limit_s=2.0), "--window-us", str(WINDOW_US), "__name:=front"),
    ):
        camera.wait("ready")
        with Shooting(camera):
            listener.wait("image")
            status = listener.wait("status", lambda s: s["level"] == OK)
            assert status["name"] == "front: segmentation"
            assert float(status["values"]["mask_age_s"]) <= 2.0

            replica.kill()
            seen = len(listener.lines)
            lost = listener.wait("status", lambda s: s["level"] == ERROR, after=seen)
            assert lost["message"].startswith("segmentation degraded") or lost["message"] == "no mask in time"
            assert float(lost["values"]["mask_age_s"]) >= 2.0
            seen = len(listener.lines)
            # It is said again and again.
            assert [listener.wait("status", after=seen)["level"]] == [ERROR]
            assert not [line for line in listener.lines[seen:] if line["kind"] == "image"]

            replica.start()
            listener.wait("status", lambda s: s["level"] == OK, after=seen)
            listener.wait("image", after=seen)
        seen = len(listener.lines)
        silent = listener.wait("status", lambda s: s["level"] == WARN, after=seen)
        assert silent["message"] == "the camera is silent: no events come"


def test_a_service_that_starts_after_the_bridge_is_found(graph: Graph, tmp_path: Path) -> None:
    replica = Replica("late", tmp_path, {})
    recording = (str(DEMO), "--loop", "--ros1", LABELS, "--url", replica.url, "--age-limit", str(PATIENCE_S))
    with graph.node("ros1_listener.py", LABELS) as listener, graph.bridge(*recording):
        away = listener.wait("status", lambda s: s["level"] == ERROR)
        assert away["message"].startswith("segmentation closed: ")
        replica.start()
        try:
            listener.wait("image")
            listener.wait("status", lambda s: s["level"] == OK)
        finally:
            replica.kill()


def test_masks_that_a_hanging_service_gives_late_are_left_out_and_counted(graph: Graph, replica: Replica) -> None:
    with (
        graph.node("ros1_listener.py", LABELS) as listener,
        graph.node("ros1_camera.py", "/dvs/events", ARRAY, "davis", "64", "48") as camera,
        graph.bridge(*options(replica.url, age_limit_s=2.0), "--window-us", str(WINDOW_US)),
    ):
        camera.wait("ready")
        with Shooting(camera):
            listener.wait("image")
            listener.wait("status", lambda s: s["level"] == OK)
            replica.freeze()
            # Until all that the service holds is too old.
            listener.wait("status", lambda s: s["level"] == ERROR and float(s["values"]["mask_age_s"]) > 5.0)
            seen = len(listener.lines)
            replica.thaw()
            back = listener.wait("status", lambda s: s["level"] == OK, after=seen)
            assert int(back["values"]["masks_too_old"]) > 0
            listener.wait("image", after=seen)


def test_late_events_are_left_out_and_a_clock_that_goes_back_begins_anew(graph: Graph, server: str) -> None:
    batches = windows(5_000, 4)
    earlier = windows(0, 4)
    with (
        graph.node("ros1_listener.py", LABELS) as listener,
        graph.node("ros1_camera.py", "/dvs/events", ARRAY, "davis", "64", "48") as camera,
        graph.bridge(*options(server), "--window-us", str(WINDOW_US)),
    ):
        feed(camera, listener, batches)
        camera.send(at(batches[-1], -10_000)[:100])
        # As a bag that is played again: the first window waits for the second one.
        camera.send(earlier[0])
        for batch in earlier[1:]:
            camera.send(batch)
            wait_for_image(listener, batch)
        images = {image["stamp"]: bytes.fromhex(image["data"]) for image in listener.of("image")}
    for part in (batches, earlier):
        expected = direct(server, part, SENSOR, WINDOW_US)
        common = images.keys() & expected.keys()
        assert len(common) >= 3
        for stamp in common:
            assert images[stamp] == expected[stamp].mask.tobytes()


def test_the_example_of_a_listener(graph: Graph, server: str) -> None:
    example = REPOSITORY / "clients" / "examples" / "ros1_labels.py"
    with (
        graph.node(str(example), LABELS) as listener,
        graph.bridge(str(DEMO), "--loop", "--ros1", LABELS, "--url", server, "--age-limit", str(PATIENCE_S)),
    ):
        listener.wait("text", lambda line: line["text"].endswith("% human") and " event_camera: " in line["text"])
        listener.wait("text", lambda line: line["text"] == "-- ok: masks are fresh")


def test_a_python_without_ros_1_is_told_what_to_install(tmp_path: Path) -> None:
    code = (
        "import sys, pathlib; from clients.vehicle import ros1, __main__ as program;"
        f"ros1.DEBIAN = pathlib.Path({str(tmp_path)!r});"
        f"sys.exit(program.main([{str(DEMO)!r}, '--ros1', '/labels']))"
    )
    found = subprocess.run(
        [sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, timeout=PATIENCE_S, check=False
    )
    assert found.returncode == 1
    assert "error: ROS 1 needs rospy, which this Python does not find: source ROS's setup.bash, or" in found.stderr
    assert "apt-get install python3-rospy python3-sensor-msgs python3-diagnostic-msgs" in found.stderr
    assert "Traceback" not in found.stderr


def test_a_node_that_ros_shuts_down_ends_and_says_why(graph: Graph, server: str) -> None:
    recording = (str(DEMO), "--loop", "--ros1", LABELS, "--url", server)
    with graph.node("ros1_listener.py", LABELS) as listener, graph.bridge_that_ends(*recording) as its_end:
        listener.wait("image")
        graph.kill("/spikeseg")
        assert "error: ROS has shut this node down" in its_end()


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("other_msgs/Events", "/dvs/events has messages of other_msgs/Events; dvs_msgs/EventArray and"),
        ("dvs_msgs/EventArray (old)", "/dvs/events has dvs_msgs/EventArray in another layout, md5sum"),
    ],
)
def test_messages_that_cannot_be_read_are_named(graph: Graph, server: str, kind: str, message: str) -> None:
    with (
        graph.node("ros1_camera.py", "/dvs/events", kind, "davis", "64", "48") as camera,
        graph.bridge_that_ends(*options(server)) as its_end,
    ):
        camera.wait("ready")
        camera.send(windows(0, 1)[0])
        assert message in its_end()


def test_without_a_master_the_bridge_says_what_to_start(tmp_path: Path) -> None:
    environment = {**os.environ, "ROS_MASTER_URI": "http://127.0.0.1:9", "ROS_HOME": str(tmp_path)}
    command = [sys.executable, "-m", "clients.vehicle", str(DEMO), "--ros1", LABELS]
    found = subprocess.run(
        command, cwd=REPOSITORY, env=environment, capture_output=True, text=True, timeout=PATIENCE_S, check=False
    )
    assert found.returncode == 1
    assert "error: no ROS master answers at http://127.0.0.1:9 (ROS_MASTER_URI): start roscore" in found.stderr
    assert "Traceback" not in found.stderr
