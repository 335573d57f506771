"""Bags of ROS 1 and ROS 2: ``event_camera_msgs/EventPacket`` and ``dvs_msgs/EventArray``."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from clients.errors import ClientError, RecordingError
from clients.extras import require
from clients.sources.event_packets import PacketDecoder
from clients.sources.source import Source, to_events
from models.events import EventBatch, SensorSize

ROS1_MAGIC = b"#ROSBAG V2.0"
MCAP_MAGIC = b"\x89MCAP0\r\n"
SQLITE_MAGIC = b"SQLite format 3\x00"
_PURPOSE = "reading rosbags"
PACKET, ARRAY = "event_camera_msgs/msg/EventPacket", "dvs_msgs/msg/EventArray"
# As the packages define them, for bags that do not carry their definitions.
DEFINITIONS = {
    PACKET: "std_msgs/Header header\nuint32 height\nuint32 width\nuint64 seq\nuint64 time_base\nstring encoding\n"
    "bool is_bigendian\nuint8[] events\n",
    "dvs_msgs/msg/Event": "uint16 x\nuint16 y\nbuiltin_interfaces/Time ts\nbool polarity\n",
    ARRAY: "std_msgs/Header header\nuint32 height\nuint32 width\ndvs_msgs/Event[] events\n",
}


class RosbagSource(Source):
    """The events of one topic of a bag.

    ``EventPacket`` is read in the encodings ``evt2``, ``evt3``, ``mono`` and ``libcaer``, as ``event_camera_codecs``
    has them. Messages are taken in the order in which the bag has them; times are the camera's (``evt2``, ``evt3``) or
    those of the messages (the others).

    Parameters
    ----------
    path : Path
        A file, or the folder of a ROS 2 bag.
    topic : str, optional
        The first one with events if not given.

    Raises
    ------
    RecordingError
        Here or while iterating: the bag cannot be opened, is damaged or cut off, or has no such topic or encoding.
    MissingExtraError
    """

    def __init__(self, path: Path, *, topic: str | None = None, ordered: bool = True) -> None:
        self._path = path
        require("rosbags.highlevel", _PURPOSE)
        with self._opened() as reader:
            found = [c for c in reader.connections if c.msgtype in (PACKET, ARRAY)]
            chosen = [c for c in found if topic in (None, c.topic) and c.msgcount]
            if not chosen:
                topics = ", ".join(sorted({c.topic for c in found})) or "none"
                wanted = "no events" if topic is None else f"no events on {topic}"
                raise RecordingError(f"{path} has {wanted}; its topics of {PACKET} and {ARRAY}: {topics}")
            self._topic, self._type = chosen[0].topic, chosen[0].msgtype
            first = next(self._messages(reader))
            size = SensorSize(int(first.width), int(first.height))
        if not (0 < size.width <= 0xFFFF and 0 < size.height <= 0xFFFF):
            raise RecordingError(f"{path} gives its sensor a size of {size} pixels")
        self.format = f"rosbag ({self._type.replace('/msg/', '/')})"  # type: ignore[misc]
        super().__init__(str(path), size, ordered=ordered)

    def _read(self) -> Iterator[EventBatch]:
        with self._opened() as reader:
            decode = self._array if self._type == ARRAY else self._packets()
            for message in self._messages(reader):
                try:
                    yield decode(message)
                except RecordingError as error:
                    raise RecordingError(f"{self._path}, {self._topic}: {error}") from error

    def _messages(self, reader: Any) -> Iterator[Any]:
        connections = [c for c in reader.connections if c.topic == self._topic and c.msgtype == self._type]
        for connection, _, raw in reader.messages(connections=connections):
            yield reader.deserialize(raw, connection.msgtype)

    def _packets(self) -> Callable[[Any], EventBatch]:
        decoder = PacketDecoder(self.name)
        return lambda message: decoder.decode(
            str(message.encoding),
            message.events.tobytes(),
            time_base=int(message.time_base),
            is_bigendian=bool(message.is_bigendian),
        )

    def _array(self, message: Any) -> EventBatch:
        rows = [(e.ts.sec * 1_000_000 + e.ts.nanosec // 1000, e.x, e.y, e.polarity) for e in message.events]
        t, x, y, p = np.array(rows, np.int64).reshape(-1, 4).T
        return to_events(t, x, y, p, self.name)

    @contextmanager
    def _opened(self) -> Iterator[Any]:
        rosbags = require("rosbags.highlevel", _PURPOSE)
        try:
            with rosbags.AnyReader([self._path], default_typestore=typestore(1 if self._is_ros1 else 2)) as reader:
                yield reader
        except rosbags.AnyReaderError as error:
            raise RecordingError(f"{self._path} cannot be read as a bag: {error}") from error
        except ClientError:
            raise
        # Its parsers raise nearly anything at a damaged bag.
        except Exception as error:
            reason = " ".join(str(error).split()) or type(error).__name__
            raise RecordingError(f"{self._path} is damaged or cut off: {reason}") from error

    @property
    def _is_ros1(self) -> bool:
        return self._path.suffix == ".bag"


def typestore(version: int) -> Any:
    """The message types of ROS 1 or 2, with those of event cameras.

    Raises
    ------
    MissingExtraError
    """
    typesys = require("rosbags.typesys", _PURPOSE)
    store = typesys.get_typestore(typesys.Stores.ROS1_NOETIC if version == 1 else typesys.Stores.ROS2_HUMBLE)
    types: dict[str, Any] = {}
    for name, text in DEFINITIONS.items():
        types.update(typesys.get_types_from_msg(text, name))
    store.register(types)
    return store
