"""Masks, events and spike activity for the Rerun viewer: as an .rrd file, or live over its gRPC.

============================ ==================== ==================================================================
entity                       archetype            content
============================ ==================== ==================================================================
``/sensor/frame``            Image                what a camera saw at the window's end, if it gives frames
``/sensor/mask``             SegmentationImage    class ids; names and colours are its AnnotationContext
``/sensor/events``           SegmentationImage    each pixel's last event of the window: 0 none, 1 OFF, 2 ON
``/events``                  Scalars              events of the window
``/class_share/NAME``        Scalars              share of the mask's pixels, in the class's colour
``/firing_rate/LAYER``       Scalars              spikes for each neuron and step
``/sops``                    Scalars              synaptic operations of the window
``/latency/PART``            Scalars              decode, wait, compute, encode, total, in milliseconds
============================ ==================== ==================================================================

Each is at the end of its window on the timeline ``sensor_time``, by the sensor's clock, and at the window's number on
``window``. The sensor's time is a date if it is one, as with cameras that count from 1970; else a duration.
"""

from __future__ import annotations

import socket
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from uuid import uuid4

import numpy as np
from numpy.typing import NDArray

from clients.errors import OutputError
from clients.extras import require
from clients.outputs.output import Output, unwritable
from clients.overlay import OFF_COLOR, ON_COLOR, last_events
from clients.pictures import Pixels
from clients.results import Result
from models.classes import SegmentationClass
from models.events import EventBatch, SensorSize

APPLICATION = "spikeseg"
SENSOR_TIMELINE, WINDOW_TIMELINE = "sensor_time", "window"
FRAME, MASK, EVENTS = "/sensor/frame", "/sensor/mask", "/sensor/events"
COUNT, SHARE, FIRING_RATE, SOPS, LATENCY = "/events", "/class_share", "/firing_rate", "/sops", "/latency"
UNLABELLED = 255
OFF_ID, ON_ID = 1, 2

_LATENCIES = {
    "decode": (77, 175, 124),
    "wait": (228, 26, 28),
    "compute": (55, 126, 184),
    "encode": (255, 217, 47),
    "total": (255, 255, 255),
}
_DATES_FROM_US = 10**15  # September 2001; no sensor that counts from its start runs for so long.
_OPACITY = 0.65
_CONNECT_S = 5.0
_FLUSH_S = 60.0


