"""Masks to bytes and back: zlib, raw, indexed PNG, npy and COCO run lengths.

A mask is a C-ordered uint8 array (height, width) of class ids; 255 is unlabelled.
"""

from __future__ import annotations

import io
import zlib
from collections.abc import Iterable, Sequence
from enum import StrEnum
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from models.classes import SegmentationClass
from service.wire.errors import MaskError

Mask = NDArray[np.uint8]

_ZLIB_LEVEL = 1  # The fastest; masks are so plain that higher levels gain little.
_COUNT_BITS = 5
_COUNT_CHARS = 7  # 7 characters of 5 bits hold every difference of two counts below 2**31.


class MaskEncoding(StrEnum):
    """Encodings that hold one mask in one run of bytes."""

    ZLIB = "zlib"
    RAW = "raw"
    PNG = "png"
    NPY = "npy"


def encode_mask(mask: Mask, encoding: MaskEncoding, classes: Sequence[SegmentationClass] = ()) -> bytes:
    """Write a mask.

    Parameters
    ----------
    mask : uint8 array, (H, W)
    encoding : MaskEncoding
    classes : sequence of SegmentationClass
        Colours of the PNG's palette; ids without a class are black.

    Raises
    ------
    MaskError
        If ``mask`` is not a two-dimensional uint8 array with at least one pixel.
    """
    if mask.dtype != np.uint8 or mask.ndim != 2 or not mask.size:
        raise MaskError(f"a mask is a uint8 array (H, W), not {mask.dtype} {mask.shape}", "mask")
    mask = np.ascontiguousarray(mask)
    match encoding:
        case MaskEncoding.ZLIB:
            # Rows of a mask are runs: looking for nothing else takes as long, and gives a third less.
            runs = zlib.compressobj(_ZLIB_LEVEL, strategy=zlib.Z_RLE)
            return runs.compress(mask.data) + runs.flush()
        case MaskEncoding.RAW:
            return mask.tobytes()
        case MaskEncoding.PNG:
            return _encode_png(mask, classes)
        case MaskEncoding.NPY:
            file = io.BytesIO()
            np.save(file, mask, allow_pickle=False)
            return file.getvalue()


def decode_mask(data: bytes | memoryview, encoding: MaskEncoding, width: int, height: int) -> Mask:
    """Read a mask whose size is known.

    Returns
    -------
    uint8 array, (height, width)

    Raises
    ------
    MaskError
        If the bytes are not a mask of that encoding and size.
    """
    match encoding:
        case MaskEncoding.ZLIB:
            pixels = _inflate(data, width * height)
        case MaskEncoding.RAW:
            pixels = bytes(data)
        case MaskEncoding.PNG:
            return _sized(_decode_png(data, width, height), width, height)
        case MaskEncoding.NPY:
            return _sized(_decode_npy(data, width * height), width, height)
    if len(pixels) != width * height:
        raise MaskError(f"a {width}x{height} mask has {width * height} pixels, not {len(pixels)}", "mask")
    return np.frombuffer(pixels, np.uint8).reshape(height, width)


def palette(classes: Iterable[SegmentationClass]) -> bytes:
    """256 RGB colours, one for each class id; ids without a class are black."""
    colors = np.zeros((256, 3), np.uint8)
    for item in classes:
        colors[item.id] = item.color
    return colors.tobytes()


def encode_coco_rle(mask: Mask, class_ids: Iterable[int], *, compressed: bool = True) -> list[dict[str, Any]]:
    """Write a mask as COCO run lengths, one for each class.

    Parameters
    ----------
    mask : uint8 array, (H, W)
    class_ids : iterable of int
        Classes to write; pixels of other ids are in none of the answers.
    compressed : bool
        ``counts`` as the string that ``pycocotools.mask.decode`` takes; else as a list of run lengths.

    Returns
    -------
    list of dict
        ``{"class_id", "size": [H, W], "counts"}``; runs go down the columns and begin with one of zeros.
    """
    height, width = mask.shape
    columns = mask.T.ravel()
    rles: list[dict[str, Any]] = []
    for class_id in class_ids:
        counts = _run_lengths(columns == class_id)
        rles.append(
            {
                "class_id": class_id,
                "size": [height, width],
                "counts": _compress_counts(counts).decode("ascii") if compressed else counts.tolist(),
            }
        )
    return rles


def decode_coco_rle(rles: Iterable[dict[str, Any]], width: int, height: int, fill: int = 255) -> Mask:
    """Put COCO run lengths together again, compressed or not.

    Returns
    -------
    uint8 array, (height, width)
        ``fill`` where no class is.

    Raises
    ------
    MaskError
        If the run lengths do not add up to the size of the mask.
    """
    columns = np.full(height * width, fill, np.uint8)
    for rle in rles:
        if list(rle["size"]) != [height, width]:
            raise MaskError(f"run lengths of a {rle['size']} mask, expected [{height}, {width}]", "size")
        counts = rle["counts"]
        if isinstance(counts, str):
            counts = _decompress_counts(counts.encode("ascii"))
        lengths = np.asarray(counts, np.int64)
        if (lengths < 0).any() or int(lengths.sum()) != columns.size:
            raise MaskError(f"the run lengths do not add up to {columns.size} pixels", "counts")
        inside = np.arange(len(lengths)) % 2 == 1
        columns[np.repeat(inside, lengths)] = rle["class_id"]
    return np.ascontiguousarray(columns.reshape(width, height).T)


