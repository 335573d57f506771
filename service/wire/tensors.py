"""Tensors of the Open Inference Protocol to arrays and back: numbers in JSON, or bytes behind the JSON.

With the binary tensor extension a body is a JSON document, and behind it the bytes of those tensors whose parameters
have a ``binary_data_size``, one after the other; a header of the message says where the JSON ends.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np
from numpy.typing import NDArray

from service.wire.errors import WireError

HEADER_LENGTH = "Inference-Header-Content-Length"
MAX_DIMENSIONS = 8

DATATYPES: dict[str, np.dtype[Any]] = {
    "BOOL": np.dtype("?"),
    "UINT8": np.dtype("u1"),
    "UINT16": np.dtype("<u2"),
    "UINT32": np.dtype("<u4"),
    "UINT64": np.dtype("<u8"),
    "INT8": np.dtype("i1"),
    "INT16": np.dtype("<i2"),
    "INT32": np.dtype("<i4"),
    "INT64": np.dtype("<i8"),
    "FP16": np.dtype("<f2"),
    "FP32": np.dtype("<f4"),
    "FP64": np.dtype("<f8"),
}
_NAMES = {dtype: name for name, dtype in DATATYPES.items()}
_EXPECTED = {"b": "true or false", "u": "an integer", "i": "an integer", "f": "a number"}
_TYPES: dict[str, set[type]] = {"b": {bool}, "u": {int}, "i": {int}, "f": {int, float}}


class TensorError(WireError):
    """A tensor, or a body of tensors, that cannot be read or written."""


@dataclass(frozen=True, slots=True)
class Tensor:
    """A tensor to be written.

    Attributes
    ----------
    name : str
    array : array
        Of a type in ``DATATYPES``.
    binary : bool
        Whether it goes behind the JSON.
    """

    name: str
    array: NDArray[Any]
    binary: bool


def split_body(body: bytes | memoryview, header_length: str | None) -> tuple[memoryview, memoryview]:
    """A body's JSON, and the bytes behind it.

    Parameters
    ----------
    body : bytes
    header_length : str, optional
        What ``HEADER_LENGTH`` says; without it, all of the body is JSON.

    Raises
    ------
    TensorError
        If that is not a number, or more than the body has.
    """
    view = memoryview(body)
    if header_length is None:
        return view, view[len(view) :]
    text = header_length.strip()
    if not (text.isascii() and text.isdecimal() and len(text) <= 20):
        raise TensorError(f"{HEADER_LENGTH} must be a number of bytes, not {text[:40]!r}", HEADER_LENGTH)
    length = int(text)
    if length > len(view):
        raise TensorError(f"{HEADER_LENGTH} is {length}, but the body has {len(view)} bytes", HEADER_LENGTH)
    return view[:length], view[length:]


def split_tensors(rest: memoryview, sizes: Sequence[tuple[str, int]]) -> dict[str, memoryview]:
    """The bytes of each tensor.

    Parameters
    ----------
    rest : memoryview
        What stands behind the JSON.
    sizes : sequence of (str, int)
        The tensors' names, no two alike, and how many bytes each has, in their order.

    Raises
    ------
    TensorError
        If the sizes are not those of ``rest``.
    """
    found = {}
    begin = 0
    for name, size in sizes:
        end = begin + size
        if size < 0 or end > len(rest):
            raise TensorError(
                f"tensor {name[:40]!r} has a binary_data_size of {size}, but {len(rest) - begin} bytes are there",
                f"{name[:40]}.binary_data_size",
            )
        found[name] = rest[begin:end]
        begin = end
    if begin != len(rest):
        raise TensorError(f"{len(rest) - begin} bytes behind the JSON belong to no tensor", "binary_data_size")
    return found


def decode_binary(name: str, datatype: str, shape: Sequence[int], data: memoryview) -> NDArray[Any]:
    """Read a tensor's bytes.

    Returns
    -------
    array
        A view of them.

    Raises
    ------
    TensorError
        If they are not as many as the shape needs, or no such values.
    """
    dtype = _dtype(name, datatype)
    needed = _count_items(name, shape, dtype) * dtype.itemsize
    if needed != len(data):
        raise TensorError(
            f"tensor {name!r} of {datatype} {list(shape)} takes {needed} bytes, {len(data)} are there", name
        )
    if dtype.kind == "b" and needed and int(np.frombuffer(data, np.uint8).max()) > 1:
        raise TensorError(f"tensor {name!r} of BOOL has a byte that is neither 0 nor 1", name)
    # numpy takes no empty buffer.
    flat = np.frombuffer(data, dtype) if needed else np.empty(0, dtype)
    return flat.reshape(tuple(shape))


def decode_json(name: str, datatype: str, shape: Sequence[int], data: object) -> NDArray[Any]:
    """Read a tensor's numbers out of a JSON document.

    Parameters
    ----------
    name, datatype : str
    shape : sequence of int
    data : list
        Row by row, or nested as the shape is.

    Raises
    ------
    TensorError
        If they are not as many as the shape needs, or a value is not of the type or out of its range.
    """
    dtype = _dtype(name, datatype)
    count = _count_items(name, shape, dtype)
    flat = _flatten(name, shape, data)
    if len(flat) != count:
        raise TensorError(f"tensor {name!r} of shape {list(shape)} has {count} values, not {len(flat)}", name)
    types = _TYPES[dtype.kind]
    # bool passes for int almost everywhere, so types are compared, not asked.
    if not set(map(type, flat)) <= types:
        at = next(i for i, value in enumerate(flat) if type(value) not in types)
        raise TensorError(f"value {at} of tensor {name!r} is not {_EXPECTED[dtype.kind]}", name)
    if dtype.kind in "ui" and flat:
        limits = np.iinfo(dtype)
        if min(flat) < limits.min or max(flat) > limits.max:
            at = next(i for i, value in enumerate(flat) if not limits.min <= value <= limits.max)
            raise TensorError(f"value {at} of tensor {name!r} does not fit {datatype}", name)
    try:
        with np.errstate(over="ignore"):
            array = np.array(flat, np.float64).astype(dtype) if dtype.kind == "f" else np.array(flat, dtype)
    except OverflowError:
        raise TensorError(f"a value of tensor {name!r} does not fit {datatype}", name) from None
    if dtype.kind == "f" and not np.isfinite(array).all():
        at = int(np.isfinite(array).argmin())
        raise TensorError(f"value {at} of tensor {name!r} is no number that fits {datatype}", name)
    return array.reshape(tuple(shape))


def encode_body(document: Mapping[str, Any], key: str, tensors: Sequence[Tensor]) -> tuple[bytes, int | None]:
    """Write a body of tensors.

    Parameters
    ----------
    document : mapping
        What else stands in the JSON.
    key : str
        Where the tensors stand in it: ``inputs`` or ``outputs``.
    tensors : sequence of Tensor

    Returns
    -------
    bytes, int or None
        The body, and how long its JSON is if there is something behind it: the value of ``HEADER_LENGTH``.

    Raises
    ------
    TensorError
        If an array is of a type that the protocol does not have, or a value that goes into the JSON is not finite.
    """
    described, behind = [], []
    for tensor in tensors:
        array = tensor.array
        about: dict[str, Any] = {"name": tensor.name, "datatype": _datatype(tensor), "shape": list(array.shape)}
        if tensor.binary:
            data = array.tobytes()
            about["parameters"] = {"binary_data_size": len(data)}
            behind.append(data)
            described.append(_to_json(about))
        else:
            described.append(_with_member(about, "data", _write_numbers(tensor)))
    text = _with_member(document, key, b",".join(described))
    return b"".join([text, *behind]), len(text) if behind else None


def _to_json(value: object) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode("ascii")


def _with_member(document: Mapping[str, Any], key: str, items: bytes) -> bytes:
    """A JSON object with one member more, an array whose items are written already."""
    text = _to_json(dict(document))
    return b"".join([text[:-1], b"," if document else b"", _to_json(key), b":[", items, b"]}"])


def _write_numbers(tensor: Tensor) -> bytes:
    """The values in JSON, row by row, with commas between them."""
    array = tensor.array
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise TensorError(f"tensor {tensor.name!r} has values that JSON cannot hold", tensor.name)
    if array.dtype != np.uint8 or not array.size:
        return _to_json(array.ravel().tolist())[1:-1]
    # Masks are large. A list of their pixels would keep all other threads waiting; so each value is looked up as text
    # of the same length, which may end in blanks.
    length = len(f"{int(array.max())},")
    texts = np.array([f"{value},".ljust(length) for value in range(int(array.max()) + 1)], f"S{length}")
    text: bytes = texts[array.ravel()].tobytes()
    return text.rstrip(b", ")


def _datatype(tensor: Tensor) -> str:
    try:
        return _NAMES[tensor.array.dtype]
    except KeyError:
        raise TensorError(
            f"the protocol has no tensors of {tensor.array.dtype} as {tensor.name!r} is", tensor.name
        ) from None


def _dtype(name: str, datatype: str) -> np.dtype[Any]:
    try:
        return DATATYPES[datatype]
    except KeyError:
        raise TensorError(f"tensor {name!r} is of {datatype[:40]!r}; known are {', '.join(DATATYPES)}", name) from None


def _count_items(name: str, shape: Sequence[int], dtype: np.dtype[Any]) -> int:
    """How many values a shape has."""
    if len(shape) > MAX_DIMENSIONS:
        raise TensorError(f"tensor {name!r} has {len(shape)} dimensions, at most {MAX_DIMENSIONS} are taken", name)
    if any(size < 0 for size in shape):
        raise TensorError(f"the shape of tensor {name!r} has a negative size", name)
    # Also where another size is 0 and there are no values: numpy multiplies the others all the same.
    if math.prod(max(size, 1) for size in shape) * dtype.itemsize >= 2**63:
        raise TensorError(f"the shape of tensor {name!r} is too large", name)
    return math.prod(shape)


def _flatten(name: str, shape: Sequence[int], data: object) -> list[Any]:
    if not isinstance(data, list):
        raise TensorError(f"the data of tensor {name!r} must be an array", name)
    if not data or not isinstance(data[0], list):
        return data
    level: list[Any] = [data]
    for size in shape:
        if any(type(node) is not list or len(node) != size for node in level):
            raise TensorError(f"the arrays in the data of tensor {name!r} are not nested as {list(shape)}", name)
        level = list(chain.from_iterable(level))
    return level
