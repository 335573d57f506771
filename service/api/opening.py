"""Opening a session, for HTTP and WebSocket alike, and taking one up from a checkpoint."""

from __future__ import annotations

import re
import time
from dataclasses import replace
from typing import TYPE_CHECKING

from pydantic import ValidationError

from models.emulator import EmulatorConfig
from models.events import SensorSize
from models.filters import FilterConfig, HotPixelConfig
from service.api.problems import invalid_fields
from service.api.schemas import (
    FilterFields,
    FrameFields,
    SessionFields,
    TimeFields,
    describe_options,
    limit_errors,
)
from service.api.services import Services
from service.errors import FieldError, UnusableInputError
from service.settings import Settings
from service.streaming.answers import AnswerFormat
from service.streaming.backlog import Backlog, Policy
from service.streaming.camera import Camera, CameraConfig, most_crossings
from service.streaming.registry import new_id, new_secret
from service.streaming.session import Session, digest
from service.streaming.snapshots import Progress, SessionSpec, Snapshot
from service.streaming.windowing import CountWindows, EventStream, SnapshotError, StreamConfig, TimeWindows
from service.wire.masks import MaskEncoding

if TYPE_CHECKING:
    from models.runtime.model import SegmentationModel

_ID = re.compile(r"[A-Za-z0-9_-]{8,64}")


def checked_id(id: str | None) -> str | None:
    """The id that a client chose for its session.

    Raises
    ------
    UnusableInputError
        If it cannot be one.
    """
    if id is not None and not _ID.fullmatch(id):
        message = "a session's id has 8 to 64 letters, digits, - and _"
        raise UnusableInputError(message, [FieldError("session", message)])
    return id


async def open_session(
    services: Services, fields: SessionFields, id: str | None = None, *, owner: str = ""
) -> tuple[Session, str]:
    """Make a session, which belongs to the key ``owner``.

    Returns
    -------
    Session, str
        The session, and the token that it is resumed with.

    Raises
    ------
    UnusableInputError
        If the sensor or window is outside the server's limits.
    UnknownModelError
        If there is no such model.
    CapacityError
        If there is no room.
    SessionExistsError
        If there is a session of that id.
    DrainingError
        If the server is about to stop.
    """
    services.require_open()
    settings = services.settings
    sensor = fields.sensor.size
    errors = limit_errors(settings, sensor, fields)
    if errors:
        raise UnusableInputError(errors[0].message, errors)
    model = await services.library.get(fields.model if fields.model is not None else settings.default_model)
    services.registry.require_room()
    config = stream_config(fields, model.window_us)
    membranes = await services.engine.offload(model.initial_state, sensor)
    queue = fields.queue
    spec = SessionSpec(
        id if id is not None else new_id(),
        b"",
        model.name,
        model.fingerprint,
        sensor,
        config,
        AnswerFormat(MaskEncoding(fields.mask) if fields.mask else settings.default_mask, fields.metrics),
        Backlog(
            Policy(queue.policy) if queue else Policy.WAIT,
            queue.windows if queue and queue.windows else settings.queue_windows,
            None if fields.deadline_ms is None else fields.deadline_ms / 1e3,
        ),
        time.time(),
        camera_config(fields.frames, sensor, settings.max_events_per_window),
        owner,
    )
    camera = Camera(spec.camera) if spec.camera is not None else None
    stream = EventStream.start(config, services.window_limits, sensor=sensor)
    progress = Progress(stream, membranes, camera=camera)
    return await _take_in(services, model, spec, progress)


async def open_from_snapshot(
    services: Services, snapshot: Snapshot, id: str | None = None, *, owner: str = ""
) -> tuple[Session, str]:
    """Make a session that goes on from a snapshot; its messages are numbered from 1.

    Raises
    ------
    SnapshotError
        If the snapshot does not fit the model.
    """
    services.require_open()
    errors = option_errors(services.settings, snapshot.spec)
    if errors:
        raise SnapshotError(f"the snapshot's {errors[0].field}: {errors[0].message}", errors)
    model = await services.library.get(snapshot.spec.model)
    services.registry.require_room()
    progress = await services.engine.offload(snapshot.progress, model)
    if progress.ended:
        raise UnusableInputError("the snapshot is of a session that has ended")
    spec = replace(snapshot.spec, id=id if id is not None else new_id(), opened_at=time.time(), owner=owner)
    return await _take_in(services, model, spec, replace(progress, next_sequence=1))


async def _take_in(
    services: Services, model: SegmentationModel, spec: SessionSpec, progress: Progress
) -> tuple[Session, str]:
    secret = new_secret()
    session = Session(replace(spec, secret_digest=digest(secret)), model, progress, services.workplace)
    await services.registry.open(session)
    return session, f"{session.id}.{secret}"


def option_errors(settings: Settings, spec: SessionSpec) -> list[FieldError]:
    """Why a session with the settings of a snapshot could not have been opened on this server; empty if it could."""
    options = describe_options(spec)
    if spec.camera is not None and options["time"] == TimeFields().model_dump():
        options["time"] = None
    try:
        fields = SessionFields.model_validate(options)
    except ValidationError as error:
        return invalid_fields(error)[1]
    errors = limit_errors(settings, spec.sensor, fields)
    if spec.camera is not None:
        emulator, dark_level = spec.camera.emulator, EmulatorConfig().dark_level
        most = most_crossings(spec.sensor, settings.max_events_per_window)
        if emulator.dark_level != dark_level:
            errors.append(FieldError("frames.dark_level", f"dark_level is {dark_level}"))
        if not 1 <= emulator.most_crossings <= most:
            errors.append(FieldError("frames.most_crossings", f"most_crossings is between 1 and {most}"))
    return errors


def camera_config(fields: FrameFields | None, sensor: SensorSize, most_events: int) -> CameraConfig | None:
    """How the frames of a new session become events, at most ``most_events`` a window; None if it takes events."""
    if fields is None:
        return None
    settings = fields.model_dump(exclude={"seed"})
    crossings = most_crossings(sensor, most_events)
    return CameraConfig(EmulatorConfig(**settings, most_crossings=crossings), fields.seed)


def stream_config(fields: SessionFields, default_us: int) -> StreamConfig:
    """How the stream of a new session is cut; ``default_us`` is the length of windows that nobody has chosen."""
    window, clock = fields.window, fields.time
    span: TimeWindows | CountWindows
    if window is not None and window.count is not None:
        span = CountWindows(window.count, window.stride or window.count)
    else:
        us = window.us if window is not None and window.us is not None else default_us
        stride_us = window.stride_us if window is not None and window.stride_us is not None else us
        span = TimeWindows(us, stride_us)
    return StreamConfig(
        span,
        gaps=fields.gaps,
        reorder_us=clock.reorder_us if clock else 0,
        wrap_bits=clock.wrap_bits if clock else None,
        on_restart=clock.on_restart if clock else "refuse",
        filter=filter_config(fields.filter),
    )


def filter_config(fields: FilterFields | None) -> FilterConfig | None:
    """The noise filters of a new session; None without any."""
    if fields is None:
        return None
    hot = fields.hot_pixel
    return FilterConfig(
        None if hot is None else HotPixelConfig(hot.learn_us, hot.sigma, hot.min_rate_hz),
        fields.refractory_us,
        fields.background_activity_us,
    )