class RerunRecording(Output):
    """A recording for the Rerun viewer.

    Parameters
    ----------
    classes : sequence of SegmentationClass
    sensor : SensorSize
    path : Path, optional
        An .rrd file; an existing one is replaced.
    url : str, optional
        Of a viewer that listens, as ``rerun+http://127.0.0.1:9876/proxy``.

    Raises
    ------
    OutputError
        If the file cannot be written, or no viewer listens at the address.
    MissingExtraError
    """

    def __init__(
        self,
        classes: Sequence[SegmentationClass],
        sensor: SensorSize,
        *,
        path: Path | None = None,
        url: str | None = None,
    ) -> None:
        rr = self._rr = require("rerun", "recording for the Rerun viewer", extra="rerun")
        blueprint = require("rerun.blueprint", "recording for the Rerun viewer", extra="rerun")
        if path is None and url is None:
            raise OutputError("a recording for the Rerun viewer needs a file or the address of a viewer")
        self._classes = tuple(classes)
        self._shape = (sensor.height, sensor.width)
        self._name = str(path or url)
        sinks = []
        if path is not None:
            try:
                # Opened here, since the library would report in its own way what is wrong with the path.
                path.open("wb").close()
            except OSError as error:
                raise unwritable(path, error) from error
            sinks.append(rr.FileSink(str(path)))
        if url is not None:
            _require_viewer(url)
            sinks.append(rr.GrpcSink(url))
        # A recording of its own: nothing else in this process goes into it.
        self._recording: Any = rr.RecordingStream(APPLICATION, recording_id=uuid4())
        self._recording.set_log_time_enabled(False)
        self._recording.set_log_tick_enabled(False)
        self._recording.set_sinks(*sinks, default_blueprint=_layout(blueprint))
        self._describe()

    def write(self, result: Result, events: EventBatch, frame: Pixels | None = None) -> None:
        """See :meth:`Output.write`."""
        rr, log = self._rr, self._log
        self._set_time(result.t_end)
        self._recording.set_time(WINDOW_TIMELINE, sequence=result.window)
        if frame is not None:
            log(FRAME, rr.Image(frame, draw_order=-1.0))
        log(MASK, rr.SegmentationImage(result.mask, opacity=_OPACITY, draw_order=0.0))
        log(EVENTS, rr.SegmentationImage(self._picture(events), opacity=1.0, draw_order=1.0))
        log(COUNT, rr.Scalars(result.events))
        for item, share in zip(self._classes, result.class_share, strict=False):
            log(_below(SHARE, item.name), rr.Scalars(share))
        for part in _LATENCIES:
            log(_below(LATENCY, part), rr.Scalars(getattr(result.latency, f"{part}_ms")))
        if result.activity is not None:
            for layer in result.activity.layers:
                log(_below(FIRING_RATE, layer.name), rr.Scalars(layer.firing_rate))
            log(SOPS, rr.Scalars(result.activity.sops))

    def close(self) -> None:
        """See :meth:`Output.close`."""
        recording, self._recording = self._recording, None
        if recording is None:
            return
        try:
            recording.flush(timeout_sec=_FLUSH_S)
        # The library raises errors of its own, whose types it does not name.
        except Exception as error:
            raise OutputError(f"{self._name}: {error}") from error
        finally:
            recording.disconnect()

    def _log(self, entity: str | list[object], what: Any, *, static: bool = False) -> None:
        self._recording.log(entity, what, static=static, strict=True)

    def _set_time(self, t_us: int) -> None:
        if t_us >= _DATES_FROM_US:
            self._recording.set_time(SENSOR_TIMELINE, timestamp=np.datetime64(t_us, "us"))
        else:
            self._recording.set_time(SENSOR_TIMELINE, duration=np.timedelta64(t_us, "us"))

    def _describe(self) -> None:
        """Names and colours, which hold for all times."""
        rr, log = self._rr, self._log
        labels = [(item.id, item.name, item.color) for item in self._classes]
        log(MASK, rr.AnnotationContext([*labels, (UNLABELLED, "unlabelled", (0, 0, 0))]), static=True)
        polarities = [(0, "", (0, 0, 0, 0)), (OFF_ID, "OFF", OFF_COLOR), (ON_ID, "ON", ON_COLOR)]
        log(EVENTS, rr.AnnotationContext(polarities), static=True)
        for item in self._classes:
            log(_below(SHARE, item.name), rr.SeriesLines(names=item.name, colors=item.color), static=True)
        for part, color in _LATENCIES.items():
            log(_below(LATENCY, part), rr.SeriesLines(names=part, colors=color), static=True)

    def _picture(self, events: EventBatch) -> NDArray[np.uint8]:
        picture = np.zeros(self._shape, np.uint8)
        pixels, on = last_events(events, self._shape[1])
        picture.reshape(-1)[pixels] = np.where(on, ON_ID, OFF_ID)
        return picture


def _below(entity: str, part: str) -> list[object]:
    """A path whose last part may hold any character."""
    return [entity.removeprefix("/"), part]


def _layout(blueprint: Any) -> Any:
    """The picture to the left, what happens over time to the right."""
    return blueprint.Blueprint(
        blueprint.Horizontal(
            blueprint.Spatial2DView(origin="/sensor", name="Mask and events"),
            blueprint.Vertical(
                blueprint.TimeSeriesView(origin=SHARE, name="Share of each class"),
                blueprint.TimeSeriesView(origin=FIRING_RATE, name="Firing rate of each layer"),
                blueprint.Tabs(
                    blueprint.TimeSeriesView(origin=LATENCY, name="Latency (ms)"),
                    blueprint.TimeSeriesView(origin=COUNT, name="Events"),
                    blueprint.TimeSeriesView(origin=SOPS, name="Synaptic operations"),
                ),
            ),
            column_shares=[3, 2],
        ),
        blueprint.TimePanel(state="collapsed", timeline=SENSOR_TIMELINE),
        blueprint.SelectionPanel(state="collapsed"),
        blueprint.BlueprintPanel(state="collapsed"),
    )


def _require_viewer(url: str) -> None:
    """Raise OutputError if the address is none of a viewer, or nobody listens there; the library would wait for one."""
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port or 9876
    except ValueError as error:
        raise OutputError(f"{url} is not an address: {error}") from None
    if parts.scheme not in ("rerun", "rerun+http", "rerun+https") or not host or parts.path != "/proxy":
        raise OutputError(f"{url} is not an address like rerun+http://127.0.0.1:9876/proxy")
    try:
        socket.create_connection((host, port), timeout=_CONNECT_S).close()
    except OSError as error:
        raise OutputError(f"no Rerun viewer listens at {url}: {error.strerror or error}; start one: rerun") from error
