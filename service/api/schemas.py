"""What clients say in JSON to open or resume a session, and what they are told."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from models.classes import UNLABELLED
from models.events import SensorSize
from service.errors import FieldError
from service.settings import Settings
from service.streaming.session import Session
from service.wire.messages import PROTOCOL_VERSION

MaskName = Literal["zlib", "raw", "png"]
Side = Annotated[int, Field(ge=1, le=0xFFFF)]


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
    """Length of a window in microseconds."""

    us: Annotated[int, Field(ge=1)]


class SessionFields(_Strict):
    """A session to open; what is left out is up to the server."""

    model: str | None = None
    sensor: SensorFields
    window: WindowFields | None = None
    mask: MaskName | None = None
    metrics: bool = True


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


def limit_errors(settings: Settings, sensor: SensorSize | None, window_us: int | None) -> list[FieldError]:
    """The server's limits that a sensor or window would break."""
    errors = []
    if sensor is not None:
        side, pixels = settings.max_sensor_side, settings.max_sensor_pixels
        if max(sensor.width, sensor.height) > side or sensor.width * sensor.height > pixels:
            message = f"a {sensor} sensor is too large: at most {side} pixels a side and {pixels} in all are taken"
            errors.append(FieldError("sensor", message))
    if window_us is not None and not settings.min_window_us <= window_us <= settings.max_window_us:
        message = (
            f"a window of {window_us} µs is not between {settings.min_window_us} and {settings.max_window_us} µs long"
        )
        errors.append(FieldError("window.us", message))
    return errors


def describe_session(session: Session, settings: Settings) -> dict[str, Any]:
    """What a client is told of a session, but for its resume token."""
    return {
        "session": session.id,
        "model": session.model.name,
        "classes": [{"id": c.id, "name": c.name, "color": list(c.color)} for c in session.model.classes],
        "unlabelled": UNLABELLED,
        "sensor": {"width": session.sensor.width, "height": session.sensor.height},
        "window": {"us": session.window_us},
        "mask": str(session.form.mask),
        "metrics": session.form.metrics,
        "next_sequence": session.next_sequence,
        "next_window": session.next_window,
        "max_message_bytes": settings.max_message_bytes,
    }


def welcome(session: Session, settings: Settings) -> dict[str, Any]:
    """The answer to a hello."""
    return {
        "type": "welcome",
        "version": PROTOCOL_VERSION,
        "resume": session.resume_token,
        **describe_session(session, settings),
    }
