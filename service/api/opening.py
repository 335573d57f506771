"""Opening a session, for HTTP and WebSocket alike."""

from __future__ import annotations

from service.api.schemas import SessionFields, limit_errors
from service.api.services import Services
from service.errors import UnusableInputError
from service.streaming.answers import AnswerFormat
from service.streaming.session import Progress, Session
from service.streaming.windows import WindowLimits, WindowStream
from service.wire.masks import MaskEncoding


def window_limits(services: Services) -> WindowLimits:
    """What one message may do on this server."""
    settings = services.settings
    return WindowLimits(windows=settings.max_windows_per_message, events=settings.max_events_per_window)


async def open_session(services: Services, fields: SessionFields) -> Session:
    """Make a session.

    Raises
    ------
    UnusableInputError
        If the sensor or window is outside the server's limits.
    UnknownModelError
        If there is no such model.
    CapacityError
        If there is no room.
    """
    settings = services.settings
    sensor = fields.sensor.size
    errors = limit_errors(settings, sensor, fields.window.us if fields.window else None)
    if errors:
        raise UnusableInputError(errors[0].message, errors)
    model = await services.library.get(fields.model if fields.model is not None else settings.default_model)
    stream = WindowStream(fields.window.us if fields.window else model.window_us, window_limits(services))
    mask = MaskEncoding(fields.mask) if fields.mask else settings.default_mask
    services.registry.require_room()
    membranes = await services.engine.offload(model.initial_state, sensor)

    def make(id: str, secret: str) -> Session:
        return Session(
            id,
            secret,
            model,
            sensor,
            Progress(stream, membranes),
            AnswerFormat(mask, fields.metrics),
            engine=services.engine,
            metrics=services.metrics,
            replay_bytes=settings.replay_bytes,
        )

    return services.registry.create(make)
