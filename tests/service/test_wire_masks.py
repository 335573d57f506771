"""Masks to bytes and back."""

from __future__ import annotations

import io
import subprocess
import sys
import zlib
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray
from PIL import Image

from models.classes import DDD17_CLASSES
from service.wire.errors import MaskError
from service.wire.masks import MaskEncoding, decode_coco_rle, decode_mask, encode_coco_rle, encode_mask, palette

Mask = NDArray[np.uint8]
IDS = st.sampled_from([0, 1, 2, 3, 4, 5, 255])
MASKS = hnp.arrays(np.uint8, hnp.array_shapes(min_dims=2, max_dims=2, max_side=12), elements=IDS)


@given(MASKS, st.sampled_from(MaskEncoding))
def test_round_trip(mask: Mask, encoding: MaskEncoding) -> None:
    height, width = mask.shape
    decoded = decode_mask(encode_mask(mask, encoding, DDD17_CLASSES), encoding, width, height)
    assert decoded.dtype == np.uint8
    assert np.array_equal(decoded, mask)


@given(MASKS, st.sampled_from(MaskEncoding))
def test_views_are_written_as_what_they_show(mask: Mask, encoding: MaskEncoding) -> None:
    turned = mask.T[::-1]
    decoded = decode_mask(encode_mask(turned, encoding), encoding, turned.shape[1], turned.shape[0])
    assert np.array_equal(decoded, turned)


@pytest.mark.parametrize("encoding", MaskEncoding)
def test_damaged_bytes_are_refused(encoding: MaskEncoding) -> None:
    rng = np.random.default_rng(0)
    mask = rng.integers(0, 6, (9, 7)).astype(np.uint8)
    data = encode_mask(mask, encoding, DDD17_CLASSES)
    for length in range(len(data)):
        try:
            decoded = decode_mask(data[:length], encoding, 7, 9)
        except MaskError:
            continue
        # Of a PNG only the closing chunk may be missing; its pixels are then all there.
        assert encoding is MaskEncoding.PNG
        assert np.array_equal(decoded, mask)
    for width, height in ((7, 8), (7, 10), (8, 9), (1, 1)):
        with pytest.raises(MaskError):
            decode_mask(data, encoding, width, height)


@given(st.binary(max_size=60), st.sampled_from([MaskEncoding.ZLIB, MaskEncoding.PNG, MaskEncoding.NPY]))
def test_any_bytes_are_refused(data: bytes, encoding: MaskEncoding) -> None:
    with pytest.raises(MaskError):
        decode_mask(data, encoding, 1000, 1000)


def test_bombs_are_not_unpacked() -> None:
    with pytest.raises(MaskError):
        decode_mask(zlib.compress(bytes(10_000_000)), MaskEncoding.ZLIB, 10, 10)
    file = io.BytesIO()
    Image.new("P", (5000, 5000)).save(file, "PNG")
    with pytest.raises(MaskError):
        decode_mask(file.getvalue(), MaskEncoding.PNG, 10, 10)
    file = io.BytesIO()
    np.save(file, np.array([{}], object), allow_pickle=True)
    with pytest.raises(MaskError):
        decode_mask(file.getvalue(), MaskEncoding.NPY, 1, 1)


def test_png_shows_the_palette() -> None:
    mask = np.array([[0, 1, 2], [3, 4, 5], [255, 255, 0]], np.uint8)
    with Image.open(io.BytesIO(encode_mask(mask, MaskEncoding.PNG, DDD17_CLASSES))) as image:
        assert (image.mode, image.size) == ("P", (3, 3))
        shown = np.asarray(image.convert("RGB"))
    for item in DDD17_CLASSES:
        assert {tuple(pixel) for pixel in shown[mask == item.id].tolist()} == {item.color}
    assert shown[2, 0].tolist() == [0, 0, 0]
    assert len(palette(DDD17_CLASSES)) == 768


def test_npy_is_what_numpy_reads() -> None:
    mask = np.arange(6, dtype=np.uint8).reshape(2, 3)
    assert np.array_equal(np.load(io.BytesIO(encode_mask(mask, MaskEncoding.NPY))), mask)


@pytest.mark.parametrize("mask", [np.zeros((2, 2)), np.zeros(4, np.uint8), np.zeros((0, 2), np.uint8)])
def test_what_is_no_mask(mask: NDArray[Any]) -> None:
    with pytest.raises(MaskError):
        encode_mask(mask, MaskEncoding.RAW)


def coco_string(counts: list[int]) -> str:
    """rleToString of pycocotools' maskApi.c, line by line."""
    text = ""
    for i, count in enumerate(counts):
        x = count - counts[i - 2] if i > 2 else count
        more = True
        while more:
            c = x & 0x1F
            x >>= 5
            more = x != -1 if c & 0x10 else x != 0
            text += chr((c | 0x20 if more else c) + 48)
    return text


def coco_counts(mask: Mask) -> list[int]:
    """Run lengths down the columns, one pixel at a time, beginning with zeros."""
    counts, value = [0], 0
    for pixel in mask.T.ravel().tolist():
        if pixel != value:
            counts.append(0)
            value = pixel
        counts[-1] += 1
    return counts


@given(MASKS)
def test_coco_run_lengths(mask: Mask) -> None:
    height, width = mask.shape
    ids = [0, 1, 5]
    listed = encode_coco_rle(mask, ids, compressed=False)
    strings = encode_coco_rle(mask, ids)
    for rle, string, id in zip(listed, strings, ids, strict=True):
        counts = coco_counts((mask == id).astype(np.uint8))
        assert rle == {"class_id": id, "size": [height, width], "counts": counts}
        assert string == {"class_id": id, "size": [height, width], "counts": coco_string(counts)}
    expected = np.where(np.isin(mask, ids), mask, 255)
    for rles in (listed, strings):
        assert np.array_equal(decode_coco_rle(rles, width, height), expected)


def test_coco_strings_of_long_runs() -> None:
    mask = np.zeros((1000, 2000), np.uint8)
    mask[500:, 700:900] = 1
    mask[3, 1000:] = 1
    (rle,) = encode_coco_rle(mask, [1])
    assert rle["counts"] == coco_string(coco_counts(mask))
    assert np.array_equal(decode_coco_rle([rle], 2000, 1000, fill=0), mask)


@pytest.mark.parametrize("counts", [[5], [3, -1, 2], [], "", "~", "\x10", "PPPPPPPPP", "1o"])
def test_wrong_run_lengths_are_refused(counts: list[int] | str) -> None:
    with pytest.raises(MaskError):
        decode_coco_rle([{"class_id": 1, "size": [2, 2], "counts": counts}], 2, 2)
    with pytest.raises(MaskError):
        decode_coco_rle([{"class_id": 1, "size": [2, 3], "counts": [4]}], 2, 2)


def test_the_codecs_need_neither_torch_nor_a_web_framework() -> None:
    code = (
        "import sys, service.wire.events, service.wire.messages, service.wire.masks, service.wire.errors\n"
        "assert not {'torch', 'fastapi', 'starlette', 'pydantic', 'uvicorn'} & set(sys.modules), 'heavy imports'"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
