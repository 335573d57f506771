"""Messages of ROS as DDS has them: names, fields, and events packed and unpacked."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("cyclonedds", reason="cyclonedds is not installed: pip install 'spikeseg[vehicle]'")

from clients.errors import InputError
from clients.sources.event_packets import PacketDecoder
from clients.vehicle.ros import ros_name
from clients.vehicle.ros_types import EventPacket, Header, Image, LabelInfo, microseconds, pack_events, stamp
from models.events import EventBatch, SensorSize

SENSOR = SensorSize(346, 260)


def batch(seed: int, n: int, start_us: int) -> EventBatch:
    rng = np.random.default_rng(seed)
    return EventBatch(
        start_us + np.sort(rng.integers(0, 1_000_000, n)),
        rng.integers(0, SENSOR.width, n).astype(np.uint16),
        rng.integers(0, SENSOR.height, n).astype(np.uint16),
        rng.integers(0, 2, n).astype(np.uint8),
    )


@given(st.integers(0, 10_000), st.integers(0, 50), st.integers(0, 2**50))
def test_events_come_back_also_over_the_wire(seed: int, n: int, start_us: int) -> None:
    events = batch(seed, n, start_us)
    packet = EventPacket.deserialize(pack_events(events, SENSOR, 3, "camera").serialize())
    back = PacketDecoder("camera").decode(
        packet.encoding, bytes(packet.events), time_base=packet.time_base, is_bigendian=packet.is_bigendian
    )
    assert microseconds(packet.header.stamp) == packet.time_base // 1000
    assert (packet.width, packet.height, packet.seq, packet.encoding) == (346, 260, 3, "mono")
    for name in ("t", "x", "y", "p"):
        assert np.array_equal(getattr(back, name), getattr(events, name))


def test_an_event_is_laid_out_as_event_camera_codecs_has_it() -> None:
    events = EventBatch(
        np.array([5, 7]), np.array([1, 2], np.uint16), np.array([3, 4], np.uint16), np.array([0, 1], np.uint8)
    )
    packet = pack_events(events, SENSOR, 0, "camera")
    assert packet.time_base == 5000
    words = np.frombuffer(bytes(packet.events), "<u8").tolist()
    assert words == [3 << 48 | 1 << 32, 1 << 63 | 4 << 48 | 2 << 32 | 2000]


def test_what_cannot_be_packed_is_refused() -> None:
    long = EventBatch(np.array([0, 5_000_000]), *(np.zeros(2, d) for d in (np.uint16, np.uint16, np.uint8)))
    with pytest.raises(InputError, match=r"at most 4\.29 s"):
        pack_events(long, SENSOR, 0, "camera")


def test_types_and_topics_have_the_names_that_ros_2_gives_them() -> None:
    names = {t.__idl_typename__.replace(".", "::") for t in (Image, LabelInfo, EventPacket, Header)}
    assert names == {
        "sensor_msgs::msg::dds_::Image_",
        "vision_msgs::msg::dds_::LabelInfo_",
        "event_camera_msgs::msg::dds_::EventPacket_",
        "std_msgs::msg::dds_::Header_",
    }
    assert ros_name("/spikeseg/labels") == "rt/spikeseg/labels"
    for wrong in ("labels", "/", "/a//b", "/9a", "/a b", ""):
        with pytest.raises(InputError, match="absolute topic of ROS"):
            ros_name(wrong)
    assert (stamp(1_500_000).sec, stamp(1_500_000).nanosec) == (1, 500_000_000)
