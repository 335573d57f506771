"""An MP4 of masks in colour under their events, H.264, as every browser plays it."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from clients.errors import OutputError
from clients.extras import require
from clients.outputs.output import Output, unwritable
from clients.overlay import overlay
from clients.pictures import Pixels
from clients.results import Result
from models.classes import SegmentationClass
from models.events import EventBatch

_SMALLEST_HEIGHT = 480
_TICKS = 90_000
_NOMINAL_RATE = 30


class OverlayVideo(Output):
    """One picture for each window, shown at the window's time by the sensor's clock.

    Small masks are enlarged by a whole number, so that each pixel stays a square.

    Parameters
    ----------
    path : Path
        Ends in ``.mp4``; an existing file is replaced.
    classes : sequence of SegmentationClass

    Raises
    ------
    OutputError
        If the file cannot be written.
    MissingExtraError
    """

    def __init__(self, path: Path, classes: Sequence[SegmentationClass]) -> None:
        self._av = require("av", "writing video")
        self._path = path
        self._classes = classes
        self._stream: Any = None
        self._first_us: int | None = None
        if path.suffix != ".mp4":
            raise OutputError(f"{path}: the name of a video should end in .mp4")
        try:
            # The library would notice only at the first picture that the path cannot be written.
            path.open("wb").close()
        except OSError as error:
            raise unwritable(path, error) from error
        self._container: Any = self._av.open(str(path), "w", options={"movflags": "+faststart"})

    def write(self, result: Result, events: EventBatch, frame: Pixels | None = None) -> None:
        """See :meth:`Output.write`."""
        picture = overlay(result.mask, events, self._classes, frame=frame)
        factor = max(1, round(_SMALLEST_HEIGHT / picture.shape[0]))
        picture = picture.repeat(factor, axis=0).repeat(factor, axis=1)
        # The encoder wants sides of even length.
        picture = np.pad(picture, [(0, picture.shape[0] % 2), (0, picture.shape[1] % 2), (0, 0)], mode="edge")
        if self._first_us is None:
            self._first_us = result.t_start
            self._begin(picture.shape[1], picture.shape[0])
        shown = self._av.VideoFrame.from_ndarray(picture, format="rgb24")
        shown.pts = (result.t_start - self._first_us) * _TICKS // 1_000_000
        shown.time_base = Fraction(1, _TICKS)
        self._encode(shown)

    def close(self) -> None:
        """See :meth:`Output.close`."""
        container, self._container = self._container, None
        if container is None:
            return
        try:
            if self._stream is not None:
                for packet in self._stream.encode(None):
                    container.mux(packet)
            container.close()
        except self._av.FFmpegError as error:
            raise OutputError(f"{self._path}: {error.strerror}") from error
        if self._stream is None:
            # A video without a picture is none that could be opened.
            self._path.unlink(missing_ok=True)

    def _begin(self, width: int, height: int) -> None:
        stream = self._container.add_stream("libx264", rate=_NOMINAL_RATE, options={"crf": "18", "preset": "veryfast"})
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.codec_context.time_base = Fraction(1, _TICKS)
        self._stream = stream

    def _encode(self, frame: Any) -> None:
        try:
            for packet in self._stream.encode(frame):
                self._container.mux(packet)
        except self._av.FFmpegError as error:
            raise OutputError(f"{self._path}: {error.strerror}") from error
