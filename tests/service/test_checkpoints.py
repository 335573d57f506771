"""Checkpoints to bytes and back."""

from __future__ import annotations

import json
import struct
from hashlib import blake2b
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from service.streaming.checkpoints import (
    MAGIC,
    VERSION,
    Checkpoint,
    CheckpointError,
    decode_checkpoint,
    encode_checkpoint,
)

PREFIX_BYTES = 44
DTYPES = st.sampled_from([np.float32, np.int64, np.uint16, np.uint8])
VALUES = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text()
HEADERS = st.dictionaries(st.text(max_size=5), VALUES | st.lists(VALUES, max_size=3), max_size=3)
NAMES = st.text(st.characters(codec="utf-8"), max_size=10).filter(lambda name: name != "__metadata__")


@st.composite
def arrays(draw: st.DrawFn) -> NDArray[Any]:
    """Arrays of any bits: NaN with all their payloads, negative zeros, what is not normal."""
    dtype = np.dtype(draw(DTYPES))
    shape = draw(hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4))
    size = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
    return np.frombuffer(draw(st.binary(min_size=size, max_size=size)), dtype).reshape(shape)


CHECKPOINTS = st.builds(Checkpoint, HEADERS, st.dictionaries(NAMES, arrays(), max_size=4))


def bits(checkpoint: Checkpoint) -> dict[str, tuple[str, tuple[int, ...], bytes]]:
    """The arrays as what can be compared."""
    return {name: (str(a.dtype), a.shape, a.tobytes()) for name, a in checkpoint.arrays.items()}


def seal(body: bytes, version: int = VERSION) -> bytes:
    """A file with a right checksum around any content."""
    return MAGIC + struct.pack("<I", version) + blake2b(body, digest_size=32).digest() + body


def tensors(table: object, content: bytes = b"") -> bytes:
    """A safetensors file, or what claims to be one."""
    text = table if isinstance(table, bytes) else json.dumps(table).encode()
    return struct.pack("<Q", len(text)) + text + content


EXAMPLE = encode_checkpoint(
    Checkpoint({"session": "s", "epoch": 3}, {"membrane": np.arange(6, dtype=np.float32).reshape(2, 3)})
)


@settings(deadline=None)
@given(CHECKPOINTS)
def test_round_trip_of_every_bit(checkpoint: Checkpoint) -> None:
    data = encode_checkpoint(checkpoint)
    decoded = decode_checkpoint(data)
    assert bits(decoded) == bits(checkpoint)
    assert decoded.header == checkpoint.header
    assert all(array.flags.aligned and array.flags.writeable for array in decoded.arrays.values())
    assert encode_checkpoint(decoded) == data


def test_special_floats_keep_their_bits() -> None:
    patterns = np.array([0x7FC00001, 0xFFC12345, 0x7F800001, 0x80000000, 1, 0xFF800000], np.uint32)
    decoded = decode_checkpoint(encode_checkpoint(Checkpoint({}, {"a": patterns.view(np.float32)})))
    assert np.array_equal(decoded.arrays["a"].view(np.uint32), patterns)


@settings(deadline=None)
@given(arrays())
def test_views_are_written_as_what_they_show(array: NDArray[Any]) -> None:
    turned = array.T[..., ::-1] if array.ndim else array
    assert bits(decode_checkpoint(encode_checkpoint(Checkpoint({}, {"a": turned})))) == bits(
        Checkpoint({}, {"a": turned})
    )


@settings(deadline=None)
@given(CHECKPOINTS)
def test_the_content_is_a_safetensors_file(checkpoint: Checkpoint) -> None:
    read = safetensors.numpy.load(encode_checkpoint(checkpoint)[PREFIX_BYTES:])
    assert bits(Checkpoint({}, read)) == bits(checkpoint)


def test_a_file_of_the_library_is_read() -> None:
    written: dict[str, NDArray[Any]] = {"t": np.arange(3), "v": np.ones((2, 2), np.float32)}
    decoded = decode_checkpoint(seal(safetensors.numpy.save(written, {"header": '{"a": 1}'})))
    assert decoded.header == {"a": 1}
    assert bits(decoded) == bits(Checkpoint({}, written))


@settings(deadline=None)
@given(st.integers(0, len(EXAMPLE) - 1), st.integers(1, 255))
def test_every_changed_byte_is_noticed(at: int, change: int) -> None:
    damaged = bytearray(EXAMPLE)
    damaged[at] ^= change
    with pytest.raises(CheckpointError):
        decode_checkpoint(bytes(damaged))


@pytest.mark.parametrize("length", range(len(EXAMPLE)))
def test_every_cut_is_noticed(length: int) -> None:
    with pytest.raises(CheckpointError):
        decode_checkpoint(EXAMPLE[:length])


def test_bytes_that_follow_are_noticed() -> None:
    with pytest.raises(CheckpointError, match="checksum"):
        decode_checkpoint(EXAMPLE + b"\0")


