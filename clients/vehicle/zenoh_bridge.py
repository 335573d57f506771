"""Zenoh: labels out, events in.

============== ===============================================================================================
``KEY/labels`` class ids, one byte a pixel, row by row; the attachment is JSON: ``window``, ``t_start``,
               ``t_end`` (µs of the sensor's clock), ``width``, ``height``, ``class_share``
``KEY/info``   JSON: classes and ``unlabelled``; published once, and given to whoever asks for it (``get``)
``KEY/status`` JSON: ``level``, ``message`` and numbers, once a second and at every change
``KEY/events`` event packets as docs/protocol.md has them
============== ===============================================================================================
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any, ClassVar

from clients.errors import CameraError, ConnectError
from clients.extras import require
from clients.results import Result
from clients.vehicle.inbox import Inbox, TopicSource
from clients.vehicle.watch import Status
from models.classes import SegmentationClass
from models.events import EventBatch
from service.wire.errors import PacketError
from service.wire.events import EventPacket, decode_packet

_IDLE_S = 0.02


class ZenohPublisher:
    """Publishes labels under a key.

    Parameters
    ----------
    key : str
    connect : str, optional
        Endpoint of a router or peer, as ``tcp/192.0.2.1:7447``; by multicast if not given.
    listen : str, optional
        Endpoint to be reached at.

    Raises
    ------
    MissingExtraError
        If eclipse-zenoh is not installed.
    ConnectError
        If the session cannot be opened.
    """

    def __init__(self, key: str = "spikeseg", *, connect: str | None = None, listen: str | None = None) -> None:
        self._zenoh = require("zenoh", "Zenoh", extra="vehicle")
        self._session = open_session(self._zenoh, connect, listen)
        self._labels = self._session.declare_publisher(f"{key}/labels")
        self._status = self._session.declare_publisher(f"{key}/status")
        self._info_key = f"{key}/info"
        self._info = b"{}"
        self._queryable = self._session.declare_queryable(self._info_key, self._reply)

    def announce(self, classes: Sequence[SegmentationClass], unlabelled: int) -> None:
        """Say what the labels mean."""
        known = [{"id": c.id, "name": c.name, "color": list(c.color)} for c in classes]
        self._info = json.dumps({"classes": known, "unlabelled": unlabelled}).encode()
        self._session.put(self._info_key, self._info, encoding=self._zenoh.Encoding.APPLICATION_JSON)

    def publish(self, result: Result) -> None:
        """Give out one mask."""
        height, width = result.mask.shape
        about = {
            "window": result.window,
            "t_start": result.t_start,
            "t_end": result.t_end,
            "width": width,
            "height": height,
            "class_share": list(result.class_share),
        }
        self._labels.put(result.mask.tobytes(), attachment=json.dumps(about).encode())

    def report(self, status: Status) -> None:
        """Say how it is doing."""
        about = {"level": status.level.name, "message": status.message, **status.values}
        self._status.put(json.dumps(about).encode(), encoding=self._zenoh.Encoding.APPLICATION_JSON)

    def close(self) -> None:
        """Leave the network."""
        self._session.close()

    def _reply(self, query: Any) -> None:
        query.reply(self._info_key, self._info)


class ZenohEvents(TopicSource):
    """Events of a key; the first packet tells the sensor's size. Packets that come too fast push out the oldest.

    Raises
    ------
    CameraError
        If nothing comes within ``patience_s``.
    """

    format: ClassVar[str] = "event packets over Zenoh"

    def __init__(
        self,
        key: str = "spikeseg/events",
        *,
        connect: str | None = None,
        listen: str | None = None,
        patience_s: float = 30.0,
    ) -> None:
        zenoh = require("zenoh", "Zenoh", extra="vehicle")
        self._session: Any = open_session(zenoh, connect, listen)
        self._inbox: Inbox[bytes] = Inbox()
        self._subscriber = self._session.declare_subscriber(key, lambda sample: self._inbox.put(bytes(sample.payload)))
        found = self._inbox.get(patience_s)
        if found is None:
            self._session.close()
            raise CameraError(f"no events have come on {key} in {patience_s:g} s")
        self._first: EventPacket | None = self._decoded(found[1], key)
        super().__init__(key, self._first.sensor)
        self.arrived = found[0]

    def close(self) -> None:
        """Leave the network."""
        if self._session is not None:
            self._session.close()
            self._session = None

    def _read(self) -> Iterator[EventBatch]:
        if self._first is not None:
            first, self._first = self._first, None
            yield first.events
        while self._session is not None:
            found = self._inbox.get(_IDLE_S)
            if found is None:
                yield EventBatch.empty()
                continue
            events = self._decoded(found[1], self.name).events
            self.arrived = found[0]
            yield events

    def _decoded(self, data: bytes, key: str) -> EventPacket:
        try:
            return decode_packet(data)
        except PacketError as error:
            raise CameraError(f"{key}: {error}") from None


def open_session(zenoh: Any, connect: str | None, listen: str | None) -> Any:
    """A session of Zenoh.

    Raises
    ------
    ConnectError
        If it cannot be opened.
    """
    config = zenoh.Config()
    try:
        for name, endpoint in (("connect/endpoints", connect), ("listen/endpoints", listen)):
            if endpoint is not None:
                config.insert_json5(name, json.dumps([endpoint]))
        if connect is not None or listen is not None:
            config.insert_json5("scouting/multicast/enabled", "false")
        return zenoh.open(config)
    except zenoh.ZError as error:
        raise ConnectError(f"Zenoh cannot be reached: {error}") from None
