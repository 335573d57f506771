"""The bridges as a vehicle runs them: real processes, a real service, and another participant of DDS and of Zenoh."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest

from clients import Client
from clients.cutting import cut
from clients.sources import open_source
from clients.sources.evt import encode_evt3
from models.events import EventBatch
from service.wire.events import encode_packet
from tests.service.harness import PATIENCE_S, REPOSITORY, SENSOR, WINDOW_US, random_events

pytest.importorskip("cyclonedds", reason="cyclonedds is not installed: pip install 'spikeseg[vehicle]'")
zenoh = pytest.importorskip("zenoh", reason="eclipse-zenoh is not installed: pip install 'spikeseg[vehicle]'")

from cyclonedds.domain import DomainParticipant  # noqa: E402
from cyclonedds.pub import DataWriter, Publisher  # noqa: E402
from cyclonedds.qos import Policy, Qos  # noqa: E402
from cyclonedds.sub import DataReader, Subscriber  # noqa: E402
from cyclonedds.topic import Topic  # noqa: E402

from clients.vehicle.ros import RosEvents  # noqa: E402
from clients.vehicle.ros_types import (  # noqa: E402
    DiagnosticArray,
    EventPacket,
    Header,
    Image,
    LabelInfo,
    pack_events,
    stamp,
)

EVENTS = random_events(71, windows=8)
RELIABLE = Policy.Reliability.Reliable(max_blocking_time=100_000_000)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def bridge(*arguments: str) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-m", "clients.vehicle", *arguments, "--age-limit", str(PATIENCE_S)]
    process = subprocess.Popen(command, cwd=REPOSITORY, env=os.environ, stderr=subprocess.PIPE, text=True)
    try:
        yield process
    finally:
        process.send_signal(signal.SIGTERM)
        _, said = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 0, said
    assert "Traceback" not in said, said


def wait_for(find: Callable[[], Any]) -> Any:
    end = time.monotonic() + PATIENCE_S
    while time.monotonic() < end:
        if found := find():
            return found
        time.sleep(0.01)
    raise AssertionError("nothing has come")


@contextmanager
def sending(send: Callable[[int], object], interval_s: float = 0.05) -> Iterator[None]:
    """Call with 0, 1, 2, … from another thread, until left."""
    over = threading.Event()

    def run() -> None:
        number = 0
        while not over.wait(interval_s):
            send(number)
            number += 1

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def test_a_ros_graph_gets_labels_for_its_events_with_the_sensors_stamps(server: str) -> None:
    domain = free_port() % 200 + 10
    participant = DomainParticipant(domain)
    writer = DataWriter(Publisher(participant), Topic(participant, "rt/camera/events", EventPacket), qos=Qos(RELIABLE))
    images = DataReader(
        Subscriber(participant), Topic(participant, "rt/seen/labels", Image), qos=Qos(RELIABLE, Policy.History.KeepAll)
    )

    def send(number: int) -> None:
        part = random_events(number, windows=1, start_us=number * WINDOW_US)
        writer.write(pack_events(part, SENSOR, number, "camera"))

    options = ("--ros", "/seen/labels", "--domain", str(domain), "--url", server, "--window-us", str(WINDOW_US))
    with bridge("ros:///camera/events", *options), sending(send):
        image = wait_for(lambda: next(iter(images.take(1)), None))
        # Who comes late is told what the labels mean all the same.
        late = DomainParticipant(domain)
        latched = Qos(RELIABLE, Policy.Durability.TransientLocal)
        infos = DataReader(Subscriber(late), Topic(late, "rt/seen/labels_info", LabelInfo), qos=latched)
        info = wait_for(lambda: next(iter(infos.take(1)), None))
        told = DataReader(Subscriber(late), Topic(late, "rt/diagnostics", DiagnosticArray), qos=Qos(RELIABLE))
        status = wait_for(lambda: next((s for array in told.take(9) for s in array.status if s.level == 0), None))
    assert (status.name, status.message) == ("spikeseg: segmentation", "masks are fresh")
    assert image.header.frame_id == "camera"
    assert (image.width, image.height, image.encoding, image.step) == (SENSOR.width, SENSOR.height, "mono8", 64)
    assert len(image.data) == SENSOR.width * SENSOR.height
    assert max(image.data) < 6
    stamp_us = image.header.stamp.sec * 1_000_000 + image.header.stamp.nanosec // 1000
    assert stamp_us % WINDOW_US == 0
    known = {c.class_id: c.class_name for c in info.class_map}
    assert known[5] == "vehicle"
    assert known[255] == "UNLABELED"


def test_packets_by_a_cameras_own_clock_are_put_at_their_stamps() -> None:
    """As drivers of Prophesee's cameras send them; EVT 3.0 is decoded on from packet to packet."""
    domain = free_port() % 200 + 10
    participant = DomainParticipant(domain)
    writer = DataWriter(Publisher(participant), Topic(participant, "rt/camera/events", EventPacket), qos=Qos(RELIABLE))
    camera_us, ros_us = 1_000_000, 1_700_000_000_000_000
    batches = [random_events(number, windows=1, start_us=camera_us + number * WINDOW_US) for number in range(3)]
    high: int | None = None
    packets = []
    for number, batch in enumerate(batches):
        data, high = encode_evt3(batch, high)
        header = Header(stamp(ros_us + int(batch.t[0]) - int(batches[0].t[0])), "prophesee")
        packets.append(EventPacket(header, SENSOR.height, SENSOR.width, number, 0, "evt3", False, bytes(data)))
    with ThreadPoolExecutor(1) as pool:
        opened = pool.submit(RosEvents, "/camera/events", domain=domain)
        wait_for(writer.get_matched_subscriptions)
        for packet in packets:
            writer.write(packet)
        source = opened.result(PATIENCE_S)
    seen: list[EventBatch] = []
    for batch in source:
        seen.append(batch)
        if sum(map(len, seen)) == sum(map(len, batches)):
            break
    source.close()
    assert (source.sensor, source.frame_id) == (SENSOR, "prophesee")
    sent, found = EventBatch.concatenate(batches), EventBatch.concatenate(seen)
    assert np.array_equal(found.t - ros_us, sent.t - sent.t[0])
    assert all(np.array_equal(getattr(found, name), getattr(sent, name)) for name in "xyp")


