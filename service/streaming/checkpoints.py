"""A session's state as one file, bit for bit: a header and arrays behind a checksum.

======  =====  ==========================================================================
offset  bytes  what
======  =====  ==========================================================================
0       8      ``SPKSTAT1``
8       4      version of the format, little-endian
12      32     BLAKE2b of everything after it
44      rest   a safetensors file; the header is JSON in its metadata, under ``header``
======  =====  ==========================================================================
"""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load

MEDIA_TYPE = "application/vnd.spikeseg.state"
MAGIC = b"SPKSTAT1"
VERSION = 1

_PREFIX = struct.Struct("<8sI32s")
_LENGTH = struct.Struct("<Q")
_DIGEST_BYTES = 32
_ALIGNMENT = 8
_METADATA = "__metadata__"
_CODES: dict[np.dtype[Any], str] = {
    np.dtype("<f4"): "F32",
    np.dtype("<i8"): "I64",
    np.dtype("<u2"): "U16",
    np.dtype("u1"): "U8",
}
_TYPES = ", ".join(dtype.name for dtype in _CODES)


class CheckpointError(Exception):
    """Bytes that are no checkpoint, or content that does not fit into one."""


@dataclass(frozen=True, slots=True, eq=False)
class Checkpoint:
    """A session's state at one moment; nobody changes its arrays.

    Attributes
    ----------
    header : mapping
        Plain values, as JSON can hold them.
    arrays : mapping of str to array
        float32, int64, uint16 or uint8.
    """

    header: Mapping[str, Any]
    arrays: Mapping[str, NDArray[Any]]


def encode_checkpoint(checkpoint: Checkpoint) -> bytes:
    """Write a checkpoint; in which order its arrays are given makes no difference.

    The arrays are copied once, those that are not contiguous twice.

    Raises
    ------
    CheckpointError
        If the header is not JSON, or an array has another type.
    """
    # Large items first, so that every array lies at a multiple of its item's size.
    names = sorted(checkpoint.arrays, key=lambda name: (-checkpoint.arrays[name].itemsize, name))
    table: dict[str, Any] = {_METADATA: {"header": _to_json(checkpoint.header)}}
    contents: list[memoryview] = []
    end = 0
    for name in names:
        array = checkpoint.arrays[name]
        if name == _METADATA:
            raise CheckpointError(f"no array can be called {name}")
        if array.dtype not in _CODES:
            raise CheckpointError(f"array {name!r} is of {array.dtype}; a checkpoint holds {_TYPES}")
        begin, end = end, end + array.nbytes
        table[name] = {"dtype": _CODES[array.dtype], "shape": array.shape, "data_offsets": (begin, end)}
        contents.append(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
    try:
        head = json.dumps(table, ensure_ascii=False, separators=(",", ":")).encode()
    except UnicodeEncodeError as error:
        raise CheckpointError(f"the name of an array is no text: {error}") from None
    head += b" " * (-len(head) % _ALIGNMENT)
    # Not safetensors.serialize: what it returns would have to be copied once more, behind the prefix.
    pieces: list[bytes | memoryview] = [_LENGTH.pack(len(head)), head, *contents]
    digest = blake2b(digest_size=_DIGEST_BYTES)
    for piece in pieces:
        digest.update(piece)
    return b"".join([_PREFIX.pack(MAGIC, VERSION, digest.digest()), *pieces])


def decode_checkpoint(data: bytes) -> Checkpoint:
    """Read a checkpoint; its arrays have memory of their own and can be written to.

    Raises
    ------
    CheckpointError
        If the bytes are no checkpoint of a known version, or are damaged.
    """
    if len(data) < _PREFIX.size:
        raise CheckpointError(f"a checkpoint begins with {_PREFIX.size} bytes, only {len(data)} are there")
    magic, version, digest = _PREFIX.unpack_from(data)
    if magic != MAGIC:
        raise CheckpointError(f"a checkpoint begins with {MAGIC!r}, this with {magic!r}")
    if version != VERSION:
        raise CheckpointError(f"version {version} of the format is unknown; known: {VERSION}")
    body = data[_PREFIX.size :]
    if blake2b(body, digest_size=_DIGEST_BYTES).digest() != digest:
        raise CheckpointError("the checksum does not fit: the checkpoint is damaged or cut short")
    try:
        arrays = load(body)
    except (SafetensorError, ValueError) as error:
        raise CheckpointError(f"the checkpoint holds no safetensors file: {error}") from None
    except KeyError as error:
        raise CheckpointError(f"an array is of {error.args[0]}; a checkpoint holds {_TYPES}") from None
    for name, array in arrays.items():
        if array.dtype not in _CODES:
            raise CheckpointError(f"array {name!r} is of {array.dtype}; a checkpoint holds {_TYPES}")
    return Checkpoint(_read_header(body), arrays)


def _to_json(header: Mapping[str, Any]) -> str:
    try:
        return json.dumps(dict(header), allow_nan=False, separators=(",", ":"))
    except (TypeError, ValueError, RecursionError) as error:
        raise CheckpointError(f"the header is no JSON: {error}") from None


def _read_header(body: bytes) -> dict[str, Any]:
    (length,) = _LENGTH.unpack_from(body)
    try:
        table = json.loads(body[_LENGTH.size : _LENGTH.size + length])
        header = json.loads(table[_METADATA]["header"])
    except (KeyError, TypeError):
        raise CheckpointError("the checkpoint has no header") from None
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"the header is no JSON: {error}") from None
    if not isinstance(header, dict):
        raise CheckpointError("the header is no JSON object")
    return header