def _encode_png(mask: Mask, classes: Sequence[SegmentationClass]) -> bytes:
    image = Image.fromarray(mask)
    image.putpalette(palette(classes))
    file = io.BytesIO()
    # All 256 entries, whatever ids occur: Pillow would else cut the palette to what fits fewer bits.
    image.save(file, "PNG", compress_level=_ZLIB_LEVEL, bits=8)
    return file.getvalue()


def _decode_png(data: bytes | memoryview, width: int, height: int) -> Mask:
    try:
        with Image.open(io.BytesIO(data), formats=("PNG",)) as image:
            # Asked before the pixels are unpacked, so that a small file cannot take much memory.
            if image.size != (width, height):
                raise MaskError(f"the PNG is {image.width}x{image.height}, not {width}x{height}", "mask")
            if image.mode != "P":
                raise MaskError(f"the PNG is not indexed (mode {image.mode})", "mask")
            return np.asarray(image, np.uint8).copy()
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise MaskError(f"not a readable PNG: {error}", "mask") from None


def _decode_npy(data: bytes | memoryview, pixels: int) -> Mask:
    if len(data) > pixels + 4096:
        raise MaskError(f"{len(data)} bytes are too many for {pixels} pixels", "mask")
    try:
        array = np.load(io.BytesIO(data), allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise MaskError(f"not a readable npy array: {error}", "mask") from None
    if not isinstance(array, np.ndarray) or array.dtype != np.uint8:
        raise MaskError("the npy array is not of uint8", "mask")
    return np.ascontiguousarray(array)


def _sized(mask: Mask, width: int, height: int) -> Mask:
    if mask.shape != (height, width):
        raise MaskError(f"the mask is of shape {mask.shape}, expected {(height, width)}", "mask")
    return mask


def _inflate(data: bytes | memoryview, size: int) -> bytes:
    """At most one byte more than ``size``, so that a small message cannot take much memory."""
    stream = zlib.decompressobj()
    try:
        pixels = stream.decompress(data, size + 1)
    except zlib.error as error:
        raise MaskError(f"not a zlib stream: {error}", "mask") from None
    if len(pixels) == size and (not stream.eof or stream.unused_data):
        raise MaskError("the zlib stream does not end with the mask", "mask")
    return pixels


def _run_lengths(inside: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Lengths of the runs of zeros and ones in turn, beginning with zeros (a run of none if the first is one)."""
    # The -1 differs from both, so that the last run ends too.
    ends = np.flatnonzero(np.diff(inside.astype(np.int8), prepend=np.int8(0), append=np.int8(-1)))
    return np.diff(ends, prepend=0)


def _compress_counts(counts: NDArray[np.int64]) -> bytes:
    """COCO's string: each count less the one two before it, as characters of 5 bits and one for "more follows"."""
    values = counts.copy()
    values[3:] -= counts[1:-2]
    chars = np.empty((len(values), _COUNT_CHARS), np.uint8)
    used = np.zeros((len(values), _COUNT_CHARS), bool)
    more = np.ones(len(values), bool)
    for column in range(_COUNT_CHARS):
        used[:, column] = more
        bits = values & 0x1F
        values = values >> _COUNT_BITS
        more = more & np.where(bits & 0x10, values != -1, values != 0)
        chars[:, column] = bits + (more << _COUNT_BITS) + 48
    return chars[used].tobytes()


def _decompress_counts(text: bytes) -> NDArray[np.int64]:
    if not text:
        return np.empty(0, np.int64)
    chars = np.frombuffer(text, np.uint8).astype(np.int64) - 48
    if (chars < 0).any() or (chars > 63).any() or chars[-1] & 0x20:
        raise MaskError("not a COCO run length string", "counts")
    last = np.flatnonzero(chars & 0x20 == 0)
    first = np.append(0, last[:-1] + 1)
    place = np.arange(len(chars)) - np.repeat(first, last - first + 1)
    if (place >= _COUNT_CHARS).any():
        raise MaskError("a count of the COCO run length string is too large", "counts")
    values = np.add.reduceat((chars & 0x1F) << (_COUNT_BITS * place), first)
    negative = chars[last] & 0x10 != 0
    values[negative] -= 1 << (_COUNT_BITS * (place[last][negative] + 1))
    values[1::2] = np.cumsum(values[1::2])
    values[2::2] = np.cumsum(values[2::2])
    return values