def test_zenoh_gets_the_masks_that_the_client_gets(server: str) -> None:
    with Client(server) as client:
        expected = {
            result.window: (result.t_end, result.mask.tobytes())
            for result in client.stream(cut(EVENTS, 5_000), SENSOR, window_us=WINDOW_US)
        }
    port = free_port()
    endpoint = f"tcp/127.0.0.1:{port}"
    config = zenoh.Config()
    config.insert_json5("listen/endpoints", json.dumps([endpoint]))
    config.insert_json5("scouting/multicast/enabled", "false")
    seen: dict[int, tuple[int, bytes]] = {}

    def take(sample: Any) -> None:
        about = json.loads(bytes(sample.attachment))
        assert (about["width"], about["height"]) == (SENSOR.width, SENSOR.height)
        seen[about["window"]] = about["t_end"], bytes(sample.payload)

    with zenoh.open(config) as session:
        session.declare_subscriber("car/labels", take)
        told: list[dict[str, Any]] = []
        session.declare_subscriber("car/status", lambda sample: told.append(json.loads(bytes(sample.payload))))
        publisher = session.declare_publisher("car/events")

        sent = iter(cut(EVENTS, 5_000))

        def step(_: int) -> None:
            # Nobody may be there yet.
            if publisher.matching_status.matching and (part := next(sent, None)) is not None:
                publisher.put(encode_packet(part, SENSOR))

        options = ("--zenoh", "car", "--zenoh-connect", endpoint, "--url", server, "--window-us", str(WINDOW_US))
        with bridge("zenoh://car/events", *options), sending(step):
            wait_for(lambda: len(seen) >= 6)
            wait_for(lambda: any(status["level"] == "OK" for status in told))
            replies = [json.loads(bytes(reply.ok.payload)) for reply in session.get("car/info")]
    assert replies[0]["unlabelled"] == 255
    assert next(c["name"] for c in replies[0]["classes"]) == "flat"
    for window, found in seen.items():
        assert found == expected[window]


def test_a_recording_goes_to_both_at_once(server: str) -> None:
    domain = free_port() % 200 + 10
    participant = DomainParticipant(domain)
    images = DataReader(Subscriber(participant), Topic(participant, "rt/a/labels", Image), qos=Qos(RELIABLE))
    recording = REPOSITORY / "service" / "demo" / "street.aedat4"
    with open_source(recording) as source:
        size = source.sensor
    endpoint = f"tcp/127.0.0.1:{free_port()}"
    options = ("--ros", "/a/labels", "--domain", str(domain), "--zenoh", "b", "--zenoh-listen", endpoint)
    with bridge(str(recording), "--loop", "--url", server, *options):
        image = wait_for(lambda: next(iter(images.take(1)), None))
        config = zenoh.Config()
        config.insert_json5("connect/endpoints", json.dumps([endpoint]))
        config.insert_json5("scouting/multicast/enabled", "false")
        with zenoh.open(config) as session:
            arrived: list[bytes] = []
            session.declare_subscriber("b/labels", lambda sample: arrived.append(bytes(sample.payload)))
            wait_for(lambda: arrived)
    assert (image.width, image.height) == (size.width, size.height)
    assert len(arrived[0]) == size.width * size.height


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("nothing.aedat4", "--ros", "/labels"), "nothing.aedat4"),
        (("service/demo/street.aedat4",), "say with --ros TOPIC, --ros1 TOPIC or --zenoh KEY"),
        (("service/demo/street.aedat4", "--ros", "labels"), "no absolute topic of ROS"),
        (("service/demo/street.aedat4", "--zenoh", "a", "--zenoh-connect", "nonsense"), "Zenoh"),
    ],
)
def test_what_cannot_be_bridged_is_said_in_one_line(server: str, arguments: tuple[str, ...], message: str) -> None:
    command = [sys.executable, "-m", "clients.vehicle", *arguments, "--url", server]
    found = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=PATIENCE_S)
    assert found.returncode == 1
    assert message in found.stderr
    assert "Traceback" not in found.stderr
