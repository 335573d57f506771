"""Video files and webcams: as events through the emulator of :mod:`models.emulator`, or as frames for the service's.

Events that come out are simulated: frames say nothing of what happened between them.
"""

from __future__ import annotations

import time
from abc import abstractmethod
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clients.errors import CameraError, RecordingError
from clients.extras import require
from clients.items import Frame
from clients.sources.source import Source
from models.emulator import EmulatorConfig, EmulatorState, emulate, initial
from models.events import EventBatch, SensorSize

LONGEST_SIDE = 346
"""Pixels; frames are scaled down to it, which is about what the networks see, and bounds the work."""

Grey = NDArray[np.uint8]


class FrameSource(Source):
    """A source whose events are made of frames, which can be had themselves.

    Parameters
    ----------
    name : str
    sensor : SensorSize
    config : EmulatorConfig
    """

    def __init__(self, name: str, sensor: SensorSize, config: EmulatorConfig) -> None:
        super().__init__(name, sensor)
        self._config = config

    def frames(self) -> Iterator[Frame]:
        """The frames in grey, of the sensor's size, from the beginning; those whose time does not go on are left out.

        They are for a stream with ``StreamOptions(frames=…)``.

        Raises
        ------
        SourceError
            While iterating, if they cannot be had.
        """
        latest = -1
        for t_us, grey in self._frames():
            if max(t_us, 0) > latest:
                latest = max(t_us, 0)
                yield Frame(latest, grey)

    def _read(self) -> Iterator[EventBatch]:
        yield from emulated(self._frames(), self._config)

    @abstractmethod
    def _frames(self) -> Iterator[tuple[int, Grey]]:
        """Times in microseconds, and pictures."""


class VideoSource(FrameSource):
    """A video file.

    Parameters
    ----------
    path : Path
    longest_side : int
        Larger frames are scaled down to this many pixels.
    config : EmulatorConfig

    Raises
    ------
    RecordingError
        Here or while iterating: the file cannot be opened or decoded, or holds no video.
    MissingExtraError
    """

    format = "video, through the emulator"

    def __init__(
        self,
        path: Path,
        *,
        longest_side: int = LONGEST_SIDE,
        config: EmulatorConfig = EmulatorConfig(),  # noqa: B008
    ) -> None:
        self._path = path
        self._av = require("av", "reading video")
        with self._opened() as container:
            stream = self._stream(container)
            if stream.codec_context is None or not (stream.codec_context.width and stream.codec_context.height):
                raise RecordingError(f"{path} is damaged: its video has no size")
            size = scaled(SensorSize(stream.codec_context.width, stream.codec_context.height), longest_side)
        super().__init__(str(path), size, config)

    def _frames(self) -> Iterator[tuple[int, Grey]]:
        av = self._av
        with self._opened() as container:
            stream = self._stream(container)
            stream.thread_type = "AUTO"
            try:
                for frame in container.decode(stream):
                    if frame.time is None:
                        raise RecordingError(f"{self._path} has frames without a time")
                    grey = frame.reformat(self.sensor.width, self.sensor.height, format="gray")
                    yield round(frame.time * 1e6), grey.to_ndarray()
            except av.FFmpegError as error:
                raise RecordingError(f"{self._path} is damaged or cut off: {error.strerror}") from error

    def _stream(self, container: Any) -> Any:
        if not container.streams.video:
            raise RecordingError(f"{self._path} holds no video")
        return container.streams.video[0]

    def _opened(self) -> Any:
        try:
            return self._av.open(str(self._path))
        except self._av.FFmpegError as error:
            raise RecordingError(f"{self._path} cannot be read as video: {error.strerror}") from error


class WebcamSource(FrameSource):
    """A webcam, by its number; times are of this machine's clock, in microseconds since 1970.

    Raises
    ------
    CameraError
        If there is no such webcam; while iterating, if it is unplugged.
    MissingExtraError
    """

    format = "webcam, through the emulator"
    live = True

    def __init__(
        self,
        number: int = 0,
        *,
        longest_side: int = LONGEST_SIDE,
        config: EmulatorConfig = EmulatorConfig(),  # noqa: B008
    ) -> None:
        self._cv2 = require("cv2", "reading a webcam")
        logging = self._cv2.utils.logging
        level = logging.getLogLevel()
        # It is said below, and better, that there is none.
        logging.setLogLevel(logging.LOG_LEVEL_SILENT)
        try:
            self._capture: Any = self._cv2.VideoCapture(number)
            good, frame = self._capture.read()
        finally:
            logging.setLogLevel(level)
        if not good:
            self.close()
            raise CameraError(f"there is no webcam with the number {number}, or this user may not open it")
        self._frame = frame
        size = scaled(SensorSize(frame.shape[1], frame.shape[0]), longest_side)
        super().__init__(f"webcam {number}", size, config)

    def close(self) -> None:
        """Let go of the camera."""
        self._capture.release()

    def _frames(self) -> Iterator[tuple[int, Grey]]:
        cv2, frame = self._cv2, self._frame
        while True:
            small = cv2.resize(frame, (self.sensor.width, self.sensor.height), interpolation=cv2.INTER_AREA)
            yield time.time_ns() // 1000, cv2.cvtColor(small, cv2.COLOR_BGR2GRAY)
            good, frame = self._capture.read()
            if not good:
                raise CameraError(f"{self.name} gives no more pictures")


def emulated(frames: Iterator[tuple[int, Grey]], config: EmulatorConfig) -> Iterator[EventBatch]:
    """The events between frames; one batch for each frame but the first.

    Parameters
    ----------
    frames : iterator of (int, uint8 array)
        Time in microseconds, and picture (H, W). Frames whose time does not go on are left out.
    config : EmulatorConfig
    """
    state: EmulatorState | None = None
    for t_us, frame in frames:
        if state is None:
            state = initial(frame, config, t_us=max(t_us, 0))
        elif t_us > state.t_us:
            events, state = emulate(state, frame, t_us, config)
            yield events


def scaled(size: SensorSize, longest_side: int) -> SensorSize:
    """A size with the same sides' ratio, whose longest side is not above a limit."""
    factor = min(1.0, longest_side / max(size.width, size.height))
    return SensorSize(max(1, round(size.width * factor)), max(1, round(size.height * factor)))
