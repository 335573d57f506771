"""Cutting an event stream into windows: pure functions from state and events to windows and state."""

from service.streaming.windowing.config import (
    MAX_WRAP_BITS,
    MIN_WRAP_BITS,
    CountWindows,
    StreamConfig,
    TimeWindows,
    WindowLimits,
)
from service.streaming.windowing.errors import SnapshotError
from service.streaming.windowing.event_stream import EventStream
from service.streaming.windowing.window import Window

__all__ = [
    "MAX_WRAP_BITS",
    "MIN_WRAP_BITS",
    "CountWindows",
    "EventStream",
    "SnapshotError",
    "StreamConfig",
    "TimeWindows",
    "Window",
    "WindowLimits",
]
