"""An MCAP recording of masks, events and spike activity that Foxglove opens as it is.

=========================== ================================ =====================================================
topic                       schema                           content
=========================== ================================ =====================================================
``/segmentation/mask``      ``foxglove.CompressedImage``     indexed PNG: class ids in the classes' colours
``/segmentation/activity``  ``spikeseg.Activity`` (JSON)     times, class shares, firing rates, SOPs, latency
``/segmentation/classes``   ``spikeseg.Classes`` (JSON)      ids, names and colours, once
``/events``                 ``spikeseg.Events`` (JSON)       the window's events, packed as docs/protocol.md says
=========================== ================================ =====================================================

A message's time is the end of its window by the sensor's clock, in nanoseconds.
"""

from __future__ import annotations

import base64
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from clients.errors import OutputError
from clients.extras import require
from clients.outputs.output import Output, unwritable
from clients.pictures import Pixels
from clients.results import Result
from models.classes import SegmentationClass
from models.events import EventBatch, SensorSize
from service.wire.events import MEDIA_TYPE, encode_packet
from service.wire.masks import MaskEncoding, encode_mask

FRAME_ID = "event_camera"
MASK_TOPIC = "/segmentation/mask"
ACTIVITY_TOPIC = "/segmentation/activity"
CLASSES_TOPIC = "/segmentation/classes"
EVENTS_TOPIC = "/events"

_NUMBER = {"type": "number"}
_INTEGER = {"type": "integer"}
_TIME = {"type": "object", "title": "time", "properties": {"sec": _INTEGER, "nsec": _INTEGER}}
_LAYER = {
    "type": "object",
    "properties": {
        "name": {"type": "string"},
        "neurons": _INTEGER,
        "spikes": _INTEGER,
        "firing_rate": _NUMBER,
        "sops": _NUMBER,
    },
}
ACTIVITY_SCHEMA = {
    "title": "spikeseg.Activity",
    "type": "object",
    "properties": {
        "timestamp": _TIME,
        "window": _INTEGER,
        "t_start_us": _INTEGER,
        "t_end_us": _INTEGER,
        "events": _INTEGER,
        "class_share": {"type": "object", "additionalProperties": _NUMBER},
        "firing_rate": _NUMBER,
        "sops": _NUMBER,
        "macs_ann": _NUMBER,
        "energy_snn_j": _NUMBER,
        "energy_ann_j": _NUMBER,
        "layers": {"type": "array", "items": _LAYER},
        "latency_ms": _NUMBER,
        "compute_ms": _NUMBER,
    },
}
CLASSES_SCHEMA = {
    "title": "spikeseg.Classes",
    "type": "object",
    "properties": {
        "classes": {
            "type": "array",
            "items": {
                "type": "object",
                "properties": {
                    "id": _INTEGER,
                    "name": {"type": "string"},
                    "color": {"type": "array", "items": _INTEGER},
                },
            },
        },
        "unlabelled": _INTEGER,
    },
}
EVENTS_SCHEMA = {
    "title": "spikeseg.Events",
    "type": "object",
    "properties": {
        "timestamp": _TIME,
        "frame_id": {"type": "string"},
        "count": _INTEGER,
        "encoding": {"type": "string", "description": f"media type of data: {MEDIA_TYPE}"},
        "data": {"type": "string", "contentEncoding": "base64"},
    },
}


class McapRecording(Output):
    """An MCAP file.

    Parameters
    ----------
    path : Path
        An existing file is replaced.
    classes : sequence of SegmentationClass
    sensor : SensorSize
    events : bool
        Whether the events are recorded too.

    Raises
    ------
    OutputError
        If the file cannot be written.
    MissingExtraError
    """

    def __init__(
        self, path: Path, classes: Sequence[SegmentationClass], sensor: SensorSize, *, events: bool = True
    ) -> None:
        foxglove = require("foxglove", "writing MCAP")
        channels = require("foxglove.channels", "writing MCAP")
        self._messages = require("foxglove.messages", "writing MCAP")
        self._path = path
        self._classes = tuple(classes)
        self._sensor = sensor
        # A context of its own: nothing else in this process is recorded.
        context = self._context = foxglove.Context()
        try:
            # Opened here, since the library would report in its own way what is wrong with the path.
            self._file = path.open("wb")
        except OSError as error:
            raise unwritable(path, error) from error
        self._writer: Any = foxglove.open_mcap(self._file, context=context)
        self._mask = channels.CompressedImageChannel(MASK_TOPIC, context=context)
        self._activity = foxglove.Channel(ACTIVITY_TOPIC, schema=ACTIVITY_SCHEMA, context=context)
        self._class_list = foxglove.Channel(CLASSES_TOPIC, schema=CLASSES_SCHEMA, context=context)
        self._events = foxglove.Channel(EVENTS_TOPIC, schema=EVENTS_SCHEMA, context=context) if events else None
        self._begun = False

    def write(self, result: Result, events: EventBatch, frame: Pixels | None = None) -> None:  # noqa: ARG002
        """See :meth:`Output.write`; frames are not recorded."""
        time_ns = result.t_end * 1000
        stamp = {"sec": time_ns // 10**9, "nsec": time_ns % 10**9}
        try:
            if not self._begun:
                self._begun = True
                self._class_list.log(self._class_map(), log_time=time_ns)
            self._mask.log(
                self._messages.CompressedImage(
                    timestamp=self._messages.Timestamp(**stamp),
                    frame_id=FRAME_ID,
                    data=encode_mask(result.mask, MaskEncoding.PNG, self._classes),
                    format="png",
                ),
                log_time=time_ns,
            )
            self._activity.log({"timestamp": stamp, **self._numbers(result)}, log_time=time_ns)
            if self._events is not None:
                packet = encode_packet(events, self._sensor, seq=result.window)
                self._events.log(
                    {
                        "timestamp": stamp,
                        "frame_id": FRAME_ID,
                        "count": len(events),
                        "encoding": MEDIA_TYPE,
                        "data": base64.b64encode(packet).decode("ascii"),
                    },
                    log_time=time_ns,
                )
        except OSError as error:
            raise unwritable(self._path, error) from error

    def close(self) -> None:
        """See :meth:`Output.close`."""
        writer, self._writer = self._writer, None
        if writer is None:
            return
        try:
            writer.close()
            self._file.close()
        except (OSError, RuntimeError) as error:
            raise OutputError(f"{self._path}: {error}") from error

    def _class_map(self) -> dict[str, Any]:
        listed = [{"id": item.id, "name": item.name, "color": list(item.color)} for item in self._classes]
        return {"classes": listed, "unlabelled": 255}

    def _numbers(self, result: Result) -> dict[str, Any]:
        shares = {item.name: share for item, share in zip(self._classes, result.class_share, strict=False)}
        numbers: dict[str, Any] = {
            "window": result.window,
            "t_start_us": result.t_start,
            "t_end_us": result.t_end,
            "events": result.events,
            "class_share": shares,
            "latency_ms": result.latency.total_ms,
            "compute_ms": result.latency.compute_ms,
        }
        if result.activity is not None:
            about = result.activity
            numbers |= {
                "firing_rate": about.firing_rate,
                "sops": about.sops,
                "macs_ann": about.macs_ann,
                "energy_snn_j": about.energy_snn_j,
                "energy_ann_j": about.energy_ann_j,
                "layers": [
                    {
                        "name": layer.name,
                        "neurons": layer.neurons,
                        "spikes": layer.spikes,
                        "firing_rate": layer.firing_rate,
                        "sops": layer.sops,
                    }
                    for layer in about.layers
                ],
            }
        return numbers
