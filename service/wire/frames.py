"""Frames to arrays: picture files, raw pixels, and the payload of a ``FRAME`` message.

A picture's size is read from its header and held against what is expected before any pixel is decoded, so that a small
file cannot unfold into gigabytes.
"""

from __future__ import annotations

import io
import struct
import warnings
from dataclasses import dataclass
from enum import IntEnum

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from models.events import SensorSize
from service.wire.errors import FrameError
from service.wire.events import MAX_TIME_US

PICTURE_TYPES = ("image/png", "image/jpeg", "image/webp")
HEADER = struct.Struct("<qHHB3x")

_FORMATS = ("PNG", "JPEG", "WEBP")
Pixels = NDArray[np.uint8]


class FrameEncoding(IntEnum):
    """What follows the header of a frame."""

    GREY = 0
    """One byte a pixel, row by row."""
    RGB = 1
    """Three bytes a pixel, row by row."""
    PICTURE = 2
    """A PNG, JPEG or WebP file."""


@dataclass(frozen=True, slots=True)
class Frame:
    """One frame of a camera: time in µs, and its brightness, uint8 (H, W)."""

    t_us: int
    grey: Pixels

    @property
    def size(self) -> SensorSize:
        """Width and height in pixels."""
        return SensorSize(self.grey.shape[1], self.grey.shape[0])


def encode_frame(t_us: int, pixels: Pixels) -> bytes:
    """The payload of a ``FRAME`` message around raw pixels, uint8 (H, W) or (H, W, 3).

    Raises
    ------
    FrameError
        If the pixels have another shape, or the time does not fit.
    """
    if pixels.dtype != np.uint8 or pixels.ndim not in (2, 3) or pixels.shape[2:] not in ((), (3,)):
        raise FrameError(f"a frame has uint8 pixels (H, W) or (H, W, 3), not {pixels.dtype} {pixels.shape}")
    encoding = FrameEncoding.GREY if pixels.ndim == 2 else FrameEncoding.RGB
    return _header(t_us, SensorSize(pixels.shape[1], pixels.shape[0]), encoding) + pixels.tobytes()


def encode_picture_frame(t_us: int, size: SensorSize, file: bytes) -> bytes:
    """The payload of a ``FRAME`` message around a PNG, JPEG or WebP file of that size."""
    return _header(t_us, size, FrameEncoding.PICTURE) + file


def decode_frame(payload: bytes | memoryview, expected: SensorSize) -> Frame:
    """Read the payload of a ``FRAME`` message.

    Parameters
    ----------
    payload : bytes
        A header of 16 bytes: time i64, width u16, height u16, encoding u8, three bytes of 0; then the pixels or file.
    expected : SensorSize
        The size that the frame must have.

    Raises
    ------
    FrameError
        If the bytes are no such frame; its ``field`` is what is to blame.
    """
    view = memoryview(payload)
    if len(view) < HEADER.size:
        raise FrameError(f"a frame begins with {HEADER.size} bytes of header, only {len(view)} are there", "length")
    t_us, width, height, encoding_id = HEADER.unpack_from(view)
    if any(view[HEADER.size - 3 : HEADER.size]):
        raise FrameError("the last three bytes of a frame's header must be 0", "reserved")
    try:
        encoding = FrameEncoding(encoding_id)
    except ValueError:
        known = ", ".join(f"{e.value} ({e.name.lower()})" for e in FrameEncoding)
        raise FrameError(f"frame encoding {encoding_id} is unknown; there are {known}", "encoding") from None
    size = SensorSize(width, height)
    _require_size(size, expected)
    body = view[HEADER.size :]
    if encoding is FrameEncoding.PICTURE:
        return Frame(checked_time(t_us), decode_grey(body, expected))
    return Frame(checked_time(t_us), decode_raw(body, expected, channels=1 if encoding is FrameEncoding.GREY else 3))


def decode_raw(data: bytes | memoryview, size: SensorSize, channels: int | None = None) -> Pixels:
    """Brightness (H, W) of raw pixels, grey or RGB; which of them, their number tells unless ``channels`` does.

    Raises
    ------
    FrameError
        If they are too few or too many.
    """
    pixels = size.width * size.height
    fitting = [n for n in (1, 3) if len(data) == n * pixels and channels in (None, n)]
    if not fitting:
        wanted = " or ".join(str(n * pixels) for n in ((1, 3) if channels is None else (channels,)))
        raise FrameError(f"a raw frame of {size} has {wanted} bytes, not {len(data)}", "length")
    raw = np.frombuffer(data, np.uint8)
    if fitting[0] == 1:
        return raw.reshape(size.height, size.width).copy()
    return np.asarray(Image.fromarray(raw.reshape(size.height, size.width, 3)).convert("L"))


def decode_grey(data: bytes | memoryview, expected: SensorSize) -> Pixels:
    """Brightness (H, W) of a picture file by ITU-R BT.601.

    Raises
    ------
    FrameError
        If it is no picture of that size.
    """
    return _decode(data, "L", expected=expected)


def decode_rgb(data: bytes | memoryview, *, most_side: int, most_pixels: int) -> Pixels:
    """Colours (H, W, 3) of a picture file.

    Raises
    ------
    FrameError
        If it is no picture, or larger than the limits.
    """
    return _decode(data, "RGB", most_side=most_side, most_pixels=most_pixels)


def checked_time(t_us: int) -> int:
    """A time that events may have.

    Raises
    ------
    FrameError
        If it is negative, or beyond ``MAX_TIME_US``.
    """
    if not 0 <= t_us <= MAX_TIME_US:
        raise FrameError(f"a frame's time is from 0 to {MAX_TIME_US} µs, not {t_us}", "t_us")
    return t_us


def _header(t_us: int, size: SensorSize, encoding: FrameEncoding) -> bytes:
    return HEADER.pack(checked_time(t_us), size.width, size.height, encoding)


def _require_size(found: SensorSize, expected: SensorSize) -> None:
    if found != expected:
        raise FrameError(f"the frame is {found}, the session's sensor {expected}", "width")


def _decode(
    data: bytes | memoryview,
    mode: str,
    *,
    expected: SensorSize | None = None,
    most_side: int = 0xFFFF,
    most_pixels: int = 2**31,
) -> Pixels:
    try:
        with warnings.catch_warnings():
            # The size is held against our own limits.
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(io.BytesIO(data), formats=_FORMATS) as picture:
                size = SensorSize(*picture.size)
                if expected is not None:
                    _require_size(size, expected)
                if max(picture.size) > most_side or size.width * size.height > most_pixels:
                    raise FrameError(
                        f"a picture of {size} is too large: at most {most_side} pixels a side and {most_pixels} in all "
                        "are taken",
                        "width",
                    )
                if picture.mode.startswith("I"):
                    # 16 bits of grey; Pillow would cut off what is above 255.
                    deep = np.asarray(picture).astype(np.int64) >> 8
                    return np.array(Image.fromarray(deep.clip(0, 255).astype(np.uint8)).convert(mode))
                return np.array(picture.convert(mode))
    except FrameError:
        raise
    # Pillow's decoders raise nearly anything at a broken file.
    except Exception as error:  # noqa: BLE001
        why = "" if isinstance(error, UnidentifiedImageError) else f": {str(error)[:120] or type(error).__name__}"
        raise FrameError(f"the frame is not a PNG, JPEG or WebP picture that can be read{why}") from None
