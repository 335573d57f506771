"""Tensors of the Open Inference Protocol: what is written is read, and what is broken is refused and nothing else."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as nps
from numpy.typing import NDArray

from service.wire.tensors import (
    DATATYPES,
    Tensor,
    TensorError,
    decode_binary,
    decode_json,
    encode_body,
    split_body,
    split_tensors,
)

SHAPES = nps.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=4)
# Under load a single example may take long.
QUICK = settings(deadline=None, max_examples=60)
JUNK = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
    max_leaves=20,
)


def arrays(shape: Any = SHAPES) -> st.SearchStrategy[NDArray[Any]]:
    """Arrays of every type that the protocol has; no NaN, which JSON cannot hold."""

    def of(datatype: str) -> st.SearchStrategy[NDArray[Any]]:
        dtype = DATATYPES[datatype]
        elements = nps.from_dtype(dtype, allow_nan=False, allow_infinity=False) if dtype.kind == "f" else None
        return nps.arrays(dtype, shape, elements=elements)

    return st.sampled_from(list(DATATYPES)).flatmap(of)


def read(body: bytes, json_length: int | None) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
    """A body as another maker's reader takes it apart: by the protocol's words alone."""
    text, rest = split_body(body, None if json_length is None else str(json_length))
    document = json.loads(bytes(text))
    sizes = {t["name"]: t["parameters"]["binary_data_size"] for t in document["inputs"] if "parameters" in t}
    behind = split_tensors(rest, list(sizes.items()))
    found = {}
    for tensor in document["inputs"]:
        name, datatype, shape = tensor["name"], tensor["datatype"], tensor["shape"]
        if name in behind:
            found[name] = decode_binary(name, datatype, shape, behind[name])
        else:
            found[name] = decode_json(name, datatype, shape, tensor["data"])
    return document, found


def equal(left: NDArray[Any], right: NDArray[Any]) -> bool:
    return left.dtype == right.dtype and left.shape == right.shape and left.tobytes() == right.tobytes()


@QUICK
@given(st.lists(st.tuples(arrays(), st.booleans()), max_size=4))
def test_what_is_written_is_read(items: list[tuple[NDArray[Any], bool]]) -> None:
    tensors = [Tensor(f"t{i}", array, binary) for i, (array, binary) in enumerate(items)]
    body, json_length = encode_body({"id": "ä"}, "inputs", tensors)
    assert (json_length is not None) == any(tensor.binary for tensor in tensors)
    document, found = read(body, json_length)
    assert document["id"] == "ä"
    assert list(found) == [tensor.name for tensor in tensors]
    assert all(equal(found[tensor.name], tensor.array) for tensor in tensors)


@QUICK
@given(arrays())
def test_nested_data_is_read_as_flat_data_is(array: NDArray[Any]) -> None:
    nested, flat = array.tolist(), array.ravel().tolist()
    (datatype,) = (name for name, dtype in DATATYPES.items() if dtype == array.dtype)
    assert equal(decode_json("t", datatype, array.shape, flat), array)
    if array.ndim:
        assert equal(decode_json("t", datatype, array.shape, nested), array)


@QUICK
@given(st.sampled_from([*DATATYPES, "BYTES", ""]), st.lists(st.integers(-1, 5) | st.integers(), max_size=10), JUNK)
def test_no_data_breaks_the_reader(datatype: str, shape: list[int], data: Any) -> None:
    try:
        array = decode_json("t", datatype, shape, data)
    except TensorError:
        return
    assert array.shape == tuple(shape)
    assert array.dtype == DATATYPES[datatype]


@QUICK
@given(st.sampled_from([*DATATYPES, "BF16"]), st.lists(st.integers(-1, 5) | st.integers(), max_size=10), st.binary())
def test_no_bytes_break_the_reader(datatype: str, shape: list[int], data: bytes) -> None:
    try:
        array = decode_binary("t", datatype, shape, memoryview(data))
    except TensorError:
        return
    assert array.shape == tuple(shape)
    assert array.tobytes() == data


@QUICK
@given(st.binary(max_size=30), st.lists(st.integers(-3, 20), max_size=4))
def test_bytes_are_shared_out_completely_or_not_at_all(rest: bytes, sizes: list[int]) -> None:
    named = [(f"t{i}", size) for i, size in enumerate(sizes)]
    try:
        parts = split_tensors(memoryview(rest), named)
    except TensorError:
        assert sum(sizes) != len(rest) or min(sizes) < 0
        return
    assert b"".join(parts.values()) == rest
    assert [len(part) for part in parts.values()] == sizes


@QUICK
@given(st.binary(max_size=10), st.none() | st.text(max_size=8) | st.integers(-2, 12).map(str))
def test_a_length_of_the_json_is_a_length_or_refused(body: bytes, said: str | None) -> None:
    try:
        text, rest = split_body(body, said)
    except TensorError:
        return
    assert bytes(text) + bytes(rest) == body
    assert said is None or int(said) == len(text)


@pytest.mark.parametrize("said", ["", "-1", "+1", "1.0", "0x1", "1e0", "１", "²", "9" * 30, "11", "one"])
def test_lengths_that_are_none(said: str) -> None:
    with pytest.raises(TensorError, match="Inference-Header-Content-Length") as caught:
        split_body(bytes(10), said)
    assert caught.value.field == "Inference-Header-Content-Length"


BROKEN: dict[str, tuple[str, list[int], Any, str]] = {
    "true for an integer": ("INT64", [2], [1, True], "value 1 .* not an integer"),
    "a fraction for an integer": ("INT64", [1], [1.0], "value 0 .* not an integer"),
    "text for an integer": ("INT64", [1], ["1"], "not an integer"),
    "null": ("INT64", [1], [None], "not an integer"),
    "an integer for a bool": ("BOOL", [1], [1], "not true or false"),
    "too large an integer": ("INT32", [2], [0, 2**31], "value 1 .* does not fit INT32"),
    "too small an integer": ("UINT8", [1], [-1], "does not fit UINT8"),
    "a huge integer": ("UINT64", [1], [10**400], "does not fit UINT64"),
    "a huge number": ("FP64", [1], [10**400], "does not fit FP64"),
    "too large a number": ("FP32", [2], [0, 1e39], "value 1 .* FP32"),
    "NaN": ("FP32", [1], [math.nan], "no number"),
    "infinity": ("FP64", [1], [-math.inf], "no number"),
    "too few values": ("INT64", [3], [1, 2], "has 3 values, not 2"),
    "too many values": ("INT64", [0, 4], [1], "has 0 values, not 1"),
    "no array": ("INT64", [1], 5, "must be an array"),
    "an object": ("INT64", [1], {"0": 1}, "must be an array"),
    "nested otherwise": ("INT64", [2, 2], [[1, 2, 3], [4]], "nested"),
    "nested too deeply": ("INT64", [2], [[1], [2]], "value 0 .* not an integer"),
    "nested deeper still": ("INT64", [1, 1], [[[1]]], "not an integer"),
    "nested in part": ("INT64", [1, 2], [[1, [2]]], "not an integer"),
    "a negative size": ("INT64", [-1, 4], [], "negative"),
    "too many dimensions": ("INT64", [1] * 9, [1], "9 dimensions"),
    "a huge shape": ("INT64", [2**40, 2**40], [], "too large"),
    "a huge shape without values": ("INT64", [0, 2**62, 8], [], "too large"),
    "an unknown type": ("BYTES", [1], ["a"], "'BYTES'"),
}


@pytest.mark.parametrize("what", BROKEN)
def test_broken_data_is_named(what: str) -> None:
    datatype, shape, data, says = BROKEN[what]
    with pytest.raises(TensorError, match=says) as caught:
        decode_json("events", datatype, shape, data)
    assert caught.value.field == "events"
    if datatype in DATATYPES and "shape" in says + what:
        with pytest.raises(TensorError, match=says):
            decode_binary("events", datatype, shape, memoryview(b""))


def test_bytes_that_are_no_bools() -> None:
    assert decode_binary("t", "BOOL", [2], memoryview(b"\0\1")).tolist() == [False, True]
    with pytest.raises(TensorError, match="neither 0 nor 1"):
        decode_binary("t", "BOOL", [2], memoryview(b"\0\2"))


def test_what_the_protocol_cannot_hold_is_not_written() -> None:
    with pytest.raises(TensorError, match="complex128"):
        encode_body({}, "outputs", [Tensor("t", np.zeros(1, np.complex128), True)])
    nan = np.array([math.nan], np.float32)
    with pytest.raises(TensorError, match="JSON cannot hold"):
        encode_body({}, "outputs", [Tensor("t", nan, False)])
    body, json_length = encode_body({}, "outputs", [Tensor("t", nan, True)])
    assert json_length is not None
    assert body[json_length:] == nan.tobytes()


@QUICK
@given(st.lists(st.tuples(arrays(), st.booleans()), min_size=1, max_size=3))
def test_tritonclient_reads_what_is_written(items: list[tuple[NDArray[Any], bool]]) -> None:
    from tritonclient.http import InferenceServerClient

    tensors = [Tensor(f"t{i}", array, binary) for i, (array, binary) in enumerate(items)]
    body, json_length = encode_body({"model_name": "m"}, "outputs", tensors)
    result = InferenceServerClient.parse_response_body(body, header_length=json_length)
    for tensor in tensors:
        assert equal(result.as_numpy(tensor.name), tensor.array)


@QUICK
@given(st.lists(st.tuples(arrays(), st.booleans()), min_size=1, max_size=3))
def test_what_tritonclient_writes_is_read(items: list[tuple[NDArray[Any], bool]]) -> None:
    from tritonclient.http import InferenceServerClient, InferInput
    from tritonclient.utils import np_to_triton_dtype

    inputs = []
    for index, (array, binary) in enumerate(items):
        tensor = InferInput(f"t{index}", list(array.shape), np_to_triton_dtype(array.dtype))
        inputs.append(tensor.set_data_from_numpy(array, binary_data=binary))
    body, json_length = InferenceServerClient.generate_request_body(inputs)
    _, found = read(body, json_length)
    assert all(equal(found[f"t{index}"], array) for index, (array, _) in enumerate(items))