@settings(deadline=None)
@given(st.binary(max_size=200))
def test_any_bytes_are_refused(data: bytes) -> None:
    for attempt in (data, MAGIC + data, seal(data), seal(tensors(data))):
        with pytest.raises(CheckpointError):
            decode_checkpoint(attempt)


@settings(deadline=None)
@given(CHECKPOINTS, st.data())
def test_a_right_checksum_does_not_make_a_wrong_content_right(checkpoint: Checkpoint, data: st.DataObject) -> None:
    body = bytearray(encode_checkpoint(checkpoint)[PREFIX_BYTES:])
    for _ in range(data.draw(st.integers(1, 3))):
        body[data.draw(st.integers(0, len(body) - 1))] = data.draw(st.integers(0, 255))
    try:
        decoded = decode_checkpoint(seal(bytes(body[: data.draw(st.integers(1, len(body)))])))
    except CheckpointError:
        return
    assert isinstance(decoded.header, dict)
    assert {array.dtype for array in decoded.arrays.values()} <= {np.dtype(t) for t in ("f4", "i8", "u2", "u1")}


def test_a_version_to_come_is_refused_with_the_known_ones() -> None:
    with pytest.raises(CheckpointError, match=r"version 7 .* known: 1"):
        decode_checkpoint(seal(EXAMPLE[PREFIX_BYTES:], version=7))


HEADER = {"header": "{}"}
ENTRY = {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}


@pytest.mark.parametrize(
    "body",
    [
        tensors({}),
        tensors({"__metadata__": {}}),
        tensors({"__metadata__": {"other": "{}"}}),
        tensors({"__metadata__": {"header": "[1]"}}),
        tensors({"__metadata__": {"header": "3"}}),
        tensors({"__metadata__": {"header": "{"}}),
        tensors({"__metadata__": {"header": "[" * 100_000}}),
        tensors({"__metadata__": {"header": '{"a":' * 100_000}}),
        tensors({"__metadata__": {"header": "9" * 10_000}}),
        tensors({"__metadata__": {"header": {}}}),
        tensors({"__metadata__": HEADER, "a": ENTRY}),
        tensors({"__metadata__": HEADER, "a": ENTRY}, bytes(5)),
        tensors({"__metadata__": HEADER, "a": {**ENTRY, "data_offsets": [4, 8]}}, bytes(8)),
        tensors({"__metadata__": HEADER, "a": {**ENTRY, "data_offsets": [4, 0]}}, bytes(4)),
        tensors({"__metadata__": HEADER, "a": {**ENTRY, "shape": [-1]}}, bytes(4)),
        tensors({"__metadata__": HEADER, "a": {**ENTRY, "shape": [1] * 100}}, bytes(4)),
        tensors({"__metadata__": HEADER, "a": {**ENTRY, "shape": [0, 2**62], "data_offsets": [0, 0]}}),
        tensors({"__metadata__": HEADER, "a": {**ENTRY, "shape": [0, 2**64 - 1], "data_offsets": [0, 0]}}),
        tensors({"__metadata__": HEADER, "a": {**ENTRY, "dtype": "I32"}}, bytes(4)),
        tensors({"__metadata__": HEADER, "a": {**ENTRY, "dtype": "BF16", "shape": [2]}}, bytes(4)),
        tensors({"__metadata__": HEADER, "a": {**ENTRY, "dtype": "F4", "shape": [8]}}, bytes(4)),
        tensors({"__metadata__": HEADER, "a": {**ENTRY, "dtype": "nothing"}}, bytes(4)),
        struct.pack("<Q", 2**64 - 1) + b"{}",
    ],
)
def test_what_is_no_checkpoint_is_refused(body: bytes) -> None:
    with pytest.raises(CheckpointError):
        decode_checkpoint(seal(body))


@pytest.mark.parametrize("dtype", [np.float64, np.int32, bool, np.complex64, ">f4", ">i8", object, "U3"])
def test_arrays_of_other_types_are_not_written(dtype: Any) -> None:
    with pytest.raises(CheckpointError, match=r"'a' .* float32, int64, uint16, uint8"):
        encode_checkpoint(Checkpoint({}, {"a": np.zeros(2, dtype)}))


@pytest.mark.parametrize("header", [{"a": object()}, {"a": float("nan")}, {"a": {1, 2}}, {(1, 2): 3}])
def test_headers_that_are_no_json_are_not_written(header: dict[Any, Any]) -> None:
    with pytest.raises(CheckpointError, match="header"):
        encode_checkpoint(Checkpoint(header, {}))


@pytest.mark.parametrize("name", ["__metadata__", "\ud800"])
def test_names_that_safetensors_does_not_take_are_not_written(name: str) -> None:
    with pytest.raises(CheckpointError):
        encode_checkpoint(Checkpoint({}, {name: np.zeros(1, np.uint8)}))
