"""Pictures as the service takes them: raw pixels, or a PNG, JPEG or WebP file."""

from __future__ import annotations

import io

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from models.events import SensorSize
from service.wire.errors import FrameError
from service.wire.frames import encode_frame, encode_picture_frame

Pixels = NDArray[np.uint8]
Picture = Pixels | bytes
"""Grey (H, W) or RGB (H, W, 3) pixels, or the bytes of a PNG, JPEG or WebP file."""


def frame_payload(t_us: int, picture: Picture, sensor: SensorSize) -> bytes:
    """What a ``FRAME`` message carries.

    Raises
    ------
    FrameError
        If the picture is of another kind or, as pixels, of another size than the sensor.
    """
    if not isinstance(t_us, int | np.integer):
        raise FrameError(f"a frame's time is in whole microseconds, not {t_us!r}", "t_us")
    if isinstance(picture, np.ndarray):
        payload = encode_frame(t_us, picture)
        size = SensorSize(picture.shape[1], picture.shape[0])
        if size != sensor:
            raise FrameError(f"the frame is {size}, the session's sensor {sensor}", "width")
        return payload
    media_type(picture)
    return encode_picture_frame(t_us, sensor, picture)


def picture_file(picture: Picture) -> tuple[str, bytes]:
    """Media type and bytes of a picture; pixels become a PNG.

    Raises
    ------
    FrameError
        If it is of another kind.
    """
    if not isinstance(picture, np.ndarray):
        return media_type(picture), picture
    if picture.dtype != np.uint8 or picture.ndim not in (2, 3) or picture.shape[2:] not in ((), (3,)):
        raise FrameError(f"a picture has uint8 pixels (H, W) or (H, W, 3), not {picture.dtype} {picture.shape}")
    if not picture.size:
        raise FrameError("the picture has no pixels")
    file = io.BytesIO()
    Image.fromarray(picture).save(file, "PNG")
    return "image/png", file.getvalue()


def pixels(picture: Picture) -> Pixels:
    """The pixels of a picture, grey (H, W) or RGB (H, W, 3); a file becomes RGB."""
    if isinstance(picture, np.ndarray):
        return picture
    with Image.open(io.BytesIO(picture)) as image:
        return np.array(image.convert("RGB"))


def media_type(file: bytes) -> str:
    """Media type of a picture file, by how it begins.

    Raises
    ------
    FrameError
        If it is neither PNG nor JPEG nor WebP.
    """
    if not isinstance(file, bytes):
        raise FrameError(f"a picture is an array of pixels or the bytes of a file, not {type(file).__name__}")
    if file.startswith(b"\x89PNG\r\n\x1a\n"):
        return "image/png"
    if file.startswith(b"\xff\xd8\xff"):
        return "image/jpeg"
    if file.startswith(b"RIFF") and file[8:12] == b"WEBP":
        return "image/webp"
    raise FrameError("the picture is not a PNG, JPEG or WebP file")
