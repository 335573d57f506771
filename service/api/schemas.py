"""What clients say in JSON to open or resume a session, and what they are told."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from models.classes import UNLABELLED
from models.events import SensorSize
from models.filters import MAX_DURATION_US, FilterConfig
from service.errors import FieldError
from service.observability.context import request_id
from service.settings import Settings
from service.streaming.camera import CameraConfig
from service.streaming.session import Session
from service.streaming.snapshots import SessionSpec
from service.streaming.windowing import CountWindows, TimeWindows
from service.wire.messages import PROTOCOL_VERSION

MaskName = Literal["zlib", "raw", "png"]
Side = Annotated[int, Field(ge=1, le=0xFFFF)]
MAX_OVERLAP = 64
"""Most windows that one event may be in."""


def _spoken(version: int) -> int:
    if version != PROTOCOL_VERSION:
        raise ValueError(f"this server speaks version {PROTOCOL_VERSION}")
    return version


Version = Annotated[int, AfterValidator(_spoken)]


class _Strict(BaseModel):
    """No bool for an int, no text for a number, and no field that would be passed over in silence."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)


class SensorFields(_Strict):
    """Size of the sensor in pixels."""

    width: Side
    height: Side

    @property
    def size(self) -> SensorSize:
        """The same, as the rest of the service has it."""
        return SensorSize(self.width, self.height)


class WindowFields(_Strict):
    """How the stream is cut: by time, ``us`` microseconds every ``stride_us``, or by ``count`` events every ``stride``.

    Without a stride, windows follow each other without overlap.
    """

    us: Annotated[int, Field(ge=1)] | None = None
    stride_us: Annotated[int, Field(ge=1)] | None = None
    count: Annotated[int, Field(ge=1)] | None = None
    stride: Annotated[int, Field(ge=1)] | None = None

    @model_validator(mode="after")
    def _check(self) -> Self:
        if (self.us is None) == (self.count is None):
            raise ValueError("a window has either us or count")
        for length, stride, name, of in (
            (self.us, self.stride_us, "stride_us", "us"),
            (self.count, self.stride, "stride", "count"),
        ):
            if stride is not None and length is None:
                raise ValueError(f"{name} goes with {of}")
            if stride is not None and length is not None and not length <= stride * MAX_OVERLAP <= length * MAX_OVERLAP:
                raise ValueError(f"{name} is between 1/{MAX_OVERLAP} of {of} and {of}")
        return self


class TimeFields(_Strict):
    """What is done about a sensor's clock.

    Events may come ``reorder_us`` late; the counter has ``wrap_bits`` bits and overflows; when time goes back further,
    the message is refused, or the sensor is taken to have begun anew.
    """

    reorder_us: Annotated[int, Field(ge=0, le=10_000_000)] = 0
    wrap_bits: Annotated[int, Field(ge=16, le=52)] | None = None
    on_restart: Literal["refuse", "reset"] = "refuse"

    @model_validator(mode="after")
    def _check(self) -> Self:
        # Later than that, an event from before an overflow could not be told from one after a long silence.
        if self.wrap_bits is not None and self.reorder_us > (most := 1 << (self.wrap_bits - 2)):
            raise ValueError(f"reorder_us is at most {most} for a clock of {self.wrap_bits} bits")
        return self


class QueueFields(_Strict):
    """What is done about windows that come faster than they are computed, and how many may wait."""

    policy: Literal["wait", "drop-oldest", "merge"] = "wait"
    windows: Annotated[int, Field(ge=1, le=4096)] | None = None


Contrast = Annotated[float, Field(ge=0.05, le=3, allow_inf_nan=False)]


class FrameFields(_Strict):
    """How the frames of a session become events: the contrast thresholds (as a change of the log of intensity), their
    spread over the pixels, the dead time of a pixel, and background events; ``models/emulator.py`` has the model.
    """

    contrast_on: Contrast = 0.2
    contrast_off: Contrast = 0.2
    threshold_sigma: Annotated[float, Field(ge=0, le=0.5, allow_inf_nan=False)] = 0.03
    refractory_us: Annotated[int, Field(ge=0, le=1_000_000)] = 0
    noise_rate_hz: Annotated[float, Field(ge=0, le=20, allow_inf_nan=False)] = 0.1
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0


FilterTime = Annotated[int, Field(ge=0, le=MAX_DURATION_US)]


class HotPixelFields(_Strict):
    """Which pixels are hot: those with more events in the first ``learn_us`` than the mean by ``sigma`` standard
    deviations, and more than ``min_rate_hz`` a second.
    """

    learn_us: Annotated[int, Field(ge=1, le=MAX_DURATION_US)] = 1_000_000
    sigma: Annotated[float, Field(ge=0, le=1e6, allow_inf_nan=False)] = 10.0
    min_rate_hz: Annotated[float, Field(ge=0, le=1e6, allow_inf_nan=False)] = 100.0


