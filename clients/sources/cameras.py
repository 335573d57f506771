"""iniVation cameras on this machine, and network streams of events as dv-processing and DV send them."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

from clients.errors import CameraError, RecordingError
from clients.extras import require
from clients.sources.source import Source, to_events
from models.events import EventBatch, SensorSize

IDLE_S = 0.02
"""A source that has nothing says so this often."""
_POLL_S = 0.001


class DvSource(Source):
    """A live input of dv-processing; its packets are passed on as they come, the last one too."""

    live = True

    def __init__(self, name: str, capture: Any, *, ordered: bool = True) -> None:
        size = capture.getEventResolution()
        if not capture.isEventStreamAvailable() or size is None:
            raise CameraError(f"{name} sends no events")
        self._capture: Any = capture
        super().__init__(name, SensorSize(int(size[0]), int(size[1])), ordered=ordered)

    def close(self) -> None:
        """Let go of the camera."""
        self._capture = None

    def _read(self) -> Iterator[EventBatch]:
        silent_since = time.monotonic()
        while (capture := self._capture) is not None:
            # Asked before the packet is, so that what came just before the end is not left behind.
            running = capture.isRunning()
            try:
                store = capture.getNextEventBatch()
            except RuntimeError as error:
                raise CameraError(f"{self.name} failed: {_reason(error)}") from error
            if store is not None and not store.isEmpty():
                records = store.numpy()
                silent_since = time.monotonic()
                try:
                    yield to_events(records["timestamp"], records["x"], records["y"], records["polarity"], self.name)
                except RecordingError as error:
                    raise CameraError(str(error)) from error
                continue
            if not running:
                self._ended()
                return
            if time.monotonic() - silent_since >= IDLE_S:
                silent_since = time.monotonic()
                yield EventBatch.empty()
            time.sleep(_POLL_S)

    def _ended(self) -> None:
        """The input says that no more will come."""


class CameraSource(DvSource):
    """A camera at this machine's USB.

    Parameters
    ----------
    serial : str
        Its serial number; the first camera that is found if empty.

    Raises
    ------
    CameraError
        If there is no camera, none of that number, or it cannot be opened; while iterating, if it is unplugged.
    MissingExtraError
    """

    format = "iniVation camera"

    def __init__(self, serial: str = "", *, ordered: bool = True) -> None:
        dv = require("dv_processing", "reading a camera", extra="clients")
        found = [str(device.serialNumber) for device in dv.io.camera.discover()]
        if not found:
            raise CameraError(
                "no iniVation camera was found: is it plugged in, and may this user open it (udev rules)?"
            )
        if serial and serial not in found:
            raise CameraError(f"no camera has the serial number {serial}; found: {', '.join(found)}")
        try:
            capture = dv.io.camera.open(serial or found[0])
        except (RuntimeError, LookupError, ValueError) as error:
            raise CameraError(f"the camera {serial or found[0]} cannot be opened: {_reason(error)}") from error
        super().__init__(f"camera {serial or found[0]}", capture, ordered=ordered)

    def _ended(self) -> None:
        raise CameraError(f"{self.name} is gone")


class NetworkSource(DvSource):
    """A network stream; it ends when its sender closes it.

    Raises
    ------
    CameraError
        If nobody listens at the address, or what listens sends no events.
    MissingExtraError
    """

    format = "network stream (dv-processing)"

    def __init__(self, host: str, port: int, *, ordered: bool = True) -> None:
        dv = require("dv_processing", "reading a network stream", extra="clients")
        name = f"tcp://{host}:{port}"
        try:
            # The library takes addresses, not names.
            capture = dv.io.NetworkReader(_address(host), port)
        except (RuntimeError, LookupError, ValueError, OSError) as error:
            raise CameraError(f"nobody sends events at {name}: {_reason(error)}") from error
        super().__init__(name, capture, ordered=ordered)


def _address(host: str) -> str:
    import socket

    return str(socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)[0][4][0])


def _reason(error: BaseException) -> str:
    """The one line of a dv-processing error that says something; the rest names source files and stack frames."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    useful = lines[1] if len(lines) > 1 and lines[0].startswith("/") else (lines or [type(error).__name__])[0]
    return useful.split("Error info:")[0].split(" [")[0].rstrip(" -:") or type(error).__name__
