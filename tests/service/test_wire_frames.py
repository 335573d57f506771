"""Frames and pictures to brightness: every layout, and every way to be wrong."""

from __future__ import annotations

import io
import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from models.events import SensorSize
from service.wire.errors import FrameError
from service.wire.events import MAX_TIME_US
from service.wire.frames import (
    HEADER,
    decode_frame,
    decode_grey,
    decode_raw,
    decode_rgb,
    encode_frame,
    encode_picture_frame,
)

SIZE = SensorSize(20, 12)
RNG = np.random.default_rng(5)
COLOURS = RNG.integers(0, 256, (12, 20, 3), np.uint8)
GREY = RNG.integers(0, 256, (12, 20), np.uint8)


def picture(pixels: np.ndarray, kind: str = "PNG", **options: object) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, kind, **options)
    return file.getvalue()


@given(st.integers(0, MAX_TIME_US), st.integers(1, 40), st.integers(1, 40), st.booleans())
def test_raw_frames_come_back(t_us: int, width: int, height: int, coloured: bool) -> None:
    rng = np.random.default_rng(width * 41 + height)
    grey = rng.integers(0, 256, (height, width), np.uint8)
    pixels = np.repeat(grey[..., None], 3, axis=2) if coloured else grey
    frame = decode_frame(encode_frame(t_us, pixels), SensorSize(width, height))
    assert (frame.t_us, frame.size) == (t_us, SensorSize(width, height))
    # Equal amounts of red, green and blue are that much grey.
    assert np.array_equal(frame.grey, grey)


@pytest.mark.parametrize("kind", ["PNG", "WEBP"])
def test_pictures_without_loss_come_back(kind: str) -> None:
    file = picture(COLOURS, kind, lossless=True) if kind == "WEBP" else picture(COLOURS)
    assert np.array_equal(decode_rgb(file, most_side=100, most_pixels=1000), COLOURS)
    brightness = COLOURS @ np.array([0.299, 0.587, 0.114])
    assert np.abs(decode_grey(file, SIZE) - brightness).max() <= 1
    framed = decode_frame(encode_picture_frame(7, SIZE, file), SIZE)
    assert np.array_equal(framed.grey, decode_grey(file, SIZE))
    assert np.array_equal(framed.grey, decode_raw(COLOURS.tobytes(), SIZE))


def test_a_jpeg_is_read_as_well() -> None:
    smooth = np.tile(np.linspace(0, 255, 20, dtype=np.uint8), (12, 1))
    assert np.abs(decode_grey(picture(smooth, "JPEG", quality=95), SIZE).astype(int) - smooth).max() < 12


def test_sixteen_bits_of_grey_are_scaled_and_palettes_and_alpha_are_read() -> None:
    deep = GREY.astype(np.uint16) * 257
    assert np.array_equal(decode_grey(picture(deep), SIZE), GREY)
    palette = io.BytesIO()
    Image.fromarray(GREY).convert("P").save(palette, "PNG")
    assert np.array_equal(decode_grey(palette.getvalue(), SIZE), GREY)
    alpha = np.dstack([GREY, GREY, GREY, np.full_like(GREY, 255)])
    assert np.array_equal(decode_grey(picture(alpha), SIZE), GREY)


def test_the_header_of_a_frame_is_as_documented() -> None:
    payload = encode_frame(1_000_000, GREY)
    assert payload[:16] == struct.pack("<qHHBBBB", 1_000_000, 20, 12, 0, 0, 0, 0)
    assert payload[16:] == GREY.tobytes()
    assert encode_frame(0, COLOURS)[12] == 1
    assert encode_picture_frame(0, SIZE, b"")[12] == 2


@pytest.mark.parametrize(
    ("payload", "field", "message"),
    [
        (b"\0" * 15, "length", "16 bytes of header, only 15"),
        (HEADER.pack(0, 20, 12, 3), "encoding", r"encoding 3 is unknown; there are 0 \(grey\), 1 \(rgb\), 2"),
        (HEADER.pack(0, 20, 12, 0)[:-1] + b"\1" + GREY.tobytes(), "reserved", "must be 0"),
        (HEADER.pack(0, 12, 20, 0) + GREY.tobytes(), "width", "the frame is 12x20, the session's sensor 20x12"),
        (HEADER.pack(-1, 20, 12, 0) + GREY.tobytes(), "t_us", "not -1"),
        (HEADER.pack(MAX_TIME_US + 1, 20, 12, 0) + GREY.tobytes(), "t_us", "from 0 to"),
        (HEADER.pack(0, 20, 12, 0) + COLOURS.tobytes(), "length", "has 240 bytes, not 720"),
        (HEADER.pack(0, 20, 12, 1) + GREY.tobytes(), "length", "has 720 bytes, not 240"),
        (HEADER.pack(0, 20, 12, 2) + b"GIF89a", None, "not a PNG, JPEG or WebP picture"),
        (HEADER.pack(0, 20, 12, 2) + picture(COLOURS)[:100], None, "not a PNG, JPEG or WebP picture"),
        (HEADER.pack(0, 20, 12, 2) + picture(COLOURS[:6]), "width", "the frame is 20x6"),
    ],
)
def test_what_is_no_frame_is_refused(payload: bytes, field: str | None, message: str) -> None:
    with pytest.raises(FrameError, match=message) as refused:
        decode_frame(payload, SIZE)
    assert refused.value.field == field
    assert "BytesIO" not in str(refused.value)


def test_a_raw_frame_is_of_one_of_two_lengths() -> None:
    with pytest.raises(FrameError, match="has 240 or 720 bytes, not 241"):
        decode_raw(bytes(241), SIZE)


def test_a_picture_is_measured_before_it_is_unfolded() -> None:
    """40,000 x 40,000 pixels of nothing, 1.6 gigapixels in two megabytes, are refused by their header."""
    bomb = b"\x89PNG\r\n\x1a\n" + struct.pack(">I4sIIBBBBB", 13, b"IHDR", 40_000, 40_000, 8, 0, 0, 0, 0)
    bomb += struct.pack(">I", 0x1D1D1D1D)
    for read in (
        lambda: decode_grey(bomb, SIZE),
        lambda: decode_rgb(bomb, most_side=4096, most_pixels=2_000_000),
    ):
        with pytest.raises(FrameError):
            read()
    large = picture(np.zeros((50, 60), np.uint8))
    with pytest.raises(FrameError, match="a picture of 60x50 is too large: at most 55 pixels a side"):
        decode_rgb(large, most_side=55, most_pixels=10_000)
    with pytest.raises(FrameError, match="2999 in all"):
        decode_rgb(large, most_side=60, most_pixels=2999)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
def test_ten_thousand_mutated_pictures_are_read_or_refused(kind: str) -> None:
    rng = np.random.default_rng(9)
    whole = np.frombuffer(picture(COLOURS, kind), np.uint8)
    refused = 0
    for _ in range(3_400):
        data = whole.copy()
        data[rng.integers(0, len(data), rng.integers(1, 6))] = rng.integers(0, 256)
        if rng.random() < 0.3:
            data = data[: rng.integers(0, len(data))]
        try:
            grey = decode_grey(data.tobytes(), SIZE)
        except FrameError:
            refused += 1
        else:
            assert grey.shape == (12, 20)
    assert refused > 300