class FilterFields(_Strict):
    """Filters of the sensor's noise, in the order in which events meet them: hot pixels, a refractory period, and
    background activity, events without one at a neighbour within so many microseconds. 0 or null leaves one out;
    ``models/filters.py`` has what they do.
    """

    hot_pixel: HotPixelFields | None = None
    refractory_us: FilterTime = 0
    background_activity_us: FilterTime = 0

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.hot_pixel is None and not self.refractory_us and not self.background_activity_us:
            raise ValueError("a filter has hot_pixel, refractory_us or background_activity_us, or several of them")
        return self


class SessionFields(_Strict):
    """A session to open; what is left out is up to the server."""

    model: str | None = None
    sensor: SensorFields
    window: WindowFields | None = None
    gaps: Literal["step", "leak"] = "step"
    time: TimeFields | None = None
    queue: QueueFields | None = None
    deadline_ms: Annotated[float, Field(gt=0, le=3_600_000, allow_inf_nan=False)] | None = None
    mask: MaskName | None = None
    metrics: bool = True
    frames: FrameFields | None = None
    filter: FilterFields | None = None

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.frames is not None and self.time is not None:
            raise ValueError("time is for sensors that give events; the times of frames only go on")
        return self


class Hello(SessionFields):
    """First message of a WebSocket that opens a session."""

    type: Literal["hello"]
    version: Version


class ResumeHello(_Strict):
    """First message of a WebSocket that takes up an earlier session."""

    type: Literal["hello"]
    version: Version
    resume: str
    mask: MaskName | None = None
    metrics: bool | None = None


def limit_errors(
    settings: Settings, sensor: SensorSize | None, fields: SessionFields | None = None, *, window_us: int | None = None
) -> list[FieldError]:
    """The server's limits that a sensor or window would break."""
    errors = []
    if sensor is not None:
        side, pixels = settings.max_sensor_side, settings.max_sensor_pixels
        if max(sensor.width, sensor.height) > side or sensor.width * sensor.height > pixels:
            message = f"a {sensor} sensor is too large: at most {side} pixels a side and {pixels} in all are taken"
            errors.append(FieldError("sensor", message))
    window = fields.window if fields is not None else None
    if window is not None:
        window_us = window.us
        if window.count is not None and window.count > settings.max_events_per_window:
            message = (
                f"a window of {window.count} events is too large: at most {settings.max_events_per_window} are taken"
            )
            errors.append(FieldError("window.count", message))
    if window_us is not None and not settings.min_window_us <= window_us <= settings.max_window_us:
        message = (
            f"a window of {window_us} µs is not between {settings.min_window_us} and {settings.max_window_us} µs long"
        )
        errors.append(FieldError("window.us", message))
    return errors


def describe_options(spec: SessionSpec) -> dict[str, Any]:
    """The options that a session was opened with, as ``SessionFields`` has them; defaults are there too."""
    config, deadline_s = spec.config, spec.backlog.deadline_s
    return {
        "sensor": {"width": spec.sensor.width, "height": spec.sensor.height},
        "window": describe_window(config.window),
        "gaps": config.gaps,
        "time": {
            "reorder_us": config.reorder_us,
            "wrap_bits": config.wrap_bits,
            "on_restart": config.on_restart,
        },
        "queue": {"policy": str(spec.backlog.policy), "windows": spec.backlog.windows},
        "deadline_ms": None if deadline_s is None else deadline_s * 1e3,
        "mask": str(spec.form.mask),
        "metrics": spec.form.metrics,
        "frames": describe_camera(spec.camera),
        "filter": describe_filter(config.filter),
    }


def describe_session(session: Session, settings: Settings) -> dict[str, Any]:
    """What a client is told of a session, but for its resume token."""
    return {
        "session": session.id,
        "model": session.model.name,
        "classes": [{"id": c.id, "name": c.name, "color": list(c.color)} for c in session.model.classes],
        "unlabelled": UNLABELLED,
        **describe_options(session.spec),
        "next_sequence": session.next_sequence,
        "next_window": session.next_window,
        "acked": session.acked,
        "credit": settings.queue_messages,
        "max_message_bytes": settings.max_message_bytes,
    }


def describe_camera(camera: CameraConfig | None) -> dict[str, Any] | None:
    """The settings of a session's camera; None if it takes events."""
    if camera is None:
        return None
    settings = {**asdict(camera.emulator), "seed": camera.seed}
    return {name: settings[name] for name in FrameFields.model_fields}


def describe_filter(filter: FilterConfig | None) -> dict[str, Any] | None:
    """The noise filters of a session; None without any."""
    return None if filter is None else asdict(filter)


def describe_window(window: TimeWindows | CountWindows) -> dict[str, int]:
    """How a stream is cut; a stride only where windows overlap."""
    if isinstance(window, CountWindows):
        overlap = {} if window.stride == window.count else {"stride": window.stride}
        return {"count": window.count, **overlap}
    overlap = {} if window.stride_us == window.us else {"stride_us": window.stride_us}
    return {"us": window.us, **overlap}


def welcome(session: Session, settings: Settings, token: str) -> dict[str, Any]:
    """The answer to a hello."""
    return {
        "type": "welcome",
        "version": PROTOCOL_VERSION,
        "resume": token,
        "request_id": request_id.get(),
        **describe_session(session, settings),
    }
