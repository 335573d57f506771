"""Messages of ROS 1 read from their bytes; a codec that has nothing to do with this project writes them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("rosbags", reason="rosbags is not installed: pip install 'spikeseg[clients-all]'")

from rosbags.typesys import Stores, get_types_from_msg, get_typestore

from clients.errors import RecordingError
from clients.sources.rosbag import ARRAY as ARRAY_NAME
from clients.sources.rosbag import PACKET as PACKET_NAME
from clients.sources.rosbag import typestore
from clients.vehicle.ros1_messages import ARRAY, LABEL_INFO_TEXT, MD5, PACKET, EventReader
from models.events import EventBatch, SensorSize

SENSOR = SensorSize(346, 260)
STORE = typestore(1)
# rosbags takes seconds for signed.
LATEST_US = 2_147_000_000 * 1_000_000


def header(stamp_us: int, frame_id: str) -> Any:
    stamp = STORE.types["builtin_interfaces/msg/Time"](stamp_us // 1_000_000, stamp_us % 1_000_000 * 1000)
    return STORE.types["std_msgs/msg/Header"](7, stamp, frame_id)


def array(events: EventBatch, stamp_us: int, frame_id: str) -> bytes:
    event, time = STORE.types["dvs_msgs/msg/Event"], STORE.types["builtin_interfaces/msg/Time"]
    rows = [
        event(int(x), int(y), time(int(t) // 1_000_000, int(t) % 1_000_000 * 1000), bool(p))
        for t, x, y, p in zip(events.t, events.x, events.y, events.p, strict=True)
    ]
    message = STORE.types[ARRAY_NAME](header(stamp_us, frame_id), SENSOR.height, SENSOR.width, rows)
    return bytes(STORE.serialize_ros1(message, ARRAY_NAME))


def packet(data: bytes, encoding: str, *, stamp_us: int = 0, time_base: int = 0, big: bool = False) -> bytes:
    payload = np.frombuffer(data, np.uint8)
    kind = STORE.types[PACKET_NAME]
    message = kind(header(stamp_us, "camera"), SENSOR.height, SENSOR.width, 1, time_base, encoding, big, payload)
    return bytes(STORE.serialize_ros1(message, PACKET_NAME))


def batch(seed: int, n: int, start_us: int) -> EventBatch:
    rng = np.random.default_rng(seed)
    return EventBatch(
        start_us + np.sort(rng.integers(0, 1_000_000, n)),
        rng.integers(0, SENSOR.width, n).astype(np.uint16),
        rng.integers(0, SENSOR.height, n).astype(np.uint16),
        rng.integers(0, 2, n).astype(np.uint8),
    )


def same(left: EventBatch, right: EventBatch) -> bool:
    return all(np.array_equal(getattr(left, name), getattr(right, name)) for name in "txyp")


@given(st.integers(0, 10_000), st.integers(0, 50), st.integers(0, LATEST_US), st.text(max_size=20))
def test_an_event_array_comes_back(seed: int, n: int, start_us: int, frame_id: str) -> None:
    events = batch(seed, n, start_us)
    head, back = EventReader("/dvs/events", ARRAY).read(array(events, start_us, frame_id))
    assert (head.stamp_us, head.frame_id, head.sensor) == (start_us, frame_id, SENSOR)
    assert same(back, events)


def test_events_that_a_driver_has_not_ordered_are_put_in_order() -> None:
    events = batch(3, 40, 10)
    mixed = EventBatch(events.t[::-1].copy(), events.x[::-1].copy(), events.y[::-1].copy(), events.p[::-1].copy())
    _, back = EventReader("/dvs/events", ARRAY).read(array(mixed, 10, "camera"))
    assert np.array_equal(back.t, events.t)


@given(st.data())
def test_a_message_that_is_cut_short_is_refused(data: st.DataObject) -> None:
    whole = array(batch(1, 5, 1_000), 1_000, "camera")
    cut = data.draw(st.integers(0, len(whole) - 1))
    with pytest.raises(RecordingError, match="/dvs/events: a message cannot be read"):
        EventReader("/dvs/events", ARRAY).read(whole[:cut])
    whole = packet(b"\0" * 16, "mono")
    cut = data.draw(st.integers(0, len(whole) - 1))
    with pytest.raises(RecordingError, match="/dvs/events: a message cannot be read"):
        EventReader("/dvs/events", PACKET).read(whole[:cut])


@pytest.mark.parametrize(
    ("data", "encoding", "big", "message"),
    [
        (b"", "jpeg", False, "'jpeg'; mono, libcaer, evt2 and evt3 can be read"),
        (b"", "mono", True, "big-endian"),
        (b"\0" * 7, "mono", False, "7 bytes is cut short"),
    ],
)
def test_packets_that_cannot_be_read_are_refused(data: bytes, encoding: str, big: bool, message: str) -> None:
    with pytest.raises(RecordingError, match=message):
        EventReader("/events", PACKET).read(packet(data, encoding, big=big))


def test_the_sums_are_those_of_the_definitions() -> None:
    for name, kind in ((ARRAY_NAME, ARRAY), (PACKET_NAME, PACKET)):
        assert STORE.generate_msgdef(name, ros_version=1)[1] == MD5[kind]


def test_the_class_map_has_the_fields_of_vision_msgs() -> None:
    store = get_typestore(Stores.ROS1_NOETIC)
    text, _, rest = LABEL_INFO_TEXT.partition("=" * 80 + "\nMSG: std_msgs/Header")
    _, _, class_text = rest.partition("MSG: vision_msgs/VisionClass\n")
    store.register(get_types_from_msg(class_text, "vision_msgs/msg/VisionClass"))
    store.register(get_types_from_msg(text, "vision_msgs/msg/LabelInfo"))
    fields = [name for name, _ in store.fielddefs["vision_msgs/msg/LabelInfo"][1]]
    assert fields == ["header", "class_map", "threshold"]
    assert [name for name, _ in store.fielddefs["vision_msgs/msg/VisionClass"][1]] == ["class_id", "class_name"]
