"""Messages of ROS 1: events from their bytes, and the class map that no ROS 1 package has.

``rospy`` makes an object of every event, too slow for a camera; here an array is laid over the bytes. A message is a
row of its fields, little-endian, strings and arrays with their length before them (ROS wiki, "msg"; "TCPROS").
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Any

import numpy as np

from clients.errors import RecordingError
from clients.sources.event_packets import PacketDecoder
from clients.sources.source import to_events
from models.events import EventBatch, SensorSize

ARRAY, PACKET = "dvs_msgs/EventArray", "event_camera_msgs/EventPacket"
MD5 = {ARRAY: "5e8beee5a6c107e504c2e78903c224b8", PACKET: "8a6101b351a64529ac77bd8b71074e52"}
"""What the packages' definitions come to; another sum is another layout."""
LABEL_INFO = "vision_msgs/LabelInfo"
# As vision_msgs has it for ROS 2; that of ROS 1 ends before it.
LABEL_INFO_TEXT = """\
std_msgs/Header header
vision_msgs/VisionClass[] class_map
float32 threshold
================================================================================
MSG: std_msgs/Header
uint32 seq
time stamp
string frame_id
================================================================================
MSG: vision_msgs/VisionClass
uint16 class_id
string class_name
"""
_EVENT = np.dtype([("x", "<u2"), ("y", "<u2"), ("sec", "<u4"), ("nsec", "<u4"), ("p", "u1")])


@dataclass(frozen=True, slots=True)
class Head:
    """What both messages begin with.

    Attributes
    ----------
    stamp_us : int
        Of the header, in microseconds.
    frame_id : str
    sensor : SensorSize
    """

    stamp_us: int
    frame_id: str
    sensor: SensorSize


class EventReader:
    """Reads the messages of one topic in the order in which they come.

    Parameters
    ----------
    name : str
        Of the topic, for messages.
    kind : str
        ``ARRAY`` or ``PACKET``.
    """

    def __init__(self, name: str, kind: str) -> None:
        self._name = name
        self._kind = kind
        self._decoder = PacketDecoder(name)

    def read(self, data: bytes) -> tuple[Head, EventBatch]:
        """A message; times are ROS time in microseconds, and never fall.

        A camera that counts by a clock of its own (``evt2``, ``evt3``) is taken to have seen its first event at the
        stamp of the message that brought it.

        Raises
        ------
        RecordingError
            If it is cut short or has an encoding that cannot be read.
        """
        try:
            head, at = _head(data)
            if self._kind == ARRAY:
                return head, _rising(self._array(data, at))
            return head, _rising(self._packet(data, at, head))
        except (struct.error, UnicodeDecodeError, ValueError) as error:
            raise RecordingError(f"{self._name}: a message cannot be read: {error}") from None

    def _array(self, data: bytes, at: int) -> EventBatch:
        (count,) = struct.unpack_from("<I", data, at)
        rows = np.frombuffer(data, _EVENT, count, at + 4)
        t = rows["sec"].astype(np.int64) * 1_000_000 + rows["nsec"] // 1000
        return to_events(t, rows["x"], rows["y"], rows["p"], self._name)

    def _packet(self, data: bytes, at: int, head: Head) -> EventBatch:
        _, time_base = struct.unpack_from("<QQ", data, at)
        encoding, at = _string(data, at + 16)
        is_bigendian, size = struct.unpack_from("<?I", data, at)
        events = data[at + 5 : at + 5 + size]
        if len(events) != size:
            raise ValueError(f"it says that it has {size} bytes of events, and has {len(events)}")
        return self._decoder.decode(
            encoding, events, time_base=time_base, is_bigendian=is_bigendian, stamp_us=head.stamp_us
        )


def label_info_class(dynamic: Any) -> Any:
    """The class of ``vision_msgs/LabelInfo`` and that of its ``VisionClass``, made by ``genpy.dynamic``."""
    made = dynamic.generate_dynamic(LABEL_INFO, LABEL_INFO_TEXT)
    return made[LABEL_INFO], made["vision_msgs/VisionClass"]


def _head(data: bytes) -> tuple[Head, int]:
    _, sec, nsec = struct.unpack_from("<III", data)
    frame_id, at = _string(data, 12)
    height, width = struct.unpack_from("<II", data, at)
    return Head(sec * 1_000_000 + nsec // 1000, frame_id, SensorSize(width, height)), at + 8


def _string(data: bytes, at: int) -> tuple[str, int]:
    (size,) = struct.unpack_from("<I", data, at)
    end = at + 4 + size
    if end > len(data):
        raise ValueError(f"a string of {size} bytes goes beyond its end")
    return data[at + 4 : end].decode(), end


def _rising(events: EventBatch) -> EventBatch:
    if len(events) < 2 or bool((np.diff(events.t) >= 0).all()):
        return events
    order = np.argsort(events.t, kind="stable")
    return EventBatch(events.t[order], events.x[order], events.y[order], events.p[order])
