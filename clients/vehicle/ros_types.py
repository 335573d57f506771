"""ROS 2 messages as DDS has them, and events as ``event_camera_msgs`` packs them.

ROS 2 puts ``rt/`` before a topic's name and mangles a type's, ``sensor_msgs/msg/Image`` to
``sensor_msgs::msg::dds_::Image_`` (ROS 2 design, "Topic and Service name mapping to DDS"). Field for field these are
the messages of ``common_interfaces``, ``vision_msgs`` and ``event_camera_msgs``.
"""

# mypy: disable-error-code="misc,call-arg"
# cyclonedds reads the annotations of its types when they are made: they must not be postponed.
from dataclasses import dataclass

import numpy as np
from cyclonedds.idl import IdlStruct
from cyclonedds.idl.types import byte, float32, int32, sequence, uint8, uint16, uint32, uint64

from clients.errors import InputError
from models.events import EventBatch, SensorSize

MONO = "mono"
"""Encoding of ``event_camera_codecs``: 64 bits an event; polarity in bit 63, y in 48 to 62, x in 32 to 47, and in the
low half nanoseconds after ``time_base``."""
_NS = 1000
_MOST_NS = 2**32 - 1


@dataclass
class Time(IdlStruct, typename="builtin_interfaces::msg::dds_::Time_"):
    sec: int32
    nanosec: uint32


@dataclass
class Header(IdlStruct, typename="std_msgs::msg::dds_::Header_"):
    stamp: Time
    frame_id: str


@dataclass
class Image(IdlStruct, typename="sensor_msgs::msg::dds_::Image_"):
    header: Header
    height: uint32
    width: uint32
    encoding: str
    is_bigendian: uint8
    step: uint32
    data: sequence[uint8]


@dataclass
class VisionClass(IdlStruct, typename="vision_msgs::msg::dds_::VisionClass_"):
    class_id: uint16
    class_name: str


@dataclass
class LabelInfo(IdlStruct, typename="vision_msgs::msg::dds_::LabelInfo_"):
    header: Header
    class_map: sequence[VisionClass]
    threshold: float32


@dataclass
class KeyValue(IdlStruct, typename="diagnostic_msgs::msg::dds_::KeyValue_"):
    key: str
    value: str


@dataclass
class DiagnosticStatus(IdlStruct, typename="diagnostic_msgs::msg::dds_::DiagnosticStatus_"):
    level: byte
    name: str
    message: str
    hardware_id: str
    values: sequence[KeyValue]


@dataclass
class DiagnosticArray(IdlStruct, typename="diagnostic_msgs::msg::dds_::DiagnosticArray_"):
    header: Header
    status: sequence[DiagnosticStatus]


@dataclass
class EventPacket(IdlStruct, typename="event_camera_msgs::msg::dds_::EventPacket_"):
    header: Header
    height: uint32
    width: uint32
    seq: uint64
    time_base: uint64
    encoding: str
    is_bigendian: bool
    events: sequence[uint8]


def stamp(t_us: int) -> Time:
    """A time of the sensor as a stamp."""
    return Time(sec=t_us // 1_000_000, nanosec=t_us % 1_000_000 * _NS)


def microseconds(time: Time) -> int:
    """A stamp as microseconds."""
    return int(time.sec * 1_000_000 + time.nanosec // _NS)


def pack_events(events: EventBatch, sensor: SensorSize, seq: int, frame_id: str) -> EventPacket:
    """Events as a packet of ``event_camera_msgs``, encoding ``mono``.

    Raises
    ------
    InputError
        If they last longer than the 4.29 s that a packet can say.
    """
    base = int(events.t[0]) if len(events) else 0
    ns = (events.t - base) * _NS
    if len(events) and int(ns[-1]) > _MOST_NS:
        raise InputError("a packet of events lasts at most 4.29 s; send them in smaller batches")
    words = ns.astype(np.uint64)
    words |= events.x.astype(np.uint64) << np.uint64(32)
    words |= events.y.astype(np.uint64) << np.uint64(48)
    words |= events.p.astype(np.uint64) << np.uint64(63)
    return EventPacket(
        Header(stamp(base), frame_id),
        sensor.height,
        sensor.width,
        seq,
        base * _NS,
        MONO,
        False,
        words.astype("<u8").tobytes(),
    )
