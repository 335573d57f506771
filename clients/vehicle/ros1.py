"""ROS 1 by ``rospy``: labels, class map and diagnostics out, events in."""

from __future__ import annotations

import contextlib
import importlib
import logging
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar

from clients.errors import CameraError, ConnectError, MissingExtraError, OutputError, RecordingError
from clients.results import Result
from clients.vehicle.inbox import Inbox, TopicSource
from clients.vehicle.ros1_messages import MD5, EventReader, label_info_class
from clients.vehicle.topics import checked_topic
from clients.vehicle.watch import Status
from models.classes import SegmentationClass
from models.events import EventBatch

logger = logging.getLogger(__name__)

NODE = "spikeseg"
DEBIAN = Path("/usr/lib/python3/dist-packages")
"""Where Debian's packages put what is written in Python."""
_IDLE_S = 0.02
_BUFFER_BYTES = 1 << 24
_LATE_US = 1_000_000
_HINT = "on Debian: apt-get install python3-rospy python3-sensor-msgs python3-diagnostic-msgs"


class Ros1Publisher:
    """Publishes ``sensor_msgs/Image`` (mono8, class ids), latched ``vision_msgs/LabelInfo``, and diagnostics.

    The class map is also the parameter ``TOPIC_classes``, for nodes that have no such message.

    Parameters
    ----------
    topic : str
        Labels go to ``TOPIC``, their meaning to ``TOPIC_info``, how it goes to ``/diagnostics``.
    frame_id : str
        Of the camera.

    Raises
    ------
    MissingExtraError
        If ROS 1 is not installed.
    ConnectError
        If there is no master.
    InputError
        If the topic's name is none of ROS.
    """

    def __init__(self, topic: str = "/spikeseg/labels", *, frame_id: str = "event_camera") -> None:
        self._topic = checked_topic(topic)
        self._frame_id = frame_id
        self._rospy = join_graph()
        self._sensor_msgs = _module("sensor_msgs.msg")
        self._diagnostics = _module("diagnostic_msgs.msg")
        self._label_info, self._vision_class = label_info_class(_module("genpy.dynamic"))
        publisher = self._rospy.Publisher
        self._labels = publisher(topic, self._sensor_msgs.Image, queue_size=2, tcp_nodelay=True)
        self._info = publisher(f"{topic}_info", self._label_info, queue_size=1, latch=True)
        self._status = publisher("/diagnostics", self._diagnostics.DiagnosticArray, queue_size=10)

    def announce(self, classes: Sequence[SegmentationClass], unlabelled: int) -> None:
        """Say what the labels mean."""
        # vision_msgs: 255 is UNLABELED.
        known = [*((c.id, c.name) for c in classes), (unlabelled, "UNLABELED")]
        message = self._label_info(class_map=[self._vision_class(id, name) for id, name in known])
        message.header.frame_id = self._frame_id
        self._send(self._info, message)
        try:
            self._rospy.set_param(f"{self._topic}_classes", [{"id": id, "name": name} for id, name in known])
        except (OSError, self._rospy.ROSException) as error:
            logger.warning("the classes could not be made a parameter: %s", error)

    def publish(self, result: Result) -> None:
        """Give out one mask.

        Raises
        ------
        OutputError
            If ROS has shut the node down.
        """
        height, width = result.mask.shape
        message = self._sensor_msgs.Image(
            height=height, width=width, encoding="mono8", is_bigendian=0, step=width, data=result.mask.tobytes()
        )
        message.header.stamp = self._rospy.Time(result.t_end // 1_000_000, result.t_end % 1_000_000 * 1000)
        message.header.frame_id = self._frame_id
        self._send(self._labels, message)

    def report(self, status: Status) -> None:
        """Say how it is doing."""
        kinds = self._diagnostics
        values = [kinds.KeyValue(name, value) for name, value in status.values.items()]
        told = kinds.DiagnosticStatus(
            level=int(status.level),
            name=f"{self._rospy.get_name().lstrip('/')}: segmentation",
            message=status.message,
            hardware_id=self._frame_id,
            values=values,
        )
        message = kinds.DiagnosticArray(status=[told])
        message.header.stamp = self._rospy.get_rostime()
        # That the node has been shut down is for the thread that publishes masks to say.
        with contextlib.suppress(OutputError):
            self._send(self._status, message)

    def close(self) -> None:
        """Leave the graph; there is no way back in the same process."""
        self._rospy.signal_shutdown("the bridge ends")

    def _send(self, publisher: Any, message: Any) -> None:
        with contextlib.suppress(self._rospy.ROSException):
            publisher.publish(message)
        if self._rospy.is_shutdown():
            raise OutputError("ROS has shut this node down: rosnode kill, or another node has its name")


class Ros1Events(TopicSource):
    """Events of a topic of ``dvs_msgs/EventArray`` or ``event_camera_msgs/EventPacket``, by ROS time.

    The first message tells the sensor's size and frame. Messages that come too fast push out the oldest. Events that
    are up to 1 s earlier than what has been read are left out; further back, the sensor, or the bag that plays it, has
    begun anew (``begun_anew``).

    Parameters
    ----------
    topic : str
    patience_s : float
        How long to wait for the first message.

    Attributes
    ----------
    frame_id : str
        Of the first message.
    late : int
        Events left out because they were late.

    Raises
    ------
    CameraError
        If nothing comes, or it is no message of events.
    MissingExtraError, ConnectError, InputError
        As with :class:`Ros1Publisher`.
    """

    format: ClassVar[str] = "events over ROS 1"

    def __init__(self, topic: str = "/dvs/events", *, patience_s: float = 60.0) -> None:
        checked_topic(topic)
        self._rospy = join_graph()
        self._inbox: Inbox[tuple[dict[str, str], bytes]] = Inbox()
        self._reader: EventReader | None = None
        self._closed = False
        self._next: EventBatch | None = None
        self.late = 0
        # As bytes, whatever the type: what the publisher says of itself tells how to read them.
        self._subscriber = self._rospy.Subscriber(
            topic, self._rospy.AnyMsg, self._take, queue_size=None, buff_size=_BUFFER_BYTES, tcp_nodelay=True
        )
        found = self._inbox.get(patience_s)
        if found is None:
            self.close()
            raise CameraError(
                f"no events have come on {topic} in {patience_s:g} s; is it published? rostopic hz {topic}"
            )
        arrived, (header, data) = found
        kind = _kind(topic, header)
        self._reader = EventReader(topic, kind)
        head, self._next = self._reader.read(data)
        self.frame_id = head.frame_id
        super().__init__(topic, head.sensor)
        self.format = f"{kind} over ROS 1"  # type: ignore[misc]
        self.arrived = arrived

    def close(self) -> None:
        """Leave the topic."""
        if not self._closed:
            self._closed = True
            self._subscriber.unregister()

    def _take(self, message: Any) -> None:
        # rospy.AnyMsg has no other way to its bytes.
        self._inbox.put((message._connection_header, message._buff))

    def _read(self) -> Iterator[EventBatch]:
        self.begun_anew = False
        latest = 0
        while not self._closed and not self._rospy.is_shutdown():
            batch = self._next_batch()
            if len(batch) and int(batch.t[0]) < latest:
                if latest - int(batch.t[-1]) > _LATE_US:
                    self._next, self.begun_anew = batch, True
                    return
                first = int(batch.t.searchsorted(latest))
                self.late += first
                batch = batch[first:]
            if len(batch):
                latest = int(batch.t[-1])
            yield batch

    def _next_batch(self) -> EventBatch:
        waiting, self._next = self._next, None
        if waiting is not None:
            return waiting
        found = self._inbox.get(_IDLE_S)
        if found is None:
            return EventBatch.empty()
        assert self._reader is not None
        arrived, (header, data) = found
        try:
            _kind(self.name, header)
            head, batch = self._reader.read(data)
        except RecordingError as error:
            raise CameraError(str(error)) from None
        if head.sensor != self.sensor:
            raise CameraError(f"{self.name}: a sensor of {head.sensor} pixels follows one of {self.sensor}")
        self.arrived = arrived
        return batch


def join_graph() -> Any:
    """Become a node, once in a process; ``rospy``.

    Raises
    ------
    MissingExtraError
        If ROS 1 is not installed.
    ConnectError
        If there is no master.
    """
    rospy = _module("rospy")
    if rospy.core.is_initialized():
        return rospy
    rosgraph = _module("rosgraph")
    if not rosgraph.is_master_online():
        uri = rosgraph.get_master_uri()
        raise ConnectError(f"no ROS master answers at {uri} (ROS_MASTER_URI): start roscore, or rosmaster --core")
    handlers = logging.getLogger().handlers[:]
    rospy.init_node(NODE, argv=sys.argv, disable_signals=True)
    # rospy sets up logging as a whole; this program goes on to say what it says.
    for handler in handlers:
        if handler not in logging.getLogger().handlers:
            logging.getLogger("clients").addHandler(handler)
    return rospy


def _module(name: str) -> Any:
    """A module of ROS 1: as ROS's own ``setup.bash`` has it, or where Debian installs it."""
    try:
        return importlib.import_module(name)
    except ImportError:
        # Last in the path, so that it takes the place of nothing that is installed for this Python.
        if str(DEBIAN) not in sys.path and (DEBIAN / "rospy").is_dir():
            sys.path.append(str(DEBIAN))
            importlib.invalidate_caches()
    try:
        return importlib.import_module(name)
    except ImportError as error:
        missing = error.name or name
        raise MissingExtraError(
            f"ROS 1 needs {missing}, which this Python does not find: source ROS's setup.bash, or {_HINT}"
        ) from error


def _kind(topic: str, header: dict[str, str]) -> str:
    kind, md5 = header.get("type", "?"), header.get("md5sum", "?")
    if kind not in MD5:
        raise CameraError(f"{topic} has messages of {kind}; {' and '.join(MD5)} can be read")
    if md5 != MD5[kind]:
        raise CameraError(f"{topic} has {kind} in another layout, md5sum {md5} in place of {MD5[kind]}")
    return kind
