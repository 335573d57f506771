"""ROS 2 by way of DDS: labels out, events in, without a ROS installation."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from typing import Any, ClassVar

from clients.errors import CameraError, RecordingError
from clients.extras import require
from clients.results import Result
from clients.sources.event_packets import PacketDecoder
from clients.vehicle.inbox import TopicSource
from clients.vehicle.topics import checked_topic
from clients.vehicle.watch import Status
from models.classes import SegmentationClass
from models.events import EventBatch, SensorSize

_IDLE_S = 0.02
_POLL_S = 0.002
_DEPTH = 64


class RosPublisher:
    """Publishes ``sensor_msgs/Image`` (mono8, class ids), latched ``vision_msgs/LabelInfo``, and diagnostics.

    Parameters
    ----------
    topic : str
        Labels go to ``TOPIC``, their meaning to ``TOPIC_info``, how it goes to ``/diagnostics``.
    domain : int
        ``ROS_DOMAIN_ID``.
    frame_id : str
        Of the camera.

    Raises
    ------
    MissingExtraError
        If cyclonedds is not installed.
    InputError
        If the topic's name is none of ROS.
    """

    def __init__(self, topic: str = "/spikeseg/labels", *, domain: int = 0, frame_id: str = "event_camera") -> None:
        self._frame_id = frame_id
        self._types, dds = _modules()
        qos = dds["qos"]
        self._participant = dds["domain"].DomainParticipant(domain)
        # As ROS 2 has it for sensor data that must not be lost on the way, and for what is said once.
        reliable = qos.Policy.Reliability.Reliable(max_blocking_time=100_000_000)
        data = qos.Qos(reliable, qos.Policy.History.KeepLast(5), qos.Policy.Durability.Volatile)
        latched = qos.Qos(reliable, qos.Policy.History.KeepLast(1), qos.Policy.Durability.TransientLocal)
        self._labels = self._writer(dds, ros_name(topic), self._types.Image, data)
        self._info = self._writer(dds, ros_name(f"{topic}_info"), self._types.LabelInfo, latched)
        self._status = self._writer(dds, ros_name("/diagnostics"), self._types.DiagnosticArray, data)

    def announce(self, classes: Sequence[SegmentationClass], unlabelled: int) -> None:
        """Say what the labels mean."""
        types = self._types
        known = [types.VisionClass(c.id, c.name) for c in classes]
        # vision_msgs: 255 is UNLABELED.
        known.append(types.VisionClass(unlabelled, "UNLABELED"))
        self._info.write(types.LabelInfo(types.Header(types.stamp(0), self._frame_id), known, 0.0))

    def publish(self, result: Result) -> None:
        """Give out one mask."""
        types = self._types
        height, width = result.mask.shape
        header = types.Header(types.stamp(result.t_end), self._frame_id)
        self._labels.write(types.Image(header, height, width, "mono8", 0, width, result.mask.tobytes()))

    def report(self, status: Status) -> None:
        """Say how it is doing."""
        types = self._types
        values = [types.KeyValue(name, value) for name, value in status.values.items()]
        told = types.DiagnosticStatus(
            int(status.level), "spikeseg: segmentation", status.message, self._frame_id, values
        )
        header = types.Header(types.stamp(time.time_ns() // 1000), "")
        self._status.write(types.DiagnosticArray(header, [told]))

    def close(self) -> None:
        """Leave the domain."""
        self._labels = self._info = self._status = self._participant = None

    def _writer(self, dds: dict[str, Any], name: str, kind: Any, qos: Any) -> Any:
        topic = dds["topic"].Topic(self._participant, name, kind)
        return dds["pub"].DataWriter(dds["pub"].Publisher(self._participant), topic, qos=qos)


class RosEvents(TopicSource):
    """Events of a topic of ``event_camera_msgs/EventPacket``.

    Encodings are those of :class:`clients.sources.event_packets.PacketDecoder`.

    Parameters
    ----------
    topic : str
    domain : int
    patience_s : float
        How long to wait for the first packet, which tells the sensor's size.

    Raises
    ------
    CameraError
        If nothing comes.
    MissingExtraError
        If cyclonedds is not installed.
    """

    format: ClassVar[str] = "event_camera_msgs over DDS"

    def __init__(self, topic: str = "/event_camera/events", *, domain: int = 0, patience_s: float = 30.0) -> None:
        self._types, dds = _modules()
        qos = dds["qos"]
        self._participant: Any = dds["domain"].DomainParticipant(domain)
        reliable = qos.Policy.Reliability.Reliable(max_blocking_time=100_000_000)
        settings = qos.Qos(reliable, qos.Policy.History.KeepLast(_DEPTH), qos.Policy.Durability.Volatile)
        named = dds["topic"].Topic(self._participant, ros_name(topic), self._types.EventPacket)
        self._reader: Any = dds["sub"].DataReader(dds["sub"].Subscriber(self._participant), named, qos=settings)
        end = time.monotonic() + patience_s
        self._first: list[Any] = []
        while not self._first:
            if time.monotonic() >= end:
                raise CameraError(f"no events have come on {topic} in {patience_s:g} s")
            self._first = list(self._reader.take(_DEPTH))
            time.sleep(_POLL_S)
        self.frame_id = str(self._first[0].header.frame_id)
        self._decoder = PacketDecoder(topic)
        super().__init__(topic, SensorSize(self._first[0].width, self._first[0].height))

    def close(self) -> None:
        """Leave the domain."""
        self._reader = self._participant = None

    def _read(self) -> Iterator[EventBatch]:
        waiting, self._first = self._first, []
        silent_since = time.monotonic()
        while self._reader is not None:
            waiting += list(self._reader.take(_DEPTH))
            taken_at = time.monotonic()
            for packet in waiting:
                try:
                    events = self._decoder.decode(
                        packet.encoding,
                        bytes(packet.events),
                        time_base=packet.time_base,
                        is_bigendian=packet.is_bigendian,
                        stamp_us=self._types.microseconds(packet.header.stamp),
                    )
                except RecordingError as error:
                    raise CameraError(f"{self.name}: {error}") from None
                self.arrived = taken_at
                yield events
                silent_since = time.monotonic()
            waiting = []
            if time.monotonic() - silent_since >= _IDLE_S:
                silent_since = time.monotonic()
                yield EventBatch.empty()
            time.sleep(_POLL_S)


def ros_name(topic: str) -> str:
    """A topic's name in DDS.

    Raises
    ------
    InputError
        If it is no absolute name of ROS.
    """
    return f"rt{checked_topic(topic)}"


def _modules() -> tuple[Any, dict[str, Any]]:
    dds = {
        name: require(f"cyclonedds.{name}", "ROS 2 by DDS", extra="vehicle")
        for name in ("domain", "topic", "pub", "sub", "qos")
    }
    return require("clients.vehicle.ros_types", "ROS 2 by DDS", extra="vehicle"), dds
